//! The web app: its packages, its build, its tests.

use crate::cargo::{program, workspace};
use crate::{clients, run};
use std::path::PathBuf;
use std::process::Command;

fn folder() -> PathBuf {
    workspace().join("frontend")
}

/// Installs the packages and builds the app and the stand-ins for local networks.
pub fn build() -> anyhow::Result<()> {
    clients::install_packages(&folder())?;
    eprintln!("building: the web app");
    run(Command::new("npm").args(["run", "--silent", "build"]).current_dir(folder()))
}

/// What the demo takes to publish the app.
pub fn demo_arguments() -> [String; 4] {
    let path = |name: &str| folder().join(name).to_string_lossy().into_owned();
    ["--site".to_owned(), path("dist"), "--stand-in".to_owned(), path("dist-stand-in")]
}

/// The unit tests, and the journeys in Chromium on a local network; both end with lines that count them.
pub fn tests() -> [Command; 2] {
    let mut units = Command::new("npx");
    units.args(["vitest", "run"]).env("NO_COLOR", "1");
    let mut journeys = Command::new("node");
    journeys.args(["--test", "--test-reporter=tap", "e2e/journeys.test.mjs"]);
    if let Some(programs) = program("novaq").parent() {
        journeys.env("OHMS_PROGRAMS", programs);
    }
    for command in [&mut units, &mut journeys] {
        command.current_dir(folder());
    }
    [units, journeys]
}
