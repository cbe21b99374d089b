//! The `novaq` command.

use std::process::ExitCode;

use clap::Parser;
use novaq_cli::{cli::Cli, output};

fn main() -> ExitCode {
    // Parts of a step of refinement run beside each other; candle's own threads would make them wait in turn.
    // SAFETY: no other thread has been started that could read the environment.
    unsafe { std::env::set_var("CANDLE_NUM_THREADS", "1") };
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
