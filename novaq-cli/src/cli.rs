//! The command line: what can be typed, and which module does it.

use clap::{ArgAction, Parser, Subcommand};
use tracing_subscriber::EnvFilter;

use crate::commands;

/// Compress language models to a few bits per weight, run them, and put them on the Internet Computer.
#[derive(Debug, Parser)]
#[command(name = "novaq", version, about, max_term_width = 100)]
pub struct Cli {
    /// Log more (`-v` steps, `-vv` details); `RUST_LOG` overrides.
    #[arg(short, long, global = true, action = ArgAction::Count)]
    verbose: u8,

    #[command(subcommand)]
    command: Command,
}

/// The subcommands. Each has its `Args` and its `run` in its own file under `commands/`.
#[derive(Debug, Subcommand)]
enum Command {
    Compress(Box<commands::compress::Args>),
    Frontier(commands::frontier::Args),
    Report(commands::report::Args),
    Download(commands::download::Args),
    Eval(commands::eval::Args),
    Inspect(commands::inspect::Args),
    Verify(commands::verify::Args),
    Run(Box<commands::run::Args>),
    Chat(commands::chat::Args),
    Jobs(commands::jobs::Args),
    Embed(commands::embed::Args),
    Receipt(commands::receipt::Args),
    Replay(commands::replay::Args),
    Expand(commands::expand::Args),
    Synth(commands::synth::Args),
    Sign(commands::sign::Args),
    Upload(commands::upload::Args),
    Models(commands::models::Args),
    Governance(commands::governance::Args),
    Roles(commands::roles::Args),
    Keys(commands::keys::Args),
    Audit(commands::audit::Args),
    Completions(commands::completions::Args),
    Man(commands::man::Args),
}

impl Cli {
    /// Sends `tracing` events to standard error, filtered by `-v` or `RUST_LOG`.
    pub fn init_tracing(&self) {
        let default = match self.verbose {
            0 => "warn",
            1 => "novaq_cli=info,warn",
            _ => "novaq_cli=debug,novaq_engine=debug,info",
        };
        let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).without_time().init();
    }

    /// Runs the chosen subcommand.
    ///
    /// # Errors
    /// What the subcommand reports; [`crate::output::report`] prints it.
    pub fn run(self) -> anyhow::Result<()> {
        match self.command {
            Command::Compress(args) => commands::compress::run(*args),
            Command::Frontier(args) => commands::frontier::run(args),
            Command::Report(args) => commands::report::run(&args),
            Command::Download(args) => commands::download::run(&args),
            Command::Eval(args) => commands::eval::run(&args),
            Command::Inspect(args) => commands::inspect::run(&args),
            Command::Verify(args) => commands::verify::run(&args),
            Command::Run(args) => commands::run::run(&args),
            Command::Chat(args) => commands::chat::run(&args),
            Command::Jobs(args) => commands::jobs::run(args),
            Command::Embed(args) => commands::embed::run(&args),
            Command::Receipt(args) => commands::receipt::run(&args),
            Command::Replay(args) => commands::replay::run(&args),
            Command::Expand(args) => commands::expand::run(&args),
            Command::Synth(args) => commands::synth::run(&args),
            Command::Sign(args) => commands::sign::run(&args),
            Command::Upload(args) => commands::upload::run(&args),
            Command::Models(args) => commands::models::run(args),
            Command::Governance(args) => commands::governance::run(args),
            Command::Roles(args) => commands::roles::run(args),
            Command::Keys(args) => commands::keys::run(args),
            Command::Audit(args) => commands::audit::run(args),
            Command::Completions(args) => commands::completions::run(&args),
            Command::Man(args) => commands::man::run(&args),
        }
    }
}
