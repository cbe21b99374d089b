//! Prints how fast the network is: `cargo xtask bench local-net`. With the argument `reads`, how fast the model repository answers:
//! `cargo xtask bench reads`.
//!
//! Times are medians over batches of one run, on whatever machine this is; compare rows of one run, not runs.

use candid::{Principal, Reserved, encode_args, encode_one};
use flate2::{Compression, read::GzEncoder};
use ic_management_canister_types as types;
use local_net::{
    limits,
    network::{INITIAL_TIME, IngressMessage, Network, Query, RequestId},
    reject::Response,
};
use novaq_engine::artifact::Manifest;
use novaq_engine::model::{Config, RopeScaling, Variant};
use novaq_engine::synth::{Format, Synthetic};
use pocket_ic::{PocketIc, PocketIcBuilder};
use serde_bytes::ByteBuf;
use shared_types::ModelId;
use shared_types::model::{
    BeginUploadArgs, GetShardArgs, GetShardChunkArgs, ListModelsArgs, ModelError, ModelInitArgs, Policy,
    ProposalAction, PutShardArgs,
};
use std::{
    hint::black_box,
    io::Read,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

/// Batches of which the median is taken.
const BATCHES: usize = 15;
/// Queries of a kind of which the mean is taken.
const QUERIES: u32 = 1_000;
/// Instances that live at the same time.
const INSTANCES: usize = 100;

/// Pages of a heap of 1 MiB, and of 256 MiB.
const SMALL: u32 = 16;
const LARGE: u32 = 4096;

/// A canister with this number of pages. `inc` counts; `relay` calls `inc` of the canister in the argument and waits for the
/// answer; `touch` dirties ten pages; `fail` does that too and traps.
fn canister(pages: u32) -> anyhow::Result<Vec<u8>> {
    Ok(wat::parse_str(CANISTER.replace("PAGES", &pages.to_string()))?)
}

const CANISTER: &str = r#"(module
  (import "ic0" "msg_arg_data_size" (func $arg_size (result i32)))
  (import "ic0" "msg_arg_data_copy" (func $arg_copy (param i32 i32 i32)))
  (import "ic0" "msg_reply" (func $reply))
  (import "ic0" "msg_reply_data_append" (func $append (param i32 i32)))
  (import "ic0" "call_new" (func $call_new (param i32 i32 i32 i32 i32 i32 i32 i32)))
  (import "ic0" "call_perform" (func $perform (result i32)))
  (memory PAGES)
  (data (i32.const 256) "inc")
  (table 1 1 funcref)
  (elem (i32.const 0) func $done)
  (global $counter (mut i64) (i64.const 0))
  (func $answer
    (i64.store (i32.const 512) (global.get $counter))
    (call $append (i32.const 512) (i32.const 8))
    (call $reply))
  (func $dirty (local $page i32)
    (loop $next
      (i64.store (i32.mul (local.get $page) (i32.const 65536)) (i64.const 1))
      (local.set $page (i32.add (local.get $page) (i32.const 1)))
      (br_if $next (i32.lt_u (local.get $page) (i32.const 10)))))
  (func (export "canister_update inc")
    (global.set $counter (i64.add (global.get $counter) (i64.const 1)))
    (call $answer))
  (func (export "canister_query get") (call $answer))
  (func (export "canister_update touch") (call $dirty) (call $reply))
  (func (export "canister_update fail") (call $dirty) unreachable)
  (func (export "canister_update relay")
    (call $arg_copy (i32.const 1000) (i32.const 0) (call $arg_size))
    (call $call_new (i32.const 1000) (i32.const 10) (i32.const 256) (i32.const 3)
      (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0))
    (drop (call $perform)))
  (func $done (param i32) (call $answer)))"#;

fn main() -> anyhow::Result<()> {
    if std::env::args().nth(1).as_deref() == Some("reads") {
        return reads();
    }
    println!("| what | time | at most |");
    println!("|---|---|---|");
    in_process()?;
    over_rest()?;
    instances();
    compilation()
}

fn row(what: &str, time: Duration, limit: &str) {
    println!("| {what} | {time:.1?} | {limit} |");
}

/// The median time of one of `count` runs of `work`, over [`BATCHES`].
fn median(count: u32, mut work: impl FnMut()) -> Duration {
    let mut batch = || {
        let start = Instant::now();
        (0..count).for_each(|_| work());
        start.elapsed() / count
    };
    batch();
    let mut times: Vec<Duration> = (0..BATCHES).map(|_| batch()).collect();
    times.sort_unstable();
    times[BATCHES / 2]
}

/// A network in this process, and the number of requests so far.
struct Net {
    network: Network,
    requests: u64,
}

impl Net {
    fn call(&mut self, canister: Principal, method: &str, argument: Vec<u8>) -> Response {
        self.call_as(Principal::anonymous(), canister, method, argument)
    }

    fn call_as(
        &mut self,
        sender: Principal,
        canister: Principal,
        method: &str,
        argument: Vec<u8>,
    ) -> Response {
        self.requests += 1;
        let mut id = RequestId::default();
        id[..8].copy_from_slice(&self.requests.to_be_bytes());
        self.network.submit(IngressMessage {
            id,
            sender,
            canister,
            method: method.into(),
            argument,
            expiry: self.network.time() + limits::INGRESS_TTL,
            effective: None,
        })?;
        self.network.await_ingress(&id).expect("calls of this program finish within some rounds")
    }

    fn canister(&mut self, wasm_module: Vec<u8>, arg: Vec<u8>) -> anyhow::Result<Principal> {
        let management = Principal::management_canister();
        let created = self.call(
            management,
            "provisional_create_canister_with_cycles",
            encode_one(types::ProvisionalCreateCanisterWithCyclesArgs::default())?,
        )?;
        let canister_id = candid::decode_one::<types::CanisterIdRecord>(&created)?.canister_id;
        let args = types::InstallCodeArgs {
            mode: types::CanisterInstallMode::Install,
            canister_id,
            wasm_module,
            arg,
            sender_canister_version: None,
        };
        self.call(management, "install_code", encode_one(args)?)?;
        self.call(
            management,
            "provisional_top_up_canister",
            encode_one(types::ProvisionalTopUpCanisterArgs { canister_id, amount: u64::MAX.into() })?,
        )?;
        Ok(canister_id)
    }
}

fn in_process() -> anyhow::Result<()> {
    let mut net = Net { network: Network::new([1; 32], INITIAL_TIME), requests: 0 };
    let (a, b) = (net.canister(canister(SMALL)?, vec![])?, net.canister(canister(SMALL)?, vec![])?);
    let large = net.canister(canister(LARGE)?, vec![])?;
    let update = |net: &mut Net, canister: Principal, method: &str, argument: &[u8]| {
        let _ = black_box(net.call(canister, method, argument.to_vec()));
    };
    row("update, in process", median(200, || update(&mut net, a, "inc", &[])), "50 µs");
    let query = Query { canister: a, caller: b, method: "get".into(), argument: vec![] };
    let time = median(200, || {
        let _ = black_box(net.network.query(query.clone()));
    });
    row("query, in process", time, "60 µs");
    let relay = median(100, || update(&mut net, a, "relay", b.as_slice()));
    row("call of another canister and back", relay, "");
    for (canister, heap) in [(a, "1 MiB"), (large, "256 MiB")] {
        let touch = median(50, || update(&mut net, canister, "touch", &[]));
        row(&format!("update that changes 10 pages of a heap of {heap}"), touch, "");
        let trap = median(50, || update(&mut net, canister, "fail", &[]));
        row(&format!("the same, and a trap: {heap}"), trap, "");
    }
    let certify = || {
        black_box(net.network.certify(0, vec![]));
    };
    row("certificate", median(20, certify), "");

    let rust = net.canister(test_canister()?, encode_args(())?)?;
    let mut key = 0u64;
    let put = || {
        key += 1;
        let argument =
            encode_args((format!("key {key}"), key)).expect("text and a number have a Candid form");
        let _ = black_box(net.call(rust, "put", argument));
    };
    row("`StableBTreeMap::insert` in an ic-cdk canister", median(100, put), "");
    Ok(())
}

/// Queries of the model repository per second, one after the other in this process: what one core does.
fn reads() -> anyhow::Result<()> {
    let mut net = Net { network: Network::new([1; 32], INITIAL_TIME), requests: 0 };
    let me = Principal::self_authenticating([1]);
    let path = server().with_file_name("../wasm32-unknown-unknown/canister/ohms_model.wasm");
    let policy = Some(Policy { require_signature: false, ..Policy::default() });
    let init = ModelInitArgs { admins: vec![me], policy, ..ModelInitArgs::default() };
    // As gzip: a message has 2 MiB.
    let wasm = std::fs::read(path)?;
    let mut gzip = GzEncoder::new(wasm.as_slice(), Compression::default());
    let mut module = Vec::new();
    gzip.read_to_end(&mut module)?;
    let canister = net.canister(module, encode_one(init)?)?;
    let mut ask = |method: &str, argument: Vec<u8>| -> anyhow::Result<()> {
        let reply = net.call_as(me, canister, method, argument)?;
        let result: Result<Reserved, ModelError> = candid::decode_one(&reply)?;
        result.map(|_| ()).map_err(anyhow::Error::from)
    };
    let (manifest, shards) = published_model()?;
    let model_id = ModelId::new(manifest.id()?);
    let manifest = ByteBuf::from(manifest.to_bytes()?);
    ask("begin_upload", encode_one(BeginUploadArgs { manifest })?)?;
    for (index, shard) in (0..).zip(&shards) {
        let bytes = ByteBuf::from(shard.as_slice());
        ask("put_shard", encode_one(PutShardArgs { model_id, index, bytes })?)?;
    }
    ask("finish_upload", encode_one(model_id)?)?;
    ask("propose", encode_one(ProposalAction::Activate { model_id })?)?;

    let shard = |index| encode_one(GetShardArgs { model_id, index });
    let chunk = |length| encode_one(GetShardChunkArgs { model_id, index: 0, offset: 4_096, length });
    let page = ListModelsArgs { status: None, filter: None, after: None, limit: 100 };
    println!("| query | bytes of the reply | time of a core | per second and core |");
    println!("|---|---|---|---|");
    for (what, method, argument) in [
        ("a model's record", "get_model", encode_one(model_id)?),
        ("a model's record with its proof", "get_certified_model", encode_one(model_id)?),
        ("a page of the catalogue with its proof", "list_models", encode_one(page)?),
        ("4 KiB of a shard", "get_shard_chunk", chunk(4 << 10)?),
        ("64 KiB of a shard", "get_shard_chunk", chunk(64 << 10)?),
        ("1 MiB of a shard", "get_shard_chunk", chunk(1 << 20)?),
        ("a whole shard", "get_shard", shard(0)?),
    ] {
        let query = Query { canister, caller: Principal::anonymous(), method: method.into(), argument };
        let bytes = net.network.query(query.clone())?.len();
        let begin = cpu_time()?;
        for _ in 0..QUERIES {
            let _ = black_box(net.network.query(query.clone()));
        }
        let time = cpu_time()?.saturating_sub(begin) / QUERIES;
        println!("| {what} | {bytes} | {time:.1?} | {:.0} |", 1.0 / time.as_secs_f64());
    }
    Ok(())
}

/// Time that this thread has had a core: what is left to others does not count.
fn cpu_time() -> anyhow::Result<Duration> {
    let schedstat = std::fs::read_to_string("/proc/thread-self/schedstat")?;
    let nanos = schedstat.split_whitespace().next().unwrap_or_default().parse()?;
    Ok(Duration::from_nanos(nanos))
}

/// A model of random weights whose first shard is full.
fn published_model() -> anyhow::Result<(Manifest, Vec<Vec<u8>>)> {
    let config = Config {
        vocab_size: 512,
        hidden_size: 512,
        intermediate_size: 1_024,
        num_hidden_layers: 2,
        num_attention_heads: 8,
        num_key_value_heads: 4,
        head_dim: 64,
        max_position_embeddings: 256,
        rms_norm_eps: 1e-5,
        rope_theta: 10_000.0,
        rope_scaling: RopeScaling::Default,
        tie_word_embeddings: true,
        attention_bias: false,
        mlp_bias: false,
        bos_token_id: None,
        eos_token_ids: Vec::new(),
        variant: Variant::default(),
    };
    let tokenizer = novaq_engine::synth::tokenizer(config.vocab_size)?.to_bytes();
    let int8 = Format::Int8;
    let synthetic = Synthetic { config, body: int8, embedding: int8, seed: 1, tokenizer };
    let mut shards = Vec::new();
    let manifest = synthetic.write(&mut shards)?;
    Ok((manifest, shards))
}

/// The wasm of `local-net/test-canister`.
fn test_canister() -> anyhow::Result<Vec<u8>> {
    let target = std::env::current_exe()?;
    let target = target.ancestors().nth(3).map(Path::to_owned).unwrap_or_default();
    let status = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["build", "--quiet", "--package", "local-net-test-canister"])
        .args(["--target", "wasm32-unknown-unknown", "--profile", "canister", "--target-dir"])
        .arg(&target)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status()?;
    anyhow::ensure!(status.success(), "the test canister does not build");
    Ok(std::fs::read(target.join("wasm32-unknown-unknown/canister/local_net_test_canister.wasm"))?)
}

/// The server: the binary beside this program.
fn server() -> std::path::PathBuf {
    let program = std::env::current_exe().unwrap_or_default();
    program.ancestors().nth(2).map(|folder| folder.join("local-net")).unwrap_or_default()
}

fn pocket_ic() -> PocketIc {
    PocketIcBuilder::new().with_application_subnet().with_server_binary(server()).build()
}

fn installed(pic: &PocketIc) -> anyhow::Result<Principal> {
    let canister = pic.create_canister();
    pic.add_cycles(canister, u128::from(u64::MAX));
    pic.install_canister(canister, crate::canister(SMALL)?, vec![], None);
    Ok(canister)
}

fn over_rest() -> anyhow::Result<()> {
    let mut pic = pocket_ic();
    let canister = installed(&pic)?;
    let anonymous = Principal::anonymous();
    let update = || {
        let _ = black_box(pic.update_call(canister, anonymous, "inc", vec![]));
    };
    row("update over PocketIC's interface", median(20, update), "1 ms");
    let query = || {
        let _ = black_box(pic.query_call(canister, anonymous, "get", vec![]));
    };
    row("query over PocketIC's interface", median(20, query), "");

    let url = pic.make_live(None);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let agent = ic_agent::Agent::builder().with_url(url).build()?;
    runtime.block_on(agent.fetch_root_key())?;
    let update = || {
        let _ = black_box(runtime.block_on(agent.update(&canister, "inc").call_and_wait()));
    };
    row("update by ic-agent, certificate verified", median(5, update), "");
    let query = || {
        let _ = black_box(runtime.block_on(agent.query(&canister, "get").call()));
    };
    row("query by ic-agent, signature verified", median(5, query), "");
    Ok(())
}

fn instances() {
    let start = Instant::now();
    let all: Vec<PocketIc> = (0..INSTANCES).map(|_| pocket_ic()).collect();
    for pic in &all {
        let _ = black_box(installed(pic));
    }
    row(
        &format!("instance with a canister, {INSTANCES} at the same time"),
        start.elapsed() / INSTANCES as u32,
        "",
    );
}

/// Installs a canister of some size in two processes that share a fresh cache.
fn compilation() -> anyhow::Result<()> {
    let cache = tempfile::tempdir()?;
    let wasm = test_canister()?;
    for what in ["first installation of an ic-cdk canister", "first installation in another process"] {
        let mut command = Command::new(server());
        let port_file = cache.path().join("port");
        command.arg("--port-file").arg(&port_file).env("XDG_CACHE_HOME", cache.path());
        let mut process = command.spawn()?;
        let port = loop {
            match std::fs::read_to_string(&port_file) {
                Ok(port) if port.ends_with('\n') => break port,
                _ => std::thread::sleep(Duration::from_millis(5)),
            }
        };
        let url = format!("http://127.0.0.1:{}", port.trim()).parse()?;
        let pic = PocketIcBuilder::new().with_application_subnet().with_server_url(url).build();
        let canister = pic.create_canister();
        pic.add_cycles(canister, u128::from(u64::MAX));
        let start = Instant::now();
        pic.install_canister(canister, wasm.clone(), encode_args(())?, None);
        row(what, start.elapsed(), "");
        drop(pic);
        process.kill()?;
        process.wait()?;
        std::fs::remove_file(&port_file)?;
    }
    Ok(())
}
