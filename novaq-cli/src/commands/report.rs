//! `novaq report`: prints the report of a compression.

use std::path::PathBuf;

use clap::Args as ClapArgs;

use crate::compress::report::{Report, beside};

/// Print the report of a compression: every matrix with its codec, size, error and time.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// The report, or the artifact's folder that it is beside.
    #[arg(value_name = "FILE")]
    report: PathBuf,
}

/// Runs the command.
///
/// # Errors
/// If the file can't be read or is no report.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let path = if args.report.is_dir() { beside(&args.report) } else { args.report.clone() };
    crate::output::print(format_args!("{}", Report::read(&path)?.markdown()));
    Ok(())
}
