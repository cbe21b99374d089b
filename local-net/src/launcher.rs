//! The launcher protocol of `icp`: `icp network start` runs this program and learns from a file where the network is.
//!
//! Source: `SPEC.md` of dfinity/icp-cli-network-launcher, interface 1.1.0.

use ::pocket_ic::common::rest::{
    AutoProgressConfig, CreateInstanceResponse, ExtendedSubnetConfigSet, IcpFeatures, IcpFeaturesConfig,
    InitialTime, InstanceConfig, InstanceHttpGatewayConfig, InstanceId, SubnetSpec,
};
use anyhow::{Context, bail, ensure};
use candid::Principal;
use clap::{Args, Parser, ValueEnum, error::ContextKind};
use local_net::http::pocket_ic::{self, Server};
use semver::Version;
use serde::Serialize;
use std::{
    ffi::OsString,
    io::Write,
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
    sync::Arc,
};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};

/// The interface that this program speaks.
const INTERFACE: Version = Version::new(1, 1, 0);
/// The option by which `icp` says that it wants a launcher, and the variable that says the same.
const INTERFACE_OPTION: &str = "--interface-version";
const INTERFACE_VARIABLE: &str = "ICP_CLI_NETWORK_LAUNCHER_INTERFACE_VERSION";
/// The subcommand's name.
const SUBCOMMAND: &str = "launch";

#[derive(Args)]
pub struct LauncherArgs {
    /// Version of the launcher protocol that the caller speaks: 1.x.
    #[arg(long, env = INTERFACE_VARIABLE, value_name = "VERSION")]
    interface_version: Option<Version>,
    /// Port of the network; any that is free without it.
    #[arg(long, value_name = "PORT")]
    gateway_port: Option<u16>,
    /// Port of PocketIC's REST interface to the same network; any that is free without it.
    #[arg(long, value_name = "PORT")]
    config_port: Option<u16>,
    /// Address at which the network listens.
    #[arg(long, value_name = "IP", default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    bind: IpAddr,
    /// Address at which PocketIC's REST interface listens.
    #[arg(long, value_name = "IP", default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    pocketic_config_bind: IpAddr,
    /// Folder from which the network takes its state and in which it leaves it.
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// A subnet besides the NNS's; can be repeated. One application subnet without it.
    #[arg(long, value_name = "KIND")]
    subnet: Vec<SubnetKind>,
    /// A domain besides `localhost` under which the network serves canisters' pages; can be repeated.
    #[arg(long)]
    domain: Vec<String>,
    /// Folder that receives `status.json` when the network is ready, and loses it when the network stops.
    #[arg(long, value_name = "DIR")]
    status_dir: Option<PathBuf>,
    /// Log what the network does.
    #[arg(long)]
    pub verbose: bool,
    #[command(flatten)]
    absent: AbsentFeatures,
}

/// Options of the protocol for what this network does not have.
#[derive(Args)]
#[command(next_help_heading = "Options of the launcher protocol that local-net does not have")]
struct AbsentFeatures {
    /// Refused: there is no Internet Identity.
    #[arg(long)]
    ii: bool,
    /// Refused: there are no NNS and SNS canisters but registry, ledgers and cycles minting.
    #[arg(long)]
    nns: bool,
    /// Refused: there is no Bitcoin integration.
    #[arg(long, value_name = "ADDRESS")]
    bitcoind_addr: Vec<String>,
    /// Refused: there is no Dogecoin integration.
    #[arg(long, value_name = "ADDRESS")]
    dogecoind_addr: Vec<String>,
    /// Ignored with a warning: updates take no longer than they need.
    #[arg(long, value_name = "MILLISECONDS")]
    artificial_delay_ms: Option<u64>,
    /// Ignored with a warning: canisters' pages are at `<canister id>.localhost` only.
    #[arg(long, value_name = "FILE")]
    custom_domains_file: Option<PathBuf>,
    /// Ignored with a warning: this program is the server.
    #[arg(long, value_name = "FILE")]
    pocketic_server_path: Option<PathBuf>,
    /// Ignored with a warning: redirect this program's output.
    #[arg(long, value_name = "FILE")]
    stdout_file: Option<PathBuf>,
    /// Ignored with a warning: redirect this program's output.
    #[arg(long, value_name = "FILE")]
    stderr_file: Option<PathBuf>,
}

impl AbsentFeatures {
    /// Refuses what a network cannot go without if it is wanted, and warns of the rest.
    fn check(&self) -> anyhow::Result<()> {
        let refused = [
            (
                self.ii,
                "--ii: local-net has no Internet Identity; remove `ii` from the network's configuration",
            ),
            (self.nns, "--nns: local-net has no NNS and SNS; remove `nns` from the network's configuration"),
            (
                !self.bitcoind_addr.is_empty(),
                "--bitcoind-addr: local-net has no Bitcoin; remove `bitcoind-addr` from the network's configuration",
            ),
            (
                !self.dogecoind_addr.is_empty(),
                "--dogecoind-addr: local-net has no Dogecoin; remove `dogecoind-addr` from the network's configuration",
            ),
        ];
        for (wanted, reason) in refused {
            ensure!(!wanted, "{reason}");
        }
        let ignored = [
            (
                self.artificial_delay_ms.is_some(),
                "--artificial-delay-ms: updates take no longer than they need",
            ),
            (self.custom_domains_file.is_some(), "--custom-domains-file: there are no custom domains"),
            (self.pocketic_server_path.is_some(), "--pocketic-server-path: this program is the server"),
            (self.stdout_file.is_some(), "--stdout-file: the output stays where it is"),
            (self.stderr_file.is_some(), "--stderr-file: the output stays where it is"),
        ];
        for (_, reason) in ignored.into_iter().filter(|(given, _)| *given) {
            eprintln!("warning: ignored {reason}");
        }
        Ok(())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum SubnetKind {
    Application,
    System,
    VerifiedApplication,
    Bitcoin,
    Fiduciary,
    /// There always is one.
    Nns,
    Sns,
    TestThresholdKeys,
}

/// What `status.json` tells.
#[derive(Serialize)]
struct Status {
    v: &'static str,
    instance_id: InstanceId,
    config_port: u16,
    gateway_port: u16,
    root_key: String,
    default_effective_canister_id: Principal,
    supported_features: &'static [&'static str],
}

/// Parses the command line `T`, in which the launcher's options may stand without its subcommand, as `icp` passes them. A
/// caller with a newer interface gets a warning for options that do not exist; everybody else an error, as for all mistakes.
pub fn parse<T: Parser>(arguments: impl IntoIterator<Item = OsString>) -> T {
    let mut arguments: Vec<OsString> = arguments.into_iter().collect();
    let given = |argument: &OsString| argument.to_string_lossy().starts_with(INTERFACE_OPTION);
    let first = arguments.get(1).map(|first| first.to_string_lossy().into_owned()).unwrap_or_default();
    let is_launcher = arguments.iter().any(given) || std::env::var_os(INTERFACE_VARIABLE).is_some();
    if is_launcher && (first.is_empty() || first.starts_with('-')) {
        arguments.insert(1, SUBCOMMAND.into());
    }
    loop {
        let error = match T::try_parse_from(&arguments) {
            Ok(parsed) => return parsed,
            Err(error) => error,
        };
        let unknown = match error.get(ContextKind::InvalidArg).map(ToString::to_string) {
            Some(unknown)
                if error.kind() == clap::error::ErrorKind::UnknownArgument && wants_newer(&arguments) =>
            {
                unknown
            }
            _ => error.exit(),
        };
        let position = arguments.iter().position(|argument| {
            let argument = argument.to_string_lossy();
            argument == unknown || argument.split_once('=').is_some_and(|(name, _)| name == unknown)
        });
        let Some(position) = position else { error.exit() };
        arguments.remove(position);
        eprintln!(
            "warning: ignored {unknown}: version {INTERFACE} of the launcher protocol does not have it"
        );
    }
}

/// Whether the caller speaks a newer version of the same interface.
fn wants_newer(arguments: &[OsString]) -> bool {
    let arguments: Vec<_> = arguments.iter().map(|argument| argument.to_string_lossy()).collect();
    let option = arguments.iter().position(|argument| argument.starts_with(INTERFACE_OPTION));
    let version = match option {
        Some(at) => match arguments[at].split_once('=') {
            Some((_, version)) => Some(version.to_owned()),
            None => arguments.get(at + 1).map(ToString::to_string),
        },
        None => std::env::var(INTERFACE_VARIABLE).ok(),
    };
    version
        .and_then(|version| Version::parse(&version).ok())
        .is_some_and(|version| version.major == INTERFACE.major && version > INTERFACE)
}

/// Runs a network until SIGINT or SIGTERM.
pub async fn run(args: LauncherArgs) -> anyhow::Result<()> {
    if let Some(version) = &args.interface_version {
        ensure!(
            version.major == INTERFACE.major,
            "version {version} of the launcher protocol is not supported; local-net speaks {INTERFACE}"
        );
    }
    args.absent.check()?;
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let server = Arc::new(Server::default());
    let created =
        pocket_ic::new_instance(&server, instance_config(&args)).await.map_err(anyhow::Error::msg)?;
    let CreateInstanceResponse::Created { instance_id, topology, http_gateway_info: Some(gateway) } = created
    else {
        bail!("the network has no address");
    };
    let instance = server.instance(instance_id).context("the network has stopped")?;
    let at = (args.pocketic_config_bind, args.config_port.unwrap_or(0));
    let listener = TcpListener::bind(at)
        .await
        .with_context(|| format!("cannot listen on {}:{} (--config-port)", at.0, at.1))?;
    let status = Status {
        v: "1",
        instance_id,
        config_port: listener.local_addr()?.port(),
        gateway_port: gateway.port,
        root_key: hex::encode(&instance.root_key),
        default_effective_canister_id: topology.default_effective_canister_id.into(),
        supported_features: &[],
    };
    println!("url: http://{}:{}", args.bind, status.gateway_port);
    println!("root key: {}", status.root_key);
    println!("default effective canister id: {}", status.default_effective_canister_id);
    std::io::stdout().flush()?;
    if let Some(directory) = &args.status_dir {
        write_status(directory, &status)
            .with_context(|| format!("cannot write {}", directory.join(STATUS_FILE).display()))?;
    }
    let served = tokio::select! {
        served = axum::serve(listener, pocket_ic::router(server.clone())) => served.map_err(Into::into),
        _ = interrupt.recv() => Ok(()),
        _ = terminate.recv() => Ok(()),
    };
    drop(instance);
    let saved = server.delete_instance(instance_id).await.map_err(anyhow::Error::msg);
    if let Some(directory) = &args.status_dir {
        remove_status(directory)
            .with_context(|| format!("cannot remove {}", directory.join(STATUS_FILE).display()))?;
    }
    saved.and(served)
}

/// What the options ask for, in PocketIC's terms.
fn instance_config(args: &LauncherArgs) -> InstanceConfig {
    let spec = SubnetSpec::default;
    let mut subnets = ExtendedSubnetConfigSet { nns: Some(spec()), ..Default::default() };
    for kind in &args.subnet {
        match kind {
            SubnetKind::Application => subnets.application.push(spec()),
            SubnetKind::System => subnets.system.push(spec()),
            SubnetKind::VerifiedApplication => subnets.verified_application.push(spec()),
            SubnetKind::Bitcoin => subnets.bitcoin = Some(spec()),
            SubnetKind::Fiduciary => subnets.fiduciary = Some(spec()),
            SubnetKind::Nns => subnets.nns = Some(spec()),
            SubnetKind::Sns => subnets.sns = Some(spec()),
            SubnetKind::TestThresholdKeys => subnets.test_threshold_keys = Some(spec()),
        }
    }
    if args.subnet.is_empty() {
        subnets.application.push(spec());
    }
    let enabled = Some(IcpFeaturesConfig::DefaultConfig);
    let domains = std::iter::once("localhost".to_owned()).chain(args.domain.iter().cloned());
    InstanceConfig {
        subnet_config_set: subnets,
        http_gateway_config: Some(InstanceHttpGatewayConfig {
            ip_addr: Some(args.bind.to_string()),
            port: args.gateway_port,
            domains: Some(domains.collect()),
            https_config: None,
            domain_custom_provider_local_file: None,
        }),
        state_dir: args.state_dir.clone(),
        icp_features: Some(IcpFeatures {
            registry: enabled.clone(),
            cycles_minting: enabled.clone(),
            icp_token: enabled.clone(),
            cycles_token: enabled,
            ..Default::default()
        }),
        initial_time: Some(InitialTime::AutoProgress(AutoProgressConfig { artificial_delay_ms: None })),
        ..Default::default()
    }
}

const STATUS_FILE: &str = "status.json";

/// Writes `status.json` at once, so that nobody sees half of it.
fn write_status(directory: &Path, status: &Status) -> anyhow::Result<()> {
    std::fs::create_dir_all(directory)?;
    let unfinished = directory.join(".status.json");
    std::fs::write(&unfinished, format!("{}\n", serde_json::to_string(status)?))?;
    std::fs::rename(&unfinished, directory.join(STATUS_FILE))?;
    Ok(())
}

/// Removes `status.json`, and the folder if nothing else is in it.
fn remove_status(directory: &Path) -> std::io::Result<()> {
    match std::fs::remove_file(directory.join(STATUS_FILE)) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    // Others may keep files there, or have mounted the folder.
    let _ = std::fs::remove_dir(directory);
    Ok(())
}
