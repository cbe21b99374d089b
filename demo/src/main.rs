//! The main job, end to end, on the embedded local network: `novaq compress`, `novaq upload`, an agent canister that
//! writes a tale from those weights, and a native run that has to write the same; then a subscription, and a team of agents that a
//! sentence makes.

mod canisters;
mod economy;
mod network;
mod report;
mod site;
mod team;

use anyhow::{Context, ensure};
use canisters::{Agent, Client};
use clap::Parser;
use network::LocalNetwork;
use report::Report;
use serde::Deserialize;
use serde_json::Value;
use shared_types::agent::{GenerationParams, JobProgress, JobState};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Compress the bundled model, put it on a local network, and have an agent canister write a tale.
#[derive(Parser)]
#[command(name = "cargo xtask demo --")]
struct Args {
    /// Write the closing table as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Leave the network running and say how to call it.
    #[arg(long)]
    keep: bool,
    /// Use this artifact instead of compressing the bundled model.
    #[arg(long, value_name = "DIR")]
    artifact: Option<PathBuf>,
    /// The web app, built: publish it with the ui canister.
    #[arg(long, value_name = "DIR", requires = "stand_in")]
    site: Option<PathBuf>,
    /// The stand-in for Internet Identity that the web app signs in with, built.
    #[arg(long, value_name = "DIR", requires = "site")]
    stand_in: Option<PathBuf>,
    /// Bits per weight of the layers.
    #[arg(long, default_value_t = 2.0)]
    bpw: f64,
    /// What the tale begins with.
    #[arg(long, default_value = "Once upon a time there was an old king who had three daughters")]
    prompt: String,
    /// Tokens to generate at most.
    #[arg(long, default_value_t = 160)]
    max_tokens: u32,
    /// Sampling temperature.
    #[arg(long, default_value_t = 0.7)]
    temperature: f32,
    /// Seed of the sampling.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Instructions of a slice, the message in which an agent generates before it shows what it has.
    #[arg(long, default_value_t = 2_000_000_000)]
    slice_instructions: u64,
}

/// What `novaq run --json` prints, as far as it is compared.
#[derive(Deserialize)]
struct NativeRun {
    tokens: Vec<u32>,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let folder = tempfile::Builder::new().prefix("ohms-demo-").tempdir().context("no temporary folder")?;

    step("local network");
    let network = LocalNetwork::start()?;
    fact("url", &network.url);
    let identity = network::write_identity(folder.path())?;
    let client = Client::connect_with_pem(&network, &identity).await?;
    let admin = Client::connect(&network, network::local_identity(site::ADMIN)).await?;

    step("canisters");
    let model_canister = client.deploy_model(admin.principal()).await?;
    fact("model", model_canister);
    let factory = client.deploy_factory(admin.principal()).await?;
    fact("agent-factory", factory);
    fact("agent template", client.upload_template(factory).await?);

    let artifact = match args.artifact {
        Some(artifact) => artifact,
        None => compress(folder.path(), args.bpw)?,
    };

    step("upload and activate");
    let canister = model_canister.to_text();
    let on_network = ["--network", &network.url, "--canister", &canister, "--identity"].map(AsRef::as_ref);
    let on_network = [&on_network[..], &[identity.as_os_str()]].concat();
    novaq(&[&["upload".as_ref(), artifact.as_os_str()], &on_network[..]].concat())?;
    let inspected: Value = novaq_json(&["inspect".as_ref(), artifact.as_os_str(), "--json".as_ref()])?;
    let model_id = inspected["model_id"].as_str().context("`novaq inspect` names no model")?.to_string();
    novaq(&[&["models".as_ref(), "activate".as_ref(), model_id.as_ref()], &on_network[..]].concat())?;

    let agent_model = model_id.parse()?;
    step("economics and coordinator");
    let economy = economy::deploy(&client, admin.principal(), factory, model_canister, agent_model).await?;
    fact("econ", economy.econ);
    fact("coordinator", economy.coordinator);
    let app = match args.site.as_deref().zip(args.stand_in.as_deref()) {
        Some(folders) => {
            step("web app");
            let canisters = [
                ("model", model_canister),
                ("agent-factory", factory),
                ("econ", economy.econ),
                ("coordinator", economy.coordinator),
            ];
            Some(site::publish(&network, &client, &admin, folders, &canisters).await?)
        }
        None => None,
    };

    step("agent");
    let agent = client.create_agent(factory, model_canister, agent_model, args.slice_instructions).await?;
    fact("agent", agent.id);
    let params = GenerationParams {
        max_tokens: args.max_tokens,
        temperature: args.temperature,
        top_k: Some(40),
        top_p: Some(0.95),
        seed: args.seed,
        ..GenerationParams::default()
    };
    step("tale, as the agent canister writes it");
    let (tokens, progress) = watch(&agent, &args.prompt, params.clone()).await?;
    let status = agent.status().await?;

    step("the same, natively");
    let native: NativeRun = serde_json::from_value(novaq_json(&[
        "run".as_ref(),
        artifact.as_os_str(),
        "--json".as_ref(),
        "--prompt".as_ref(),
        args.prompt.as_ref(),
        "--max-tokens".as_ref(),
        params.max_tokens.to_string().as_ref(),
        "--temperature".as_ref(),
        params.temperature.to_string().as_ref(),
        "--top-k".as_ref(),
        "40".as_ref(),
        "--top-p".as_ref(),
        "0.95".as_ref(),
        "--seed".as_ref(),
        params.seed.to_string().as_ref(),
    ])?)?;
    let native_equal = native.tokens == tokens;
    fact("tokens", if native_equal { "equal, every one" } else { "DIFFERENT" });

    step("receipt, and the replay of it");
    let (receipt, agent_id) = (folder.path().join("receipt.json"), agent.id.to_text());
    let job_id = progress.job.job_id.to_string();
    novaq(&[
        "receipt".as_ref(),
        agent_id.as_ref(),
        job_id.as_ref(),
        "-o".as_ref(),
        receipt.as_os_str(),
        "--network".as_ref(),
        network.url.as_ref(),
        "--identity".as_ref(),
        identity.as_os_str(),
    ])?;
    novaq(&["replay".as_ref(), receipt.as_os_str(), "--model".as_ref(), artifact.as_os_str()])?;

    let owner = Client::connect(&network, network::local_identity(team::OWNER)).await?;
    let team = team::run(&owner, &economy).await?;

    step("result");
    let report = Report::new(&inspected, &status, &progress.job.counts, native_equal, team)?;
    print!("{report}");
    if let Some(path) = &args.json {
        let text = serde_json::to_string_pretty(&report)?;
        std::fs::write(path, text + "\n")
            .with_context(|| format!("`{}` can't be written", path.display()))?;
    }
    if args.keep {
        keep(network, folder, &identity, model_canister.to_text(), &agent, app.as_deref()).await?;
    }
    ensure!(native_equal, "the canister's tokens differ from the native run's: a bug, please report it");
    Ok(())
}

/// Compresses the bundled model into `folder`.
fn compress(folder: &Path, bpw: f64) -> anyhow::Result<PathBuf> {
    step("compress");
    let artifact = folder.join("artifact");
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/ohms-tales-6m");
    let bpw = bpw.to_string();
    let options = ["--bpw", &bpw, "--license", "CC0-1.0"].map(AsRef::as_ref);
    novaq(
        &[&["compress".as_ref(), model.as_os_str(), "-o".as_ref(), artifact.as_os_str()], &options[..]]
            .concat(),
    )?;
    Ok(artifact)
}

/// Submits the prompt and prints the text as the slices make it.
async fn watch(
    agent: &Agent<'_>,
    prompt: &str,
    params: GenerationParams,
) -> anyhow::Result<(Vec<u32>, JobProgress)> {
    let job = agent.submit(prompt, params).await?;
    let mut stdout = std::io::stdout();
    write!(stdout, "{prompt}")?;
    let (mut tokens, mut seen, mut moved) = (Vec::new(), 0, Instant::now());
    loop {
        let progress = agent.progress(job, seen).await?;
        write!(stdout, "{}", progress.text)?;
        stdout.flush()?;
        if progress.next_token != seen {
            moved = Instant::now();
        }
        seen = progress.next_token;
        tokens.extend(&progress.tokens);
        match &progress.job.state {
            JobState::Done { .. } => {
                writeln!(stdout)?;
                return Ok((tokens, progress));
            }
            JobState::Failed { reason } => anyhow::bail!("the job failed: {reason}"),
            JobState::Cancelled => anyhow::bail!("the job was cancelled"),
            JobState::OutOfCycles(shortage) => {
                anyhow::bail!("the agent has {} cycles and needs {}", shortage.balance, shortage.needed)
            }
            JobState::Queued | JobState::Loading | JobState::Running | JobState::Paused => {}
        }
        ensure!(moved.elapsed() < Duration::from_mins(2), "no new token for two minutes");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Leaves the network to the person until Ctrl-C.
async fn keep(
    network: LocalNetwork,
    folder: tempfile::TempDir,
    identity: &Path,
    model_canister: String,
    agent: &Agent<'_>,
    app: Option<&str>,
) -> anyhow::Result<()> {
    step("the network keeps running; Ctrl-C ends it");
    fact("url", &network.url);
    fact("root key", &network.root_key);
    fact("identity", identity.display());
    fact("agent", agent.id);
    let novaq = network::program("novaq");
    println!(
        "try: {} models list --network {} --canister {model_canister} --identity {}",
        novaq.display(),
        network.url,
        identity.display()
    );
    if let Some(app) = app {
        fact("app", app);
        println!(
            "sign in: as `{}` or `{}`, in the window that the app opens; any other name is somebody new",
            site::USER,
            site::ADMIN
        );
    }
    tokio::signal::ctrl_c().await?;
    drop((network, folder));
    Ok(())
}

fn step(what: &str) {
    println!("\n── {what}");
}

fn fact(name: &str, value: impl std::fmt::Display) {
    println!("{name}: {value}");
}

/// Runs `novaq` as a person would, its output going to the terminal.
fn novaq(args: &[&std::ffi::OsStr]) -> anyhow::Result<()> {
    let status =
        Command::new(network::program("novaq")).args(args).status().context("`novaq` can't be started")?;
    ensure!(status.success(), "`novaq {}` failed", args[0].to_string_lossy());
    Ok(())
}

/// Runs `novaq` for its JSON.
fn novaq_json(args: &[&std::ffi::OsStr]) -> anyhow::Result<Value> {
    let output = Command::new(network::program("novaq")).args(args).stderr(Stdio::inherit()).output();
    let output = output.context("`novaq` can't be started")?;
    ensure!(output.status.success(), "`novaq {}` failed", args[0].to_string_lossy());
    serde_json::from_slice(&output.stdout).with_context(|| format!("`novaq {}`", args[0].to_string_lossy()))
}
