//! The audit log: every change of state, append-only, each entry with the hash of the one before.

use candid::Principal;
use canister_common::cbor::Cbor;
use ciborium::Value;
use ic_stable_structures::{Memory, StableLog};
use serde::{Deserialize, Serialize};
use shared_types::Digest;
use shared_types::model::{AuditEntry, AuditEvent, AuditHead, AuditLogArgs, AuditPage};
use shared_types::paging;

/// An entry as it is stored. Its event has its text beside it, so that a version of the code that does not know the event still
/// shows it and goes on with the chain.
#[derive(Serialize, Deserialize)]
struct Stored {
    index: u64,
    time_ns: u64,
    actor: Principal,
    event: Value,
    /// Absent in layout 1.
    #[serde(default)]
    canonical: Option<String>,
    previous: Digest,
    hash: Digest,
}

impl Stored {
    fn of(entry: AuditEntry) -> Self {
        let AuditEntry { index, time_ns, actor, event, previous, hash } = entry;
        let canonical = Some(event.canonical());
        let event = Value::serialized(&event).expect("an event of plain data is always encodable");
        Self { index, time_ns, actor, event, canonical, previous, hash }
    }

    fn entry(self) -> AuditEntry {
        let Self { index, time_ns, actor, event, canonical, previous, hash } = self;
        let event = match (event.deserialized::<AuditEvent>(), canonical) {
            (Ok(event), None) => event,
            // An event that has gained a field is not what this code would make of it.
            (Ok(event), Some(canonical)) if event.canonical() == canonical => event,
            (_, canonical) => AuditEvent::Unknown { canonical: canonical.unwrap_or_default() },
        };
        AuditEntry { index, time_ns, actor, event, previous, hash }
    }
}

/// The audit log.
pub struct AuditLog<M: Memory>(StableLog<Cbor<Stored>, M, M>);

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
        let last = self.0.last().map(|last| last.0.entry());
        let entry = AuditEntry::following(last.as_ref(), time_ns, actor, event);
        let appended = self.0.append(&Cbor(Stored::of(entry)));
        appended.unwrap_or_else(|error| panic!("the audit log can't grow: {error:?}"));
    }

    /// Entries in the log.
    pub fn len(&self) -> u64 {
        self.0.len()
    }

    /// Whether nothing was recorded.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The head of the log.
    pub fn head(&self) -> AuditHead {
        let hash = self.0.last().map_or(Digest::ZERO, |last| last.0.hash);
        AuditHead { entries: self.len(), hash }
    }

    /// A page of the log, without proof.
    pub fn list(&self, args: &AuditLogArgs) -> AuditPage {
        let first = args.after.map_or(0, |after| after.saturating_add(1));
        let rest = (first..self.len()).filter_map(|index| self.0.get(index)).map(|entry| entry.0.entry());
        let (entries, next) = paging::page(rest, args.limit, |entry| entry.index);
        AuditPage { entries, next, head: self.head(), proof: None }
    }
}
