//! Options from a TOML file: its keys are the names of the flags.
//!
//! A value goes through the same parser as the flag's, so that both mean the same and are refused with the same words.

use std::fs;
use std::ops::Range;
use std::path::Path;

use anyhow::{Context, anyhow};
use clap::{Arg, ArgAction, Args, Command};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::output::HintExt;

/// Reads the file at `path`. Its keys may be those of `A`'s options but for `excluded`; `required` is what has to
/// stand on the command line that the file stands for.
///
/// # Errors
/// If the file can't be read or is no TOML, with the line; if a key is no option, or a value is none of its values,
/// with key and line; if two keys exclude each other.
pub fn read<A: Args>(path: &Path, required: &[&str], excluded: &[&str]) -> anyhow::Result<A> {
    let text = fs::read_to_string(path).with_context(|| format!("`{}` can't be read", path.display()))?;
    let at = |span: Range<usize>| {
        let line = 1 + text.get(..span.start).unwrap_or_default().matches('\n').count();
        format!("`{}`, line {line}", path.display())
    };
    let table = DeTable::parse(&text).map_err(|error| {
        let place = error.span().map_or_else(|| format!("`{}`", path.display()), at);
        anyhow!("{place}: {}", error.message())
    })?;
    let command = A::augment_args(Command::new("novaq").no_binary_name(true));
    let options = || command.get_arguments().filter(|arg| !excluded.contains(&arg.get_id().as_str()));
    // In the order of the file, so that the first error is the first one in it.
    let mut entries: Vec<_> = table.into_inner().into_iter().collect();
    entries.sort_by_key(|(key, _)| key.span().start);
    let mut all: Vec<String> = required.iter().map(|&text| text.to_owned()).collect();
    for (key, value) in entries {
        let (name, place) = (key.get_ref(), at(key.span()));
        let option = options().find(|arg| arg.get_long() == Some(name));
        let option = option.ok_or_else(|| anyhow!("{place}: there is no option `{name}`")).hint(|| {
            let names: Vec<String> =
                options().filter_map(|arg| arg.get_long()).map(|long| format!("`{long}`")).collect();
            format!("the options are {}", names.join(", "))
        })?;
        let values = arguments(option, name, &value).with_context(|| format!("{place}: `{name}`"))?;
        let alone = required.iter().map(|&text| text.to_owned()).chain(values.iter().cloned());
        command.clone().try_get_matches_from(alone).map_err(|error| anyhow!("{place}: {}", words(&error)))?;
        all.extend(values);
    }
    let matches = command.clone().try_get_matches_from(all);
    let matches = matches.map_err(|error| anyhow!("`{}`: {}", path.display(), words(&error)))?;
    Ok(A::from_arg_matches(&matches)?)
}

/// What is typed for `value`.
fn arguments(option: &Arg, name: &str, value: &Spanned<DeValue>) -> anyhow::Result<Vec<String>> {
    let typed = |value: &DeValue| match value {
        DeValue::String(text) => Ok(format!("--{name}={text}")),
        DeValue::Integer(number) => Ok(format!("--{name}={number}")),
        DeValue::Float(number) => Ok(format!("--{name}={number}")),
        _ => Err(anyhow!("is neither a text nor a number")),
    };
    match value.get_ref() {
        DeValue::Array(values) if matches!(option.get_action(), ArgAction::Append) => {
            values.iter().map(|value| typed(value.get_ref())).collect()
        }
        value => Ok(vec![typed(value)?]),
    }
}

/// What the parser of arguments says, in one line.
fn words(error: &clap::Error) -> String {
    let text = error.to_string();
    let line = text.lines().next().unwrap_or_default();
    line.strip_prefix("error: ").unwrap_or(line).to_owned()
}
