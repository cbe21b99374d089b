//! Models of the hub, from a local server that speaks its protocol and has its faults.

mod small;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex};

use assert_cmd::Command;
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::Response;
use serde_json::{Value, json};
use sha1::{Digest, Sha1};
use sha2::Sha256;
use small::{FEW_TOKENS, checkpoint};
use tempfile::TempDir;

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// What goes wrong.
#[derive(Clone, Debug, Default)]
#[allow(clippy::struct_excessive_bools, reason = "each fault is there or not, whatever the others are")]
struct Faults {
    /// Answers everything so.
    refusal: Option<(u16, Option<&'static str>)>,
    /// The storage ends the next connection after so many bytes.
    cut: Option<usize>,
    /// The storage gives no more bytes after that.
    down_after_cut: bool,
    down: bool,
    /// The storage gives other bytes.
    altered: bool,
    /// The storage gives whole files, whatever is asked for.
    no_ranges: bool,
    /// The entity tag of every file.
    tag: Option<&'static str>,
}

/// A request: method, path, range, whether a token came with it.
#[derive(Clone, Debug, PartialEq)]
struct Seen {
    method: String,
    path: String,
    range: Option<String>,
    token: bool,
}

/// A hub with one repository, `tiny/letters`, and its storage at another port.
struct Hub {
    files: BTreeMap<String, Vec<u8>>,
    faults: Mutex<Faults>,
    seen: Mutex<Vec<Seen>>,
    storage: String,
}

impl Hub {
    /// Starts a hub with `files`; returns it and its address.
    fn start(files: BTreeMap<String, Vec<u8>>) -> (Arc<Self>, String) {
        let listener = || {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            listener.set_nonblocking(true).unwrap();
            let address = format!("http://{}", listener.local_addr().unwrap());
            (listener, address)
        };
        let ((hub_listener, address), (storage_listener, storage)) = (listener(), listener());
        let hub = Arc::new(Self { files, faults: Mutex::default(), seen: Mutex::default(), storage });
        let routes = |handler: fn(&Hub, &Request) -> Response| {
            let answer =
                move |State(hub): State<Arc<Hub>>, request: Request| async move { handler(&hub, &request) };
            Router::new().fallback(answer).with_state(Arc::clone(&hub))
        };
        let (of_hub, of_storage) = (routes(Hub::answer), routes(Hub::store));
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let [a, b] =
                    [hub_listener, storage_listener].map(|l| tokio::net::TcpListener::from_std(l).unwrap());
                let (a, b) = tokio::join!(axum::serve(a, of_hub), axum::serve(b, of_storage));
                a.and(b).unwrap();
            });
        });
        (hub, address)
    }

    fn note(&self, request: &Request) -> Faults {
        let header = |name| request.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
        self.seen.lock().unwrap().push(Seen {
            method: request.method().to_string(),
            path: request.uri().path().to_owned(),
            range: header(header::RANGE),
            token: header(header::AUTHORIZATION).as_deref() == Some("Bearer secret"),
        });
        self.faults.lock().unwrap().clone()
    }

    /// The hub itself: what a revision has, and where files are.
    fn answer(&self, request: &Request) -> Response {
        let faults = self.note(request);
        let builder = Response::builder();
        if let Some((status, code)) = faults.refusal {
            let builder = builder.status(status);
            let builder =
                code.into_iter().fold(builder, |builder, code| builder.header("X-Error-Code", code));
            return builder.body(Body::empty()).unwrap();
        }
        let path = request.uri().path();
        if let Some(revision) = path.strip_prefix("/api/models/tiny/letters/revision/") {
            if !["main", "v1", COMMIT].contains(&revision) {
                return refused(404, "RevisionNotFound");
            }
            let siblings: Vec<Value> = self.files.keys().map(|name| json!({ "rfilename": name })).collect();
            let answer = json!({ "sha": COMMIT, "siblings": siblings, "private": false });
            return builder.body(answer.to_string().into()).unwrap();
        }
        let Some(name) = path.strip_prefix(&format!("/tiny/letters/resolve/{COMMIT}/")) else {
            return refused(404, "RepoNotFound");
        };
        let Some(bytes) = self.files.get(name) else { return refused(404, "EntryNotFound") };
        let builder = builder.header("X-Repo-Commit", COMMIT);
        let extension = Path::new(name).extension().unwrap_or_default();
        if ["safetensors", "gguf"].iter().any(|large| extension == *large) {
            let hash = hex::encode(Sha256::digest(bytes));
            return builder
                .status(StatusCode::FOUND)
                .header("X-Linked-Etag", format!("\"{}\"", faults.tag.unwrap_or(&hash)))
                .header("X-Linked-Size", bytes.len())
                .header(header::LOCATION, format!("{}/{name}", self.storage))
                .body(Body::empty())
                .unwrap();
        }
        let hash = hex::encode(Sha1::digest([format!("blob {}\0", bytes.len()).as_bytes(), bytes].concat()));
        let builder = builder.header(header::ETAG, format!("\"{}\"", faults.tag.unwrap_or(&hash)));
        builder.body(bytes.clone().into()).unwrap()
    }

    /// The storage: bytes, from where they are asked for.
    fn store(&self, request: &Request) -> Response {
        let faults = self.note(request);
        if faults.down {
            return Response::builder().status(503).body(Body::empty()).unwrap();
        }
        let mut bytes = self.files[request.uri().path().trim_start_matches('/')].clone();
        if faults.altered {
            *bytes.last_mut().unwrap() ^= 1;
        }
        let total = bytes.len();
        let asked = range(request.headers(), total).filter(|_| !faults.no_ranges);
        let mut builder = Response::builder();
        if let Some(Range { start, end }) = &asked {
            let range = format!("bytes {start}-{}/{total}", end - 1);
            builder = builder.status(StatusCode::PARTIAL_CONTENT).header(header::CONTENT_RANGE, range);
        }
        let bytes = Bytes::from(bytes).slice(asked.unwrap_or(0..total));
        let builder = builder.header(header::CONTENT_LENGTH, bytes.len());
        let Some(cut) = faults.cut else { return builder.body(bytes.into()).unwrap() };
        *self.faults.lock().unwrap() = Faults { cut: None, down: faults.down_after_cut, ..faults };
        // What was sent has to arrive before the connection ends.
        let parts = futures_util::stream::unfold(Some(bytes.slice(..cut)), async |part| match part {
            Some(bytes) if !bytes.is_empty() => Some((Ok(bytes), Some(Bytes::new()))),
            _ => {
                tokio::time::sleep(std::time::Duration::from_millis(300)).await;
                Some((Err(std::io::Error::from(std::io::ErrorKind::ConnectionReset)), None))
            }
        });
        builder.body(Body::from_stream(parts)).unwrap()
    }

    /// Requests since the last call.
    fn requests(&self) -> Vec<Seen> {
        std::mem::take(&mut self.seen.lock().unwrap())
    }

    fn set(&self, faults: Faults) {
        *self.faults.lock().unwrap() = faults;
    }
}

fn refused(status: u16, code: &str) -> Response {
    Response::builder().status(status).header("X-Error-Code", code).body(Body::empty()).unwrap()
}

/// The bytes of `total` that a request asks for.
fn range(headers: &HeaderMap, total: usize) -> Option<Range<usize>> {
    let range = headers.get(header::RANGE)?.to_str().unwrap();
    let (first, last) = range.strip_prefix("bytes=")?.split_once('-')?;
    let end = if last.is_empty() { total } else { last.parse::<usize>().unwrap() + 1 };
    Some(first.parse().unwrap()..end.min(total))
}

/// A folder to work in, with the hub's cache in `home`.
struct Workplace {
    folder: TempDir,
    hub: Arc<Hub>,
    address: String,
}

impl Workplace {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let model = checkpoint(folder.path(), "gqa-default");
        let mut files: BTreeMap<String, Vec<u8>> = small::contents(&model);
        files.insert("README.md".to_owned(), b"---\nlicense: cc0-1.0\n---\n".to_vec());
        files.insert("pytorch_model.bin".to_owned(), b"not wanted".to_vec());
        fs::remove_dir_all(model).unwrap();
        Self::with(folder, files)
    }

    fn with(folder: TempDir, files: BTreeMap<String, Vec<u8>>) -> Self {
        let (hub, address) = Hub::start(files);
        Self { folder, hub, address }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Runs `novaq`; standard output, or standard error if it fails.
    fn novaq(&self, args: &[&str]) -> Result<String, String> {
        let mut command = Command::cargo_bin("novaq").unwrap();
        command
            .current_dir(self.path())
            .env("HF_ENDPOINT", &self.address)
            .env("HF_HOME", self.path().join("home"));
        command.env_remove("HF_HUB_CACHE").env_remove("HF_TOKEN_PATH").env("HF_TOKEN", "secret").args(args);
        let output = command.output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
    }

    /// The part of the cache that belongs to the repository.
    fn cache(&self) -> std::path::PathBuf {
        self.path().join("home/hub/models--tiny--letters")
    }

    /// Names in the folder of blobs.
    fn blobs(&self) -> Vec<String> {
        let Ok(blobs) = fs::read_dir(self.cache().join("blobs")) else { return Vec::new() };
        blobs.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }
}

#[test]
fn a_model_of_the_hub_is_compressed() {
    let place = Workplace::new();
    let args = [&["compress", "hf:tiny/letters@v1", "-o", "out"][..], &FEW_TOKENS].concat();
    place.novaq(&args).unwrap();
    let manifest: Value =
        serde_json::from_slice(&fs::read(place.path().join("out/manifest.json")).unwrap()).unwrap();
    assert_eq!(manifest["origin"]["repository"], "tiny/letters");
    assert_eq!(manifest["origin"]["revision"], COMMIT);
    assert_eq!((&manifest["name"], &manifest["license"]), (&json!("letters"), &json!("cc0-1.0")));

    // The layout of the hub's own clients, which find the files there.
    let cache = place.cache();
    assert_eq!(fs::read_to_string(cache.join("refs/v1")).unwrap(), COMMIT);
    let snapshot = cache.join("snapshots").join(COMMIT);
    let mut names = small::contents_names(&snapshot);
    names.sort();
    assert_eq!(names, ["README.md", "config.json", "model.safetensors", "tokenizer.json"]);
    let weights = &place.hub.files["model.safetensors"];
    assert_eq!(fs::read(cache.join("blobs").join(hex::encode(Sha256::digest(weights)))).unwrap(), *weights);
    #[cfg(unix)]
    assert!(fs::read_link(snapshot.join("config.json")).unwrap().starts_with("../../blobs"));

    // The token goes to the hub, and not to its storage.
    let requests = place.hub.requests();
    assert!(
        requests.iter().any(|r| r.path.starts_with("/api/"))
            && requests.iter().any(|r| r.path == "/model.safetensors")
    );
    for request in requests {
        assert_eq!(request.token, request.path != "/model.safetensors", "{request:?}");
    }
    // What is there is not asked for again.
    let path = place.novaq(&["download", "hf:tiny/letters"]).unwrap();
    assert!(path.contains(snapshot.to_str().unwrap()), "{path}");
    let requests = place.hub.requests();
    assert_eq!(requests.len(), 1, "{requests:?}");

    // Without the hub, what is there is used.
    place.hub.set(Faults { refusal: Some((500, None)), ..Faults::default() });
    assert!(place.novaq(&["download", "hf:tiny/letters"]).unwrap_err().contains("the hub says 500"));
    let gone = Workplace { address: "http://127.0.0.1:9".to_owned(), ..place };
    gone.novaq(&["download", "hf:tiny/letters"]).unwrap();
    let error = gone.novaq(&["download", "hf:tiny/letters@v2"]).unwrap_err();
    assert!(
        error.contains("http://127.0.0.1:9 can't be reached") && error.contains("check the connection"),
        "{error}"
    );
}

#[test]
fn a_transfer_goes_on_where_it_was_cut() {
    let place = Workplace::new();
    place.hub.set(Faults { cut: Some(5000), ..Faults::default() });
    place.novaq(&["download", "hf:tiny/letters"]).unwrap();
    let ranges = |place: &Workplace| -> Vec<Option<String>> {
        let requests = place.hub.requests().into_iter().filter(|r| r.path == "/model.safetensors");
        requests.map(|r| r.range).collect()
    };
    assert_eq!(ranges(&place), [None, Some("bytes=5000-".to_owned())]);

    // A call that gave up leaves what came, and the next one goes on from there.
    let place = Workplace::new();
    place.hub.set(Faults { cut: Some(4000), down_after_cut: true, ..Faults::default() });
    let error = place.novaq(&["download", "hf:tiny/letters"]).unwrap_err();
    assert!(error.contains("`model.safetensors` of tiny/letters can't be downloaded"), "{error}");
    assert!(error.contains("503") && error.contains("what is downloaded is kept"), "{error}");
    assert!(!place.cache().join("snapshots").join(COMMIT).join("model.safetensors").exists());
    place.hub.set(Faults::default());
    place.hub.requests();
    place.novaq(&["download", "hf:tiny/letters"]).unwrap();
    assert_eq!(ranges(&place), [Some("bytes=4000-".to_owned())]);
    assert!(!place.blobs().iter().any(|name| name.contains("incomplete")), "{:?}", place.blobs());
}

#[test]
fn wrong_bytes_are_thrown_away() {
    let place = Workplace::new();
    place.hub.set(Faults { altered: true, ..Faults::default() });
    let error = place.novaq(&["compress", "hf:tiny/letters", "-o", "out"]).unwrap_err();
    assert!(error.contains("`model.safetensors` of tiny/letters") && error.contains("SHA-256"), "{error}");
    let hash = hex::encode(Sha256::digest(&place.hub.files["model.safetensors"]));
    assert!(!place.blobs().iter().any(|name| name.contains(&hash)), "{:?}", place.blobs());
    assert!(!place.cache().join("snapshots").join(COMMIT).join("model.safetensors").exists());
    assert!(!place.path().join("out.partial").exists());

    let place = Workplace::new();
    place.hub.set(Faults { tag: Some("00000000000000000000000000000000000000aa"), ..Faults::default() });
    let error = place.novaq(&["download", "hf:tiny/letters"]).unwrap_err();
    assert!(error.contains("git's 00000000"), "{error}");
    assert_eq!(place.blobs(), Vec::<String>::new());
    place.hub.set(Faults { tag: Some("../../escape"), ..Faults::default() });
    let error = place.novaq(&["download", "hf:tiny/letters"]).unwrap_err();
    assert!(error.contains("`../../escape` is no entity tag"), "{error}");
}

#[test]
fn refusals_say_what_to_do() {
    let place = Workplace::new();
    let refused = |model: &str, refusal| {
        place.hub.set(Faults { refusal, ..Faults::default() });
        place.novaq(&["compress", model, "-o", "out"]).unwrap_err()
    };
    for (refusal, expected) in [
        (
            (401, Some("RepoNotFound")),
            "the hub says 401 Unauthorized, RepoNotFound\nhint: check the name; a private or gated model",
        ),
        ((403, Some("GatedRepo")), "hint: ask for access on the page of tiny/letters"),
        ((403, None), "hint: the token may not read tiny/letters"),
        ((404, Some("RepoNotFound")), "hint: check the name and the revision"),
        ((429, None), "hint: wait a while"),
    ] {
        let error = refused("hf:tiny/letters", Some(refusal));
        assert!(error.contains(expected), "{error}");
    }
    assert!(refused("hf:tiny/letters@v9", None).contains("hint: check the revision after `@`"));
    assert!(refused("hf:tiny/other", None).contains("404"));
    let error = refused("hf:tiny/letters/q4.gguf", None);
    assert!(error.contains("has no file `q4.gguf`") && error.contains("it has no GGUF files"), "{error}");
    let error = refused("hf:tiny", None);
    assert!(error.contains("`hf:tiny` is no model of the hub"), "{error}");
    assert_eq!(small::contents_names(place.path()), Vec::<String>::new());
}

#[test]
fn hostile_indexes_lead_nowhere() {
    let index = json!({ "weight_map": { "a": "../../../../escape" } }).to_string();
    let files = BTreeMap::from([
        ("model.safetensors.index.json".to_owned(), index.into_bytes()),
        ("config.json".to_owned(), b"{}".to_vec()),
    ]);
    let place = Workplace::with(tempfile::tempdir().unwrap(), files);
    let error = place.novaq(&["download", "hf:tiny/letters"]).unwrap_err();
    assert!(error.contains("`../../../../escape` is no name of a file"), "{error}");

    let place =
        Workplace::with(tempfile::tempdir().unwrap(), BTreeMap::from([("a.gguf".to_owned(), vec![0])]));
    let error = place.novaq(&["download", "hf:tiny/letters"]).unwrap_err();
    assert!(error.contains("has neither `model.safetensors` nor"), "{error}");
    assert!(error.contains("as `hf:tiny/letters/a.gguf`"), "{error}");
    let path = place.novaq(&["download", "hf:tiny/letters/a.gguf", "--json"]).unwrap();
    let path: Value = serde_json::from_str(&path).unwrap();
    assert_eq!(fs::read(path["path"].as_str().unwrap()).unwrap(), [0]);
}

/// Parts that `requests` asked the storage for; the hub, which sends them on to it, is asked likewise.
fn asked_for(requests: &[Seen]) -> Vec<&str> {
    let storage = requests.iter().filter(|request| !request.path.contains("/resolve/"));
    storage.filter_map(|request| request.range.as_deref()).collect()
}

#[test]
fn a_dry_run_downloads_headers_alone() {
    let place = Workplace::new();
    let forecast = |place: &Workplace, model: &str| -> Value {
        let args = [&["compress", model, "--dry-run", "--json", "--bpw", "4"][..], &FEW_TOKENS].concat();
        let mut forecast: Value = serde_json::from_str(&place.novaq(&args).unwrap()).unwrap();
        // The speed of the machine is measured anew each time.
        forecast["cost"].as_object_mut().unwrap().remove("seconds");
        forecast
    };
    let from_headers = forecast(&place, "hf:tiny/letters");
    let requests = place.hub.requests();
    let weights = &place.hub.files["model.safetensors"];
    let header = u64::from_le_bytes(*weights.first_chunk().unwrap());
    assert_eq!(asked_for(&requests), ["bytes=0-7", &format!("bytes=8-{}", header + 7)]);
    let from_storage: Vec<&Seen> = requests.iter().filter(|r| r.path == "/model.safetensors").collect();
    assert!(from_storage.iter().all(|request| request.range.is_some()), "{from_storage:?}");
    // Nothing of it is taken for the weights later.
    let snapshot = place.cache().join("snapshots").join(COMMIT);
    assert_eq!(small::contents_names(&snapshot).len(), 3, "{:?}", small::contents_names(&snapshot));
    assert!(!place.cache().join("refs").exists());

    // A storage without ranges, whose answers are broken off.
    place.hub.set(Faults { no_ranges: true, ..Faults::default() });
    assert_eq!(forecast(&place, "hf:tiny/letters"), from_headers);
    place.hub.set(Faults { cut: Some(4), ..Faults::default() });
    let error = place.novaq(&["compress", "hf:tiny/letters", "--dry-run"]).unwrap_err();
    assert!(
        error.contains("the header of `model.safetensors` of tiny/letters can't be downloaded"),
        "{error}"
    );

    // With the weights in the cache the same comes out, and nothing more is asked for.
    place.hub.set(Faults::default());
    place.novaq(&["download", "hf:tiny/letters"]).unwrap();
    place.hub.requests();
    assert_eq!(forecast(&place, "hf:tiny/letters"), from_headers);
    assert_eq!(asked_for(&place.hub.requests()), Vec::<&str>::new());
    let args = [&["compress", "hf:tiny/letters", "--bpw", "4", "-o", "out"][..], &FEW_TOKENS].concat();
    place.novaq(&args).unwrap();
    let manifest: Value =
        serde_json::from_slice(&fs::read(place.path().join("out/manifest.json")).unwrap()).unwrap();
    let (most, bytes) =
        (from_headers["bytes"].as_u64().unwrap(), manifest["compression"]["bytes"].as_u64().unwrap());
    let variable = from_headers["variable_bytes"].as_u64().unwrap();
    assert!((most - variable..=most).contains(&bytes), "{bytes} {from_headers}");
}

/// The header of a GGUF file, which does not say how long it is.
#[test]
fn a_dry_run_of_a_gguf_file_downloads_its_beginning() {
    let path =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/models/stories260K/stories260Ktok512.gguf");
    let Ok(file) = fs::read(&path) else {
        let _ = writeln!(std::io::stderr(), "skipped: {} is not there", path.display());
        return;
    };
    let files = BTreeMap::from([("q8/tiny.gguf".to_owned(), file)]);
    let place = Workplace::with(tempfile::tempdir().unwrap(), files);
    let forecast = |model: &str| -> Value {
        let args = ["compress", model, "--dry-run", "--json", "--bpw", "4", "--name", "tiny"];
        let forecast: Value = serde_json::from_str(&place.novaq(&args).unwrap()).unwrap();
        forecast["matrix_bytes"].clone()
    };
    let from_header = forecast("hf:tiny/letters/q8/tiny.gguf");
    assert_eq!(asked_for(&place.hub.requests()), ["bytes=0-1048575"]);
    assert_eq!(from_header, forecast(path.to_str().unwrap()));
}

#[test]
fn headers_that_are_none_are_refused() {
    let other = |bytes: Vec<u8>| {
        let mut files = Workplace::new().hub.files.clone();
        files.insert("model.safetensors".to_owned(), bytes);
        let place = Workplace::with(tempfile::tempdir().unwrap(), files);
        place.novaq(&["compress", "hf:tiny/letters", "--dry-run"]).unwrap_err()
    };
    assert!(other(vec![7; 4]).contains("a file of 4 bytes has no header"));
    let error = other([&1000u64.to_le_bytes()[..], &[0; 500]].concat());
    assert!(error.contains("a header of 1000 bytes is none of a safetensors file"), "{error}");
    assert!(other([&16u64.to_le_bytes()[..], &[b'x'; 500]].concat()).contains("is not valid"));
}

/// A device that has never room stands in for a full disk.
#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_reported() {
    let place = Workplace::new();
    let hash = hex::encode(Sha256::digest(&place.hub.files["model.safetensors"]));
    let blobs = place.cache().join("blobs");
    fs::create_dir_all(&blobs).unwrap();
    std::os::unix::fs::symlink("/dev/full", blobs.join(format!("{hash}.incomplete"))).unwrap();
    let error = place.novaq(&["download", "hf:tiny/letters"]).unwrap_err();
    assert!(error.contains(&format!("{hash}.incomplete` can't be written")), "{error}");
    assert!(error.contains("hint: make room on the disk"), "{error}");
    assert!(!blobs.join(&hash).exists());
}
