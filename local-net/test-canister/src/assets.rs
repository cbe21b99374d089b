//! A small web server: pages with certificates, without, and with wrong ones; updates; a stream.

use candid::{CandidType, define_function};
use ic_canister_sig_creation::hash_bytes;
use ic_cdk::{query, update};
use ic_http_certification::{
    CERTIFICATE_EXPRESSION_HEADER_NAME, DefaultCelBuilder, DefaultResponseCertification,
    DefaultResponseOnlyCelExpression, HttpCertification, HttpCertificationPath, HttpCertificationTree,
    HttpCertificationTreeEntry, HttpResponse, StatusCode, utils::add_v2_certificate_header,
};
use serde::Deserialize;
use std::{
    borrow::Cow,
    cell::{Cell, RefCell},
};

/// Bytes of a chunk of the stream.
const CHUNK: usize = 1 << 20;
/// Chunks of the certified stream, and of one that is too long for gateways to check.
const CHUNKS: u8 = 4;
const MANY_CHUNKS: u8 = 8;
/// The pages that are certified, and their bodies.
const PAGES: [(&str, &str); 2] = [("/", "<h1>Welcome</h1>"), ("/hello.txt", "hello, world")];

thread_local! {
    static TREE: RefCell<HttpCertificationTree> = RefCell::default();
    static VISITS: Cell<u32> = const { Cell::new(0) };
}

#[derive(CandidType, Deserialize)]
struct Request {
    method: String,
    url: String,
    headers: Vec<(String, String)>,
    #[serde(with = "serde_bytes")]
    body: Vec<u8>,
    certificate_version: Option<u16>,
}

#[derive(CandidType, Deserialize)]
struct UpdateRequest {
    method: String,
    url: String,
    headers: Vec<(String, String)>,
    #[serde(with = "serde_bytes")]
    body: Vec<u8>,
}

#[derive(CandidType, Deserialize)]
struct Token {
    chunk: u8,
    chunks: u8,
}

define_function!(NextChunk : (Token) -> (Chunk) query);

#[derive(CandidType, Deserialize)]
enum StreamingStrategy {
    Callback { callback: NextChunk, token: Token },
}

#[derive(CandidType, Deserialize)]
struct Chunk {
    #[serde(with = "serde_bytes")]
    body: Vec<u8>,
    token: Option<Token>,
}

#[derive(CandidType, Deserialize, Default)]
struct Response {
    status_code: u16,
    headers: Vec<(String, String)>,
    #[serde(with = "serde_bytes")]
    body: Vec<u8>,
    streaming_strategy: Option<StreamingStrategy>,
    upgrade: Option<bool>,
}

impl Response {
    fn ok(body: impl Into<Vec<u8>>) -> Self {
        Self { status_code: 200, body: body.into(), ..Self::default() }
    }
}

fn expression() -> DefaultResponseOnlyCelExpression<'static> {
    DefaultCelBuilder::response_only_certification()
        .with_response_certification(DefaultResponseCertification::response_header_exclusions(vec![]))
        .build()
}

/// A page, or the beginning of a stream.
fn page(body: impl Into<Cow<'static, [u8]>>) -> HttpResponse<'static> {
    let headers = vec![
        ("content-type".into(), "text/html".into()),
        (CERTIFICATE_EXPRESSION_HEADER_NAME.into(), expression().to_string()),
    ];
    HttpResponse::builder().with_status_code(StatusCode::OK).with_headers(headers).with_body(body).build()
}

/// The entry of the page at `path`. A stream is certified as a whole.
fn entry(path: &'static str, response: &HttpResponse) -> HttpCertificationTreeEntry<'static> {
    let whole = (path == "/stream").then(|| hash_bytes((0..CHUNKS).flat_map(chunk).collect::<Vec<_>>()));
    let certification = HttpCertification::response_only(&expression(), response, whole);
    HttpCertificationTreeEntry::new(
        HttpCertificationPath::exact(path),
        certification.expect("the page has the header of its expression"),
    )
}

fn chunk(n: u8) -> Vec<u8> {
    vec![n; CHUNK]
}

/// Certifies the pages.
#[update]
fn certify_pages() {
    let root = TREE.with_borrow_mut(|tree| {
        for (path, body) in PAGES {
            tree.insert(&entry(path, &page(body.as_bytes())));
        }
        tree.insert(&entry("/stream", &page(chunk(0))));
        tree.root_hash()
    });
    ic_cdk::api::certified_data_set(root);
}

/// The page at `path` with its certificate.
fn certified(path: &'static str, body: impl Into<Cow<'static, [u8]>>) -> Response {
    let mut response = page(body);
    let entry = entry(path, &response);
    let witness = TREE.with_borrow(|tree| tree.witness(&entry, path)).expect("an exact path has a witness");
    let certificate = ic_cdk::api::data_certificate().expect("this is a query");
    let path = HttpCertificationPath::exact(path).to_expr_path();
    add_v2_certificate_header(&certificate, &mut response, &witness, &path);
    Response { headers: response.headers().to_vec(), ..Response::ok(response.body()) }
}

fn stream(beginning: Response, chunks: u8) -> Response {
    let callback = NextChunk::new(ic_cdk::api::canister_self(), "next_chunk".into());
    let strategy = StreamingStrategy::Callback { callback, token: Token { chunk: 1, chunks } };
    Response { streaming_strategy: Some(strategy), ..beginning }
}

#[query]
fn http_request(request: Request) -> Response {
    let path = request.url.split('?').next().unwrap_or_default();
    if let Some((path, body)) = PAGES.into_iter().find(|(page, _)| *page == path) {
        return certified(path, body.as_bytes());
    }
    match path {
        "/forged" => {
            Response { body: b"hello, thief".to_vec(), ..certified("/hello.txt", b"hello, world".as_slice()) }
        }
        "/elsewhere" => certified("/hello.txt", b"hello, world".as_slice()),
        "/uncertified" => Response::ok("believe me"),
        "/visit" => Response { upgrade: Some(true), ..Response::ok("") },
        "/large" => Response::ok(vec![b'l'; 4 << 20]),
        "/trap" => ic_cdk::trap("no page for you"),
        "/stream" => stream(certified("/stream", chunk(0)), CHUNKS),
        "/long-stream" => stream(Response::ok(chunk(0)), MANY_CHUNKS),
        _ => Response { status_code: 404, ..Response::ok("no such page") },
    }
}

#[update]
fn http_request_update(request: UpdateRequest) -> Response {
    VISITS.set(VISITS.get() + 1);
    let UpdateRequest { method, url, body, .. } = request;
    Response::ok(format!("{method} {url} visit {}: {}", VISITS.get(), String::from_utf8_lossy(&body)))
}

#[query]
fn next_chunk(token: Token) -> Chunk {
    let next = token.chunk + 1;
    Chunk { body: chunk(token.chunk), token: (next < token.chunks).then_some(Token { chunk: next, ..token }) }
}
