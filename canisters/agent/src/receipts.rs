//! The chain of receipts, and the hash tree that the canister certifies; `shared_types::receipt` says how both look.

use candid::Principal;
use canister_common::cbor::Cbor;
use ic_certification::{
    AsHashTree, HashTree, RbTree, fork, fork_hash, labeled, labeled_hash, leaf, leaf_hash,
};
use ic_stable_structures::{StableBTreeMap, StableCell};
use serde::{Deserialize, Serialize};
use shared_types::agent::AgentError;
use shared_types::receipt::{
    HEAD_LABEL, ListReceiptsArgs, MAX_RECEIPTS, RECEIPT_LABEL, Receipt, ReceiptHead, ReceiptPage,
};
use shared_types::{Digest, ModelId, paging};

use crate::memory::{Memory, ReceiptMemories};

/// Who gives the receipts, and for what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Issuer {
    /// The agent's canister.
    pub agent: Principal,
    /// The model.
    pub model_id: ModelId,
}

/// A receipt with its hash.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Kept {
    receipt: Receipt,
    hash: Digest,
}

/// All receipts that are kept.
pub struct Receipts {
    kept: StableBTreeMap<u64, Cbor<Kept>, Memory>,
    head: StableCell<Cbor<ReceiptHead>, Memory>,
    /// Hashes by sequence number: a cache of `kept`.
    tree: RbTree<[u8; 8], [u8; 32]>,
    /// Whether the root has changed since it was certified.
    changed: bool,
}

impl Receipts {
    /// Opens what the memories hold.
    pub fn open(memories: ReceiptMemories) -> Self {
        let kept: StableBTreeMap<u64, Cbor<Kept>, Memory> = StableBTreeMap::init(memories.receipts);
        let mut tree = RbTree::new();
        for entry in kept.iter() {
            tree.insert(entry.key().to_be_bytes(), *entry.value().0.hash.as_bytes());
        }
        let head = StableCell::init(memories.head, Cbor::default());
        Self { kept, head, tree, changed: true }
    }

    /// The head of the chain.
    pub fn head(&self) -> ReceiptHead {
        self.head.get().0
    }

    /// Appends a receipt; gives it its number and its predecessor. The oldest beyond [`MAX_RECEIPTS`] is removed.
    pub fn append(&mut self, mut receipt: Receipt) -> u64 {
        let head = self.head();
        (receipt.sequence, receipt.previous) = (head.sequence + 1, head.hash);
        let (sequence, hash) = (receipt.sequence, receipt.hash());
        self.kept.insert(sequence, Cbor(Kept { receipt, hash }));
        self.head.set(Cbor(ReceiptHead { sequence, hash }));
        self.tree.insert(sequence.to_be_bytes(), *hash.as_bytes());
        while self.kept.len() > MAX_RECEIPTS
            && let Some((oldest, _)) = self.kept.pop_first()
        {
            self.tree.delete(&oldest.to_be_bytes());
        }
        self.changed = true;
        sequence
    }

    /// A receipt with its hash.
    ///
    /// # Errors
    /// [`AgentError::UnknownReceipt`].
    pub fn get(&self, sequence: u64) -> Result<(Receipt, Digest), AgentError> {
        let Cbor(Kept { receipt, hash }) =
            self.kept.get(&sequence).ok_or(AgentError::UnknownReceipt { sequence })?;
        Ok((receipt, hash))
    }

    /// A page of the receipts.
    pub fn list(&self, args: &ListReceiptsArgs) -> ReceiptPage {
        let first = args.after.map_or(0, |after| after.saturating_add(1));
        let rest = self.kept.range(first..).map(|entry| entry.value().0.receipt);
        let (receipts, next) = paging::page(rest, args.limit, |receipt| receipt.sequence);
        ReceiptPage { receipts, next, head: self.head() }
    }

    /// The root to certify, if it has changed since it was asked for last.
    pub fn take_changed_root(&mut self) -> Option<[u8; 32]> {
        std::mem::take(&mut self.changed).then(|| self.root())
    }

    /// The root of the certified hash tree.
    pub fn root(&self) -> [u8; 32] {
        let head = leaf_hash(&self.head().to_bytes());
        fork_hash(
            &labeled_hash(HEAD_LABEL.as_bytes(), &head),
            &labeled_hash(RECEIPT_LABEL.as_bytes(), &self.tree.root_hash()),
        )
    }

    /// The certified hash tree, pruned to the head and one receipt.
    pub fn witness(&self, sequence: u64) -> HashTree {
        fork(
            labeled(HEAD_LABEL, leaf(self.head().to_bytes())),
            labeled(RECEIPT_LABEL, self.tree.witness(&sequence.to_be_bytes())),
        )
    }
}

#[cfg(test)]
#[path = "receipts_tests.rs"]
mod tests;
