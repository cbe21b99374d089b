//! Random operations on a site against an obvious model of it.

use std::collections::BTreeMap;

use ic_stable_structures::DefaultMemoryImpl;
use proptest::prelude::*;
use shared_types::ui::{ContentEncoding, FileVariant, INDEX_PATH};

use super::*;

/// Bytes of a chunk in these tests.
const CHUNK: u64 = 8;
const ADMIN: u8 = 1;
const PREPARERS: [u8; 2] = [2, 3];
/// May prepare and commit, though not the same batch.
const BOTH: u8 = 3;
// 4 alone is the anonymous principal.
const COMMITTER: u8 = 5;
const STRANGER: u8 = 6;

fn principal(who: u8) -> Principal {
    Principal::from_slice(&[who])
}

fn context(who: u8) -> CallContext {
    CallContext { caller: principal(who), now_ns: 1_000 }
}

fn grant(who: u8, role: UiRole) -> UiRoleGrant {
    UiRoleGrant { principal: principal(who), role }
}

fn installed() -> (DefaultMemoryImpl, Site) {
    let memory = DefaultMemoryImpl::default();
    let mut site = Site::open(Memories::of(memory.clone()), CHUNK);
    let roles = [
        grant(ADMIN, UiRole::Admin),
        grant(PREPARERS[0], UiRole::Prepare),
        grant(PREPARERS[1], UiRole::Prepare),
        grant(BOTH, UiRole::Commit),
        grant(COMMITTER, UiRole::Commit),
    ];
    site.install(roles.into(), SiteConfig::default()).unwrap();
    (memory, site)
}

/// Content `c`: `5 c + 1` bytes.
fn content(c: u8) -> Vec<u8> {
    vec![c; usize::from(c) * 5 + 1]
}

fn variant(encoding: ContentEncoding, bytes: &[u8]) -> FileVariant {
    FileVariant { encoding, sha256: Digest::of(bytes), bytes: bytes.len() as u64 }
}

/// A site with content `contents[0]` at the index and the others beside it.
fn files(contents: &[u8]) -> Vec<SiteFile> {
    let path = |at| if at == 0 { INDEX_PATH.to_owned() } else { format!("/assets/{at}.js") };
    let files = contents.iter().enumerate().map(|(at, c)| SiteFile {
        path: path(at),
        content_type: "text/javascript".to_owned(),
        immutable: at > 0,
        variants: vec![variant(ContentEncoding::Identity, &content(*c))],
    });
    files.collect()
}

fn put(
    site: &mut Site,
    who: u8,
    batch_id: u64,
    chunk: ChunkKey,
    bytes: &[u8],
) -> Result<BatchState, UiError> {
    site.put_chunk(&context(who), &PutChunkArgs { batch_id, chunk, bytes: bytes.to_vec().into() })
}

/// Sends all that is missing of a batch.
fn send(site: &mut Site, who: u8, batch_id: u64) {
    let known: BTreeMap<Digest, Vec<u8>> = (0..8).map(|c| (Digest::of(&content(c)), content(c))).collect();
    let args = MissingChunksArgs { batch_id, after: None, limit: 100 };
    for chunk in site.missing_chunks(&context(who), &args).unwrap().chunks {
        let start = chunk.index as usize * CHUNK as usize;
        let bytes = &known[&chunk.sha256][start..];
        put(site, who, batch_id, chunk, &bytes[..bytes.len().min(CHUNK as usize)]).unwrap();
    }
}

fn commit(site: &mut Site, who: u8, batch_id: u64, hash: Digest) -> Result<Publication, UiError> {
    site.commit(&context(who), &CommitBatchArgs { batch_id, hash })
}

#[derive(Debug, Clone)]
enum Step {
    Begin(u8, Vec<u8>),
    Send(u64),
    Propose(u8, u64),
    Commit(u8, u64),
    Discard(u8, u64),
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    let who = 1u8..=STRANGER;
    let batch = 0u64..12;
    prop_oneof![
        3 => (who.clone(), prop::collection::vec(0u8..8, 1..4)).prop_map(|(w, c)| Step::Begin(w, c)),
        3 => batch.clone().prop_map(Step::Send),
        3 => (who.clone(), batch.clone()).prop_map(|(w, b)| Step::Propose(w, b)),
        3 => (who.clone(), batch.clone()).prop_map(|(w, b)| Step::Commit(w, b)),
        1 => (who, batch).prop_map(|(w, b)| Step::Discard(w, b)),
        1 => Just(Step::Reopen),
    ]
}

/// A batch as the model sees it.
struct Expected {
    preparer: u8,
    contents: Vec<u8>,
    sent: bool,
    proposed: bool,
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn only_whole_batches_of_two_principals_are_published(steps in prop::collection::vec(step(), 0..60)) {
        let (memory, mut site) = installed();
        let mut batches: BTreeMap<u64, Expected> = BTreeMap::new();
        let (mut published, mut next, mut number) = (Vec::new(), 0, 0);
        for step in steps {
            match step {
                Step::Begin(who, contents) => {
                    let result = site.begin_batch(&context(who), files(&contents));
                    if !PREPARERS.contains(&who) {
                        prop_assert_eq!(result, Err(UiError::Unauthorized { required: UiRole::Prepare }));
                    } else if batches.len() as u64 == MAX_BATCHES {
                        prop_assert_eq!(result, Err(UiError::TooManyBatches { batches: MAX_BATCHES }));
                    } else {
                        prop_assert_eq!(result.unwrap().batch_id, next);
                        batches.insert(next, Expected { preparer: who, contents, sent: false, proposed: false });
                        next += 1;
                    }
                }
                Step::Send(id) => if let Some(batch) = batches.get_mut(&id) {
                    send(&mut site, batch.preparer, id);
                    batch.sent = true;
                },
                Step::Propose(who, id) => {
                    let whole = site.batches().iter().any(|b| b.batch_id == id && b.missing_chunks == 0);
                    let result = site.propose(&context(who), id);
                    let expected = batches.get_mut(&id).filter(|batch| batch.preparer == who && whole);
                    prop_assert_eq!(result.is_ok(), expected.is_some());
                    if let Some(batch) = expected {
                        batch.proposed = true;
                    }
                }
                Step::Commit(who, id) => {
                    let hash = batches.get(&id).map_or(Digest::ZERO, |batch| site_hash(&files(&batch.contents)));
                    let result = commit(&mut site, who, id, hash);
                    let may = [BOTH, COMMITTER].contains(&who);
                    let allowed = batches.get(&id).is_some_and(|b| may && b.proposed && b.preparer != who);
                    prop_assert_eq!(result.is_ok(), allowed);
                    if allowed {
                        published = batches.remove(&id).unwrap().contents;
                        number += 1;
                    }
                }
                Step::Discard(who, id) => {
                    let result = site.discard_batch(&context(who), id);
                    let may = [ADMIN, BOTH, COMMITTER].contains(&who);
                    let allowed = batches.get(&id).is_some_and(|batch| may || batch.preparer == who);
                    prop_assert_eq!(result.is_ok(), allowed);
                    if allowed {
                        batches.remove(&id);
                    }
                }
                Step::Reopen => site = Site::open(Memories::of(memory.clone()), CHUNK),
            }
            let expected = if published.is_empty() { Vec::new() } else { files(&published) };
            prop_assert!(site.files().iter().all(|file| expected.contains(file)));
            prop_assert_eq!(site.files().len(), expected.len());
            prop_assert_eq!(site.publication().map_or(0, |publication| publication.number), number);
            // Everything published can be read, and nothing is kept that nobody needs.
            let mut needed: BTreeSet<u8> = published.iter().copied().collect();
            for c in &needed {
                prop_assert_eq!(site.content(&Digest::of(&content(*c))), Some(content(*c)));
            }
            needed.extend(batches.values().flat_map(|batch| batch.contents.iter().copied()));
            prop_assert_eq!(site.stored_bytes(), needed.iter().map(|c| content(*c).len() as u64).sum::<u64>());
            for (id, batch) in &batches {
                if batch.sent {
                    prop_assert!(site.batches().iter().any(|b| b.batch_id == *id && b.missing_chunks == 0));
                }
            }
        }
    }
}

#[test]
fn chunks_are_checked() {
    let (_, mut site) = installed();
    let bytes = content(3);
    let batch_id = site.begin_batch(&context(2), files(&[3])).unwrap().batch_id;
    let sha256 = Digest::of(&bytes);
    let chunk = |index| ChunkKey { sha256, index };
    let short = UiError::WrongChunkLength { chunk: chunk(1), expected: 8, actual: 7 };
    assert_eq!(put(&mut site, 2, batch_id, chunk(1), &bytes[..7]), Err(short));
    let unknown = UiError::UnknownChunk { batch_id, chunk: chunk(2) };
    assert_eq!(put(&mut site, 2, batch_id, chunk(2), &[]), Err(unknown));
    let other = ChunkKey { sha256: Digest::ZERO, index: 0 };
    assert!(matches!(put(&mut site, 2, batch_id, other, &[]), Err(UiError::UnknownChunk { .. })));
    assert_eq!(put(&mut site, 3, batch_id, chunk(0), &bytes[..8]), Err(UiError::NotPreparer { batch_id }));

    let wrong = [9; 8];
    assert_eq!(put(&mut site, 2, batch_id, chunk(0), &wrong).unwrap().missing_chunks, 1);
    let result = put(&mut site, 2, batch_id, chunk(1), &bytes[8..]);
    assert!(matches!(result, Err(UiError::WrongFileHash { expected, .. }) if expected == sha256));
    assert_eq!(site.propose(&context(2), batch_id), Err(UiError::Incomplete { batch_id, missing_chunks: 2 }));
    send(&mut site, 2, batch_id);
    let hash = site.propose(&context(2), batch_id).unwrap().hash;
    let expected = Digest::ZERO;
    assert_eq!(
        commit(&mut site, COMMITTER, batch_id, expected),
        Err(UiError::WrongBatchHash { batch_id, expected, actual: hash })
    );
    commit(&mut site, COMMITTER, batch_id, hash).unwrap();
    assert_eq!(site.content(&sha256), Some(bytes));
}

#[test]
fn who_prepared_does_not_commit() {
    let (_, mut site) = installed();
    let batch_id = site.begin_batch(&context(BOTH), files(&[1])).unwrap().batch_id;
    send(&mut site, BOTH, batch_id);
    let hash = site.propose(&context(BOTH), batch_id).unwrap().hash;
    assert_eq!(commit(&mut site, BOTH, batch_id, hash), Err(UiError::SamePrincipal { batch_id }));
    assert!(commit(&mut site, COMMITTER, batch_id, hash).is_ok());
}

#[test]
fn old_batches_make_room() {
    let (_, mut site) = installed();
    for _ in 0..MAX_BATCHES {
        site.begin_batch(&context(2), files(&[1])).unwrap();
    }
    let later = CallContext { now_ns: 1_001 + BATCH_LIFETIME_NS, ..context(2) };
    site.begin_batch(&later, files(&[2])).unwrap();
    assert_eq!(site.batches().len(), 1);
    assert_eq!(site.stored_bytes(), content(2).len() as u64);
}

#[test]
fn files_that_break_a_rule_are_named() {
    let (_, mut site) = installed();
    let mut field = |change: &dyn Fn(&mut Vec<SiteFile>)| {
        let mut files = files(&[1, 2]);
        change(&mut files);
        match site.begin_batch(&context(2), files) {
            Err(UiError::InvalidField(error)) => error.field,
            other => panic!("{other:?}"),
        }
    };
    for path in ["", "a.js", "/a//b", "/../a", "/a b", "/ä", "/a/"] {
        assert_eq!(field(&|files| files[1].path = path.to_owned()), "files.path", "{path}");
    }
    assert_eq!(field(&|files| files[1].path = INDEX_PATH.to_owned()), "files.path");
    assert_eq!(field(&|files| files[0].path = "/other.html".to_owned()), "files");
    assert_eq!(field(&|files| files[1].content_type = "text/html\r\nx: y".to_owned()), "files.content_type");
    assert_eq!(field(&|files| files[1].variants.clear()), "files.variants");
    assert_eq!(field(&|files| files[1].variants[0].bytes = 0), "files.variants.bytes");
    assert_eq!(
        field(&|files| files[1].variants[0].sha256 = files[0].variants[0].sha256),
        "files.variants.bytes"
    );
    let twice = |files: &mut Vec<SiteFile>| {
        let again = files[1].variants[0].clone();
        files[1].variants.push(again);
    };
    assert_eq!(field(&twice), "files.variants");
    // A file that has the name of another one's variant.
    let taken = |files: &mut Vec<SiteFile>| {
        files[0].variants.push(variant(ContentEncoding::Gzip, b"gz"));
        files[1].path = "/index.html.gz".to_owned();
    };
    assert_eq!(field(&taken), "files.path");
}

#[test]
fn configurations_that_break_a_rule_are_named() {
    let (_, mut site) = installed();
    let variable =
        |name: &str, value: &str| shared_types::ui::SiteVariable { name: name.into(), value: value.into() };
    let good = SiteConfig {
        variables: vec![variable("PUBLIC_CANISTER_ID:model", "aaaaa-aa")],
        connect_origins: vec!["http://localhost:4943".into()],
    };
    site.configure(&context(ADMIN), good.clone()).unwrap();
    assert_eq!(site.config(), &good);
    let refused = site.configure(&context(COMMITTER), SiteConfig::default());
    assert_eq!(refused, Err(UiError::Unauthorized { required: UiRole::Admin }));
    let mut field = |change: &dyn Fn(&mut SiteConfig)| {
        let mut config = good.clone();
        change(&mut config);
        match site.configure(&context(ADMIN), config) {
            Err(UiError::InvalidField(error)) => error.field,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(field(&|c| c.variables[0].name = "SECRET".into()), "config.variables.name");
    assert_eq!(field(&|c| c.variables.push(c.variables[0].clone())), "config.variables.name");
    assert_eq!(field(&|c| c.variables[0].value = "a&b".into()), "config.variables.value");
    for origin in ["*", "http://", "https://a; script-src *", "ftp://a"] {
        assert_eq!(field(&|c| c.connect_origins[0] = origin.into()), "config.connect_origins", "{origin}");
    }
}

#[test]
fn the_last_admin_stays() {
    let (_, mut site) = installed();
    let last = grant(ADMIN, UiRole::Admin);
    assert_eq!(site.revoke_role(&context(ADMIN), last), Err(UiError::LastAdmin));
    site.grant_role(&context(ADMIN), grant(COMMITTER, UiRole::Admin)).unwrap();
    site.revoke_role(&context(ADMIN), last).unwrap();
    assert!(!site.roles().has(principal(ADMIN), UiRole::Admin));
    let again = site.grant_role(&context(ADMIN), last);
    assert_eq!(again, Err(UiError::Unauthorized { required: UiRole::Admin }));
}
