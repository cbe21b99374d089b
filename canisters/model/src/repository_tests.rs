//! Random operations on the repository against an obvious model of it.

use std::collections::{BTreeMap, BTreeSet};

use ic_stable_structures::DefaultMemoryImpl;
use novaq_engine::artifact::ShardHeader;
use proptest::prelude::*;
use shared_types::model::{
    AuditLogArgs, GetShardChunkArgs, ListModelsArgs, MAX_SHARD_BYTES, MAX_SHARDS, MissingShardsArgs,
    ProposalAction, ProposalState, UploadState, Validation,
};

use super::*;
use crate::manifest::{ManifestFacts, ShardFacts};

const ADMIN: u8 = 1;
const UPLOADER: u8 = 2;
const OTHER_UPLOADER: u8 = 3;
const STRANGER: u8 = 4;

fn principal(who: u8) -> Principal {
    Principal::from_slice(&[who])
}

fn context(who: u8) -> CallContext {
    CallContext { caller: principal(who), now_ns: 1_000 + u64::from(who) }
}

/// Model `m` of the tests: `m + 1` shards.
fn shard(m: u8, index: u32) -> Vec<u8> {
    let payload = vec![m * 16 + index as u8; 40 + usize::from(m) * 7 + index as usize];
    let header = ShardHeader { index, payload_bytes: payload.len() as u64 };
    [header.to_bytes().as_slice(), &payload].concat()
}

fn facts(m: u8) -> ManifestFacts {
    let shards = (0..=u32::from(m)).map(|index| shard(m, index));
    ManifestFacts {
        model_id: Digest::of(&[m]),
        name: format!("model-{m}"),
        version: "1.0.0".to_owned(),
        license: "MIT".to_owned(),
        card: None,
        shards: shards.map(|s| ShardFacts { bytes: s.len() as u64, sha256: Digest::of(&s) }).collect(),
    }
}

fn manifest(m: u8) -> Vec<u8> {
    vec![b'{', m, b'}']
}

fn installed() -> (DefaultMemoryImpl, Repository) {
    let memory = DefaultMemoryImpl::default();
    let mut repository = Repository::open(Memories::of(memory.clone()));
    repository.install(&context(ADMIN), vec![principal(ADMIN)], Vec::new(), Policy::default());
    for who in [UPLOADER, OTHER_UPLOADER] {
        let grant = RoleGrant { principal: principal(who), role: Role::Uploader };
        repository.propose(&context(ADMIN), ProposalAction::GrantRole(grant)).unwrap();
    }
    (memory, repository)
}

/// Ends the validation of a model of these tests, whose manifest is none.
fn conclude(repository: &mut Repository, id: &ModelId) {
    if repository.validations.contains_key(id.as_bytes()) {
        let report = repository.validation_report(&context(ADMIN), id).unwrap();
        repository.end_validation(&context(ADMIN), report);
    }
}

fn get_shard(repository: &Repository, who: u8, id: &ModelId, index: u32) -> Result<Vec<u8>, ModelError> {
    let range = repository.shard_range(&context(who), id, index)?;
    let mut bytes = vec![0; range.length as usize];
    repository.read_range(range, 0, &mut bytes);
    Ok(bytes)
}

fn begin(repository: &mut Repository, who: u8, m: u8) -> Result<UploadState, ModelError> {
    repository.roles.require(principal(who), Role::Uploader)?;
    repository.begin_checked_upload(&context(who), &manifest(m), &facts(m))
}

fn upload(repository: &mut Repository, who: u8, m: u8) -> ModelId {
    let id = begin(repository, who, m).unwrap().model_id;
    for index in 0..=u32::from(m) {
        repository.put_shard(&context(who), &id, index, &shard(m, index)).unwrap();
    }
    id
}

#[derive(Debug, Clone)]
enum Step {
    Begin(u8, u8),
    Put { who: u8, m: u8, index: u32, flip: bool },
    Finish(u8, u8),
    Discard(u8, u8),
    Activate(u8, u8),
    Deprecate(u8, u8),
    Upgrade,
}

fn step() -> impl Strategy<Value = Step> {
    let who =
        || prop_oneof![3 => Just(UPLOADER), 2 => Just(ADMIN), 1 => Just(OTHER_UPLOADER), 1 => Just(STRANGER)];
    let m = || 0u8..3;
    prop_oneof![
        2 => (who(), m()).prop_map(|(who, m)| Step::Begin(who, m)),
        6 => (who(), m(), 0u32..4, prop::bool::weighted(0.2))
            .prop_map(|(who, m, index, flip)| Step::Put { who, m, index, flip }),
        2 => (who(), m()).prop_map(|(who, m)| Step::Finish(who, m)),
        1 => (who(), m()).prop_map(|(who, m)| Step::Discard(who, m)),
        2 => (who(), m()).prop_map(|(who, m)| Step::Activate(who, m)),
        1 => (who(), m()).prop_map(|(who, m)| Step::Deprecate(who, m)),
        1 => Just(Step::Upgrade),
    ]
}

/// What the repository should know about a model.
#[derive(Debug, Clone)]
struct Expected {
    uploader: u8,
    status: ModelStatus,
    stored: BTreeSet<u32>,
    validated: bool,
}

#[derive(Debug, Default)]
struct Reference(BTreeMap<u8, Expected>);

impl Reference {
    /// Applies a step; returns whether it is allowed.
    fn apply(&mut self, step: &Step) -> bool {
        let uploads = |who: u8| who != STRANGER;
        match *step {
            Step::Begin(who, m) => {
                let new = Expected {
                    uploader: who,
                    status: ModelStatus::Pending,
                    stored: BTreeSet::new(),
                    validated: false,
                };
                let there = self.0.get(&m).cloned();
                let own = there
                    .as_ref()
                    .is_none_or(|it| it.uploader == who || who == ADMIN || it.status != ModelStatus::Pending);
                if uploads(who) && there.is_none() {
                    self.0.insert(m, new);
                }
                uploads(who) && own
            }
            Step::Put { who, m, index, flip } => {
                let Some(it) = self.0.get_mut(&m) else { return false };
                let right = (it.uploader == who || who == ADMIN) && index <= u32::from(m) && !flip;
                if !right {
                    return false;
                }
                let again = it.stored.contains(&index);
                if it.status == ModelStatus::Pending {
                    it.stored.insert(index);
                }
                again || it.status == ModelStatus::Pending
            }
            Step::Finish(who, m) => {
                let Some(it) = self.0.get_mut(&m) else { return false };
                let ok = (it.uploader == who || who == ADMIN) && it.stored.len() == usize::from(m) + 1;
                it.validated |= ok;
                ok
            }
            Step::Discard(who, m) => {
                let ok = self.0.get(&m).is_some_and(|it| {
                    (it.uploader == who || who == ADMIN) && it.status == ModelStatus::Pending
                });
                if ok {
                    self.0.remove(&m);
                }
                ok
            }
            Step::Activate(who, m) => {
                let Some(it) = self.0.get_mut(&m) else { return false };
                let ok =
                    (who == ADMIN || who == it.uploader) && it.validated && it.status == ModelStatus::Pending;
                // An uploader's own proposal waits for an admin.
                if ok && who == ADMIN {
                    it.status = ModelStatus::Active;
                }
                ok
            }
            Step::Deprecate(who, m) => {
                let Some(it) = self.0.get_mut(&m) else { return false };
                let ok = who == ADMIN && it.status == ModelStatus::Active;
                if ok {
                    it.status = ModelStatus::Deprecated;
                }
                ok
            }
            Step::Upgrade => true,
        }
    }
}

fn apply(repository: &mut Repository, step: &Step) -> bool {
    let id = |m: u8| Digest::of(&[m]);
    match *step {
        Step::Begin(who, m) => begin(repository, who, m).is_ok(),
        Step::Put { who, m, index, flip } => {
            let mut bytes = shard(m, index);
            bytes[30] ^= u8::from(flip);
            repository.put_shard(&context(who), &id(m), index, &bytes).is_ok()
        }
        Step::Finish(who, m) => {
            let finished = repository.finish_upload(&context(who), &id(m)).is_ok();
            conclude(repository, &id(m));
            finished
        }
        Step::Discard(who, m) => repository.discard_upload(&context(who), &id(m)).is_ok(),
        Step::Activate(who, m) => {
            repository.propose(&context(who), ProposalAction::Activate { model_id: id(m) }).is_ok()
        }
        Step::Deprecate(who, m) => {
            let action = ProposalAction::Deprecate { model_id: id(m), reason: "old".to_owned() };
            repository.propose(&context(who), action).is_ok()
        }
        Step::Upgrade => true,
    }
}

fn check(repository: &Repository, reference: &Reference) -> Result<(), TestCaseError> {
    prop_assert_eq!(repository.models(), reference.0.len() as u64);
    let mut reserved = 0;
    for (&m, expected) in &reference.0 {
        let id = Digest::of(&[m]);
        let record = repository.get_model(&context(ADMIN), &id).unwrap();
        prop_assert_eq!(record.status, expected.status);
        prop_assert_eq!(record.missing as usize, usize::from(m) + 1 - expected.stored.len());
        prop_assert_eq!(matches!(record.validation, Validation::Passed { .. }), expected.validated);
        prop_assert_eq!(repository.get_manifest(&context(ADMIN), &id).unwrap(), manifest(m));
        reserved += record.bytes + record.manifest_bytes;
        for who in [ADMIN, expected.uploader, STRANGER] {
            for index in 0..=u32::from(m) {
                let served = get_shard(repository, who, &id, index);
                let may = match expected.status {
                    ModelStatus::Pending => who != STRANGER && expected.stored.contains(&index),
                    ModelStatus::Active => true,
                    ModelStatus::Deprecated => false,
                };
                prop_assert_eq!(served.is_ok(), may, "shard {} of {} for {}", index, m, who);
                if let Ok(bytes) = served {
                    prop_assert_eq!(bytes, shard(m, index));
                }
            }
        }
        let missing = MissingShardsArgs { model_id: id, after: None, limit: 100 };
        let missing = repository.missing_shards(&context(ADMIN), &missing).unwrap().indices;
        let gaps: Vec<u32> = (0..=u32::from(m)).filter(|i| !expected.stored.contains(i)).collect();
        prop_assert_eq!(missing, gaps);
    }
    prop_assert_eq!(repository.reserved_bytes(), reserved);
    prop_assert!(repository.extents.end() >= reserved);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn repository_behaves_like_its_reference(steps in prop::collection::vec(step(), 1..80)) {
        let (memory, mut repository) = installed();
        let mut reference = Reference::default();
        for step in &steps {
            let entries = repository.audit().len();
            let models = reference.0.len();
            let allowed = reference.apply(step);
            prop_assert_eq!(apply(&mut repository, step), allowed, "{:?}", step);
            prop_assert!(allowed || repository.audit().len() == entries, "a refused call leaves no trace");
            prop_assert!(models == reference.0.len() || repository.audit().len() == entries + 1);
            if matches!(step, Step::Upgrade) {
                repository = Repository::open(Memories::of(memory.clone()));
            }
            check(&repository, &reference)?;
        }
        // What is certified does not depend on how it came about.
        prop_assert_eq!(Repository::open(Memories::of(memory)).tree().root(), repository.tree().root());
        let mut last = None;
        for index in 0..repository.audit().len() {
            let args = AuditLogArgs { after: index.checked_sub(1), limit: 1 };
            let entry = repository.audit().list(&args).entries.remove(0);
            prop_assert!(entry.follows(last.as_ref()));
            last = Some(entry);
        }
        prop_assert_eq!(repository.audit().head().hash, last.unwrap().hash);
    }
}

#[test]
fn refusals_name_their_reason() {
    let (_, mut repository) = installed();
    let id = begin(&mut repository, UPLOADER, 2).unwrap().model_id;
    let put = |repository: &mut Repository, index, bytes: &[u8]| {
        repository.put_shard(&context(UPLOADER), &id, index, bytes).unwrap_err()
    };
    let right = shard(2, 0);
    let mut flipped = right.clone();
    *flipped.last_mut().unwrap() ^= 1;
    assert_eq!(
        put(&mut repository, 0, &flipped),
        ModelError::WrongShardHash { index: 0, expected: Digest::of(&right), actual: Digest::of(&flipped) }
    );
    assert_eq!(
        put(&mut repository, 0, &right[1..]),
        ModelError::WrongShardLength {
            index: 0,
            expected: right.len() as u64,
            actual: right.len() as u64 - 1
        }
    );
    assert_eq!(put(&mut repository, 3, &right), ModelError::ShardOutOfRange { index: 3, shards: 3 });
    assert_eq!(
        repository.finish_upload(&context(UPLOADER), &id).unwrap_err(),
        ModelError::Incomplete { missing: 3 }
    );
    let activate = ProposalAction::Activate { model_id: id };
    assert_eq!(repository.propose(&context(ADMIN), activate).unwrap_err(), ModelError::NotValidated);
    assert_eq!(
        repository.get_manifest(&context(STRANGER), &id).unwrap_err(),
        ModelError::WrongStatus { status: ModelStatus::Pending, operation: ModelOperation::Serve }
    );
    let unknown = Digest::of(b"unknown");
    assert_eq!(
        repository.get_model(&context(ADMIN), &unknown).unwrap_err(),
        ModelError::UnknownModel { model_id: unknown }
    );
}

#[test]
fn a_shard_with_a_foreign_header_is_refused() {
    let (_, mut repository) = installed();
    let wrong = shard(0, 7);
    let mut facts = facts(0);
    facts.shards[0] = ShardFacts { bytes: wrong.len() as u64, sha256: Digest::of(&wrong) };
    let id = repository.begin_checked_upload(&context(UPLOADER), b"{}", &facts).unwrap().model_id;
    let refused = repository.put_shard(&context(UPLOADER), &id, 0, &wrong).unwrap_err();
    assert!(matches!(refused, ModelError::WrongShardHeader { index: 0, .. }), "{refused}");
}

#[test]
fn limits_hold() {
    let (_, mut repository) = installed();
    let mut begin = |shards: Vec<ShardFacts>| {
        let facts = ManifestFacts { shards, ..facts(0) };
        repository.begin_checked_upload(&context(UPLOADER), b"{}", &facts).unwrap_err()
    };
    let shard = |bytes| ShardFacts { bytes, sha256: Digest::ZERO };
    let field = |error| match error {
        ModelError::InvalidManifest(error) => error.field,
        other => panic!("{other}"),
    };
    assert_eq!(field(begin(vec![])), "shards");
    assert_eq!(field(begin(vec![shard(1), shard(MAX_SHARD_BYTES + 1)])), "shards[1].length");
    let over = Policy::default().uploader_quota_bytes / MAX_SHARD_BYTES + 1;
    assert!(matches!(
        begin(vec![shard(MAX_SHARD_BYTES); over as usize]),
        ModelError::QuotaExceeded { used: 0, .. }
    ));
    assert_eq!(field(begin(vec![shard(1); MAX_SHARDS as usize + 1])), "shards");
}

#[test]
fn ranges_of_a_shard_are_checked() {
    let (_, mut repository) = installed();
    let id = upload(&mut repository, UPLOADER, 0);
    let whole = shard(0, 0);
    let chunk = |offset, length| -> Result<Vec<u8>, ModelError> {
        let args = GetShardChunkArgs { model_id: id, index: 0, offset, length };
        let range = repository.chunk_range(&context(UPLOADER), &args)?;
        let mut bytes = vec![0; range.length as usize];
        repository.read_range(range, 0, &mut bytes);
        Ok(bytes)
    };
    let len = whole.len() as u64;
    assert_eq!(chunk(24, len - 24).unwrap(), &whole[24..]);
    assert_eq!(chunk(len, 0).unwrap(), b"");
    for (offset, length) in [(0, len + 1), (len + 1, 0), (u64::MAX, 2), (1, u64::MAX)] {
        assert!(matches!(chunk(offset, length), Err(ModelError::InvalidField(_))), "{offset}+{length}");
    }
}

#[test]
fn the_catalogue_is_paged() {
    let (_, mut repository) = installed();
    for m in 0..3 {
        let id = upload(&mut repository, UPLOADER, m);
        repository.finish_upload(&context(UPLOADER), &id).unwrap();
        conclude(&mut repository, &id);
        if m > 0 {
            repository.propose(&context(ADMIN), ProposalAction::Activate { model_id: id }).unwrap();
        }
    }
    let list = |who, status| {
        let mut ids = Vec::new();
        let mut after = None;
        loop {
            let page = repository
                .list_models(&context(who), &ListModelsArgs { status, filter: None, after, limit: 1 });
            ids.extend(page.models.iter().map(|record| record.model_id));
            after = page.next;
            if after.is_none() {
                return ids.len();
            }
        }
    };
    assert_eq!(list(UPLOADER, None), 3);
    assert_eq!(list(STRANGER, None), 2);
    assert_eq!(list(STRANGER, Some(ModelStatus::Pending)), 0);
    assert_eq!(list(OTHER_UPLOADER, Some(ModelStatus::Active)), 2);
}

fn active(repository: &mut Repository, m: u8) -> ModelId {
    let id = upload(repository, UPLOADER, m);
    repository.finish_upload(&context(UPLOADER), &id).unwrap();
    conclude(repository, &id);
    let proposal = repository.propose(&context(ADMIN), ProposalAction::Activate { model_id: id }).unwrap();
    assert!(matches!(proposal.state, ProposalState::Executed { .. }));
    id
}

const DAY_NS: u64 = 86_400_000_000_000;

#[test]
fn uploads_that_nobody_works_on_are_collected_and_no_others() {
    let (_, mut repository) = installed();
    let served = active(&mut repository, 0);
    let proposed = upload(&mut repository, UPLOADER, 1);
    repository.finish_upload(&context(UPLOADER), &proposed).unwrap();
    conclude(&mut repository, &proposed);
    repository.propose(&context(UPLOADER), ProposalAction::Activate { model_id: proposed }).unwrap();
    let abandoned = begin(&mut repository, OTHER_UPLOADER, 2).unwrap().model_id;

    let mut after = None;
    let at = |now_ns| CallContext { caller: principal(9), now_ns };
    assert_eq!(repository.collect_abandoned(&at(6 * DAY_NS), &mut after), None);
    // Work on it begins its time anew.
    repository
        .put_shard(
            &CallContext { now_ns: 6 * DAY_NS, ..context(OTHER_UPLOADER) },
            &abandoned,
            0,
            &shard(2, 0),
        )
        .unwrap();
    assert_eq!(repository.collect_abandoned(&at(8 * DAY_NS), &mut after), None);
    assert_eq!(repository.collect_abandoned(&at(14 * DAY_NS), &mut after), Some(abandoned));
    assert_eq!(repository.collect_abandoned(&at(14 * DAY_NS), &mut after), None);
    assert_eq!(repository.usage_of(&context(OTHER_UPLOADER)).used_bytes, 0);
    assert_eq!(get_shard(&repository, STRANGER, &served, 0).unwrap(), shard(0, 0));
    // Once its proposal has expired, an upload is one like any other.
    repository.expire_proposals(&at(30 * DAY_NS));
    assert_eq!(repository.collect_abandoned(&at(30 * DAY_NS), &mut after), Some(proposed));
    assert_eq!((repository.models(), repository.pending.len()), (1, 0));
    begin(&mut repository, OTHER_UPLOADER, 2).unwrap();
}

#[test]
fn latest_is_the_greatest_active_version_and_versions_only_rise() {
    let (_, mut repository) = installed();
    let mut publish = |m: u8, version: &str| {
        let facts = ManifestFacts { name: "tales".to_owned(), version: version.to_owned(), ..facts(m) };
        let id = repository.begin_checked_upload(&context(UPLOADER), &manifest(m), &facts).unwrap().model_id;
        for index in 0..=u32::from(m) {
            repository.put_shard(&context(UPLOADER), &id, index, &shard(m, index)).unwrap();
        }
        repository.finish_upload(&context(UPLOADER), &id).unwrap();
        conclude(&mut repository, &id);
        repository.propose(&context(ADMIN), ProposalAction::Activate { model_id: id }).map(|_| id)
    };
    let first = publish(0, "1.9.0").unwrap();
    let second = publish(1, "1.10.0").unwrap();
    let refused = publish(2, "1.9.5").unwrap_err();
    let (version, latest) = ("1.9.5".to_owned(), "1.10.0".to_owned());
    assert_eq!(refused, ModelError::VersionNotGreater { version, latest });
    assert_eq!(repository.latest_of("tales").unwrap().model_id, second);
    let withdraw = |model_id| ProposalAction::Deprecate { model_id, reason: "old".to_owned() };
    repository.propose(&context(ADMIN), withdraw(second)).unwrap();
    assert_eq!(repository.latest_of("tales").unwrap().model_id, first);
    repository.propose(&context(ADMIN), withdraw(first)).unwrap();
    let name = "tales".to_owned();
    assert_eq!(repository.latest_of("tales").unwrap_err(), ModelError::UnknownName { name });
}

#[test]
fn quotas_and_the_number_of_uploads_are_bounded() {
    let (_, mut repository) = installed();
    let bytes = facts(1).shards.iter().map(|shard| shard.bytes).sum::<u64>() + manifest(1).len() as u64;
    let quota = |bytes| ProposalAction::SetQuota { uploader: principal(UPLOADER), bytes };
    repository.propose(&context(ADMIN), quota(Some(bytes - 1))).unwrap();
    let refused = begin(&mut repository, UPLOADER, 1).unwrap_err();
    assert_eq!(refused, ModelError::QuotaExceeded { used: 0, requested: bytes, quota: bytes - 1 });
    repository.propose(&context(ADMIN), quota(None)).unwrap();
    begin(&mut repository, UPLOADER, 1).unwrap();
    let mut begin_more = |who: u8, number: u8| {
        let facts = ManifestFacts { model_id: Digest::of(&[number, 1]), ..facts(0) };
        repository.begin_checked_upload(&context(who), b"{}", &facts)
    };
    for number in 1..64 {
        begin_more(UPLOADER, number).unwrap();
    }
    let what = "open uploads".to_owned();
    assert_eq!(begin_more(UPLOADER, 64).unwrap_err(), ModelError::TooMany { what, limit: 64 });
    begin_more(OTHER_UPLOADER, 64).unwrap();
}

/// What a newer version of the code has stored: fields and events that this one does not know.
#[test]
fn what_a_newer_version_stored_survives_this_one() {
    use ciborium::Value;

    let (memory, mut repository) = installed();
    let id = active(&mut repository, 0);
    let mut value = Value::serialized(&repository.entry(&id).unwrap().into_inner()).unwrap();
    let Value::Map(fields) = &mut value else { panic!("a record is a map") };
    let Some((_, Value::Map(record))) = fields.iter_mut().find(|(name, _)| *name == Value::from("record"))
    else {
        panic!("an entry has a record")
    };
    record.push((Value::from("novelty"), Value::from(7)));
    fields.push((Value::from("rank"), Value::from("high")));
    drop(repository);
    // The same memory, seen as maps of plain values.
    let memories = Memories::of(memory.clone());
    let mut models: StableBTreeMap<IdKey, Cbor<Value>, Memory> = StableBTreeMap::init(memories.models);
    models.insert(*id.as_bytes(), Cbor(value));
    drop(models);

    let mut repository = Repository::open(Memories::of(memory.clone()));
    let deprecate = ProposalAction::Deprecate { model_id: id, reason: "old".to_owned() };
    repository.propose(&context(ADMIN), deprecate).unwrap();
    assert_eq!(repository.get_model(&context(STRANGER), &id).unwrap().status, ModelStatus::Deprecated);
    drop(repository);
    let models: StableBTreeMap<IdKey, Cbor<Value>, Memory> =
        StableBTreeMap::init(Memories::of(memory).models);
    let text = format!("{:?}", models.get(id.as_bytes()).unwrap().0);
    assert!(text.contains("novelty") && text.contains("rank") && text.contains("Deprecated"), "{text}");
}
