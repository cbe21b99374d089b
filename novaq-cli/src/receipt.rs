//! Receipts of agents as files: what a job was asked and what it produced, the proof that the agent certifies it, and the
//! computation again.

use std::path::Path;

use anyhow::Context;
use candid::Principal;
use novaq_engine::artifact::LoadedModel;
use novaq_engine::chat::Message;
use novaq_engine::model::Budget;
use novaq_engine::text::{TextEvent, TextGeneration};
use serde::{Deserialize, Serialize};
use shared_types::Digest;
use shared_types::agent::{ChatMessage, FinishReason};
use shared_types::receipt::{HEAD_LABEL, Outcome, RECEIPT_LABEL, Receipt, hash_prompt, hash_tokens};

use crate::certification::CertifiedTree;

/// What the field `format` says.
const FORMAT: &str = "ohms-receipt-1";

/// A receipt with everything that a replay needs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReceiptFile {
    /// [`FORMAT`].
    format: String,
    /// The receipt.
    pub receipt: Receipt,
    /// Its hash.
    pub hash: Digest,
    /// The text that the job went on from; empty where there are `messages`.
    pub prompt: String,
    /// The conversation that the job answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub messages: Option<Vec<ChatMessage>>,
    /// Ids of the generated tokens.
    pub tokens: Vec<u32>,
    /// The generated text.
    pub text: String,
    /// The proof that the agent certifies the receipt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proof: Option<Proof>,
}

/// The proof that an agent certifies a receipt, each part in hexadecimal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Proof {
    /// The Internet Computer's certificate of the agent's certified data, in CBOR.
    #[serde(with = "hex::serde")]
    pub certificate: Vec<u8>,
    /// Hash tree in CBOR whose root the certified data is.
    #[serde(with = "hex::serde")]
    pub witness: Vec<u8>,
    /// Public key of the network that signed the certificate, in DER.
    #[serde(with = "hex::serde")]
    pub root_key: Vec<u8>,
}

/// Why a file is not what an agent certifies.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReceiptError {
    /// The file is of another version.
    #[error("`format` is `{0}`, not `{FORMAT}`")]
    Format(String),
    /// Something in the file is not what the receipt names.
    #[error("`{field}` is not what the receipt says: its hash is {found}, the receipt's {expected}")]
    Hash {
        /// The field of the file.
        field: &'static str,
        /// The hash of what is there.
        found: Digest,
        /// The hash that the receipt names.
        expected: Digest,
    },
    /// A number is not what the receipt says.
    #[error("`{field}` has {found}, the receipt says {expected}")]
    Count {
        /// The field of the file.
        field: &'static str,
        /// What is there.
        found: usize,
        /// What the receipt says.
        expected: u32,
    },
    /// The proof proves something else.
    #[error("`proof.{field}`: {reason}")]
    Proof {
        /// The part of the proof.
        field: &'static str,
        /// What is wrong with it.
        reason: String,
    },
}

/// What a replay found.
#[derive(Debug, PartialEq, Eq)]
pub enum Replay {
    /// Every token, the text and the reason of the end are those of the receipt.
    Equal,
    /// A token differs, or one run has ended before the other.
    Token {
        /// Position among the generated tokens, from 0.
        position: usize,
        /// What the receipt has there.
        receipt: Option<u32>,
        /// What was computed.
        computed: Option<u32>,
    },
    /// All tokens are equal, but the text or the reason of the end is not.
    End {
        /// What differs.
        what: &'static str,
    },
}

impl ReceiptFile {
    /// A file of a receipt and what it names.
    pub fn new(
        receipt: Receipt,
        prompt: String,
        messages: Option<Vec<ChatMessage>>,
        tokens: Vec<u32>,
        text: String,
        proof: Option<Proof>,
    ) -> Self {
        let hash = receipt.hash();
        Self { format: FORMAT.to_owned(), receipt, hash, prompt, messages, tokens, text, proof }
    }

    /// Reads a file.
    ///
    /// # Errors
    /// If it can't be read or is no receipt.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read(path).with_context(|| format!("`{}` cannot be read", path.display()))?;
        serde_json::from_slice(&text).with_context(|| format!("`{}` is not a receipt", path.display()))
    }

    /// Checks that prompt, tokens and text are those of the receipt, and that the proof proves it.
    ///
    /// # Errors
    /// Names the field that something else belongs to.
    pub fn check(&self) -> Result<(), ReceiptError> {
        if self.format != FORMAT {
            return Err(ReceiptError::Format(self.format.clone()));
        }
        let receipt = &self.receipt;
        let prompt = hash_prompt(&self.prompt, self.messages.as_deref());
        let hashes = [
            ("receipt", receipt.hash(), self.hash),
            ("prompt", prompt, receipt.prompt_sha256),
            ("tokens", hash_tokens(self.tokens.iter().copied()), receipt.tokens_sha256),
            ("text", Digest::of(self.text.as_bytes()), receipt.text_sha256),
        ];
        for (field, found, expected) in hashes {
            if found != expected {
                return Err(ReceiptError::Hash { field, found, expected });
            }
        }
        if self.tokens.len() != receipt.tokens as usize {
            return Err(ReceiptError::Count {
                field: "tokens",
                found: self.tokens.len(),
                expected: receipt.tokens,
            });
        }
        self.proof.as_ref().map_or(Ok(()), |proof| proof.check(receipt.agent, receipt.sequence, self.hash))
    }

    /// Computes the tokens again and compares them.
    ///
    /// # Errors
    /// If the prompt does not have the receipt's tokens, or the engine refuses it.
    pub fn replay(&self, loaded: &LoadedModel) -> anyhow::Result<Replay> {
        let receipt = &self.receipt;
        // A job that ended before its prompt was read has nothing to compute.
        let Some(expected) = receipt.prompt_tokens_sha256 else { return Ok(Replay::Equal) };
        let prompt = self.prompt_tokens(loaded)?;
        let found = hash_tokens(prompt.iter().copied());
        if found != expected {
            Err(ReceiptError::Hash { field: "prompt's tokens", found, expected })?;
        }
        if prompt.len() != receipt.prompt_tokens as usize {
            let (found, expected) = (prompt.len(), receipt.prompt_tokens);
            Err(ReceiptError::Count { field: "prompt's tokens", found, expected })?;
        }
        let end = match &receipt.outcome {
            Outcome::Done { reason } if reason.is_deterministic() => Some(*reason),
            _ => None,
        };
        let stop = receipt.params.stop.clone().unwrap_or_default();
        let mut text = TextGeneration::new(loaded, receipt.params.request(loaded, prompt)?, &stop)?;
        let mut position = 0;
        loop {
            // What was cut short is compared as far as it goes.
            if end.is_none() && position == self.tokens.len() {
                return Ok(Replay::Equal);
            }
            let there = self.tokens.get(position).copied();
            let computed = match text.advance(loaded, &mut Budget::unlimited())? {
                TextEvent::Token(token, _) => Some(token),
                TextEvent::Paused => continue,
                TextEvent::Finished(_) => None,
            };
            if computed != there {
                return Ok(Replay::Token { position, receipt: there, computed });
            }
            if computed.is_none() {
                break;
            }
            position += 1;
        }
        Ok(if text.finished().map(FinishReason::from) != end {
            Replay::End { what: "the reason of the end" }
        } else if text.text() != self.text {
            Replay::End { what: "the text" }
        } else {
            Replay::Equal
        })
    }

    fn prompt_tokens(&self, loaded: &LoadedModel) -> anyhow::Result<Vec<u32>> {
        let LoadedModel { model, tokenizer, .. } = loaded;
        Ok(match &self.messages {
            None => tokenizer.encode_prompt(&self.prompt, model.config().bos_token_id)?,
            Some(messages) => {
                let messages: Vec<Message> = messages.iter().cloned().map(Message::from).collect();
                loaded.encode_messages(&messages)?
            }
        })
    }
}

impl Proof {
    /// Checks that `agent` certifies the receipt with this number and hash.
    ///
    /// # Errors
    /// Names the part that proves something else.
    pub fn check(&self, agent: Principal, sequence: u64, hash: Digest) -> Result<(), ReceiptError> {
        let error = |field, reason: String| ReceiptError::Proof { field, reason };
        // A receipt is checked whenever its owner likes: the age of the certificate does not matter.
        let tree = CertifiedTree::new(agent, &self.root_key, &self.certificate, &self.witness)
            .map_err(|e| error(e.field, e.reason))?;
        let path = [RECEIPT_LABEL.as_bytes(), &sequence.to_be_bytes()];
        let Some(certified) = tree.get(&path) else {
            return Err(error("witness", format!("it says nothing of receipt {sequence}")));
        };
        if certified != hash.as_bytes() {
            return Err(error("witness", format!("it certifies another hash: {}", hex::encode(certified))));
        }
        if tree.get(&[HEAD_LABEL.as_bytes()]).is_none() {
            return Err(error("witness", "it says nothing of the head of the chain".to_owned()));
        }
        Ok(())
    }
}
