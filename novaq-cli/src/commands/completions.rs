//! `novaq completions`: what a shell needs to complete commands.

use clap::{Args as ClapArgs, CommandFactory};
use clap_complete::Shell;

use crate::cli::Cli;
use crate::output;

/// Print the completions of a shell, as in `novaq completions bash > ~/.local/share/bash-completion/completions/novaq`.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// The shell.
    #[arg(value_name = "SHELL")]
    shell: Shell,
}

/// Runs the command.
///
/// # Errors
/// If the completions are no UTF-8.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "novaq", &mut script);
    output::print(format_args!("{}", String::from_utf8(script)?));
    Ok(())
}
