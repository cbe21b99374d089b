//! How the command talks: facts on standard output, progress and errors on standard error.

use std::fmt;
use std::io::{self, Write};
use std::time::Duration;

use console::style;
use indicatif::{ProgressBar, ProgressFinish, ProgressStyle};
use serde::Serialize;

/// An error together with what the reader can do about it; made by [`HintExt::hint`], printed by [`report`].
#[derive(Debug)]
struct Hinted {
    error: anyhow::Error,
    hint: String,
}

impl fmt::Display for Hinted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl std::error::Error for Hinted {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.error.source()
    }
}

/// Adds a hint (a sentence, ideally with the next command to type) to an error.
pub trait HintExt<T> {
    /// Attaches `hint` to the error; [`report`] prints it after the causes.
    ///
    /// # Errors
    /// The same error, with the hint.
    fn hint(self, hint: impl FnOnce() -> String) -> anyhow::Result<T>;
}

impl<T, E: Into<anyhow::Error>> HintExt<T> for Result<T, E> {
    fn hint(self, hint: impl FnOnce() -> String) -> anyhow::Result<T> {
        self.map_err(|error| Hinted { error: error.into(), hint: hint() }.into())
    }
}

/// Prints an error to standard error: what failed, the causes below it, what to do at the end.
pub fn report(error: &anyhow::Error) {
    eprint!("{}", render(error));
}

/// The text of [`report`], with colours only where standard error is a terminal.
fn render(error: &anyhow::Error) -> String {
    use fmt::Write as _;
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = writeln!(text, "{} {error}", style("error:").for_stderr().red().bold());
    for cause in error.chain().skip(1) {
        let _ = writeln!(text, "  {} {cause}", style("caused by:").for_stderr().red());
    }
    let full = |cause: &(dyn std::error::Error + 'static)| {
        let kind = cause.downcast_ref::<io::Error>().map(io::Error::kind);
        matches!(kind, Some(io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded))
    };
    if error.chain().any(full) {
        let hint = "make room on the disk and run the same command again; what is done is kept";
        let _ = writeln!(text, "{} {hint}", style("hint:").for_stderr().cyan().bold());
        return text;
    }
    for hinted in error.chain().filter_map(|cause| cause.downcast_ref::<Hinted>()) {
        let _ = writeln!(text, "{} {}", style("hint:").for_stderr().cyan().bold(), hinted.hint);
    }
    text
}

/// Prints a formatted line on standard output, as `println!` does; see [`print`].
#[macro_export]
macro_rules! say {
    ($($argument:tt)*) => {
        $crate::output::print(format_args!("{}\n", format_args!($($argument)*)))
    };
}

/// Prints on standard output at once. Ends the process, without a word, where nobody reads any more (as in `| head`).
pub fn print(text: fmt::Arguments<'_>) {
    let mut out = io::stdout().lock();
    if let Err(error) = out.write_fmt(text).and_then(|()| out.flush()) {
        if error.kind() != io::ErrorKind::BrokenPipe {
            eprintln!("{} standard output: {error}", style("error:").for_stderr().red().bold());
        }
        std::process::exit(1);
    }
}

/// Prints `value` as indented JSON and a newline on standard output.
///
/// # Errors
/// If the value has no JSON form.
pub fn json<T: Serialize + ?Sized>(value: &T) -> anyhow::Result<()> {
    say!("{}", serde_json::to_string_pretty(value)?);
    Ok(())
}

/// A progress bar on standard error that counts `total` of `unit`; hidden where standard error is no terminal.
///
/// # Panics
/// Never: the template is a constant that indicatif accepts.
pub fn progress(total: u64, action: &'static str, unit: &str) -> ProgressBar {
    let template = format!("{{prefix:>12.cyan.bold}} [{{bar:32}}] {{pos}}/{{len}} {unit} {{msg}} {{eta}}");
    let style = ProgressStyle::with_template(&template).expect("a valid template").progress_chars("=> ");
    ProgressBar::new(total).with_style(style).with_prefix(action).with_finish(ProgressFinish::AndClear)
}

/// A progress bar on standard error that counts bytes.
///
/// # Panics
/// Never: the template is a constant that indicatif accepts.
pub fn progress_bytes(total: u64, action: &'static str) -> ProgressBar {
    let template = "{prefix:>12.cyan.bold} [{bar:32}] {bytes}/{total_bytes} {bytes_per_sec} {msg} {eta}";
    let style = ProgressStyle::with_template(template).expect("a valid template").progress_chars("=> ");
    ProgressBar::new(total).with_style(style).with_prefix(action).with_finish(ProgressFinish::AndClear)
}

/// A spinner on standard error for work whose length is not known.
///
/// # Panics
/// Never: the template is a constant that indicatif accepts.
pub fn spinner(action: &'static str) -> ProgressBar {
    let style =
        ProgressStyle::with_template("{prefix:>12.cyan.bold} {spinner} {msg}").expect("a valid template");
    let bar = ProgressBar::new_spinner()
        .with_style(style)
        .with_prefix(action)
        .with_finish(ProgressFinish::AndClear);
    bar.enable_steady_tick(Duration::from_millis(100));
    bar
}

/// `bytes` with a binary unit and one decimal, as in `1.8 MiB`.
pub fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

/// `seconds` in the largest unit that fits, as in `40 s`, `12 min` or `3.5 h`.
pub fn duration(seconds: f64) -> String {
    match seconds {
        s if s < 0.95 => "1 s".to_owned(),
        s if s < 90.0 => format!("{s:.0} s"),
        s if s < 5400.0 => format!("{:.0} min", s / 60.0),
        s => format!("{:.1} h", s / 3600.0),
    }
}

/// `number` with commas between thousands.
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `number` of `noun`, which takes an s where there is not exactly one.
pub fn counted(number: u64, noun: &str) -> String {
    format!("{} {noun}{}", count(number), if number == 1 { "" } else { "s" })
}

/// Prints a table on standard output, its columns as wide as they need to be.
pub fn table<const N: usize>(heads: [&str; N], rows: impl Iterator<Item = [String; N]>) {
    let rows: Vec<[String; N]> = rows.collect();
    let widths: [usize; N] = std::array::from_fn(|column| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.chain([heads[column].chars().count()]).max().unwrap_or(0)
    });
    let line = |cells: [&str; N]| {
        let padded = cells.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
        say!("{}", padded.collect::<Vec<_>>().join("  ").trim_end());
    };
    line(heads);
    for row in &rows {
        line(std::array::from_fn(|column| row[column].as_str()));
    }
}

#[cfg(test)]
mod tests {
    use anyhow::{Context, anyhow};

    use super::*;

    #[test]
    fn an_error_is_printed_with_causes_and_hints() {
        let error = Err::<(), _>(anyhow!("2 bytes are missing"))
            .hint(|| "run `novaq verify tales`".to_owned())
            .context("`tales/shard-00000.novaq` is truncated")
            .unwrap_err();
        assert_eq!(
            render(&error),
            "error: `tales/shard-00000.novaq` is truncated\n  \
             caused by: 2 bytes are missing\n\
             hint: run `novaq verify tales`\n"
        );
    }

    #[test]
    fn a_full_disk_has_its_own_hint() {
        let full = io::Error::from(io::ErrorKind::StorageFull);
        let error = Err::<(), _>(full).context("`out` can't be written").unwrap_err();
        assert!(
            render(&error).ends_with(
                "hint: make room on the disk and run the same command again; what is done is kept\n"
            )
        );
    }

    #[test]
    fn thousands_are_separated() {
        assert_eq!(["7", "999", "1,000", "5,770,496"], [7, 999, 1000, 5_770_496].map(count));
        assert_eq!((counted(1, "shard"), counted(0, "shard")), ("1 shard".to_owned(), "0 shards".to_owned()));
    }

    #[test]
    fn bytes_are_binary_and_short() {
        assert_eq!(bytes(999), "999 B");
        assert_eq!(bytes(1_900_000), "1.8 MiB");
        assert_eq!(bytes(u64::MAX), "16777216.0 TiB");
    }
}
