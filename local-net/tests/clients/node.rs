//! `@icp-sdk/core` in Node (`clients/node.test.mjs`) against `local-net serve`.

use crate::common::{clients, server::Server};

#[test]
fn the_javascript_agent_verifies_everything_in_node() {
    if clients::package_file("@icp-sdk/core/package.json").is_some() {
        clients::run_node_tests("node.test.mjs", &Server::start());
    }
}
