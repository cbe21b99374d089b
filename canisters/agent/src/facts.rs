//! Facts: texts with vectors and an index of their words; see `shared_types::agent::memory`.
//!
//! The vectors lie one after the other in a region, so that a search reads them as one stretch: what it costs is their bytes. A fact
//! that is forgotten leaves its place to the last vector.

use std::cmp::{Ordering, Reverse};
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

use canister_common::cbor::Cbor;
use canister_common::region::Region;
use ic_stable_structures::{StableBTreeMap, StableCell};
use serde::{Deserialize, Serialize};
use shared_types::agent::AgentError;
use shared_types::agent::memory::{
    Fact, FactId, FactPage, FoundFact, ListFactsArgs, MAX_DIMENSIONS, MAX_FACT_BYTES, MAX_FACTS, MAX_FOUND,
    MAX_QUERY_WORDS, MAX_REMEMBERED, NewFact,
};
use shared_types::{Digest, FieldError, ModelId, paging};

use crate::memory::{FactMemories, Memory};

/// Facts with a word beyond which the word is left out of a search: it tells next to nothing, and reading where it is would take
/// more than a query may.
const COMMON_WORD: usize = 20_000;

/// Bytes of vectors that are read at a time.
const BLOCK_BYTES: usize = 256 << 10;

/// The parameters of BM25: how soon repetitions of a word saturate, and how much the length of a text counts.
const K1: f32 = 1.2;
const B: f32 = 0.75;

/// A fact as it is stored.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Stored {
    text: String,
    time_ns: u64,
    /// The place of its vector.
    place: Option<u32>,
    /// Its words.
    words: u32,
}

/// Sums over all facts.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Totals {
    /// The number given last.
    last: FactId,
    /// Vectors.
    pub vectors: u32,
    /// Their length.
    pub dimensions: u32,
    /// The model that made them.
    pub encoder: Option<ModelId>,
    /// Words of all facts.
    words: u64,
}

/// All facts.
pub struct Facts {
    by_id: StableBTreeMap<FactId, Cbor<Stored>, Memory>,
    /// The fact of each place.
    places: StableBTreeMap<u32, FactId, Memory>,
    vectors: Region<Memory>,
    /// How often a word is in a fact, by the word's hash and the fact, with the fact's number of words in the upper half.
    postings: StableBTreeMap<(u64, FactId), u32, Memory>,
    totals: StableCell<Cbor<Totals>, Memory>,
}

impl Facts {
    /// Opens what the memories hold.
    pub fn open(memories: FactMemories) -> Self {
        Self {
            by_id: StableBTreeMap::init(memories.facts),
            places: StableBTreeMap::init(memories.places),
            vectors: Region::new(memories.vectors),
            postings: StableBTreeMap::init(memories.postings),
            totals: StableCell::init(memories.totals, Cbor::default()),
        }
    }

    /// Facts.
    pub fn len(&self) -> u64 {
        self.by_id.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    /// Sums over all facts.
    pub fn totals(&self) -> Totals {
        self.totals.get().0
    }

    /// Remembers facts; all of them, or none.
    ///
    /// # Errors
    /// [`AgentError::InvalidField`], [`AgentError::MemoryFull`].
    pub fn remember(
        &mut self,
        facts: Vec<NewFact>,
        encoder: Option<ModelId>,
        now_ns: u64,
    ) -> Result<Vec<Fact>, AgentError> {
        self.check(&facts, encoder)?;
        let mut totals = self.totals();
        let vectors = facts.iter().filter_map(|fact| fact.vector.as_ref());
        if let Some(last) = vectors.clone().next_back() {
            // What can't be stored is known before anything is.
            let row = last.len() as u64 * 4;
            let end = (u64::from(totals.vectors) + vectors.count() as u64) * row;
            let room = self.vectors.write(end - 1, &[0]);
            room.map_err(|_| AgentError::MemoryFull { facts: self.len() })?;
        }
        let mut remembered = Vec::new();
        for fact in facts {
            totals.last += 1;
            let id = totals.last;
            let mut place = None;
            if let Some(vector) = &fact.vector {
                totals.dimensions = vector.len() as u32;
                totals.encoder = encoder;
                let bytes: Vec<u8> = vector.iter().flat_map(|x| x.to_le_bytes()).collect();
                let at = u64::from(totals.vectors) * bytes.len() as u64;
                self.vectors.write(at, &bytes).expect("there is room");
                self.places.insert(totals.vectors, id);
                place = Some(totals.vectors);
                totals.vectors += 1;
            }
            let counts = count_words(&fact.text);
            let words = counts.values().sum::<u32>();
            for (word, times) in counts {
                self.postings.insert((word, id), (words.min(0xffff) << 16) | times.min(0xffff));
            }
            totals.words += u64::from(words);
            remembered.push(Fact {
                id,
                text: fact.text.clone(),
                has_vector: place.is_some(),
                time_ns: now_ns,
            });
            self.by_id.insert(id, Cbor(Stored { text: fact.text, time_ns: now_ns, place, words }));
        }
        self.totals.set(Cbor(totals));
        Ok(remembered)
    }

    fn check(&self, facts: &[NewFact], encoder: Option<ModelId>) -> Result<(), AgentError> {
        let invalid =
            |field: String, reason: String| Err(AgentError::InvalidField(FieldError::new(field, reason)));
        if !(1..=MAX_REMEMBERED).contains(&facts.len()) {
            return invalid(
                "facts".to_owned(),
                format!("are {}, not within 1..={MAX_REMEMBERED}", facts.len()),
            );
        }
        if self.len() + facts.len() as u64 > MAX_FACTS {
            return Err(AgentError::MemoryFull { facts: self.len() });
        }
        let totals = self.totals();
        let mut dimensions = if totals.vectors > 0 { totals.dimensions as usize } else { 0 };
        for (index, fact) in facts.iter().enumerate() {
            FieldError::check_text(&format!("facts[{index}].text"), &fact.text, MAX_FACT_BYTES)?;
            let Some(vector) = &fact.vector else { continue };
            let field = format!("facts[{index}].vector");
            check_vector(&field, vector)?;
            if dimensions != 0 && vector.len() != dimensions {
                return invalid(field, format!("has {} numbers, the others have {dimensions}", vector.len()));
            }
            dimensions = vector.len();
            if totals.vectors > 0 && encoder != totals.encoder {
                let reason = "is another model than the one whose vectors are there".to_owned();
                return invalid("encoder".to_owned(), reason);
            }
            if encoder.is_none() {
                return invalid("encoder".to_owned(), "is missing: there are vectors".to_owned());
            }
        }
        Ok(())
    }

    /// Forgets a fact; one that is not there stays away. Returns whether it was there.
    pub fn forget(&mut self, id: FactId) -> bool {
        let Some(Cbor(stored)) = self.by_id.remove(&id) else { return false };
        for word in count_words(&stored.text).into_keys() {
            self.postings.remove(&(word, id));
        }
        let mut totals = self.totals();
        totals.words -= u64::from(stored.words);
        if let Some(place) = stored.place {
            totals.vectors -= 1;
            let last = totals.vectors;
            if place != last {
                let bytes = totals.dimensions as usize * 4;
                let mut vector = vec![0; bytes];
                let moved = self.places.get(&last);
                let read = self.vectors.read(u64::from(last) * bytes as u64, &mut vector);
                read.expect("the last vector was written");
                let written = self.vectors.write(u64::from(place) * bytes as u64, &vector);
                written.expect("the place is inside the region");
                if let Some((moved, Cbor(fact))) = moved.and_then(|id| Some((id, self.by_id.get(&id)?))) {
                    self.places.insert(place, moved);
                    self.by_id.insert(moved, Cbor(Stored { place: Some(place), ..fact }));
                }
            }
            self.places.remove(&last);
        }
        self.totals.set(Cbor(totals));
        true
    }

    /// Forgets everything. Numbers are not given again.
    pub fn clear(&mut self) {
        self.by_id.clear_new();
        self.places.clear_new();
        self.postings.clear_new();
        self.totals.set(Cbor(Totals { last: self.totals().last, ..Totals::default() }));
    }

    /// A page of the facts.
    pub fn list(&self, args: &ListFactsArgs) -> FactPage {
        let first = args.after.map_or(0, |after| after.saturating_add(1));
        let rest = self.by_id.range(first..).map(|entry| fact(*entry.key(), entry.value().0));
        let (facts, next) = paging::page(rest, args.limit, |fact| fact.id);
        FactPage { facts, next }
    }

    /// The facts whose vectors have the largest inner products with `query`, and how many were compared.
    ///
    /// # Errors
    /// [`AgentError::InvalidField`] for a vector of another length or model.
    pub fn nearest(
        &self,
        query: &[f32],
        encoder: Option<ModelId>,
        limit: u32,
    ) -> Result<(Vec<FoundFact>, u64), AgentError> {
        check_vector("vector", query)?;
        let totals = self.totals();
        if totals.vectors == 0 {
            return Ok((Vec::new(), 0));
        }
        if query.len() != totals.dimensions as usize {
            let reason = format!("has {} numbers, the facts' have {}", query.len(), totals.dimensions);
            return Err(AgentError::InvalidField(FieldError::new("vector", reason)));
        }
        if encoder != totals.encoder {
            let reason = "is another model than the one of the facts' vectors";
            return Err(AgentError::InvalidField(FieldError::new("encoder", reason)));
        }
        let row = query.len() * 4;
        let rows = (BLOCK_BYTES / row).max(1);
        let mut block = vec![0; rows * row];
        let mut best = Best::new(limit);
        for first in (0..totals.vectors).step_by(rows) {
            let rows = rows.min((totals.vectors - first) as usize);
            let block = &mut block[..rows * row];
            self.vectors.read(u64::from(first) * row as u64, block).expect("vectors are inside the region");
            for (at, vector) in block.chunks_exact(row).enumerate() {
                let score = inner_product(query, vector);
                if best.may_take(score) {
                    let id = self.places.get(&(first + at as u32)).unwrap_or_default();
                    best.take(score, id);
                }
            }
        }
        Ok((self.found(best), u64::from(totals.vectors)))
    }

    /// The facts that share words with `query`, scored by BM25, and how many were compared.
    pub fn with_words(&self, query: &str, limit: u32) -> (Vec<FoundFact>, u64) {
        let all = self.len() as f32;
        let average = (self.totals().words as f32 / all.max(1.0)).max(1.0);
        let mut scores: BTreeMap<FactId, f32> = BTreeMap::new();
        let words: BTreeSet<u64> = count_words(query).into_keys().take(MAX_QUERY_WORDS).collect();
        for word in words {
            let range = self.postings.range((word, 0)..=(word, FactId::MAX)).take(COMMON_WORD + 1);
            let postings: Vec<(FactId, u32)> = range.map(|entry| (entry.key().1, entry.value())).collect();
            if postings.len() > COMMON_WORD {
                continue;
            }
            let with = postings.len() as f32;
            let rarity = (1.0 + (all - with + 0.5) / (with + 0.5)).ln();
            for (id, packed) in postings {
                let (times, words) = ((packed & 0xffff) as f32, (packed >> 16) as f32);
                let saturated = times * (K1 + 1.0) / (times + K1 * (1.0 - B + B * words / average));
                *scores.entry(id).or_default() += rarity * saturated;
            }
        }
        let mut best = Best::new(limit);
        let compared = scores.len() as u64;
        for (id, score) in scores {
            if best.may_take(score) {
                best.take(score, id);
            }
        }
        (self.found(best), compared)
    }

    fn found(&self, best: Best) -> Vec<FoundFact> {
        let found = best.into_sorted().into_iter();
        let facts = found.filter_map(|(score, id)| Some((score, fact(id, self.by_id.get(&id)?.0))));
        facts.map(|(score, fact)| FoundFact { fact, score }).collect()
    }
}

fn fact(id: FactId, stored: Stored) -> Fact {
    Fact { id, text: stored.text, has_vector: stored.place.is_some(), time_ns: stored.time_ns }
}

fn check_vector(field: &str, vector: &[f32]) -> Result<(), FieldError> {
    if !(1..=MAX_DIMENSIONS).contains(&vector.len()) {
        let reason = format!("has {} numbers, not within 1..={MAX_DIMENSIONS}", vector.len());
        return Err(FieldError::new(field, reason));
    }
    if !vector.iter().all(|x| x.is_finite()) {
        return Err(FieldError::new(field, "has a number that is not finite"));
    }
    Ok(())
}

/// Words and how often each is in a text: what is between characters that are no letters and no digits, in lower case. A word is known
/// by the first 64 bits of its SHA-256.
fn count_words(text: &str) -> BTreeMap<u64, u32> {
    let mut counts = BTreeMap::new();
    for word in text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()) {
        let hash = Digest::of(word.to_lowercase().as_bytes());
        let hash: [u8; 8] = std::array::from_fn(|at| hash.as_bytes()[at]);
        *counts.entry(u64::from_be_bytes(hash)).or_default() += 1;
    }
    counts
}

/// The inner product of `a` and the vector in `bytes` (little-endian), in one fixed order: eight partial sums, each of every eighth
/// product, then their sum.
fn inner_product(a: &[f32], bytes: &[u8]) -> f32 {
    let mut sums = [0.0f32; 8];
    let (rows, rest) = a.as_chunks::<8>();
    let (packed, packed_rest) = bytes.as_chunks::<32>();
    for (a, b) in rows.iter().zip(packed) {
        let (b, _) = b.as_chunks::<4>();
        for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
            *sum += a * f32::from_le_bytes(*b);
        }
    }
    let (packed_rest, _) = packed_rest.as_chunks::<4>();
    for ((sum, a), b) in sums.iter_mut().zip(rest).zip(packed_rest) {
        *sum += a * f32::from_le_bytes(*b);
    }
    sums.iter().sum()
}

/// A score and a fact, ordered so that the better one is greater: of equals the older one.
#[derive(Clone, Copy, PartialEq)]
struct Scored(f32, Reverse<FactId>);

impl Eq for Scored {}

impl PartialOrd for Scored {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Scored {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.total_cmp(&other.0).then_with(|| self.1.cmp(&other.1))
    }
}

/// The best so far, the worst of them on top.
struct Best {
    most: usize,
    heap: BinaryHeap<Reverse<Scored>>,
}

impl Best {
    fn new(limit: u32) -> Self {
        Self { most: limit.clamp(1, MAX_FOUND) as usize, heap: BinaryHeap::new() }
    }

    /// Whether a score may be among the best.
    fn may_take(&self, score: f32) -> bool {
        self.heap.len() < self.most || self.heap.peek().is_some_and(|worst| score >= worst.0.0)
    }

    fn take(&mut self, score: f32, id: FactId) {
        self.heap.push(Reverse(Scored(score, Reverse(id))));
        if self.heap.len() > self.most {
            self.heap.pop();
        }
    }

    /// Best first.
    fn into_sorted(self) -> Vec<(f32, FactId)> {
        self.heap
            .into_sorted_vec()
            .into_iter()
            .map(|Reverse(Scored(score, Reverse(id)))| (score, id))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::Memories;
    use ic_stable_structures::DefaultMemoryImpl;
    use proptest::prelude::*;

    const WORDS: [&str; 6] = ["fox", "crow", "Tortoise", "race", "grapes", "the"];

    fn open(memory: &DefaultMemoryImpl) -> Facts {
        Facts::open(Memories::of(memory.clone()).facts)
    }

    const ENCODER: Option<ModelId> = Some(ModelId::ZERO);

    #[derive(Clone, Debug)]
    enum Operation {
        Remember { words: Vec<usize>, vector: Option<[i8; 11]> },
        Forget(u64),
        Search([i8; 11]),
        Words(Vec<usize>),
        Clear,
    }

    fn operation() -> impl Strategy<Value = Operation> {
        let words = || prop::collection::vec(0..WORDS.len(), 1..6);
        let vector = || prop::array::uniform::<_, 11>(-8i8..8);
        prop_oneof![
            6 => (words(), prop::option::weighted(0.8, vector()))
                .prop_map(|(words, vector)| Operation::Remember { words, vector }),
            2 => (1u64..30).prop_map(Operation::Forget),
            3 => vector().prop_map(Operation::Search),
            2 => words().prop_map(Operation::Words),
            1 => Just(Operation::Clear),
        ]
    }

    fn text(words: &[usize]) -> String {
        words.iter().map(|word| WORDS[*word]).collect::<Vec<_>>().join(", ")
    }

    fn floats(vector: [i8; 11]) -> Vec<f32> {
        vector.iter().map(|x| f32::from(*x)).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Against a list of facts that is searched by comparing each.
        #[test]
        fn facts_are_those_of_the_obvious_list(operations in prop::collection::vec(operation(), 1..60)) {
            let memory = DefaultMemoryImpl::default();
            let mut facts = open(&memory);
            let mut obvious: Vec<(u64, String, Option<[i8; 11]>)> = Vec::new();
            let mut last = 0;
            for operation in operations {
                match operation {
                    Operation::Remember { words, vector } => {
                        let new = NewFact { text: text(&words), vector: vector.map(floats) };
                        last += 1;
                        let remembered = facts.remember(vec![new], ENCODER, 5).unwrap();
                        prop_assert_eq!(remembered[0].id, last);
                        obvious.push((last, text(&words), vector));
                    }
                    Operation::Forget(id) => {
                        let before = obvious.len();
                        obvious.retain(|fact| fact.0 != id);
                        prop_assert_eq!(facts.forget(id), obvious.len() < before);
                    }
                    Operation::Search(query) => {
                        let product = |vector: [i8; 11]| -> i32 {
                            vector.iter().zip(query).map(|(a, b)| i32::from(*a) * i32::from(b)).sum()
                        };
                        // Integers of this size are exact in 32-bit floats.
                        let scored = obvious.iter().filter_map(|(id, _, vector)| Some((product((*vector)?), *id)));
                        let mut expected: Vec<(i32, u64)> = scored.collect();
                        expected.sort_by_key(|(score, id)| (Reverse(*score), *id));
                        let compared = expected.len() as u64;
                        expected.truncate(4);
                        let (found, of) = facts.nearest(&floats(query), ENCODER, 4).unwrap();
                        let found: Vec<(i32, u64)> =
                            found.iter().map(|found| (found.score as i32, found.fact.id)).collect();
                        prop_assert_eq!((found, of), (expected, compared));
                    }
                    Operation::Words(words) => {
                        let (found, _) = facts.with_words(&text(&words), 100);
                        let shares = |fact: &str| words.iter().any(|word| fact.contains(WORDS[*word]));
                        let expected: BTreeSet<u64> =
                            obvious.iter().filter(|fact| shares(&fact.1)).map(|fact| fact.0).collect();
                        let ids: BTreeSet<u64> = found.iter().map(|found| found.fact.id).collect();
                        prop_assert_eq!(ids, expected);
                        prop_assert!(found.windows(2).all(|pair| pair[0].score >= pair[1].score));
                    }
                    Operation::Clear => {
                        facts.clear();
                        obvious.clear();
                    }
                }
                facts = open(&memory);
                let listed = facts.list(&ListFactsArgs { after: None, limit: 100 }).facts;
                let listed: Vec<(u64, String, bool)> =
                    listed.into_iter().map(|fact| (fact.id, fact.text, fact.has_vector)).collect();
                let expected: Vec<_> =
                    obvious.iter().map(|(id, text, vector)| (*id, text.clone(), vector.is_some())).collect();
                prop_assert_eq!(listed, expected);
                prop_assert_eq!(facts.totals().vectors as usize, obvious.iter().filter(|f| f.2.is_some()).count());
            }
            facts.clear();
            prop_assert!(facts.is_empty() && facts.postings.is_empty() && facts.places.is_empty());
        }
    }

    #[test]
    fn rare_words_and_short_texts_count_more() {
        let mut facts = open(&DefaultMemoryImpl::default());
        let texts = [
            "the fox and the crow",
            "the race",
            "the tortoise wins the race against a hare that slept",
            "the",
        ];
        let new = texts.iter().map(|text| NewFact { text: (*text).to_owned(), vector: None }).collect();
        facts.remember(new, None, 0).unwrap();
        let ids =
            |query: &str| facts.with_words(query, 10).0.iter().map(|found| found.fact.id).collect::<Vec<_>>();
        assert_eq!(ids("Race?"), [2, 3]);
        assert_eq!(ids("the crow")[0], 1);
        assert!(ids("nothing of it").is_empty());
    }

    #[test]
    fn what_does_not_fit_is_refused_as_a_whole() {
        let mut facts = open(&DefaultMemoryImpl::default());
        let new = |vector: &[f32]| NewFact { text: "a".to_owned(), vector: Some(vector.to_vec()) };
        let field = |refused: Result<Vec<Fact>, AgentError>| match refused {
            Err(AgentError::InvalidField(error)) => error.field,
            other => panic!("{other:?}"),
        };
        assert_eq!(field(facts.remember(Vec::new(), ENCODER, 0)), "facts");
        assert_eq!(field(facts.remember(vec![new(&[1.0])], None, 0)), "encoder");
        assert_eq!(field(facts.remember(vec![new(&[1.0]), new(&[])], ENCODER, 0)), "facts[1].vector");
        assert_eq!(field(facts.remember(vec![new(&[1.0]), new(&[1.0, 2.0])], ENCODER, 0)), "facts[1].vector");
        assert_eq!(field(facts.remember(vec![new(&[f32::NAN])], ENCODER, 0)), "facts[0].vector");
        assert!(facts.is_empty());
        facts.remember(vec![new(&[1.0, 2.0])], ENCODER, 0).unwrap();
        assert_eq!(field(facts.remember(vec![new(&[1.0, 2.0])], Some(ModelId::of(b"other")), 0)), "encoder");
        assert!(facts.nearest(&[1.0], ENCODER, 1).is_err() && facts.nearest(&[1.0, 1.0], None, 1).is_err());
    }
}
