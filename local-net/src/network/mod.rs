//! The network: canisters, the messages between them, and time.
//!
//! Everything happens on one thread, in an order that depends only on the messages that came in: canisters by id, messages
//! first come, first served. Random bytes come from a seed.

mod execute;
mod ingress;
mod messages;
mod queries;
mod rounds;

pub(crate) use execute::Keep;
pub use ingress::{IngressMessage, IngressState, RequestId};
pub use messages::{Origin, Request};
pub use queries::Query;

use crate::{
    canister::Canister,
    certification::Signer,
    reject::{Reject, Response},
};
use candid::Principal;
use messages::{CallContext, Callback, Delivery};
use rand::SeedableRng;
use rand_chacha::ChaCha20Rng;
use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

/// PocketIC's initial time, 6 May 2021 21:17:10 CEST, in nanoseconds since 1970.
pub const INITIAL_TIME: u64 = 1_620_328_630_000_000_000;

/// The first canister id that the network hands out, as a number. Lower numbers stay free for canisters with a
/// well-known id.
const FIRST_CANISTER: u64 = 0x0000_00ff_0000_0000;

/// The canister id with the number `n`.
pub fn canister_id(n: u64) -> Principal {
    let mut bytes = [1; 10];
    bytes[..8].copy_from_slice(&n.to_be_bytes());
    Principal::from_slice(&bytes)
}

/// The range of canister ids of the subnet: all of them.
pub fn canister_range() -> (Principal, Principal) {
    (canister_id(0), canister_id(u64::MAX))
}

/// A canister id of the subnet, for clients that must name one before any canister exists.
pub fn default_effective_canister_id() -> Principal {
    canister_id(FIRST_CANISTER)
}

/// A network of one subnet.
pub struct Network {
    /// Canisters by id.
    pub(crate) canisters: BTreeMap<Principal, Canister>,
    /// The subnet's id.
    pub(crate) subnet: Principal,
    /// The keys of subnet and node.
    pub(crate) signer: Arc<Signer>,
    pub(crate) root_key: Arc<[u8]>,
    pub(crate) random: ChaCha20Rng,
    time: u64,
    queue: VecDeque<Delivery>,
    contexts: BTreeMap<u64, CallContext>,
    callbacks: BTreeMap<u64, Callback>,
    ingress: BTreeMap<RequestId, ingress::Entry>,
    finished_requests: u64,
    next_id: u64,
    next_canister: u64,
}

impl Network {
    /// An empty network at `time` (nanoseconds since 1970) whose keys and random bytes come from `seed`.
    pub fn new(seed: [u8; 32], time: u64) -> Self {
        let signer = Arc::new(Signer::new(seed));
        Self {
            canisters: BTreeMap::new(),
            subnet: Principal::self_authenticating(signer.root_key()),
            root_key: signer.root_key().into(),
            signer,
            random: ChaCha20Rng::from_seed(seed),
            time,
            queue: VecDeque::new(),
            contexts: BTreeMap::new(),
            callbacks: BTreeMap::new(),
            ingress: BTreeMap::new(),
            finished_requests: 0,
            next_id: 0,
            next_canister: FIRST_CANISTER,
        }
    }

    /// Nanoseconds since 1970.
    pub fn time(&self) -> u64 {
        self.time
    }

    /// Sets the clock.
    pub fn set_time(&mut self, time: u64) {
        self.time = time;
    }

    /// Number of users' requests that have been answered.
    pub fn finished_requests(&self) -> u64 {
        self.finished_requests
    }

    /// The subnet's id.
    pub fn subnet(&self) -> Principal {
        self.subnet
    }

    /// The keys of subnet and node.
    pub fn signer(&self) -> Arc<Signer> {
        self.signer.clone()
    }

    /// The canister with this id.
    ///
    /// # Errors
    /// `IC0301` when there is none.
    pub fn canister(&self, id: Principal) -> Result<&Canister, Reject> {
        self.canisters.get(&id).ok_or_else(|| Reject::canister_not_found(id))
    }

    /// The canister with this id, to change it.
    ///
    /// # Errors
    /// `IC0301` when there is none.
    pub fn canister_mut(&mut self, id: Principal) -> Result<&mut Canister, Reject> {
        self.canisters.get_mut(&id).ok_or_else(|| Reject::canister_not_found(id))
    }

    /// An id no canister has.
    pub(crate) fn fresh_canister_id(&mut self) -> Principal {
        loop {
            let id = canister_id(self.next_canister);
            self.next_canister += 1;
            if !self.canisters.contains_key(&id) {
                return id;
            }
        }
    }

    fn fresh_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    /// Replaces the content of a canister's stable memory.
    ///
    /// # Errors
    /// `IC0301` when there is no such canister, `IC0507` when the bytes do not fit.
    pub fn set_stable_memory(&mut self, id: Principal, bytes: &[u8]) -> Result<(), Reject> {
        let canister = self.canister_mut(id)?;
        canister.stable.clear();
        let written = canister.stable.grow(bytes.len().next_multiple_of(crate::costs::WASM_PAGE))
            && canister.stable.write(0, bytes)
            && canister.stable.commit(&canister.stable.scan()).is_ok();
        if written {
            Ok(())
        } else {
            Err(Reject::new(crate::reject::ErrorCode::CanisterOutOfMemory, "the stable memory does not fit"))
        }
    }

    /// The content of a canister's stable memory.
    ///
    /// # Errors
    /// `IC0301` when there is no such canister.
    pub fn stable_memory(&self, id: Principal) -> Response {
        let stable = &self.canister(id)?.stable;
        Ok(stable.get(0..stable.len()).unwrap_or_default().to_vec())
    }
}
