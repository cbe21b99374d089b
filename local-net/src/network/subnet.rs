//! Subnets: their keys, their canister ids, and the messages that wait on them.

use super::{Network, messages::Delivery};
use crate::{certification::Signer, costs::Fees, state_dir};
use candid::{CandidType, Principal};
pub use pocket_ic::common::rest::SubnetKind;
use serde::{Deserialize, Serialize};
use std::{collections::VecDeque, sync::Arc};

/// The position of a subnet in [`Network::subnets`].
pub type SubnetIndex = usize;

/// The first canister id that the network hands out, as a number. Lower numbers stay free for canisters with a
/// well-known id.
const FIRST_CANISTER: u64 = 0x0000_00ff_0000_0000;
/// Canister ids that a subnet hands out (as on the Internet Computer, 2^20).
const CANISTERS_PER_SUBNET: u64 = 1 << 20;

/// The canister id with the number `n`.
pub fn canister_id(n: u64) -> Principal {
    let mut bytes = [1; 10];
    bytes[..8].copy_from_slice(&n.to_be_bytes());
    Principal::from_slice(&bytes)
}

/// The number of a canister id; `None` for principals of another form.
fn canister_number(id: Principal) -> Option<u64> {
    match id.as_slice() {
        [number @ .., 1, 1] => number.try_into().ok().map(u64::from_be_bytes),
        _ => None,
    }
}

/// A subnet.
#[derive(Serialize, Deserialize)]
pub struct Subnet {
    /// Its id, which follows from its key.
    pub id: Principal,
    /// Its kind, which decides what it charges.
    pub kind: SubnetKind,
    /// The keys of the subnet and its node.
    #[serde(with = "state_dir::shared")]
    pub signer: Arc<Signer>,
    /// Numbers of the canister ids that belong to it, first and last.
    ranges: Vec<(u64, u64)>,
    /// The number of the next canister.
    next_canister: u64,
    /// Messages in the order in which they will be executed.
    pub(super) queue: VecDeque<Delivery>,
    /// Messages from other subnets; they arrive with the next round.
    pub(super) incoming: Vec<Delivery>,
}

impl Subnet {
    /// What it charges.
    pub fn fees(&self) -> Fees {
        Fees::of(self.kind)
    }

    /// The canister ids that belong to it, first and last.
    pub fn canister_ranges(&self) -> impl Iterator<Item = (Principal, Principal)> {
        self.ranges.iter().map(|(first, last)| (canister_id(*first), canister_id(*last)))
    }

    /// The first canister id that it hands out, for clients that must name one before any canister exists.
    pub fn first_canister_id(&self) -> Principal {
        canister_id(self.ranges[0].0)
    }
}

/// Makes the subnets of a network. The first of kind NNS is the root; without one, the first. Every canister id belongs to
/// exactly one subnet: well-known ids to the root, other ids beyond all ranges to the default subnet.
pub(super) fn make_subnets(seed: [u8; 32], time: u64, kinds: &[SubnetKind]) -> (Vec<Subnet>, SubnetIndex) {
    let root = kinds.iter().position(|kind| *kind == SubnetKind::NNS).unwrap_or(0);
    let default = default_subnet(kinds);
    let root_signer = Arc::new(Signer::root(seed));
    let make = |(index, kind): (usize, &SubnetKind)| {
        let first = FIRST_CANISTER + index as u64 * CANISTERS_PER_SUBNET;
        let mut ranges = vec![(first, first + (CANISTERS_PER_SUBNET - 1))];
        if index == root {
            ranges.push((0, FIRST_CANISTER - 1));
        }
        if index == default {
            ranges.push((FIRST_CANISTER + kinds.len() as u64 * CANISTERS_PER_SUBNET, u64::MAX));
        }
        let signer = if index == root {
            root_signer.clone()
        } else {
            let ids = ranges.iter().map(|(first, last)| (canister_id(*first), canister_id(*last)));
            Arc::new(Signer::delegated(seed, index, &root_signer, *kind, &ids.collect::<Vec<_>>(), time))
        };
        Subnet {
            id: signer.subnet_id(),
            kind: *kind,
            signer,
            ranges,
            next_canister: first,
            queue: VecDeque::new(),
            incoming: Vec::new(),
        }
    };
    (kinds.iter().enumerate().map(make).collect(), root)
}

/// The subnet of canisters that are created without naming one: the first application subnet, or the first of all.
fn default_subnet(kinds: &[SubnetKind]) -> SubnetIndex {
    kinds.iter().position(|kind| *kind == SubnetKind::Application).unwrap_or(0)
}

impl Network {
    /// The subnets.
    pub fn subnets(&self) -> &[Subnet] {
        &self.subnets
    }

    /// The subnet whose key is the root key.
    pub fn root(&self) -> &Subnet {
        &self.subnets[self.root]
    }

    /// The subnet of canisters that are created without naming one.
    pub fn default_subnet(&self) -> SubnetIndex {
        let kinds: Vec<SubnetKind> = self.subnets.iter().map(|s| s.kind).collect();
        default_subnet(&kinds)
    }

    /// The subnet that `id` names, or to which the canister id `id` belongs.
    pub fn subnet_of(&self, id: Principal) -> Option<SubnetIndex> {
        let by_canister = || self.canisters.get(&id).map(|canister| canister.subnet);
        let by_id = || self.subnets.iter().position(|s| s.id == id);
        by_canister().or_else(by_id).or_else(|| {
            let n = canister_number(id)?;
            self.subnets
                .iter()
                .position(|s| s.ranges.iter().any(|(first, last)| (*first..=*last).contains(&n)))
        })
    }

    /// An id of the subnet that no canister has; `None` when there is none left.
    pub(crate) fn fresh_canister_id(&mut self, subnet: SubnetIndex) -> Option<Principal> {
        let subnet = &mut self.subnets[subnet];
        let (_, last) = subnet.ranges[0];
        while subnet.next_canister <= last {
            let id = canister_id(subnet.next_canister);
            subnet.next_canister += 1;
            if !self.canisters.contains_key(&id) {
                return Some(id);
            }
        }
        None
    }

    /// The subnet that executes a call of `caller`'s subnet to `callee`. A call to the management canister goes to the
    /// subnet of the canister that it is about.
    pub(super) fn route(&self, callee: Principal, argument: &[u8], caller: SubnetIndex) -> SubnetIndex {
        let target =
            if callee == Principal::management_canister() { managed(argument) } else { Some(callee) };
        target.and_then(|id| self.subnet_of(id)).unwrap_or(caller)
    }

    /// Puts a message into the queue of the subnet `to`; from another subnet it takes until the next round.
    pub(super) fn deliver(&mut self, delivery: Delivery, from: SubnetIndex, to: SubnetIndex) {
        let subnet = &mut self.subnets[to];
        if from == to {
            subnet.queue.push_back(delivery);
        } else {
            subnet.incoming.push(delivery);
        }
    }
}

/// The canister that a call to the management canister is about.
pub(crate) fn managed(argument: &[u8]) -> Option<Principal> {
    #[derive(CandidType, Deserialize)]
    struct Named {
        canister_id: Option<Principal>,
        target_canister: Option<Principal>,
    }
    let named: Named = candid::decode_one(argument).ok()?;
    named.canister_id.or(named.target_canister)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const KINDS: &[SubnetKind] =
        &[SubnetKind::Application, SubnetKind::NNS, SubnetKind::Application, SubnetKind::System];

    proptest! {
        #[test]
        fn every_canister_id_belongs_to_one_subnet(n in any::<u64>(), count in 1..=KINDS.len()) {
            let network = Network::with_subnets([1; 32], 0, &KINDS[..count]);
            let owners = network.subnets().iter().filter(|subnet| {
                subnet.canister_ranges().any(|(first, last)| first <= canister_id(n) && canister_id(n) <= last)
            });
            prop_assert_eq!(owners.count(), 1);
            prop_assert!(network.subnet_of(canister_id(n)).is_some());
            prop_assert_eq!(canister_number(canister_id(n)), Some(n));
        }
    }
}
