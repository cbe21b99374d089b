//! `@icp-sdk/core` in Chromium (`clients/browser.test.mjs`) against `local-net serve`.

use crate::common::{clients, server::Server};
use std::path::PathBuf;

#[test]
fn the_javascript_agent_verifies_everything_in_chromium() {
    let chromium = std::env::var_os("CHROMIUM").map_or_else(|| "/usr/bin/chromium".into(), PathBuf::from);
    if !chromium.exists() {
        let reason = format!("{} does not exist; install `chromium`, or set CHROMIUM", chromium.display());
        return clients::skip(&reason);
    }
    if clients::package_file("playwright-core/package.json").is_some() {
        clients::run_node_tests("browser.test.mjs", &Server::start());
    }
}
