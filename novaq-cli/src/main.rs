//! The `novaq` command.

use std::process::ExitCode;

use clap::Parser;
use novaq_cli::{cli::Cli, output};

fn main() -> ExitCode {
    let cli = Cli::parse();
    cli.init_tracing();
    match cli.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output::report(&error);
            ExitCode::FAILURE
        }
    }
}
