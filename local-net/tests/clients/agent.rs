//! The unmodified ic-agent against `local-net serve`: certificates and query signatures are verified by the agent.

use crate::common::{id_bytes, module, server::Server, user};
use candid::{CandidType, Principal};
use ic_agent::{
    Agent, AgentError, Identity,
    agent::EnvelopeContent,
    identity::{
        BasicIdentity, DelegatedIdentity, Delegation, Prime256v1Identity, Secp256k1Identity, SignedDelegation,
    },
};
use ic_management_canister_types as types;
use ic_transport_types::Envelope;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

fn basic(seed: u8) -> BasicIdentity {
    BasicIdentity::from_raw_key(&[seed; 32])
}

async fn manage(
    agent: &Agent,
    effective: Principal,
    method: &str,
    argument: impl CandidType,
) -> Result<Vec<u8>, AgentError> {
    agent
        .update(&Principal::management_canister(), method)
        .with_effective_canister_id(effective)
        .with_arg(candid::encode_one(argument).unwrap())
        .call_and_wait()
        .await
}

/// `whoami` answers with the caller; `certify` sets certified data, `certificate` returns its certificate; `slow` works for
/// a while; `secret` and `open` are metadata.
fn wasm() -> Vec<u8> {
    let text = module(
        r#"
  (import "ic0" "msg_caller_copy" (func $caller_copy (param i32 i32 i32)))
  (import "ic0" "data_certificate_size" (func $certificate_size (result i32)))
  (import "ic0" "data_certificate_copy" (func $certificate_copy (param i32 i32 i32)))
  (func $whoami
    (call $caller_copy (i32.const 512) (i32.const 0) (call $caller_size))
    (call $append (i32.const 512) (call $caller_size))
    (call $reply))
  (func (export "canister_update whoami") (call $whoami))
  (func (export "canister_query whoami_query") (call $whoami))
  (func (export "canister_update fail") (call $trap (i32.const 288) (i32.const 4)))
  (func (export "canister_query fail_query") (call $trap (i32.const 288) (i32.const 4)))
  (func (export "canister_update certify") (call $certify (i32.const 256) (i32.const 3)) (call $reply))
  (func (export "canister_query certificate")
    (call $certificate_copy (i32.const 4096) (i32.const 0) (call $certificate_size))
    (call $append (i32.const 4096) (call $certificate_size))
    (call $reply))
  (@custom "icp:public open" "everybody")
  (@custom "icp:private secret" "controllers")
"#,
    );
    wat::parse_str(text).unwrap()
}

async fn install(agent: &Agent, server: &Server) -> Principal {
    let args = types::ProvisionalCreateCanisterWithCyclesArgs::default();
    let reply = manage(agent, server.effective_canister, "provisional_create_canister_with_cycles", args)
        .await
        .unwrap();
    let id = candid::decode_one::<types::CanisterIdRecord>(&reply).unwrap().canister_id;
    let args = types::InstallCodeArgs {
        mode: types::CanisterInstallMode::Install,
        canister_id: id,
        wasm_module: wasm(),
        arg: vec![],
        sender_canister_version: None,
    };
    manage(agent, id, "install_code", args).await.unwrap();
    id
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_queries_and_state_are_certified() {
    let server = Server::start();
    let me = basic(1).sender().unwrap();
    let agent = server.agent(basic(1));
    agent.fetch_root_key().await.unwrap();
    assert_eq!(agent.read_root_key(), server.root_key);
    let id = install(&agent, &server).await;

    let reply = agent.update(&id, "whoami").call_and_wait().await.unwrap();
    assert_eq!(Principal::from_slice(&reply), me);
    let reply = agent.query(&id, "whoami_query").call().await.unwrap();
    assert_eq!(Principal::from_slice(&reply), me, "the query's node signature is verified");

    let Err(AgentError::CertifiedReject { reject, .. }) = agent.update(&id, "fail").call_and_wait().await
    else {
        panic!("a certified reject is expected")
    };
    assert_eq!(reject.error_code.as_deref(), Some("IC0503"));
    let Err(AgentError::UncertifiedReject { reject, .. }) = agent.query(&id, "fail_query").call().await
    else {
        panic!("an uncertified reject is expected")
    };
    assert_eq!(reject.error_code.as_deref(), Some("IC0503"));
    assert!(agent.update(&id, "missing").call_and_wait().await.is_err());

    assert_eq!(agent.read_state_canister_controllers(id).await.unwrap(), vec![me]);
    let hash = agent.read_state_canister_module_hash(id).await.unwrap();
    assert_eq!(hash, <sha2::Sha256 as sha2::Digest>::digest(wasm()).to_vec());
    assert_eq!(agent.read_state_canister_metadata(id, "open").await.unwrap(), b"everybody");
    assert_eq!(agent.read_state_canister_metadata(id, "secret").await.unwrap(), b"controllers");
    let stranger = server.agent(basic(2));
    assert!(stranger.read_state_canister_metadata(id, "secret").await.is_err());

    agent.update(&id, "certify").call_and_wait().await.unwrap();
    let bytes = agent.query(&id, "certificate").call().await.unwrap();
    let certificate: ic_certification::Certificate = serde_cbor::from_slice(&bytes).unwrap();
    agent.verify(&certificate, id).unwrap();
    let path = [b"canister".as_slice(), id.as_slice(), b"certified_data"];
    let ic_certification::LookupResult::Found(data) = certificate.tree.lookup_path(path) else {
        panic!("the certified data is in the certificate")
    };
    assert_eq!(data, b"inc");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_identity_is_accepted() {
    let server = Server::start();
    let id = install(&server.agent(basic(1)), &server).await;
    let secp256k1 = Secp256k1Identity::from_private_key(k256::SecretKey::from_slice(&[3; 32]).unwrap());
    let p256 = Prime256v1Identity::from_private_key(p256::SecretKey::from_slice(&[3; 32]).unwrap());
    let delegated = delegate(u64::MAX, None);
    let identities: Vec<Box<dyn Identity>> = vec![
        Box::new(basic(3)),
        Box::new(secp256k1),
        Box::new(p256),
        Box::new(delegated),
        Box::new(ic_agent::identity::AnonymousIdentity),
    ];
    for identity in identities {
        let sender = identity.sender().unwrap();
        let reply = server.agent(identity).update(&id, "whoami").call_and_wait().await.unwrap();
        assert_eq!(Principal::from_slice(&reply), sender);
    }
}

/// Identity 4, used through a delegation to identity 5.
fn delegate(expiration: u64, targets: Option<Vec<Principal>>) -> DelegatedIdentity {
    let (root, session) = (basic(4), basic(5));
    let delegation =
        Delegation { pubkey: session.public_key().unwrap(), expiration, targets, permissions: None };
    let signature = root.sign_delegation(&delegation).unwrap();
    let chain = vec![SignedDelegation { delegation, signature: signature.signature.unwrap() }];
    DelegatedIdentity::new_unchecked(signature.public_key.unwrap(), Box::new(session), chain)
}

/// The text of the error that a request ends in.
async fn refused(agent: &Agent, id: Principal) -> String {
    let error = agent.update(&id, "whoami").call_and_wait().await.expect_err("the request must be refused");
    format!("{error:?}")
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_are_not_authentic_are_refused() {
    let server = Server::start();
    let agent = server.agent(basic(1));
    let id = install(&agent, &server).await;

    let signed = agent.update(&id, "whoami").sign().unwrap();
    let mut envelope: Envelope = serde_cbor::from_slice(&signed.signed_update).unwrap();
    envelope.sender_sig.as_mut().unwrap()[5] ^= 1;
    let error = agent.update_signed(id, envelope.encode_bytes()).await.unwrap_err();
    assert!(format!("{error:?}").contains("400"), "a wrong signature: {error:?}");

    let mut envelope: Envelope = serde_cbor::from_slice(&signed.signed_update).unwrap();
    if let EnvelopeContent::Call { method_name, .. } = envelope.content.to_mut() {
        *method_name = "certify".into();
    }
    assert!(agent.update_signed(id, envelope.encode_bytes()).await.is_err(), "another content");

    let mut envelope: Envelope = serde_cbor::from_slice(&signed.signed_update).unwrap();
    (envelope.sender_pubkey, envelope.sender_sig) = (None, None);
    assert!(agent.update_signed(id, envelope.encode_bytes()).await.is_err(), "no signature");

    let mut envelope: Envelope = serde_cbor::from_slice(&signed.signed_update).unwrap();
    envelope.sender_pubkey = basic(2).public_key();
    assert!(agent.update_signed(id, envelope.encode_bytes()).await.is_err(), "another key");

    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    for expiry in [now.saturating_sub(Duration::from_secs(1)), now + Duration::from_hours(1)] {
        let content = EnvelopeContent::Call {
            nonce: None,
            ingress_expiry: expiry.as_nanos() as u64,
            sender: basic(1).sender().unwrap(),
            canister_id: id,
            method_name: "whoami".into(),
            arg: vec![],
            sender_info: None,
        };
        let signature = basic(1).sign(&content).unwrap();
        let envelope = Envelope {
            content: std::borrow::Cow::Owned(content),
            sender_pubkey: signature.public_key,
            sender_sig: signature.signature,
            sender_delegation: None,
        };
        let error = agent.update_signed(id, envelope.encode_bytes()).await.unwrap_err();
        assert!(format!("{error:?}").contains("Invalid request expiry"), "{error:?}");
    }

    assert!(refused(&server.agent(delegate(1, None)), id).await.contains("expired"));
    let elsewhere = delegate(u64::MAX, Some(vec![user()]));
    assert!(refused(&server.agent(elsewhere), id).await.contains("not one of its targets"));
    let here = delegate(u64::MAX, Some(vec![id]));
    server.agent(here).update(&id, "whoami").call_and_wait().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_request_is_executed_once() {
    let server = Server::start();
    let agent = server.agent(basic(1));
    let id = install(&agent, &server).await;
    let before = status(&agent, id).await.version;
    let signed = agent.update(&id, "whoami").with_arg(id_bytes(id)).sign().unwrap();
    for _ in 0..3 {
        agent.update_signed(id, signed.signed_update.clone()).await.unwrap();
    }
    assert_eq!(status(&agent, id).await.version, before + 1);
}

async fn status(agent: &Agent, id: Principal) -> types::CanisterStatusResult {
    let reply =
        manage(agent, id, "canister_status", types::CanisterIdRecord { canister_id: id }).await.unwrap();
    candid::decode_one(&reply).unwrap()
}
