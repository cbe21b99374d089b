//! Receipts of an agent: what a job computed, in a form that can be checked and computed again.
//!
//! # The chain
//! Each job that ends gets the next receipt. It names the hash of the one before, so the last one stands for all of
//! them. The agent keeps a bounded number of receipts and certifies their hashes and the head of the chain:
//! its certified data is the root of a hash tree (of the Internet Computer's interface specification) with
//! - `/head`: the last sequence number (8 bytes, big-endian) and the hash of that receipt (32 bytes);
//! - `/receipt/<sequence number, 8 bytes, big-endian>`: the hash of that receipt, for each one that is kept.
//!
//! # The hash
//! [`Receipt::hash`] is the representation-independent hash of the interface specification, of the fields by the names
//! that they have here: a record's hash is the SHA-256 of the concatenated pairs `SHA-256(name) ‖ hash(value)`, sorted. A
//! text, a blob, a principal or a digest hashes as its bytes; a whole number in LEB128 (signed if it is negative),
//! true and false as 1 and 0; a list as the concatenated hashes of its elements; a variant as its name if it carries
//! nothing, otherwise as a record of that one field. A float hashes as the 8 bytes (big-endian) of its value in double
//! precision. Fields that are absent, and lists and records that are empty, take no part: optional fields that a later
//! version adds leave the hashes of earlier receipts as they are.

use candid::{CandidType, Principal};
use ciborium::Value;
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;
use sha2::{Digest as _, Sha256};

use crate::agent::{ChatMessage, FinishReason, GenerationParams, JobFailure, JobId};
use crate::digest::{Digest, ModelId};

/// Receipts that an agent keeps; beyond, the oldest is removed. The head of the chain is always kept.
pub const MAX_RECEIPTS: u64 = 1_024;

/// Label of the chain's head in the certified hash tree.
pub const HEAD_LABEL: &str = "head";

/// Label of the kept receipts in the certified hash tree.
pub const RECEIPT_LABEL: &str = "receipt";

/// How a job ended.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It generated all it was to generate.
    Done {
        /// Why generation ended.
        reason: FinishReason,
    },
    /// It failed, after the tokens of the receipt.
    Failed {
        /// Why.
        reason: JobFailure,
    },
    /// It was cancelled, after the tokens of the receipt.
    Cancelled,
}

/// What a job computed.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Receipt {
    /// Its place in the agent's chain, from 1.
    pub sequence: u64,
    /// Hash of the receipt before it; zero for the first.
    pub previous: Digest,
    /// The agent's canister.
    pub agent: Principal,
    /// The job.
    pub job_id: JobId,
    /// Who submitted it.
    pub caller: Principal,
    /// The model.
    pub model_id: ModelId,
    /// Version of the engine.
    pub engine_version: String,
    /// [`hash_prompt`] of what the job went on from.
    pub prompt_sha256: Digest,
    /// [`hash_tokens`] of the prompt's tokens; absent if the job ended before its first slice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt_tokens_sha256: Option<Digest>,
    /// Tokens of the prompt.
    pub prompt_tokens: u32,
    /// How tokens were chosen, with the seed.
    pub params: GenerationParams,
    /// [`hash_tokens`] of the generated tokens.
    pub tokens_sha256: Digest,
    /// Tokens generated.
    pub tokens: u32,
    /// SHA-256 of the generated text.
    pub text_sha256: Digest,
    /// How the job ended.
    pub outcome: Outcome,
    /// Instructions of the job's slices.
    pub instructions: u64,
    /// Sequence number of the receipt whose answer was given again, without computing it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repeats: Option<u64>,
    /// When the job was submitted, in nanoseconds since 1970.
    pub submitted_at_ns: u64,
    /// When its first slice began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at_ns: Option<u64>,
    /// When it ended.
    pub finished_at_ns: u64,
}

impl Receipt {
    /// The hash that the next receipt names and the agent certifies; see the module.
    pub fn hash(&self) -> Digest {
        hash_of(self)
    }
}

/// SHA-256 of token ids: 4 bytes each, little-endian.
pub fn hash_tokens(tokens: impl IntoIterator<Item = u32>) -> Digest {
    let mut hasher = Sha256::new();
    for token in tokens {
        hasher.update(token.to_le_bytes());
    }
    Digest::new(hasher.finalize().into())
}

/// SHA-256 of a text to continue; of a conversation to answer, the representation-independent hash of its messages.
pub fn hash_prompt(prompt: &str, messages: Option<&[ChatMessage]>) -> Digest {
    messages.map_or_else(|| Digest::of(prompt.as_bytes()), |messages| hash_of(&messages))
}

/// The representation-independent hash of a record; see the module.
pub fn hash_of<T: Serialize>(value: &T) -> Digest {
    // Records of plain data always have a value: only maps with foreign serializers fail.
    let value = Value::serialized(value).unwrap_or(Value::Null);
    Digest::new(hash_value(&value))
}

fn hash_value(value: &Value) -> [u8; 32] {
    match value {
        Value::Integer(number) => {
            let mut bytes = Vec::new();
            leb128(i128::from(*number), &mut bytes);
            Sha256::digest(bytes).into()
        }
        Value::Bytes(bytes) => Sha256::digest(bytes).into(),
        Value::Text(text) => Sha256::digest(text).into(),
        Value::Float(number) => Sha256::digest(number.to_be_bytes()).into(),
        Value::Bool(value) => Sha256::digest([u8::from(*value)]).into(),
        Value::Array(elements) => {
            let mut hasher = Sha256::new();
            for element in elements {
                hasher.update(hash_value(element));
            }
            hasher.finalize().into()
        }
        Value::Map(fields) => {
            let present = fields.iter().filter(|(_, value)| !is_absent(value));
            let mut pairs: Vec<_> =
                present.map(|(name, value)| (hash_value(name), hash_value(value))).collect();
            pairs.sort_unstable();
            let mut hasher = Sha256::new();
            for (name, value) in pairs {
                hasher.update(name);
                hasher.update(value);
            }
            hasher.finalize().into()
        }
        Value::Tag(_, value) => hash_value(value),
        // `Null`, which only a list can hold here, and what later versions of the crate may add.
        _ => Sha256::digest([]).into(),
    }
}

fn is_absent(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(elements) => elements.is_empty(),
        Value::Map(fields) => fields.is_empty(),
        _ => false,
    }
}

/// Unsigned LEB128 of a number from 0, signed LEB128 of a negative one.
fn leb128(mut number: i128, bytes: &mut Vec<u8>) {
    let negative = number < 0;
    loop {
        let low = (number & 0x7f) as u8;
        number >>= 7;
        let last = if negative { number == -1 && low & 0x40 != 0 } else { number == 0 };
        if last {
            bytes.push(low);
            return;
        }
        bytes.push(low | 0x80);
    }
}

/// Argument of `get_receipt`.
#[derive(CandidType, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReceiptKey {
    /// The receipt with this number.
    Sequence(u64),
    /// The receipt of this job.
    Job(JobId),
}

/// Result of `get_receipt`: a receipt, and the proof that the agent certifies it.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct CertifiedReceipt {
    /// The receipt.
    pub receipt: Receipt,
    /// Its hash.
    pub hash: Digest,
    /// The Internet Computer's certificate of the agent's certified data; absent when the method is not called as a query.
    pub certificate: Option<ByteBuf>,
    /// Hash tree in CBOR whose root the certified data is, pruned to the chain's head and this receipt.
    pub witness: ByteBuf,
}

/// Page request of `list_receipts`.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct ListReceiptsArgs {
    /// The last receipt of the page before.
    pub after: Option<u64>,
    /// Most receipts to return; see [`crate::paging::MAX_PAGE`].
    pub limit: u32,
}

/// Page of `list_receipts`, oldest first.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct ReceiptPage {
    /// The receipts.
    pub receipts: Vec<Receipt>,
    /// `after` of the next page.
    pub next: Option<u64>,
    /// The head of the chain.
    pub head: ReceiptHead,
}

/// The last receipt of a chain.
#[derive(CandidType, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReceiptHead {
    /// Its number; 0 when there is none.
    pub sequence: u64,
    /// Its hash; zero when there is none.
    pub hash: Digest,
}

impl ReceiptHead {
    /// The head of an empty chain.
    pub const EMPTY: Self = Self { sequence: 0, hash: Digest::ZERO };

    /// The bytes of the leaf `/head`.
    pub fn to_bytes(self) -> Vec<u8> {
        [&self.sequence.to_be_bytes()[..], self.hash.as_bytes()].concat()
    }
}

impl Default for ReceiptHead {
    fn default() -> Self {
        Self::EMPTY
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn receipt() -> Receipt {
        Receipt {
            sequence: 7,
            previous: Digest::of(b"before"),
            agent: Principal::from_slice(&[1; 10]),
            job_id: 9,
            caller: Principal::from_slice(&[2; 29]),
            model_id: Digest::of(b"model"),
            engine_version: "0.1.0".to_owned(),
            prompt_sha256: Digest::of(b"Once"),
            prompt_tokens_sha256: Some(hash_tokens([1, 2])),
            prompt_tokens: 2,
            params: GenerationParams { top_k: Some(40), seed: 3, ..GenerationParams::default() },
            tokens_sha256: hash_tokens([5, 6, 7]),
            tokens: 3,
            text_sha256: Digest::of(b" upon a time"),
            outcome: Outcome::Done { reason: FinishReason::MaxTokens },
            instructions: 1_000_000_007,
            repeats: Some(4),
            submitted_at_ns: 1_700_000_000_000_000_000,
            started_at_ns: Some(1_700_000_000_000_000_001),
            finished_at_ns: 1_700_000_000_000_000_002,
        }
    }

    /// The example of the interface specification, "Representation-independent hashing of structured data".
    #[test]
    fn the_hash_is_that_of_the_specification() {
        #[derive(Serialize)]
        #[allow(clippy::struct_field_names, reason = "the names are the specification's")]
        struct Request {
            request_type: &'static str,
            canister_id: ByteBuf,
            method_name: &'static str,
            arg: ByteBuf,
            nothing: Option<u8>,
        }
        let request = Request {
            request_type: "call",
            canister_id: ByteBuf::from([0, 0, 0, 0, 0, 0, 4, 0xD2]),
            method_name: "hello",
            arg: ByteBuf::from(*b"DIDL\x00\xFD*"),
            nothing: None,
        };
        let expected = "8781291c347db32a9d8c10eb62b710fce5a93be676474c42babc74c51858f94b";
        assert_eq!(hash_of(&request).to_string(), expected);
    }

    #[test]
    fn numbers_hash_in_leb128() {
        let bytes = |number| {
            let mut bytes = Vec::new();
            leb128(number, &mut bytes);
            bytes
        };
        assert_eq!(bytes(0), [0]);
        assert_eq!(bytes(127), [0x7f]);
        assert_eq!(bytes(624_485), [0xE5, 0x8E, 0x26]);
        assert_eq!(bytes(-123_456), [0xC0, 0xBB, 0x78]);
    }

    /// The hash of a receipt must never change: chains of it are certified.
    #[test]
    fn the_hash_of_a_receipt_is_fixed() {
        assert_eq!(
            receipt().hash().to_string(),
            "a3fc29055e97b54937a5401b1ff78c9b5d36b1e4e65428eb33fa8434944fe78f"
        );
    }

    #[test]
    fn absent_fields_and_empty_lists_take_no_part() {
        #[derive(Serialize)]
        struct Old {
            a: u32,
        }
        #[derive(Serialize)]
        struct New {
            a: u32,
            b: Option<String>,
            c: Vec<u32>,
            d: BTreeMap<u32, f32>,
        }
        assert_eq!(hash_of(&Old { a: 3 }), hash_of(&New { a: 3, b: None, c: vec![], d: BTreeMap::new() }));
        assert_ne!(hash_of(&Old { a: 3 }), hash_of(&New { a: 3, b: None, c: vec![0], d: BTreeMap::new() }));
    }

    #[test]
    fn json_and_candid_keep_a_receipt() {
        let json = serde_json::to_string(&receipt()).unwrap();
        assert_eq!(serde_json::from_str::<Receipt>(&json).unwrap().hash(), receipt().hash());
        let bytes = candid::encode_one(receipt()).unwrap();
        assert_eq!(candid::decode_one::<Receipt>(&bytes).unwrap(), receipt());
    }

    proptest! {
        #[test]
        fn every_field_changes_the_hash(field: prop::sample::Index, random: u64) {
            let json = serde_json::to_value(receipt()).unwrap();
            let fields: Vec<_> = json.as_object().unwrap().keys().cloned().collect();
            let name = &fields[field.index(fields.len())];
            let mut changed = receipt();
            let digest = Digest::of(&random.to_be_bytes());
            match name.as_str() {
                "sequence" => changed.sequence ^= random,
                "previous" => changed.previous = digest,
                "agent" => changed.agent = Principal::from_slice(&random.to_be_bytes()),
                "job_id" => changed.job_id ^= random,
                "caller" => changed.caller = Principal::from_slice(&random.to_be_bytes()),
                "model_id" => changed.model_id = digest,
                "engine_version" => changed.engine_version = random.to_string(),
                "prompt_sha256" => changed.prompt_sha256 = digest,
                "prompt_tokens_sha256" => changed.prompt_tokens_sha256 = Some(digest).filter(|_| random % 2 == 0),
                "prompt_tokens" => changed.prompt_tokens ^= random as u32,
                "params" => changed.params.seed ^= random,
                "tokens_sha256" => changed.tokens_sha256 = digest,
                "tokens" => changed.tokens ^= random as u32,
                "text_sha256" => changed.text_sha256 = digest,
                "outcome" => changed.outcome = Outcome::Cancelled,
                "instructions" => changed.instructions ^= random,
                "repeats" => changed.repeats = Some(random).filter(|_| random % 2 == 0),
                "submitted_at_ns" => changed.submitted_at_ns ^= random,
                "started_at_ns" => changed.started_at_ns = Some(random).filter(|_| random % 2 == 0),
                "finished_at_ns" => changed.finished_at_ns ^= random,
                other => prop_assert!(false, "a field without a case: {other}"),
            }
            prop_assert_eq!(changed.hash() == receipt().hash(), changed == receipt());
        }
    }
}
