//! The HTTP gateway: a canister's pages over HTTP, checked by the gateway library, and what browsers need of it.

use crate::common::pocket::{install, pocket_ic};
use candid::Principal;
use pocket_ic::{PocketIc, update_candid};
use reqwest::{Client, Method, RequestBuilder, StatusCode, header};
use std::net::{Ipv4Addr, SocketAddr};

/// A live network with a web server, and a client.
struct Web {
    pic: PocketIc,
    canister: Principal,
    address: SocketAddr,
    runtime: tokio::runtime::Runtime,
}

/// A response: status, headers, body.
struct Page {
    status: StatusCode,
    headers: header::HeaderMap,
    body: Vec<u8>,
}

impl Page {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

impl Web {
    fn new() -> Self {
        let mut pic = pocket_ic();
        let canister = install(&pic);
        update_candid::<_, ()>(&pic, canister, "certify_pages", ()).unwrap();
        let url = pic.make_live(None);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let address = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), url.port().unwrap());
        Self { pic, canister, address, runtime }
    }

    /// Sends a request to the gateway under the name `host`.
    fn send(
        &self,
        method: Method,
        host: &str,
        path: &str,
        change: impl Fn(RequestBuilder) -> RequestBuilder,
    ) -> Page {
        let client = Client::builder().resolve(host, self.address).no_proxy().build().unwrap();
        let url = format!("http://{host}:{}{path}", self.address.port());
        self.runtime.block_on(async {
            let response = change(client.request(method, url)).send().await.unwrap();
            Page {
                status: response.status(),
                headers: response.headers().clone(),
                body: response.bytes().await.unwrap().to_vec(),
            }
        })
    }

    fn get_from(&self, host: &str, path: &str) -> Page {
        self.send(Method::GET, host, path, |request| request)
    }

    /// A page of the canister.
    fn get(&self, path: &str) -> Page {
        self.get_from(&format!("{}.localhost", self.canister), path)
    }

    fn get_raw(&self, path: &str) -> Page {
        self.get_from(&format!("{}.raw.localhost", self.canister), path)
    }
}

#[test]
fn certified_pages_are_shown() {
    let web = Web::new();
    let page = web.get("/hello.txt");
    assert_eq!((page.text().as_str(), page.status), ("hello, world", StatusCode::OK));
    assert_eq!(page.headers["content-type"], "text/html");
    assert_eq!(page.headers["x-ic-canister-id"], web.canister.to_text());
    assert_eq!(web.get("/").text(), "<h1>Welcome</h1>");
    assert_eq!(web.get_raw("/hello.txt").text(), "hello, world");
    let page = web.get_from("localhost", &format!("/hello.txt?canisterId={}", web.canister));
    assert_eq!(page.text(), "hello, world");
    let page = web.send(Method::GET, "localhost", "/hello.txt", |request| {
        request.header("referer", format!("http://localhost/?canisterId={}", web.canister))
    });
    assert_eq!(page.text(), "hello, world");
    let head = web.send(Method::HEAD, &format!("{}.localhost", web.canister), "/hello.txt", |r| r);
    assert_eq!((head.status, head.body.len()), (StatusCode::OK, 0));
}

#[test]
fn what_is_not_certified_is_refused_and_shown_raw() {
    let web = Web::new();
    for (path, body) in
        [("/forged", "hello, thief"), ("/elsewhere", "hello, world"), ("/uncertified", "believe me")]
    {
        let page = web.get(path);
        assert_eq!(page.status, StatusCode::INTERNAL_SERVER_ERROR, "{path}");
        assert!(page.text().contains("does not have a valid certificate"), "{}", page.text());
        assert!(!page.text().contains(body), "{}", page.text());
        assert_eq!(web.get_raw(path).text(), body);
    }
}

#[test]
fn requests_are_upgraded_to_update_calls() {
    let web = Web::new();
    let host = format!("{}.localhost", web.canister);
    for visit in 1..=2 {
        let page = web.send(Method::POST, &host, "/visit?a=b", |request| request.body("my name"));
        assert_eq!(page.text(), format!("POST /visit?a=b visit {visit}: my name"));
    }
}

#[test]
fn large_bodies_are_streamed() {
    let web = Web::new();
    // The first is short enough to be checked as a whole before it is shown.
    for (path, chunks) in [("/stream", 4), ("/long-stream", 8)] {
        let page = web.get(path);
        assert_eq!(page.status, StatusCode::OK, "{path}");
        assert_eq!(page.body.len(), chunks << 20);
        for (n, chunk) in (0u8..).zip(page.body.chunks(1 << 20)) {
            assert!(chunk.iter().all(|byte| *byte == n), "chunk {n} arrives in its place");
        }
    }
}

#[test]
fn errors_are_pages_for_people() {
    let web = Web::new();
    let nobody = Principal::from_slice(&[0, 0, 0, 0, 0, 0, 0, 9, 1, 1]);
    let page = web.get_from(&format!("{nobody}.localhost"), "/");
    assert_eq!(page.status, StatusCode::NOT_FOUND);
    assert!(page.text().contains(&format!("This network has no canister {nobody}")), "{}", page.text());

    let empty = web.pic.create_canister();
    let page = web.get_from(&format!("{empty}.localhost"), "/");
    assert_eq!(page.status, StatusCode::NOT_FOUND);
    assert!(page.text().contains("has no code"), "{}", page.text());

    let wasm = wat::parse_str(crate::common::module("")).unwrap();
    web.pic.install_canister(empty, wasm, vec![], None);
    let page = web.get_from(&format!("{empty}.localhost"), "/");
    assert_eq!(page.status, StatusCode::NOT_FOUND);
    assert!(page.text().contains("no query method `http_request`"), "{}", page.text());

    let page = web.get_raw("/trap");
    assert_eq!(page.status, StatusCode::BAD_GATEWAY);
    assert!(page.text().contains("no page for you"), "{}", page.text());

    let page = web.get_raw("/large");
    assert_eq!(page.status, StatusCode::BAD_GATEWAY);
    assert!(page.text().contains("3145728"), "the limit of a query's reply is named: {}", page.text());

    let host = format!("{}.localhost", web.canister);
    let page = web.send(Method::POST, &host, "/visit", |request| request.body(vec![0; 3 << 20]));
    assert_eq!(page.status, StatusCode::PAYLOAD_TOO_LARGE);

    let page = web.get_from("localhost", "/");
    assert_eq!(page.status, StatusCode::BAD_REQUEST);
    assert!(page.text().contains("http://<canister id>.localhost"), "{}", page.text());

    let page = web.send(Method::GET, &format!("{nobody}.localhost"), "/", |request| {
        request.header("accept", "text/html,application/xhtml+xml")
    });
    assert_eq!(page.headers["content-type"], "text/html; charset=utf-8");
    assert!(page.text().starts_with("<!doctype html>"), "{}", page.text());
}

#[test]
fn pages_of_other_origins_may_use_the_network() {
    let web = Web::new();
    let canister = format!("{}.localhost", web.canister);
    let call = format!("/api/v4/canister/{}/call", web.canister);
    for (host, path) in
        [("localhost", call.as_str()), ("localhost", "/api/v2/status"), (&canister, "/hello.txt")]
    {
        let preflight = web.send(Method::OPTIONS, host, path, |request| {
            request
                .header("origin", "http://example.com")
                .header("access-control-request-method", "POST")
                .header("access-control-request-headers", "content-type, x-something")
        });
        assert_eq!(preflight.status, StatusCode::OK);
        assert_eq!(preflight.headers["access-control-allow-origin"], "*");
        assert_eq!(preflight.headers["access-control-allow-methods"], "POST");
        assert_eq!(preflight.headers["access-control-allow-headers"], "content-type, x-something");
    }
    for (host, path) in [("localhost", "/api/v2/status"), (&canister, "/hello.txt")] {
        let answer =
            web.send(Method::GET, host, path, |request| request.header("origin", "http://example.com"));
        assert_eq!(answer.status, StatusCode::OK);
        assert_eq!(answer.headers["access-control-allow-origin"], "*");
        assert!(answer.headers.contains_key("access-control-expose-headers"));
    }
    // The Internet Computer's interface is at every name.
    assert_eq!(web.get("/api/v2/status").headers["content-type"], "application/cbor");
    assert_eq!(web.get("/_/topology").status, StatusCode::OK);
}
