//! Methods that only read.

pub mod catalogue;
pub mod governance;
pub mod index;
pub mod operation;
pub mod shards;
pub mod uploads;

use ic_cdk::api::data_certificate;
use ic_certification::HashTree;
use serde_bytes::ByteBuf;
use shared_types::model::Proof;

/// What proves an answer, in a query; `None` in an update, whose answer is certified as a whole.
fn proof(witness: impl FnOnce() -> HashTree) -> Option<Proof> {
    let certificate = ByteBuf::from(data_certificate()?);
    let mut bytes = Vec::new();
    ciborium::into_writer(&witness(), &mut bytes).expect("a hash tree is always encodable");
    Some(Proof { certificate, witness: ByteBuf::from(bytes) })
}
