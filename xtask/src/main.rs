//! `cargo xtask …`: what a person types. Each command sets up what it needs and says so.

mod cargo;
mod clients;
mod frontend;
mod fuzz;
mod test;

use anyhow::Context;
use clap::{Parser, Subcommand};
use std::process::Command;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Builds, tests and shows OHMS")]
struct Cli {
    #[command(subcommand)]
    command: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Compress the bundled model, put it on a local network, and have an agent canister write a tale. With `--keep`, the
    /// network stays, with the web app on it.
    Demo {
        /// Passed on: `--json FILE`, `--keep`, `--bpw B`, `--prompt TEXT`, … (`cargo xtask demo -- --help`).
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Check the format, build, test on the local network and in Chromium, and lint. Installs npm packages and Chromium, if they
    /// are missing.
    Test,
    /// Build the canisters' Wasm and the native programs.
    Build,
    /// Write the committed Candid files from the code.
    Candid,
    /// Fuzz a target of `fuzz/` (`manifest`, `candid`) until something is found or it is stopped.
    Fuzz {
        /// The target.
        target: String,
        /// libFuzzer's: `-max_total_time=60`, `-runs=100000`, …
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Measure, and print the tables of `docs/BENCHMARKS.md`.
    Bench {
        #[command(subcommand)]
        what: Bench,
    },
}

#[derive(Subcommand)]
enum Bench {
    /// Bits, KL divergence and perplexity of the codebooks beside GPTQ.
    Quality {
        /// Passed on (`cargo xtask bench quality -- --help`).
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// What each way to normalise weights before they are coded does to quality.
    Ablation {
        /// Passed on (`cargo xtask bench ablation -- --help`).
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Memory and time of compressions, for checkpoints of random weights in the shape of SmolLM2-135M.
    Memory {
        /// Numbers of layers [default: 30].
        #[arg(trailing_var_arg = true)]
        layers: Vec<String>,
    },
    /// Bits, and cosines of an encoder's embeddings with the original's.
    Embeddings {
        /// Passed on: model, calibration file, held-out files.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Instructions per token inside a canister, by shape, bits and context, and where they go.
    Chain {
        /// `--json FILE`, and names of shapes.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Tokens per second natively, beside llama.cpp on the same shapes. Needs Python 3 with llama-cpp-python and gguf for those rows.
    Native {
        /// Passed on: `--python PATH`, `--threads N`, names of shapes, … (`cargo xtask bench native -- --help`).
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Whether a draft model would save instructions: how often it proposes what the target draws, and what verifying costs.
    Speculation {
        /// What `bench chain --json` wrote, a text, the target's artifact and those of drafts.
        #[arg(trailing_var_arg = true)]
        args: Vec<String>,
    },
    /// Instructions of an agent's jobs: shared passes, layers from stable memory, kept caches, embeddings.
    Agent,
    /// Instructions of an agent's memory: remembering facts and searching them, by their number.
    Facts {
        /// Numbers of facts, rising.
        counts: Vec<String>,
    },
    /// Labelled instructions by the coordinator's rules, by the meaning that an encoder finds, and by what a language model proposes.
    Meaning {
        /// Folders of artifacts of encoders and of models that converse.
        artifacts: Vec<String>,
    },
    /// Instructions of reserving and settling quota, by the number of accounts.
    Econ,
    /// Tasks per hour of the network's time through the coordinator, by the number of agents.
    Coordinator,
    /// Time of calls, queries, certificates and instances on the local network.
    LocalNet,
    /// Queries per second of the model repository on the local network.
    Reads,
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().command {
        Task::Demo { args } => {
            cargo::build_all()?;
            let mut demo = Command::new(cargo::program("ohms-demo"));
            if args.iter().any(|arg| arg == "--keep") {
                if clients::has_npm() {
                    frontend::build()?;
                    demo.args(frontend::demo_arguments());
                } else {
                    eprintln!("skipped: the web app, which Node.js 20 and npm build");
                }
            }
            run(demo.args(args))
        }
        Task::Test => test::run_all(),
        Task::Build => cargo::build_all(),
        Task::Fuzz { target, args } => fuzz::run_target(&target, &args),
        Task::Candid => {
            let mut command = cargo::cargo();
            command.env("UPDATE_CANDID", "1").args(["test", "--workspace", "--lib", "candid_file"]);
            run(&mut command)
        }
        Task::Bench { what: Bench::Quality { args } } => example("novaq-cli", "quality", &args),
        Task::Bench { what: Bench::Ablation { args } } => example("novaq-cli", "ablation", &args),
        Task::Bench { what: Bench::Memory { layers } } => {
            run(cargo::cargo().args(["build", "--package", "novaq-cli"]))?;
            example("novaq-cli", "memory", &layers)
        }
        Task::Bench { what: Bench::Embeddings { args } } => example("novaq-cli", "embeddings", &args),
        Task::Bench { what: Bench::Chain { args } } => on_the_network("chain", &args),
        Task::Bench { what: Bench::Native { args } } => {
            // As a whole, so that `novaq` is there and nothing is compiled with other features.
            run(cargo::cargo().args(["build", "--workspace", "--all-targets"]))?;
            run(Command::new(cargo::program("examples/native")).args(args))
        }
        Task::Bench { what: Bench::Speculation { args } } => example("novaq-engine", "speculation", &args),
        Task::Bench { what: Bench::Agent } => on_the_network("agent", &[]),
        Task::Bench { what: Bench::Facts { counts } } => on_the_network("facts", &counts),
        Task::Bench { what: Bench::Meaning { artifacts } } => example("ohms-tests", "meaning", &artifacts),
        Task::Bench { what: Bench::Econ } => on_the_network("econ", &[]),
        Task::Bench { what: Bench::Coordinator } => on_the_network("coordinator", &[]),
        Task::Bench { what: Bench::LocalNet } => {
            // The benchmark starts the server, and installs a canister written in Rust.
            cargo::build_all()?;
            example("local-net", "bench", &[])
        }
        Task::Bench { what: Bench::Reads } => {
            cargo::build_all()?;
            example("local-net", "bench", &["reads".to_owned()])
        }
    }
}

/// Runs an example of the tests with everything that it needs to have a network.
fn on_the_network(name: &str, args: &[String]) -> anyhow::Result<()> {
    cargo::build_all()?;
    let mut command = cargo::cargo();
    command.env("POCKET_IC_BIN", cargo::program("local-net"));
    run(command.args(["run", "--quiet", "--package", "ohms-tests", "--example", name, "--"]).args(args))
}

/// Runs an example of a package.
fn example(package: &str, name: &str, args: &[String]) -> anyhow::Result<()> {
    run(cargo::cargo().args(["run", "--quiet", "--package", package, "--example", name, "--"]).args(args))
}

/// Runs a program to its end.
fn run(command: &mut Command) -> anyhow::Result<()> {
    let name = command.get_program().to_string_lossy().into_owned();
    let status = command.status().with_context(|| format!("`{name}` can't be started"))?;
    anyhow::ensure!(status.success(), "`{name}` failed ({status})");
    Ok(())
}
