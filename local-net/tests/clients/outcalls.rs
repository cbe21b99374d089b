//! HTTPS outcalls: mocked through the `pocket-ic` crate, and real ones to a server on this machine.

use crate::common::pocket::{builder, install, pocket_ic};
use candid::{Encode, Principal, decode_one};
use ic_management_canister_types::{
    HttpHeader, HttpMethod, HttpRequestArgs, HttpRequestResult, TransformContext, TransformFunc,
};
use pocket_ic::{
    PocketIc, PocketIcState,
    common::rest::{
        CanisterHttpHeader, CanisterHttpMethod, CanisterHttpReject, CanisterHttpReplication,
        CanisterHttpReply, CanisterHttpRequest, CanisterHttpResponse, MockCanisterHttpResponse, RawMessageId,
    },
};
use proptest::prelude::*;
use std::{
    io::{Read, Write},
    net::TcpListener,
    thread,
    time::Duration,
};

/// More cycles than any request costs.
const ENOUGH: u128 = 100_000_000_000;
/// Nodes of an application subnet.
const NODES: usize = 13;

/// What the canister's call ended in: the response or the reject, and the cycles that came back.
type Fetched = (Result<HttpRequestResult, (u32, String)>, u128);

fn get(url: &str) -> HttpRequestArgs {
    HttpRequestArgs { url: url.into(), max_response_bytes: Some(10_000), ..Default::default() }
}

fn transformed(canister: Principal, method: &str, context: &[u8]) -> TransformContext {
    TransformContext {
        function: TransformFunc(candid::Func { principal: canister, method: method.into() }),
        context: context.to_vec(),
    }
}

/// Lets the canister make a request; it waits for the answer.
fn fetch(pic: &PocketIc, canister: Principal, args: &HttpRequestArgs, cycles: u128) -> RawMessageId {
    let argument = Encode!(&"http_request", &Encode!(args).unwrap(), &cycles).unwrap();
    let call = pic.submit_call(canister, Principal::anonymous(), "manage", argument).unwrap();
    for _ in 0..3 {
        pic.tick();
    }
    call
}

fn fetched(pic: &PocketIc, call: RawMessageId) -> Fetched {
    decode(&pic.await_call(call).unwrap())
}

fn decode(reply: &[u8]) -> Fetched {
    type Raw = Result<Vec<u8>, (u32, String)>;
    let (answer, refunded): (Raw, u128) = candid::decode_args(reply).unwrap();
    (answer.map(|reply| decode_one(&reply).unwrap()), refunded)
}

fn reply(body: &[u8]) -> CanisterHttpResponse {
    CanisterHttpResponse::CanisterHttpReply(CanisterHttpReply {
        status: 200,
        headers: vec![CanisterHttpHeader { name: "date".into(), value: "today".into() }],
        body: body.to_vec(),
    })
}

fn mock(pic: &PocketIc, request: &CanisterHttpRequest, mut responses: Vec<CanisterHttpResponse>) {
    pic.mock_canister_http_response(MockCanisterHttpResponse {
        subnet_id: request.subnet_id,
        request_id: request.request_id,
        response: responses.remove(0),
        additional_responses: responses,
    });
}

/// The only request that waits.
fn waiting(pic: &PocketIc) -> CanisterHttpRequest {
    let mut requests = pic.get_canister_http();
    assert_eq!(requests.len(), 1);
    requests.remove(0)
}

#[test]
fn a_mocked_response_is_transformed_and_delivered() {
    let pic = pocket_ic();
    let canister = install(&pic);
    let header = HttpHeader { name: "X-Question".into(), value: "weather".into() };
    let args = HttpRequestArgs {
        method: HttpMethod::POST,
        headers: vec![header],
        body: Some(b"question".to_vec()),
        transform: Some(transformed(canister, "strip", b", says the oracle")),
        ..get("https://example.com/path?a=b")
    };
    let call = fetch(&pic, canister, &args, ENOUGH);
    let request = waiting(&pic);
    assert_eq!(request.http_method, CanisterHttpMethod::POST);
    assert_eq!(request.url, "https://example.com/path?a=b");
    assert_eq!(request.body, b"question");
    assert_eq!(request.max_response_bytes, Some(10_000));
    assert_eq!(request.replication, CanisterHttpReplication::FullyReplicated);
    assert_eq!(
        request.headers,
        vec![CanisterHttpHeader { name: "X-Question".into(), value: "weather".into() }]
    );
    assert_eq!(pic.get_subnet(canister), Some(request.subnet_id));
    mock(&pic, &request, vec![reply(b"sunny")]);
    assert!(pic.get_canister_http().is_empty());

    let (response, refunded) = fetched(&pic, call);
    let response = response.unwrap();
    assert_eq!(response.body, b"sunny, says the oracle");
    assert!(response.headers.is_empty());
    assert_eq!(response.status, 200u8);
    // 13 nodes: a base, and so much for each byte of URL, headers, body and transform, and of the response.
    let bytes = args.url.len() + "X-Question".len() + "weather".len() + "question".len();
    let bytes = bytes + "strip".len() + ", says the oracle".len();
    assert_eq!(ENOUGH - refunded, 49_140_000 + 5_200 * bytes as u128 + 10_400 * 10_000);
}

#[test]
fn without_transform_the_response_is_delivered_as_it_is() {
    let pic = pocket_ic();
    let canister = install(&pic);
    let args = HttpRequestArgs {
        method: HttpMethod::DELETE,
        is_replicated: Some(false),
        ..get("https://example.com")
    };
    let call = fetch(&pic, canister, &args, ENOUGH);
    let request = waiting(&pic);
    assert_eq!(request.replication, CanisterHttpReplication::NonReplicated);
    mock(&pic, &request, vec![reply(b"gone")]);
    let response = fetched(&pic, call).0.unwrap();
    assert_eq!(response.headers, vec![HttpHeader { name: "date".into(), value: "today".into() }]);
    assert_eq!(response.body, b"gone");
}

#[test]
fn a_mocked_reject_reaches_the_canister() {
    let pic = pocket_ic();
    let canister = install(&pic);
    for (code, text) in [(1, "Timeout expired"), (2, "Failed to connect"), (4, "no"), (5, "trap")] {
        let call = fetch(&pic, canister, &get("https://example.com"), ENOUGH);
        let reject = CanisterHttpReject { reject_code: u64::from(code), message: text.into() };
        mock(&pic, &waiting(&pic), vec![CanisterHttpResponse::CanisterHttpReject(reject)]);
        let (answer, refunded) = fetched(&pic, call);
        assert_eq!(answer.unwrap_err(), (code, text.to_owned()));
        assert!(refunded < ENOUGH, "the request was made, so it costs");
    }
}

#[test]
fn nodes_that_disagree_reach_no_consensus() {
    let pic = pocket_ic();
    let canister = install(&pic);
    let call = fetch(&pic, canister, &get("https://example.com"), ENOUGH);
    let differing = (0..NODES).map(|n| reply(format!("answer {}", n / 2).as_bytes())).collect();
    mock(&pic, &waiting(&pic), differing);
    let (code, text) = fetched(&pic, call).0.unwrap_err();
    assert_eq!(code, 2);
    assert!(text.starts_with("No consensus could be reached. Replicas had different responses."), "{text}");
    assert_eq!(text.matches(": 2]").count(), 6);
    assert_eq!(text.matches(": 1]").count(), 1);

    // Four nodes of thirteen may be wrong.
    for (wrong, agreed) in [(4, true), (5, false)] {
        let call = fetch(&pic, canister, &get("https://example.com"), ENOUGH);
        let answers = (0..NODES).map(|n| reply(if n < wrong { b"wrong" } else { b"right" })).collect();
        mock(&pic, &waiting(&pic), answers);
        assert_eq!(fetched(&pic, call).0.is_ok_and(|r| r.body == b"right"), agreed);
    }
}

#[test]
#[should_panic(expected = "InvalidMockCanisterHttpResponses((2, 13))")]
fn a_mock_answers_for_one_node_or_for_all() {
    let pic = pocket_ic();
    let canister = install(&pic);
    fetch(&pic, canister, &get("https://example.com"), ENOUGH);
    mock(&pic, &waiting(&pic), vec![reply(b"one"), reply(b"two")]);
}

#[test]
fn transforms_that_fail_reject_the_request() {
    let pic = pocket_ic();
    let canister = install(&pic);
    for (method, context, code, text) in [
        ("trap_in_transform", 0, 5, "this is no weather report"),
        ("no_such_method", 0, 5, "Canister has no query method 'no_such_method'"),
        ("inflate", 11, 1, "Transformed http response exceeds limit: 10000"),
    ] {
        let args = HttpRequestArgs {
            transform: Some(transformed(canister, method, &[context])),
            ..get("https://example.com")
        };
        let call = fetch(&pic, canister, &args, ENOUGH);
        mock(&pic, &waiting(&pic), vec![reply(b"")]);
        let (got, message) = fetched(&pic, call).0.unwrap_err();
        assert_eq!(got, code, "{message}");
        assert!(message.contains(text), "{message}");
    }
}

#[test]
fn a_request_that_nobody_answers_times_out() {
    let pic = pocket_ic();
    let canister = install(&pic);
    let call = fetch(&pic, canister, &get("https://example.com"), ENOUGH);
    pic.advance_time(Duration::from_secs(59));
    pic.tick();
    assert_eq!(pic.get_canister_http().len(), 1);
    pic.advance_time(Duration::from_secs(1));
    pic.tick();
    pic.tick();
    assert!(pic.get_canister_http().is_empty());
    let reject = fetched(&pic, call).0.unwrap_err();
    assert_eq!(reject, (2, "Canister http request timed out".to_owned()));
}

#[test]
fn arguments_are_checked_and_a_refused_request_costs_nothing() {
    let pic = pocket_ic();
    let canister = install(&pic);
    let header = |name: usize, value: usize| HttpHeader { name: "n".repeat(name), value: "v".repeat(value) };
    let with_headers = |headers| HttpRequestArgs { headers, ..get("https://example.com") };
    let other = Principal::management_canister();
    let refused = [
        (get(&"u".repeat(8_193)), "url size 8193 exceeds 8192"),
        (with_headers(vec![header(1, 1); 65]), "number of all http headers 65 exceeds 64"),
        (with_headers(vec![header(8_193, 1)]), "some http header name 8193 exceeds 8192"),
        (with_headers(vec![header(1, 8_193)]), "some http header value 8193 exceeds 8192"),
        (with_headers(vec![header(8_000, 8_000); 4]), "names and values 64000 exceeds 49152"),
        (
            HttpRequestArgs { body: Some(vec![0; 2_000_001]), ..get("https://example.com") },
            "http body 2000001 exceeds 2000000",
        ),
        (
            HttpRequestArgs { max_response_bytes: Some(2_000_001), ..get("https://example.com") },
            "max_response_bytes expected to be in the range [0..2000000], got 2000001",
        ),
        (
            HttpRequestArgs { method: HttpMethod::PUT, ..get("https://example.com") },
            "only allowed for non-replicated requests",
        ),
        (
            HttpRequestArgs {
                transform: Some(transformed(other, "strip", b"")),
                ..get("https://example.com")
            },
            "transform principal id expected to be",
        ),
    ];
    for (args, text) in refused {
        let call = fetch(&pic, canister, &args, ENOUGH);
        let (answer, refunded) = fetched(&pic, call);
        let (code, message) = answer.unwrap_err();
        assert_eq!(code, 4, "{message}");
        assert!(message.contains(text), "{message}");
        assert_eq!(refunded, ENOUGH);
    }
    let call = fetch(&pic, canister, &get("https://example.com"), 1_000);
    let (answer, refunded) = fetched(&pic, call);
    let fee = 49_140_000 + 5_200 * "https://example.com".len() + 10_400 * 10_000;
    let expected = format!("http_request request sent with 1000 cycles, but {fee} cycles are required.");
    assert_eq!(answer.unwrap_err(), (4, expected));
    assert_eq!(refunded, 1_000);
    let direct = pic.update_call(other, Principal::anonymous(), "http_request", vec![]);
    assert!(direct.unwrap_err().reject_message.contains("can not be called via ingress messages"));
}

#[test]
fn an_uninstalled_canister_gets_its_cycles_back() {
    let pic = pocket_ic();
    let canister = install(&pic);
    let call = fetch(&pic, canister, &get("https://example.com"), ENOUGH);
    let request = waiting(&pic);
    pic.uninstall_canister(canister, None).unwrap();
    assert!(pic.await_call(call).unwrap_err().reject_message.contains("uninstalled"));
    let before = pic.cycle_balance(canister);
    mock(&pic, &request, vec![reply(b"late")]);
    pic.tick();
    assert!(pic.cycle_balance(canister) > before + ENOUGH / 2);
}

#[test]
fn the_cycles_that_ic_cdk_attaches_are_enough() {
    let pic = pocket_ic();
    let canister = install(&pic);
    for body in [vec![], vec![7; 1_900_000]] {
        let argument = Encode!(&"https://example.com", &body).unwrap();
        let call = pic.submit_call(canister, Principal::anonymous(), "post", argument).unwrap();
        for _ in 0..3 {
            pic.tick();
        }
        let request = waiting(&pic);
        assert_eq!(request.body, body);
        mock(&pic, &request, vec![reply(b"thanks")]);
        let answer: Result<Vec<u8>, String> = decode_one(&pic.await_call(call).unwrap()).unwrap();
        assert_eq!(answer.unwrap(), b"thanks");
    }
}

#[test]
fn a_request_waits_over_a_restart() {
    let pic = builder().with_state(PocketIcState::new()).build();
    let canister = install(&pic);
    let args = HttpRequestArgs {
        transform: Some(transformed(canister, "strip", b"!")),
        ..get("https://example.com")
    };
    let call = fetch(&pic, canister, &args, ENOUGH);
    let before = waiting(&pic);
    let state = pic.drop_and_take_state().expect("the instance has a state directory");
    let pic = builder().with_state(state).build();
    assert_eq!(waiting(&pic), before);
    mock(&pic, &before, vec![reply(b"still here")]);
    assert_eq!(fetched(&pic, call).0.unwrap().body, b"still here!");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    /// The model: the answer that at least nine of thirteen nodes gave after the transform, or none.
    #[test]
    fn nine_of_thirteen_nodes_decide(answers in prop::collection::vec(0u8..2, NODES)) {
        thread_local!(static NET: (PocketIc, Principal) = {
            let pic = pocket_ic();
            let canister = install(&pic);
            (pic, canister)
        });
        NET.with(|(pic, canister)| {
            let args = HttpRequestArgs { transform: Some(transformed(*canister, "strip", b"!")), ..get("https://a.com") };
            let call = fetch(pic, *canister, &args, ENOUGH);
            mock(pic, &waiting(pic), answers.iter().map(|n| reply(&[*n])).collect());
            let answer = fetched(pic, call).0;
            let ones = answers.iter().map(|n| usize::from(*n)).sum::<usize>();
            let expected = if ones >= 9 { Some(1) } else if NODES - ones >= 9 { Some(0) } else { None };
            assert_eq!(answer.ok().map(|r| r.body), expected.map(|n| vec![n, b'!']));
        });
    }
}

/// A server on this machine that answers each request to `/<path>` in its own way; its port.
fn server() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            thread::spawn(move || {
                let mut request = Vec::new();
                let mut buffer = [0; 4_096];
                // Every request of the tests ends with this word, in the body or in the last header.
                while !request.windows(4).any(|w| w == b"over") {
                    match stream.read(&mut buffer) {
                        Ok(n) if n > 0 => request.extend_from_slice(&buffer[..n]),
                        _ => return,
                    }
                }
                let text = String::from_utf8_lossy(&request).into_owned();
                let path = text.split(' ').nth(1).unwrap().to_owned();
                let (status, extra, body) = match path.as_str() {
                    "/echo" => ("200 OK", "x-twice: 1\r\nx-twice: 2\r\n", text),
                    "/redirect" => ("302 Found", "location: /echo\r\n", String::new()),
                    "/large" => ("200 OK", "", "l".repeat(20_000)),
                    _ => ("404 Not Found", "", "nothing here".into()),
                };
                let length = body.len();
                let response = format!("HTTP/1.1 {status}\r\n{extra}content-length: {length}\r\n\r\n{body}");
                // A client that has seen too much closes the connection.
                let _ = stream.write_all(response.as_bytes());
            });
        }
    });
    port
}

fn live_fetch(pic: &PocketIc, canister: Principal, args: &HttpRequestArgs) -> Fetched {
    let argument = Encode!(&"http_request", &Encode!(args).unwrap(), &ENOUGH).unwrap();
    decode(&pic.update_call(canister, Principal::anonymous(), "manage", argument).unwrap())
}

#[test]
fn a_live_network_asks_servers_on_this_machine() {
    let mut pic = pocket_ic();
    let canister = install(&pic);
    let _ = pic.make_live(None);
    let port = server();
    let over = HttpHeader { name: "x-is".into(), value: "over".into() };
    let request = |path: &str| HttpRequestArgs {
        headers: vec![over.clone()],
        ..get(&format!("http://localhost:{port}{path}"))
    };
    let posted = HttpRequestArgs {
        method: HttpMethod::POST,
        headers: vec![HttpHeader { name: "X-Key".into(), value: "secret".into() }],
        body: Some(b"this body is over".to_vec()),
        ..request("/echo")
    };
    let response = live_fetch(&pic, canister, &posted).0.unwrap();
    assert_eq!(response.status, 200u8);
    let text = String::from_utf8(response.body).unwrap();
    assert!(text.starts_with("POST /echo HTTP/1.1\r\n"), "{text}");
    assert!(text.to_lowercase().contains("x-key: secret\r\n"), "{text}");
    assert!(text.contains("user-agent: ic/1.0"), "{text}");
    assert!(text.ends_with("this body is over"), "{text}");
    let twice: Vec<&str> =
        response.headers.iter().filter(|h| h.name == "x-twice").map(|h| h.value.as_str()).collect();
    assert_eq!(twice, ["1", "2"]);

    let redirect = live_fetch(&pic, canister, &request("/redirect")).0.unwrap();
    assert_eq!(redirect.status, 302u16, "redirects are the canister's business");
    let missing = live_fetch(&pic, canister, &request("/missing")).0.unwrap();
    assert_eq!((missing.status, missing.body), (404u16.into(), b"nothing here".to_vec()));
    let large = live_fetch(&pic, canister, &request("/large")).0.unwrap_err();
    assert_eq!(large, (1, "Http body exceeds size limit of 10000 bytes.".into()));
    let stripped =
        HttpRequestArgs { transform: Some(transformed(canister, "strip", b".")), ..request("/missing") };
    let stripped = live_fetch(&pic, canister, &stripped).0.unwrap();
    assert_eq!((stripped.headers, stripped.body), (vec![], b"nothing here.".to_vec()));
}

#[test]
fn other_machines_and_closed_ports_are_refused() {
    let mut pic = pocket_ic();
    let canister = install(&pic);
    let _ = pic.make_live(None);
    if std::env::var_os("POCKET_IC_BIN").is_none() {
        // An address of TEST-NET-1 (RFC 5737), which nobody has.
        let (code, text) = live_fetch(&pic, canister, &get("http://192.0.2.1/")).0.unwrap_err();
        assert_eq!(code, 1, "{text}");
        assert!(text.contains("`192.0.2.1` is not this machine"), "{text}");
    }
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let url = format!("http://127.0.0.1:{closed}/");
    let (code, text) = live_fetch(&pic, canister, &get(&url)).0.unwrap_err();
    assert_eq!(code, 2, "{text}");
    assert!(text.contains("refused"), "{text}");
    assert_eq!(live_fetch(&pic, canister, &get("no url")).0.unwrap_err().0, 1);
}

#[test]
fn requests_made_before_live_mode_are_sent_when_it_begins() {
    let mut pic = pocket_ic();
    let canister = install(&pic);
    let port = server();
    let over = HttpHeader { name: "x-is".into(), value: "over".into() };
    let args = HttpRequestArgs { headers: vec![over], ..get(&format!("http://localhost:{port}/missing")) };
    pic.set_time(std::time::SystemTime::now().into());
    let call = fetch(&pic, canister, &args, ENOUGH);
    assert_eq!(pic.get_canister_http().len(), 1);
    let _ = pic.make_live(None);
    assert_eq!(decode(&pic.await_call_no_ticks(call).unwrap()).0.unwrap().status, 404u16);
}
