//! Several subnets: who hosts a canister, calls between subnets, fees, and certificates with delegations.

use crate::common::{Net, id_bytes, module, number, pocket::builder, user};
use candid::Principal;
use ic_management_canister_types as types;
use local_net::{costs::Fees, limits, network::SubnetKind};

const KINDS: &[SubnetKind] = &[SubnetKind::NNS, SubnetKind::Application, SubnetKind::Application];

/// `inc` counts; `relay` calls `inc` of the canister in the argument and passes the answer on; `send` sends it as many bytes
/// as the number behind the id says, and answers with the reject code.
fn counter() -> String {
    module(
        r#"
  (elem (i32.const 1) func $done $done $refused)
  (global $counter (mut i64) (i64.const 0))
  (func (export "canister_update inc")
    (global.set $counter (i64.add (global.get $counter) (i64.const 1)))
    (call $reply_i64 (global.get $counter)))
  (func (export "canister_query get") (call $reply_i64 (global.get $counter)))
  (func $target (param $method i32) (param $reject i32)
    (call $take_arg)
    (call $call_new (i32.const 1000) (i32.const 10) (local.get $method) (i32.const 3)
      (i32.const 1) (i32.const 0) (local.get $reject) (i32.const 0)))
  (func (export "canister_update relay")
    (call $target (i32.const 256) (i32.const 2))
    (drop (call $perform)))
  (func (export "canister_composite_query relay_query")
    (call $target (i32.const 272) (i32.const 3))
    (drop (call $perform)))
  (func (export "canister_update send")
    (call $target (i32.const 256) (i32.const 3))
    (drop (memory.grow (i32.const 200)))
    (call $call_append (i32.const 0) (i32.load (i32.const 1010)))
    (drop (call $perform)))
  (func $done (param i32)
    (call $arg_copy (i32.const 512) (i32.const 0) (call $arg_size))
    (call $append (i32.const 512) (call $arg_size))
    (call $reply))
  (func $refused (param i32) (call $reply_i64 (i64.extend_i32_u (call $reject_code))))
"#,
    )
}

#[test]
fn a_call_between_subnets_takes_a_round_each_way() {
    let mut net = Net::with_subnets(KINDS);
    let caller = net.canister_with_id(net.first_id(1), &counter());
    let near = net.canister(&counter());
    let far = net.canister_with_id(net.first_id(2), &counter());
    assert_eq!(net.network.subnet_of(near), Some(1), "canisters go to the first application subnet");
    assert_eq!(net.network.subnet_of(far), Some(2));
    let rounds = |net: &mut Net, callee: Principal| {
        let id = net.submit(caller, user(), "relay", id_bytes(callee)).unwrap();
        let mut rounds = 0;
        while net.network.ingress_response(&id).is_none() {
            net.network.round();
            rounds += 1;
        }
        assert!(net.network.ingress_response(&id).unwrap().is_ok());
        rounds
    };
    assert_eq!(rounds(&mut net, near), 1);
    assert_eq!(rounds(&mut net, far), 3, "there, back, and the callback");
}

#[test]
fn requests_to_another_subnet_are_smaller() {
    let mut net = Net::with_subnets(KINDS);
    let caller = net.canister_with_id(net.first_id(1), &counter());
    let near = net.canister(&counter());
    let far = net.canister_with_id(net.first_id(2), &counter());
    let mut send = |callee: Principal, bytes: usize| {
        let argument = [id_bytes(callee), (bytes as u32).to_le_bytes().to_vec()].concat();
        number(&net.call(caller, "send", argument))
    };
    let method = "inc".len();
    assert_eq!(send(near, 3 << 20), 1, "the callee's counter");
    assert_eq!(send(far, limits::MESSAGE_BYTES - method), 1);
    assert_eq!(send(far, limits::MESSAGE_BYTES - method + 1), 5, "CANISTER_ERROR");
    assert_eq!(number(&net.query(far, "get", [])), 1);
}

#[test]
fn composite_queries_stay_on_their_subnet() {
    let mut net = Net::with_subnets(KINDS);
    let caller = net.canister_with_id(net.first_id(1), &counter());
    let near = net.canister(&counter());
    let far = net.canister_with_id(net.first_id(2), &counter());
    assert_eq!(number(&net.query(caller, "relay_query", id_bytes(near))), 0);
    assert_eq!(number(&net.query(caller, "relay_query", id_bytes(far))), 3, "DESTINATION_INVALID");
}

#[test]
fn management_calls_reach_the_subnet_of_their_canister() {
    let mut net = Net::with_subnets(KINDS);
    let far = net.canister_with_id(net.first_id(2), &counter());
    assert_eq!(net.status(far).status, types::CanisterStatusType::Running);
    let id = net.canister_with_id(Principal::from_text("rrkah-fqaaa-aaaaa-aaaaq-cai").unwrap(), &counter());
    assert_eq!(net.network.subnet_of(id), Some(0), "well-known ids belong to the NNS");
}

#[test]
fn fees_follow_the_subnet() {
    let application = Fees::of(SubnetKind::Application);
    assert_eq!(Fees::of(SubnetKind::System).execution(1_000_000), 0);
    assert_eq!(
        Fees::of(SubnetKind::Fiduciary).canister_creation(),
        application.canister_creation() * 34 / 13
    );
    let mut net = Net::with_subnets(KINDS);
    let free = net.canister_with_id(net.first_id(0), &counter());
    let paying = net.canister_with_id(net.first_id(1), &counter());
    let before = (net.balance(free), net.balance(paying));
    net.call(free, "inc", []).unwrap();
    net.call(paying, "inc", []).unwrap();
    assert_eq!(net.balance(free), before.0);
    assert!(before.1 - net.balance(paying) >= application.execution(0) + application.ingress(3));
}

#[test]
fn agents_follow_the_delegation_of_the_root_subnet() {
    let mut network = builder().with_nns_subnet().with_application_subnet().build();
    let topology = network.topology();
    let (nns, apps) = (topology.get_nns().unwrap(), topology.get_app_subnets());
    assert_eq!(apps.len(), 2);
    let ids = apps.iter().map(|subnet| network.create_canister_on_subnet(None, None, *subnet));
    let ids: Vec<Principal> = ids.collect();
    assert_eq!(ids.iter().map(|id| network.get_subnet(*id).unwrap()).collect::<Vec<_>>(), apps);
    for id in &ids {
        network.add_cycles(*id, 10_000_000_000_000);
        network.install_canister(*id, wat::parse_str(counter()).unwrap(), vec![], None);
    }
    let reply = network.update_call(ids[0], Principal::anonymous(), "relay", id_bytes(ids[1])).unwrap();
    assert_eq!(reply, 1u64.to_le_bytes());

    let url = network.make_live(None);
    let root_key = network.root_key().unwrap();
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let agent = ic_agent::Agent::builder().with_url(url).build().unwrap();
        agent.set_root_key(root_key.clone());
        for (id, subnet) in ids.iter().zip(&apps) {
            let certificate = agent
                .read_state_raw(vec![vec!["time".into()]], *id)
                .await
                .expect("a certificate that verifies");
            let delegation = certificate.delegation.expect("the subnet is not the root");
            assert_eq!(delegation.subnet_id, subnet.as_slice());
            assert_eq!(agent.update(id, "inc").call_and_wait().await.unwrap().len(), 8);
            assert_eq!(agent.query(id, "get").call().await.unwrap().len(), 8);
        }
        let path = vec!["subnet".into(), nns.as_slice().into(), "public_key".into()];
        let certificate = agent.read_subnet_state_raw(vec![path.clone()], nns).await.unwrap();
        assert!(certificate.delegation.is_none());
        assert_eq!(ic_agent::lookup_value(&certificate, path).unwrap(), root_key);
    });
}
