//! Setting up the clients of `local-net/clients`: npm packages and a browser.

use crate::cargo::workspace;
use crate::run;
use anyhow::{Context, ensure};
use std::path::Path;
use std::process::{Command, Stdio};

/// Where Debian puts Chromium.
const CHROMIUM: &str = "/usr/bin/chromium";

/// Installs what is missing; does nothing when all is there.
pub fn set_up() -> anyhow::Result<()> {
    install_packages(&workspace().join("local-net/clients"))?;
    install_chromium()
}

/// Whether npm packages can be installed.
pub fn has_npm() -> bool {
    succeeds("node", &["--version"]) && succeeds("npm", &["--version"])
}

/// `npm ci` in `folder`, when the lock file is another than at the last time.
pub fn install_packages(folder: &Path) -> anyhow::Result<()> {
    ensure!(
        has_npm(),
        "`node` and `npm` are needed for the web app and for the JavaScript clients that check local-net; install \
         Node.js 20 or later (Debian: nodejs, npm)"
    );
    let lock = read(&folder.join("package-lock.json"))?;
    let installed = folder.join("node_modules/.installed-lock.json");
    if std::fs::read(&installed).is_ok_and(|installed| installed == lock) {
        return Ok(());
    }
    eprintln!("installing: npm packages of {}", folder.display());
    run(Command::new("npm").arg("ci").current_dir(folder))?;
    std::fs::write(&installed, lock).with_context(|| format!("cannot write {}", installed.display()))
}

/// Debian's Chromium, when there is none and this is root's work.
fn install_chromium() -> anyhow::Result<()> {
    if std::env::var_os("CHROMIUM").is_some() || Path::new(CHROMIUM).exists() {
        return Ok(());
    }
    let id = Command::new("id").arg("--user").output().context("`id` can't be started")?;
    ensure!(
        id.stdout == b"0\n" && succeeds("apt-get", &["--version"]),
        "Chromium is needed for the browser's part of the clients that check local-net; install the package `chromium`, or \
         set CHROMIUM to a browser's path"
    );
    eprintln!("installing: the package `chromium`");
    let apt = |arguments: &[&str]| {
        let mut command = Command::new("apt-get");
        command.args(["--quiet", "--quiet", "--yes"]).args(arguments);
        run(command.env("DEBIAN_FRONTEND", "noninteractive"))
    };
    let install = ["install", "--no-install-recommends", "chromium"];
    // The list of packages may be old, or absent on a new machine.
    apt(&install).or_else(|_| apt(&["update"]).and_then(|()| apt(&install)))
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

/// Whether a program is there and does what it is asked for; its output is dropped.
fn succeeds(program: &str, arguments: &[&str]) -> bool {
    let mut command = Command::new(program);
    command.args(arguments).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}
