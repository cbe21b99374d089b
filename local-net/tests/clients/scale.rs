//! Many instances in one process, and a second process that need not compile again.

use crate::common::{id_bytes, module, pocket::pocket_ic};
use candid::Principal;
use pocket_ic::{PocketIc, PocketIcBuilder};
use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, Stdio},
};

fn counter() -> Vec<u8> {
    let text = module(
        r#"
  (elem (i32.const 1) func $done $done)
  (global $counter (mut i64) (i64.const 0))
  (func (export "canister_update inc")
    (global.set $counter (i64.add (global.get $counter) (i64.const 1)))
    (call $reply_i64 (global.get $counter)))
  (func (export "canister_update relay")
    (call $take_arg)
    (call $call_new (i32.const 1000) (i32.const 10) (i32.const 256) (i32.const 3)
      (i32.const 1) (i32.const 0) (i32.const 2) (i32.const 0))
    (drop (call $perform)))
  (func $done (param i32) (call $reply_i64 (global.get $counter)))"#,
    );
    wat::parse_str(text).unwrap()
}

fn installed(pic: &PocketIc) -> Principal {
    let canister = pic.create_canister();
    pic.add_cycles(canister, 100_000_000_000_000);
    pic.install_canister(canister, counter(), vec![], None);
    canister
}

#[test]
fn a_hundred_instances_live_in_one_process() {
    let instances: Vec<PocketIc> = (0..100).map(|_| pocket_ic()).collect();
    let canisters: Vec<[Principal; 2]> =
        instances.iter().map(|pic| [installed(pic), installed(pic)]).collect();
    let anonymous = Principal::anonymous();
    for (n, (pic, [a, b])) in instances.iter().zip(&canisters).enumerate() {
        for _ in 0..n % 3 {
            pic.update_call(*a, anonymous, "inc", vec![]).unwrap();
        }
        pic.update_call(*b, anonymous, "relay", id_bytes(*a)).unwrap();
    }
    for (n, (pic, [a, b])) in instances.iter().zip(&canisters).enumerate() {
        let count = |id: Principal| {
            let reply = pic.update_call(id, anonymous, "inc", vec![]).unwrap();
            u64::from_le_bytes(reply.try_into().unwrap())
        };
        assert_eq!((count(*a), count(*b)), (n as u64 % 3 + 2, 1), "instances do not mix");
    }
}

/// Installs a module in a server of its own whose cache is in `folder`; what the server says about it.
fn compile_in_another_process(folder: &Path) -> String {
    let port_file = folder.join("port");
    let mut server = Command::new(env!("CARGO_BIN_EXE_local-net"))
        .args(["--log-levels", "local_net=debug", "--port-file"])
        .arg(&port_file)
        .env("XDG_CACHE_HOME", folder)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let port = loop {
        match std::fs::read_to_string(&port_file) {
            Ok(port) if port.ends_with('\n') => break port,
            _ => std::thread::yield_now(),
        }
    };
    let url = format!("http://127.0.0.1:{}", port.trim()).parse().unwrap();
    let pic = PocketIcBuilder::new().with_application_subnet().with_server_url(url).build();
    installed(&pic);
    drop(pic);
    let mut lines = BufReader::new(server.stderr.take().unwrap()).lines().map(Result::unwrap);
    let line = lines.find(|line| line.contains("modules so far")).unwrap();
    // Compiled code is written in the background.
    let written = || walk(folder).iter().any(|file| file.metadata().unwrap().len() > 1_000);
    while !written() {
        std::thread::yield_now();
    }
    server.kill().unwrap();
    server.wait().unwrap();
    std::fs::remove_file(port_file).unwrap();
    line
}

/// All files below `folder`.
fn walk(folder: &Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] }).collect()
}

#[test]
fn a_second_process_reads_compiled_code_from_the_cache() {
    let folder = tempfile::tempdir().unwrap();
    let first = compile_in_another_process(folder.path());
    assert!(first.contains("0 from the cache, 1 compiled"), "{first}");
    let second = compile_in_another_process(folder.path());
    assert!(second.contains("1 from the cache, 0 compiled"), "{second}");
}
