//! `novaq man`: the manual.

use std::path::PathBuf;

use anyhow::Context;
use clap::{Args as ClapArgs, CommandFactory};

use crate::cli::Cli;
use crate::output::{self, HintExt};

/// Print the manual page of `novaq` or of one of its commands, as in `novaq man compress | man -l -`.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// The command.
    #[arg(value_name = "COMMAND")]
    command: Option<String>,

    /// Write the pages of all commands to this folder.
    #[arg(short, long, value_name = "DIR", conflicts_with = "command")]
    output: Option<PathBuf>,
}

/// Runs the command.
///
/// # Errors
/// If there is no such command, or a page can't be written.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let mut novaq = Cli::command();
    if let Some(folder) = &args.output {
        std::fs::create_dir_all(folder)
            .and_then(|()| clap_mangen::generate_to(novaq, folder))
            .with_context(|| format!("`{}` can't be written", folder.display()))?;
        return Ok(());
    }
    novaq.build();
    let command = match &args.command {
        None => novaq,
        Some(name) => {
            let found = novaq.find_subcommand(name).cloned();
            found
                .with_context(|| format!("there is no command `{name}`"))
                .hint(|| "`novaq --help` lists them".to_owned())?
        }
    };
    let mut page = Vec::new();
    clap_mangen::Man::new(command).render(&mut page)?;
    output::print(format_args!("{}", String::from_utf8(page)?));
    Ok(())
}
