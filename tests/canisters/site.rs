//! The ui canister: two roles publish a folder, the gateway serves it, every response verified.

use candid::{Encode, Principal};
use ic_agent::identity::BasicIdentity;
use ic_agent::{Agent, Identity};
use ohms_tests::network::{Network, admin};
use ohms_tests::wasm::Canister;
use ohms_ui_publish::{Folder, commit, prepare};
use reqwest::header::{HeaderMap, HeaderName};
use reqwest::{Client, Response};
use shared_types::ui::{SiteConfig, SiteVariable, UiInitArgs, UiRole, UiRoleGrant, UiStatus};

const SCRIPT: &str = "/assets/app-1234.js";
const LARGE: &str = "/assets/large-1234.bin";

fn identity(who: u8) -> BasicIdentity {
    BasicIdentity::from_raw_key(&[who; 32])
}

fn grant(who: u8, role: UiRole) -> UiRoleGrant {
    UiRoleGrant { principal: identity(who).sender().unwrap(), role }
}

/// Arguments that make identity 5 the preparer and identity 6 the committer.
pub fn init_args() -> UiInitArgs {
    let variable = SiteVariable { name: "PUBLIC_CANISTER_ID:model".to_owned(), value: "aaaaa-aa".to_owned() };
    UiInitArgs {
        roles: vec![
            UiRoleGrant { principal: admin(), role: UiRole::Admin },
            grant(5, UiRole::Prepare),
            grant(6, UiRole::Commit),
        ],
        config: SiteConfig { variables: vec![variable], connect_origins: Vec::new() },
    }
}

/// A site whose script says `words`, with a file of several chunks.
fn folder(words: &str) -> Folder {
    let folder = std::env::temp_dir().join(format!("ohms-site-{}-{}", std::process::id(), words.len()));
    std::fs::create_dir_all(folder.join("assets")).unwrap();
    let script = format!("const words = '{words}';\n").repeat(200);
    let large: Vec<u8> = (0..4_500_000_u32).map(|at| (at % 251) as u8).collect();
    std::fs::write(folder.join("index.html"), "<!doctype html><title>page</title>").unwrap();
    std::fs::write(folder.join("404.html"), "<!doctype html><title>not here</title>").unwrap();
    std::fs::write(folder.join(&SCRIPT[1..]), script).unwrap();
    std::fs::write(folder.join(&LARGE[1..]), large).unwrap();
    let site = Folder::read(&folder).unwrap();
    std::fs::remove_dir_all(folder).unwrap();
    site
}

async fn agent(url: &str, who: u8) -> Agent {
    let agent = Agent::builder().with_url(url).with_identity(identity(who)).build().unwrap();
    agent.fetch_root_key().await.unwrap();
    agent
}

async fn publish(url: &str, canister: Principal, site: &Folder) {
    let batch = prepare(&agent(url, 5).await, canister, site).await.unwrap();
    // Who prepared it, or has another role, does not publish it, and nobody another site than the one that was built.
    for who in [5, 7] {
        assert!(commit(&agent(url, who).await, canister, batch.batch_id, site.hash()).await.is_err());
    }
    let committer = agent(url, 6).await;
    let other = folder("something else altogether").hash();
    assert!(commit(&committer, canister, batch.batch_id, other).await.is_err());
    commit(&committer, canister, batch.batch_id, site.hash()).await.unwrap();
}

/// The site through the gateway, which shows only what it could verify.
struct Visitor {
    client: Client,
    url: String,
    host: String,
}

impl Visitor {
    async fn get(&self, path: &str, headers: &[(&'static str, &str)]) -> Response {
        let mut all = HeaderMap::new();
        all.insert("host", self.host.parse().unwrap());
        for (name, value) in headers {
            all.insert(HeaderName::from_static(name), value.parse().unwrap());
        }
        let url = format!("{}{path}", self.url.trim_end_matches('/'));
        self.client.get(url).headers(all).send().await.unwrap()
    }

    async fn expect(&self, path: &str, headers: &[(&'static str, &str)], status: u16, body: &[u8]) {
        let response = self.get(path, headers).await;
        assert_eq!(response.status().as_u16(), status, "{path} {headers:?}");
        assert_eq!(response.bytes().await.unwrap(), body, "{path} {headers:?}");
    }
}

#[test]
fn two_roles_publish_what_the_gateway_verifies() {
    let mut network = Network::new();
    let canister = network.install(Canister::Ui, init_args());
    let url = network.pic.make_live(None);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let visitor = Visitor {
        client: Client::new(),
        url: url.to_string(),
        host: format!("{canister}.localhost:{}", url.port().unwrap()),
    };
    runtime.block_on(async {
        let response = visitor.get("/", &[]).await;
        assert_eq!(response.status().as_u16(), 200);
        assert!(response.text().await.unwrap().contains("Nothing is published"));
        let site = folder("hello");
        publish(url.as_str(), canister, &site).await;
        visit(&visitor, &site).await;
    });
    // Truth is in stable memory.
    let args = Encode!().unwrap();
    network.pic.upgrade_canister(canister, Canister::Ui.wasm(), args, Some(admin())).unwrap();
    runtime.block_on(async {
        visit(&visitor, &folder("hello")).await;
        let site = folder("hello again");
        publish(url.as_str(), canister, &site).await;
        visit(&visitor, &site).await;
    });
    let status: UiStatus = network.query(admin(), canister, "status", ());
    assert_eq!(status.published.unwrap().number, 2);
    let bytes: usize = folder("hello again").contents.values().map(Vec::len).sum();
    assert_eq!(status.stored_bytes, bytes as u64, "the first site's own files are gone");
}

async fn visit(visitor: &Visitor, site: &Folder) {
    let content = |path: &str, variant: usize| {
        let file = site.files.iter().find(|file| file.path == path).unwrap();
        &site.contents[&file.variants[variant].sha256]
    };
    let page = content("/index.html", 0);
    visitor.expect("/", &[], 200, page).await;
    visitor.expect("/agents/somebody?tab=chat", &[], 200, page).await;
    visitor.expect(SCRIPT, &[], 200, content(SCRIPT, 0)).await;
    visitor.expect(SCRIPT, &[("accept-encoding", "gzip")], 200, content(SCRIPT, 1)).await;
    visitor.expect(SCRIPT, &[("accept-encoding", "gzip, deflate, br")], 200, content(SCRIPT, 2)).await;
    visitor.expect("/assets/gone.js", &[], 404, content("/404.html", 0)).await;
    // A small file has no parts; a large one comes whole, and in parts to those who ask for them.
    visitor.expect(SCRIPT, &[("range", "bytes=0-")], 200, content(SCRIPT, 0)).await;
    visitor.expect(LARGE, &[], 200, content(LARGE, 0)).await;
    let last = &content(LARGE, 0)[4_000_000..];
    visitor.expect(LARGE, &[("range", "bytes=4000000-")], 206, last).await;

    let response = visitor.get("/", &[]).await;
    let header = |name: &str| response.headers()[name].to_str().unwrap();
    assert!(header("content-security-policy").starts_with("default-src 'none'; script-src 'self'"));
    assert_eq!(header("x-content-type-options"), "nosniff");
    let cookie = header("set-cookie");
    assert!(cookie.starts_with("ic_env=ic_root_key%3D308182301d"), "{cookie}");
    assert!(cookie.contains("%26PUBLIC_CANISTER_ID%3Amodel%3Daaaaa-aa;"), "{cookie}");
}
