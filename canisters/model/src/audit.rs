//! The audit log: every change of state, append-only, each entry with the hash of the one before.

use candid::Principal;
use canister_common::cbor::Cbor;
use ic_stable_structures::{Memory, StableLog};
use shared_types::Digest;
use shared_types::model::{AuditEntry, AuditEvent, AuditLogArgs, AuditPage};
use shared_types::paging;

/// The audit log.
pub struct AuditLog<M: Memory>(StableLog<Cbor<AuditEntry>, M, M>);

impl<M: Memory> AuditLog<M> {
    /// Opens the log that the memories hold.
    pub fn init(index: M, data: M) -> Self {
        Self(StableLog::init(index, data))
    }

    /// Appends an entry.
    ///
    /// # Panics
    /// When stable memory can't grow: the message is then rolled back, so that nothing happens without its entry.
    pub fn record(&mut self, time_ns: u64, actor: Principal, event: AuditEvent) {
        let last = self.0.last().map(|last| last.0);
        let entry = AuditEntry::following(last.as_ref(), time_ns, actor, event);
        self.0.append(&Cbor(entry)).unwrap_or_else(|error| panic!("the audit log can't grow: {error:?}"));
    }

    /// Entries in the log.
    pub fn len(&self) -> u64 {
        self.0.len()
    }

    /// Whether nothing was recorded.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Hash of the last entry, [`Digest::ZERO`] for an empty log.
    pub fn head(&self) -> Digest {
        self.0.last().map_or(Digest::ZERO, |last| last.0.hash)
    }

    /// A page of the log.
    pub fn list(&self, args: &AuditLogArgs) -> AuditPage {
        let first = args.after.map_or(0, |after| after.saturating_add(1));
        let rest = (first..self.len()).filter_map(|index| self.0.get(index)).map(|entry| entry.0);
        let (entries, next) = paging::page(rest, args.limit, |entry| entry.index);
        AuditPage { entries, next }
    }
}
