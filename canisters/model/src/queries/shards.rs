//! Shards, read by agents (as inter-canister calls) and by people (as queries).

use serde_bytes::ByteBuf;
use shared_types::model::{GetShardArgs, GetShardChunkArgs, ModelError};

use crate::guards::CallContext;
use crate::state;

/// A whole shard file.
///
/// # Errors
/// See [`crate::repository::Repository::get_shard`].
pub fn get_shard(args: &GetShardArgs) -> Result<ByteBuf, ModelError> {
    let context = CallContext::of_message();
    state::read(|repository| repository.get_shard(&context, &args.model_id, args.index)).map(ByteBuf::from)
}

/// A part of a shard file.
///
/// # Errors
/// See [`crate::repository::Repository::get_shard_chunk`].
pub fn get_shard_chunk(args: &GetShardChunkArgs) -> Result<ByteBuf, ModelError> {
    state::read(|repository| repository.get_shard_chunk(&CallContext::of_message(), args)).map(ByteBuf::from)
}
