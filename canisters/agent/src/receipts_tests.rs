//! The chain and the hash tree.

use ic_certification::LookupResult;
use ic_stable_structures::DefaultMemoryImpl;
use shared_types::agent::{FinishReason, GenerationParams};
use shared_types::receipt::{Outcome, hash_tokens};

use super::*;
use crate::memory::Memories;

fn open(memory: &DefaultMemoryImpl) -> Receipts {
    Receipts::open(Memories::of(memory.clone()).jobs.receipts)
}

fn receipt(job_id: u64) -> Receipt {
    Receipt {
        sequence: 0,
        previous: Digest::ZERO,
        agent: Principal::anonymous(),
        job_id,
        caller: Principal::anonymous(),
        model_id: ModelId::ZERO,
        engine_version: "1".to_owned(),
        prompt_sha256: Digest::of(b"p"),
        prompt_tokens_sha256: None,
        prompt_tokens: 1,
        params: GenerationParams::default(),
        tokens_sha256: hash_tokens([1]),
        tokens: 1,
        text_sha256: Digest::of(b"t"),
        outcome: Outcome::Done { reason: FinishReason::MaxTokens },
        instructions: 5,
        repeats: None,
        submitted_at_ns: 1,
        started_at_ns: None,
        finished_at_ns: 2,
    }
}

#[test]
fn the_chain_links_and_stays_bounded_and_each_receipt_has_a_witness() {
    let memory = DefaultMemoryImpl::default();
    let mut receipts = open(&memory);
    let count = MAX_RECEIPTS + 3;
    for job_id in 1..=count {
        assert_eq!(receipts.append(receipt(job_id)), job_id);
    }
    // The tree's form follows from its history, so an upgrade, which builds it anew, certifies it anew.
    let mut receipts = open(&memory);
    assert_eq!(receipts.take_changed_root(), Some(receipts.root()));
    assert_eq!(receipts.get(3), Err(AgentError::UnknownReceipt { sequence: 3 }));
    let (last, hash) = receipts.get(count).unwrap();
    assert_eq!(receipts.head(), ReceiptHead { sequence: count, hash });
    assert_eq!(last.hash(), hash);
    for sequence in [4, 5, 700, count] {
        let (receipt, hash) = receipts.get(sequence).unwrap();
        if sequence > 4 {
            assert_eq!(receipt.previous, receipts.get(sequence - 1).unwrap().1);
        }
        let witness = receipts.witness(sequence);
        assert_eq!(witness.digest(), receipts.root());
        let path = [RECEIPT_LABEL.as_bytes(), &sequence.to_be_bytes()];
        assert_eq!(witness.lookup_path(path), LookupResult::Found(hash.as_bytes()));
        let head = receipts.head().to_bytes();
        assert_eq!(witness.lookup_path([HEAD_LABEL.as_bytes()]), LookupResult::Found(&head));
    }
    let gone = receipts.witness(3);
    assert_eq!(gone.digest(), receipts.root());
    assert_eq!(gone.lookup_path([RECEIPT_LABEL.as_bytes(), &3u64.to_be_bytes()]), LookupResult::Absent);
}

#[test]
fn a_new_root_is_certified_once() {
    let memory = DefaultMemoryImpl::default();
    let mut receipts = open(&memory);
    assert_eq!(receipts.take_changed_root(), Some(receipts.root()), "the empty chain is certified too");
    assert_eq!(receipts.take_changed_root(), None);
    receipts.append(receipt(1));
    assert!(receipts.take_changed_root().is_some());
}

#[test]
fn receipts_come_in_pages() {
    let mut receipts = open(&DefaultMemoryImpl::default());
    for job_id in 1..=7 {
        receipts.append(receipt(job_id));
    }
    let page = receipts.list(&ListReceiptsArgs { after: None, limit: 4 });
    assert_eq!((page.receipts.len(), page.next, page.head), (4, Some(4), receipts.head()));
    let rest = receipts.list(&ListReceiptsArgs { after: page.next, limit: 4 });
    assert_eq!((rest.receipts.len(), rest.next), (3, None));
}
