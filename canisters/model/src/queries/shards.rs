//! Shards, read by agents (as inter-canister calls) and by people (as queries). Their bytes go from stable memory to the reply
//! through a buffer of one page: no copy of a shard is ever made on the heap.

use candid::{CandidType, Encode};
use serde_bytes::ByteBuf;
use shared_types::model::{GetShardArgs, GetShardChunkArgs, ModelError};

use crate::catalogue::StoredRange;
use crate::guards::CallContext;
use crate::state;

/// Bytes that are copied at a time: a Wasm page, so that few pages are touched.
const BUFFER_BYTES: usize = 65_536;

/// A whole shard file.
pub fn get_shard(args: &GetShardArgs) {
    let context = CallContext::of_message();
    reply(state::read(|repository| repository.shard_range(&context, &args.model_id, args.index)));
}

/// A part of a shard file.
pub fn get_shard_chunk(args: &GetShardChunkArgs) {
    reply(state::read(|repository| repository.chunk_range(&CallContext::of_message(), args)));
}

/// What precedes the bytes of a `variant { Ok : blob; Err : … }` in Candid, their number excluded.
fn head() -> Vec<u8> {
    /// What is served: every decoder of the method's type reads this one too.
    #[derive(CandidType)]
    enum Served {
        Ok(ByteBuf),
    }
    let mut head = Encode!(&Served::Ok(ByteBuf::new())).expect("an empty blob is always encodable");
    // The number of bytes, which is 0.
    head.pop();
    head
}

/// Unsigned LEB128.
fn push_leb128(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

fn reply(range: Result<StoredRange, ModelError>) {
    let range = match range {
        Ok(range) => range,
        Err(error) => {
            let refusal: Result<ByteBuf, ModelError> = Err(error);
            return ic_cdk::api::msg_reply(Encode!(&refusal).expect("an error is always encodable"));
        }
    };
    let mut head = head();
    push_leb128(&mut head, range.length);
    ic0::msg_reply_data_append(&head);
    let mut buffer = vec![0; BUFFER_BYTES.min(range.length as usize)];
    let mut at = 0;
    state::read(|repository| {
        while at < range.length {
            let now = buffer.len().min((range.length - at) as usize);
            repository.read_range(range, at, &mut buffer[..now]);
            ic0::msg_reply_data_append(&buffer[..now]);
            at += now as u64;
        }
    });
    ic0::msg_reply();
}

#[cfg(test)]
mod tests {
    use super::*;
    use candid::Decode;

    #[test]
    fn what_is_written_by_hand_is_what_candid_reads() {
        for length in [0usize, 1, 127, 128, 16_384, 100_000] {
            let bytes: Vec<u8> = (0..length).map(|i| i as u8).collect();
            let mut reply = head();
            push_leb128(&mut reply, length as u64);
            reply.extend_from_slice(&bytes);
            let read = Decode!(&reply, Result<ByteBuf, ModelError>).unwrap().unwrap();
            assert_eq!(read.into_vec(), bytes);
        }
    }
}
