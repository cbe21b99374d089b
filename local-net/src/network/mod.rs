//! The network: canisters, the messages between them, and time.
//!
//! Everything happens on one thread, in an order that depends only on the messages that came in: subnet by subnet, canisters by
//! id, messages first come, first served. Random bytes come from a seed.

mod execute;
pub mod faults;
mod ingress;
mod messages;
mod queries;
mod rounds;
mod subnet;

pub(crate) use execute::Keep;
pub use ingress::{IngressMessage, IngressRequest, IngressState, RequestId};
pub use messages::{Origin, Request};
pub use queries::Query;
pub(crate) use subnet::managed;
pub use subnet::{Subnet, SubnetIndex, SubnetKind, canister_id};

use crate::{
    canister::Canister,
    management::Outcalls,
    reject::{Reject, Response},
    system_api::Environment,
    system_canisters::SystemCanisters,
};
use candid::Principal;
use messages::{CallContext, Callback};
use rand::SeedableRng;
use rand_chacha::ChaCha20Rng;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, sync::Arc};

/// PocketIC's initial time, 6 May 2021 21:17:10 CEST, in nanoseconds since 1970.
pub const INITIAL_TIME: u64 = 1_620_328_630_000_000_000;

/// A network.
#[derive(Serialize, Deserialize)]
pub struct Network {
    /// Canisters by id.
    pub(crate) canisters: BTreeMap<Principal, Canister>,
    pub(crate) random: ChaCha20Rng,
    subnets: Vec<Subnet>,
    root: SubnetIndex,
    time: u64,
    contexts: BTreeMap<u64, CallContext>,
    callbacks: BTreeMap<u64, Callback>,
    ingress: BTreeMap<RequestId, IngressRequest>,
    finished_requests: u64,
    executed_messages: u64,
    next_id: u64,
    /// The plan of faults under way.
    faults: Option<Box<faults::Faults>>,
    /// HTTPS outcalls that wait for an answer.
    pub(crate) outcalls: Outcalls,
    /// What all keys and random bytes come from.
    pub(crate) seed: [u8; 32],
    /// Registry, ledgers and cycles minting canister, if the network has them.
    pub(crate) system_canisters: Option<SystemCanisters>,
}

impl Network {
    /// An empty network of one application subnet; see [`Self::with_subnets`].
    pub fn new(seed: [u8; 32], time: u64) -> Self {
        Self::with_subnets(seed, time, &[SubnetKind::Application])
    }

    /// An empty network at `time` (nanoseconds since 1970) with these subnets, at least one. Its keys and random bytes come
    /// from `seed`.
    pub fn with_subnets(seed: [u8; 32], time: u64, kinds: &[SubnetKind]) -> Self {
        let (subnets, root) = subnet::make_subnets(seed, time, kinds);
        Self {
            canisters: BTreeMap::new(),
            subnets,
            root,
            random: ChaCha20Rng::from_seed(seed),
            time,
            contexts: BTreeMap::new(),
            callbacks: BTreeMap::new(),
            ingress: BTreeMap::new(),
            finished_requests: 0,
            executed_messages: 0,
            next_id: 0,
            faults: None,
            outcalls: Outcalls::default(),
            seed,
            system_canisters: None,
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

    /// Number of messages that have been executed.
    pub fn executed_messages(&self) -> u64 {
        self.executed_messages
    }

    /// The DER-encoded root key.
    pub fn root_key(&self) -> &Arc<[u8]> {
        self.root().signer.public_key()
    }

    /// What the canister `id` sees of itself and the network.
    pub(crate) fn environment(&self, id: Principal) -> Option<Environment> {
        let canister = self.canisters.get(&id)?;
        Some(canister.environment(self.subnets[canister.subnet].id, self.root_key().clone(), self.time))
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
