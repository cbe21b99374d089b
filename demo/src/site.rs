//! The web app and the stand-in for Internet Identity, each on a ui canister.

use crate::canisters::Client;
use crate::fact;
use crate::network::LocalNetwork;
use anyhow::Context;
use candid::Principal;
use ohms_ui_publish::{Folder, commit, prepare};
use shared_types::ui::{SiteConfig, SiteVariable, UiError, UiInitArgs, UiRole, UiRoleGrant};
use std::path::Path;

/// Name of the identity that administers the canisters.
pub const ADMIN: &str = "admin";
/// Name of an identity without any role.
pub const USER: &str = "user";

/// Publishes the app and the stand-ins, whose folders are `site`; `preparer` sends the files, `committer` publishes them. Returns
/// the app's address. `canisters` are those that the app calls, by name.
pub async fn publish(
    network: &LocalNetwork,
    preparer: &Client,
    committer: &Client,
    site: (&Path, &Path),
    canisters: &[(&str, Principal)],
) -> anyhow::Result<String> {
    let (app, stand_in) = site;
    let stand_in = publish_folder(preparer, committer, stand_in, SiteConfig::default(), "stand-in").await?;
    let provider = format!("{}identity.html", address(network, stand_in)?);
    // What speaks to wallets takes, of addresses without TLS, those whose host is `localhost` and nothing more.
    let gateway = format!("http://localhost:{}", port(network)?);
    let wallet = format!("{gateway}/wallet.html?canisterId={stand_in}");
    let variable = |name: &str, value| SiteVariable { name: name.to_owned(), value };
    let mut variables =
        vec![variable("PUBLIC_IDENTITY_PROVIDER", provider), variable("PUBLIC_WALLET", wallet)];
    variables.extend(canisters.iter().map(canister_variable));
    let mut config = SiteConfig { variables, connect_origins: vec![gateway] };
    let ui = publish_folder(preparer, committer, app, config.clone(), "ui").await?;
    // The app's own id is known only now.
    config.variables.push(canister_variable(&("ui", ui)));
    preparer.update::<(), UiError>(ui, "configure", (config,)).await?;
    let app = address(network, ui)?;
    fact("app", &app);
    Ok(app)
}

fn canister_variable((name, id): &(&str, Principal)) -> SiteVariable {
    SiteVariable { name: format!("PUBLIC_CANISTER_ID:{name}"), value: id.to_text() }
}

fn port(network: &LocalNetwork) -> anyhow::Result<&str> {
    let (_, port) = network.url.trim_end_matches('/').rsplit_once(':').context("the network has no port")?;
    Ok(port)
}

fn address(network: &LocalNetwork, canister: Principal) -> anyhow::Result<String> {
    Ok(format!("http://{canister}.localhost:{}/", port(network)?))
}

async fn publish_folder(
    preparer: &Client,
    committer: &Client,
    folder: &Path,
    config: SiteConfig,
    name: &str,
) -> anyhow::Result<Principal> {
    let files = Folder::read(folder)?;
    let grant = |client: &Client, role| UiRoleGrant { principal: client.principal(), role };
    let roles = vec![
        grant(preparer, UiRole::Admin),
        grant(preparer, UiRole::Prepare),
        grant(committer, UiRole::Commit),
    ];
    let canister = preparer.deploy("ohms_ui", UiInitArgs { roles, config }).await?;
    let batch = prepare(preparer.ic_agent(), canister, &files).await?;
    commit(committer.ic_agent(), canister, batch.batch_id, files.hash()).await?;
    fact(name, format!("{canister}, {} files, {} bytes", batch.files, batch.bytes));
    Ok(canister)
}
