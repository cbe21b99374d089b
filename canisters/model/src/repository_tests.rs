//! Random operations on the repository against an obvious model of it.

use std::collections::{BTreeMap, BTreeSet};

use ic_stable_structures::DefaultMemoryImpl;
use novaq_engine::artifact::ShardHeader;
use proptest::prelude::*;
use shared_types::model::{AuditLogArgs, ListRolesArgs};

use super::*;
use crate::manifest::ShardFacts;

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
        shards: shards.map(|s| ShardFacts { bytes: s.len() as u64, sha256: Digest::of(&s) }).collect(),
    }
}

fn manifest(m: u8) -> Vec<u8> {
    vec![b'{', m, b'}']
}

fn installed() -> (DefaultMemoryImpl, Repository) {
    let memory = DefaultMemoryImpl::default();
    let mut repository = Repository::open(Memories::of(memory.clone()));
    repository.install(&context(ADMIN), vec![principal(ADMIN)]);
    for who in [UPLOADER, OTHER_UPLOADER] {
        let grant = RoleGrant { principal: principal(who), role: Role::Uploader };
        repository.grant_role(&context(ADMIN), grant).unwrap();
    }
    (memory, repository)
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
                let ok = who == ADMIN && it.validated && it.status == ModelStatus::Pending;
                if ok {
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
        Step::Finish(who, m) => repository.finish_upload(&context(who), &id(m)).is_ok(),
        Step::Discard(who, m) => repository.discard_upload(&context(who), &id(m)).is_ok(),
        Step::Activate(who, m) => repository.activate(&context(who), &id(m)).is_ok(),
        Step::Deprecate(who, m) => repository.deprecate(&context(who), &id(m), "old".to_owned()).is_ok(),
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
        prop_assert_eq!(record.validated_at_ns.is_some(), expected.validated);
        prop_assert_eq!(repository.get_manifest(&context(ADMIN), &id).unwrap(), manifest(m));
        reserved += record.bytes + record.manifest_bytes;
        for who in [ADMIN, expected.uploader, STRANGER] {
            for index in 0..=u32::from(m) {
                let served = repository.get_shard(&context(who), &id, index);
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
        let mut last = None;
        for index in 0..repository.audit().len() {
            let args = AuditLogArgs { after: index.checked_sub(1), limit: 1 };
            let entry = repository.audit().list(&args).entries.remove(0);
            prop_assert!(entry.follows(last.as_ref()));
            last = Some(entry);
        }
        prop_assert_eq!(repository.audit().head(), last.unwrap().hash);
    }

    #[test]
    fn an_admin_always_remains(steps in prop::collection::vec((0u8..5, 0u8..5, any::<bool>(), any::<bool>()), 0..60)) {
        let (_, mut repository) = installed();
        for (caller, who, admin, grant) in steps {
            let role = if admin { Role::Admin } else { Role::Uploader };
            let it = RoleGrant { principal: principal(who), role };
            let may = repository.roles().has(principal(caller), Role::Admin);
            let result = if grant {
                repository.grant_role(&context(caller), it)
            } else {
                repository.revoke_role(&context(caller), it)
            };
            let refused = result == Err(ModelError::Unauthorized { required: Role::Admin });
            prop_assert!(may || refused);
            let page = repository.roles().list(&ListRolesArgs { after: None, limit: 100 });
            prop_assert!(page.grants.iter().any(|grant| grant.role == Role::Admin));
        }
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
    assert_eq!(repository.activate(&context(ADMIN), &id).unwrap_err(), ModelError::NotValidated);
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
    let over = UPLOADER_QUOTA_BYTES / MAX_SHARD_BYTES + 1;
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
    let chunk = |offset, length| {
        let args = GetShardChunkArgs { model_id: id, index: 0, offset, length };
        repository.get_shard_chunk(&context(UPLOADER), &args)
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
        if m > 0 {
            repository.activate(&context(ADMIN), &id).unwrap();
        }
    }
    let list = |who, status| {
        let mut ids = Vec::new();
        let mut after = None;
        loop {
            let page = repository.list_models(&context(who), &ListModelsArgs { status, after, limit: 1 });
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
