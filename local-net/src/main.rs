//! The `local-net` command: a network of its own, or a server for the `pocket-ic` crate.

mod launcher;

use anyhow::Context;
use candid::Principal;
use clap::{Args, Parser, Subcommand};
use local_net::{
    http::{
        gateway,
        instance::{Instance, system_time},
        outcalls::{self, Reach},
        pocket_ic::{self, Server},
    },
    network::Network,
    state_dir::StateDir,
};
use sha2::{Digest, Sha256};
use std::{
    io::{IsTerminal, Write},
    net::{IpAddr, Ipv4Addr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};

/// Runs canisters on this machine.
///
/// Without a subcommand it serves PocketIC's REST interface: set `POCKET_IC_BIN` to this binary, and tests that use the
/// `pocket-ic` crate run on it. Set `ICP_CLI_NETWORK_LAUNCHER_PATH` to this binary, and `icp network start` runs it.
///
/// It is an estimate of the Internet Computer: it runs the real Wasm with the real limits, prices and certificates, but without
/// consensus and its delays, other load on the subnet, 64-bit heaps and vetKD. To check against more of the real thing, set
/// `POCKET_IC_BIN` to DFINITY's PocketIC server; the same tests run there. The README says in detail what is exact.
#[derive(Parser)]
// The `pocket-ic` crate accepts servers that call themselves `pocket-ic-server 16.x.y`.
#[command(name = "pocket-ic-server", version = "16.1.0", args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Subcommand)]
enum Command {
    /// Starts one network that executes messages by itself, and prints how to reach it.
    ///
    /// The output has one fact per line, the value after a colon: `url`, `root key` (hexadecimal DER), `default
    /// effective canister id` (the canister id to name in calls of `provisional_create_canister_with_cycles`). The network
    /// ends with Ctrl-C; its state is kept only with `--state-dir`.
    ///
    /// The network has the registry, the ICP ledger, the cycles minting canister and the cycles ledger; the anonymous identity
    /// has 1,000,000,000 ICP and 2^127 cycles. For a project of `icp`, name `url` and `root key` in its `icp.yaml`, as a network
    /// in connected mode.
    Serve(ServeArgs),
    /// Starts a network for `icp network start`, by the protocol of its network launcher (version 1.1).
    ///
    /// `icp` runs this program without the subcommand's name if `ICP_CLI_NETWORK_LAUNCHER_PATH` has its path; nobody needs to
    /// type it. The network has an NNS subnet with the registry, the ICP ledger, the cycles minting canister and the cycles
    /// ledger; the anonymous identity has 1,000,000,000 ICP and 2^127 cycles. Canisters' HTTP requests reach this machine only.
    Launch(Box<launcher::LauncherArgs>),
}

#[derive(Args)]
struct ServeArgs {
    /// Address to listen on.
    #[arg(long, default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    host: IpAddr,
    /// Port to listen on; 0 for any that is free.
    #[arg(long, default_value_t = 4943)]
    port: u16,
    /// Seed of the network's keys and random bytes; the same seed gives the same root key.
    #[arg(long, default_value = "local-net")]
    seed: String,
    /// Folder that keeps the state: it is read at the start, and written at the end and every ten seconds in between.
    #[arg(long, value_name = "FOLDER")]
    state_dir: Option<PathBuf>,
    /// Accept requests with any signature and expiry.
    #[arg(long)]
    no_ingress_validation: bool,
    /// Where canisters' HTTP requests may go.
    #[arg(long, value_enum, default_value_t)]
    outcalls: Reach,
}

#[derive(Args)]
struct ServerArgs {
    /// Port to listen on; 0 for any that is free.
    #[arg(long, short, default_value_t = 0)]
    port: u16,
    /// Address to listen on.
    #[arg(long, default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    ip_addr: IpAddr,
    /// File that receives the port. If it exists, another server of the same tests runs, and this one ends.
    #[arg(long)]
    port_file: Option<PathBuf>,
    /// Seconds without a request after which the server ends.
    #[arg(long, default_value_t = 60)]
    ttl: u64,
    /// Seconds after which the server ends in any case.
    #[arg(long)]
    hard_ttl: Option<u64>,
    /// What to log, for example `info` or `local_net=debug`.
    #[arg(long)]
    log_levels: Option<String>,
    /// Where canisters' HTTP requests may go when an instance is live.
    #[arg(long, value_enum, default_value_t)]
    outcalls: Reach,
}

fn main() -> anyhow::Result<()> {
    let cli: Cli = launcher::parse(std::env::args_os());
    let levels = match (&cli.server.log_levels, &cli.command) {
        (Some(levels), _) => levels,
        (None, Some(Command::Launch(args))) if args.verbose => "local_net=debug,info",
        (None, _) => "warn",
    };
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::try_new(levels).context("--log-levels")?)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(async {
        match cli.command {
            Some(Command::Serve(args)) => serve(args).await,
            Some(Command::Launch(args)) => launcher::run(*args).await,
            None => serve_pocket_ic(cli.server).await,
        }
    })
}

async fn serve(args: ServeArgs) -> anyhow::Result<()> {
    let seed = Sha256::digest(args.seed.as_bytes()).into();
    let (state, saved) = match &args.state_dir {
        Some(path) => StateDir::open(path).map(|(state, saved)| (Some(state), saved))?,
        None => (None, None),
    };
    let mut network = saved.unwrap_or_else(|| Network::new(seed, system_time()));
    network.add_system_canisters();
    let instance = Instance::start(network, !args.no_ingress_validation, state)?;
    outcalls::serve(&instance, args.outcalls)?;
    instance.set_live(true).await?;
    let listener = TcpListener::bind((args.host, args.port)).await.with_context(|| {
        format!("cannot listen on {}:{}; choose another port with --port", args.host, args.port)
    })?;
    let routes = gateway::router(instance.clone(), &[gateway::DEFAULT_DOMAIN.to_owned()])?;
    println!("url: http://{}", listener.local_addr()?);
    println!("root key: {}", hex::encode(&instance.root_key));
    let default = Principal::from(instance.topology.default_effective_canister_id.clone());
    println!("default effective canister id: {default}");
    std::io::stdout().flush()?;
    tokio::select! {
        served = axum::serve(listener, routes) => served?,
        interrupted = interrupt() => interrupted?,
    }
    instance.save().await??;
    Ok(())
}

/// Returns when the process is asked to end.
async fn interrupt() -> std::io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        interrupted = tokio::signal::ctrl_c() => interrupted,
        _ = terminate.recv() => Ok(()),
    }
}

async fn serve_pocket_ic(args: ServerArgs) -> anyhow::Result<()> {
    let port_file = match &args.port_file {
        None => None,
        Some(path) => match std::fs::File::create_new(path) {
            Ok(file) => Some((path.clone(), file)),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => return Ok(()),
            Err(error) => return Err(error).with_context(|| format!("cannot create {}", path.display())),
        },
    };
    let listener = TcpListener::bind((args.ip_addr, args.port)).await?;
    let port = listener.local_addr()?.port();
    if let Some((_, file)) = &port_file {
        let mut file = file;
        writeln!(file, "{port}")?;
    }
    let server = Arc::new(Server::new(args.outcalls));
    let routes = pocket_ic::router(server.clone());
    let served = tokio::select! {
        served = axum::serve(listener, routes) => served,
        () = until_idle(&server, Duration::from_secs(args.ttl)) => Ok(()),
        () = after(args.hard_ttl) => Ok(()),
        interrupted = interrupt() => interrupted,
    };
    let saved = server.delete_instances().await.map_err(anyhow::Error::msg);
    if let Some((path, _)) = port_file {
        std::fs::remove_file(path)?;
    }
    served?;
    saved
}

/// Returns when no request has come for `ttl`.
async fn until_idle(server: &Server, ttl: Duration) {
    while server.idle() < ttl {
        tokio::time::sleep(ttl.saturating_sub(server.idle()).max(Duration::from_millis(100))).await;
    }
}

async fn after(seconds: Option<u64>) {
    match seconds {
        Some(seconds) => tokio::time::sleep(Duration::from_secs(seconds)).await,
        None => std::future::pending().await,
    }
}
