//! The index: other repositories, how much room they have, and which models are where. See ADR 0005.
//!
//! A repository is asked page by page; each question is noted before it is put and each answer before the next. Should the
//! message that takes an answer trap, the page is asked for again.

use candid::Principal;
use canister_common::cbor::{Cbor, Extensible};
use ic_stable_structures::{Memory, StableBTreeMap};
use serde::{Deserialize, Serialize};
use shared_types::lifecycle::ModelStatus;
use shared_types::model::{
    ANSWER_VALID_SECONDS, IndexPage, IndexedModel, KnownRepository, ListIndexArgs, MAX_REPOSITORIES,
    ModelCanisterStatus, ModelError, ModelPage,
};
use shared_types::{ModelId, paging};

use crate::repository::IdKey;

/// Nanoseconds between two readings of a repository.
const INTERVAL_NS: u64 = 600_000_000_000;

/// Models that one page looks at, however few of them it shows.
const PAGE_SCAN: usize = 2_000;

/// A repository and how far it was read.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Entry {
    known: KnownRepository,
    /// The last id that was read, while a reading is under way.
    cursor: Option<ModelId>,
}

/// The index.
pub struct Index<M: Memory> {
    repositories: StableBTreeMap<Principal, Extensible<Entry>, M>,
    models: StableBTreeMap<IdKey, Cbor<IndexedModel>, M>,
}

impl<M: Memory> Index<M> {
    /// Opens what the memories hold.
    pub fn init(repositories: M, models: M) -> Self {
        Self { repositories: StableBTreeMap::init(repositories), models: StableBTreeMap::init(models) }
    }

    /// Checks that a repository more is possible.
    ///
    /// # Errors
    /// [`ModelError::TooMany`].
    pub fn check_add(&self, canister: Principal) -> Result<(), ModelError> {
        if self.repositories.len() >= MAX_REPOSITORIES && !self.repositories.contains_key(&canister) {
            return Err(ModelError::TooMany { what: "repositories".to_owned(), limit: MAX_REPOSITORIES });
        }
        Ok(())
    }

    /// Adds a repository; returns whether it is new.
    pub fn add(&mut self, canister: Principal) -> bool {
        if self.repositories.contains_key(&canister) {
            return false;
        }
        let known = KnownRepository {
            canister,
            models: 0,
            free_bytes: 0,
            asked_at_ns: 0,
            answered_at_ns: None,
            failure: None,
        };
        self.repositories.insert(canister, Extensible::new(Entry { known, cursor: None }));
        true
    }

    /// Forgets a repository and its models; returns whether it was there.
    pub fn remove(&mut self, canister: Principal) -> bool {
        let ids: Vec<IdKey> = self
            .models
            .iter()
            .filter(|entry| entry.value().0.repository == canister)
            .map(|entry| *entry.key())
            .collect();
        for id in ids {
            self.models.remove(&id);
        }
        self.repositories.remove(&canister).is_some()
    }

    /// Whether no repository is known.
    pub fn is_empty(&self) -> bool {
        self.repositories.is_empty()
    }

    /// The repositories.
    pub fn repositories(&self) -> Vec<KnownRepository> {
        self.repositories.values().map(|entry| entry.into_inner().known).collect()
    }

    /// The repository to ask now and the page to ask for, if there is one; notes that it is asked.
    pub fn ask(&mut self, now_ns: u64) -> Option<(Principal, Option<ModelId>)> {
        let due = self.repositories.values().filter(|entry| {
            let known = &entry.known;
            known.asked_at_ns == 0 || now_ns.saturating_sub(known.asked_at_ns) >= INTERVAL_NS
        });
        let mut entry = due.min_by_key(|entry| entry.known.asked_at_ns)?;
        entry.known.asked_at_ns = now_ns;
        let (canister, cursor) = (entry.known.canister, entry.cursor);
        self.repositories.insert(canister, entry);
        Some((canister, cursor))
    }

    /// Takes an answer; returns the next page to ask for, if there is one.
    pub fn answered(
        &mut self,
        canister: Principal,
        status: &ModelCanisterStatus,
        page: ModelPage,
        now_ns: u64,
    ) -> Option<ModelId> {
        // It may have been removed while it was asked.
        let mut entry = self.repositories.get(&canister)?;
        for record in page.models.into_iter().filter(|record| record.status != ModelStatus::Pending) {
            let key = *record.model_id.as_bytes();
            // A model that two repositories have stays where it was found first, unless that one has withdrawn it.
            let other = self.models.get(&key).map(|other| other.0);
            let stays = other
                .is_some_and(|other| other.repository != canister && other.status == ModelStatus::Active);
            if !stays {
                let model = IndexedModel {
                    model_id: record.model_id,
                    repository: canister,
                    name: record.name,
                    version: record.version,
                    status: record.status,
                    bytes: record.bytes,
                };
                self.models.insert(key, Cbor(model));
            }
        }
        entry.cursor = page.next;
        entry.known.models = status.models - status.pending.min(status.models);
        entry.known.free_bytes = status.free_bytes;
        entry.known.answered_at_ns = Some(now_ns);
        entry.known.failure = None;
        self.repositories.insert(canister, entry);
        page.next
    }

    /// Notes that a repository did not answer. It is asked again after a while, for the same page.
    pub fn failed(&mut self, canister: Principal, reason: String) {
        if let Some(mut entry) = self.repositories.get(&canister) {
            entry.known.failure = Some(reason);
            self.repositories.insert(canister, entry);
        }
    }

    /// Where `bytes` fit best: the repository with the most room, `own` of which this one has.
    ///
    /// # Errors
    /// [`ModelError::OutOfStorage`] where no repository has so much.
    pub fn place(
        &self,
        (this, own): (Principal, u64),
        bytes: u64,
        now_ns: u64,
    ) -> Result<Principal, ModelError> {
        let fresh = |known: &KnownRepository| {
            let age = known.answered_at_ns.map(|answered| now_ns.saturating_sub(answered));
            age.is_some_and(|age| age / 1_000_000_000 < ANSWER_VALID_SECONDS)
        };
        let others = self.repositories.values().map(|entry| entry.into_inner().known).filter(fresh);
        let rooms = others.map(|known| (known.canister, known.free_bytes)).chain([(this, own)]);
        let best = rooms.filter(|(_, free)| *free >= bytes).max_by_key(|(_, free)| *free);
        best.map(|(canister, _)| canister).ok_or(ModelError::OutOfStorage { requested: bytes })
    }

    /// The repository that has a model.
    pub fn locate(&self, model_id: &ModelId) -> Option<Principal> {
        self.models.get(model_id.as_bytes()).map(|model| model.0.repository)
    }

    /// A page of the models.
    pub fn list(&self, args: &ListIndexArgs) -> IndexPage {
        let after = args.after.map(|id| *id.as_bytes());
        let size = paging::page_size(args.limit);
        let rest = self.models.range(after.unwrap_or_default()..);
        let mut rest = rest.filter(|entry| Some(*entry.key()) != after).peekable();
        let (mut models, mut seen, mut last) = (Vec::new(), 0, None);
        while models.len() < size && seen < PAGE_SCAN {
            let Some(entry) = rest.next() else { break };
            (seen, last) = (seen + 1, Some(ModelId::new(*entry.key())));
            let model = entry.value().0;
            if args.name.as_ref().is_none_or(|name| *name == model.name) {
                models.push(model);
            }
        }
        let next = if rest.peek().is_some() { last } else { None };
        IndexPage { models, next }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ic_stable_structures::VectorMemory;
    use shared_types::Digest;

    fn index() -> Index<VectorMemory> {
        Index::init(VectorMemory::default(), VectorMemory::default())
    }

    fn canister(who: u8) -> Principal {
        Principal::from_slice(&[who; 10])
    }

    fn status(free_bytes: u64) -> ModelCanisterStatus {
        ModelCanisterStatus {
            version: "1".to_owned(),
            layout: 2,
            models: 3,
            pending: 1,
            validations: 0,
            reserved_bytes: 0,
            free_bytes,
            stable_bytes: 0,
            heap_bytes: 0,
            open_proposals: 0,
            audit_entries: 0,
            audit_head: Digest::ZERO,
            cycles: 0,
        }
    }

    fn page(next: Option<ModelId>) -> ModelPage {
        ModelPage { models: Vec::new(), next, proof: None }
    }

    #[test]
    fn models_go_where_there_is_most_room() {
        let mut index = index();
        let this = (canister(0), 100);
        assert_eq!(index.place(this, 50, 0).unwrap(), canister(0));
        assert_eq!(index.place(this, 101, 0).unwrap_err(), ModelError::OutOfStorage { requested: 101 });
        assert!(index.add(canister(1)) && index.add(canister(2)) && !index.add(canister(1)));
        // Who has not answered gets nothing.
        assert_eq!(index.place(this, 50, 0).unwrap(), canister(0));
        index.answered(canister(1), &status(900), page(None), 5);
        index.answered(canister(2), &status(300), page(None), 5);
        assert_eq!(index.place(this, 50, 6).unwrap(), canister(1));
        index.answered(canister(1), &status(200), page(None), 7);
        assert_eq!(index.place(this, 50, 8).unwrap(), canister(2));
        // Old answers count for nothing.
        let later = ANSWER_VALID_SECONDS * 1_000_000_000 + 5;
        assert_eq!(index.place(this, 50, later).unwrap(), canister(1));
        assert!(index.remove(canister(1)) && !index.remove(canister(1)));
        assert_eq!(index.place(this, 50, later).unwrap(), canister(0));
    }

    #[test]
    fn repositories_are_asked_in_turn_and_go_on_where_they_were() {
        let mut index = index();
        index.add(canister(1));
        index.add(canister(2));
        let now = INTERVAL_NS;
        let first = index.ask(now).unwrap().0;
        let second = index.ask(now + 1).unwrap().0;
        assert_ne!(first, second);
        assert_eq!(index.ask(now + 2), None);
        let next = Some(Digest::of(b"model"));
        assert_eq!(index.answered(first, &status(1), page(next), now + 3), next);
        index.failed(first, "no answer".to_owned());
        assert_eq!(index.ask(now + INTERVAL_NS), Some((first, next)));
        assert_eq!(index.repositories().iter().filter(|known| known.failure.is_some()).count(), 1);
        assert_eq!(index.answered(first, &status(1), page(None), now), None);
        assert!(index.repositories().iter().all(|known| known.failure.is_none()));
        assert_eq!(index.ask(now + 1 + INTERVAL_NS), Some((second, None)));
        index.remove(second);
        assert_eq!(index.answered(second, &status(1), page(next), now), None, "it was removed meanwhile");
    }
}
