//! The life of a model in the repository: `Pending → Active → Deprecated`, never back.

use candid::CandidType;
use serde::{Deserialize, Serialize};

/// Where a model stands. The order of the variants is the order of life.
#[derive(CandidType, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ModelStatus {
    /// Being uploaded or waiting for activation: seen by uploaders and admins only.
    Pending,
    /// Served to agents. Its manifest and shards can't change any more.
    Active,
    /// Withdrawn: its manifest stays readable, its shards are served to nobody.
    Deprecated,
}

/// An operation that depends on the status of a model.
#[derive(CandidType, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ModelOperation {
    /// Store a shard.
    PutShard,
    /// Declare the upload finished and have it validated.
    FinishUpload,
    /// Drop an upload and free its space.
    DiscardUpload,
    /// Make the model available to agents.
    Activate,
    /// Withdraw the model.
    Deprecate,
    /// Read the manifest or a shard as an agent does.
    Serve,
}

impl ModelStatus {
    /// Whether `operation` may run on a model of this status.
    pub fn allows(self, operation: ModelOperation) -> bool {
        match operation {
            ModelOperation::PutShard
            | ModelOperation::FinishUpload
            | ModelOperation::DiscardUpload
            | ModelOperation::Activate => self == Self::Pending,
            ModelOperation::Deprecate | ModelOperation::Serve => self == Self::Active,
        }
    }

    /// The status after `operation`, or `None` where it is not allowed.
    pub fn after(self, operation: ModelOperation) -> Option<Self> {
        self.allows(operation).then_some(match operation {
            ModelOperation::Activate => Self::Active,
            ModelOperation::Deprecate => Self::Deprecated,
            ModelOperation::PutShard
            | ModelOperation::FinishUpload
            | ModelOperation::DiscardUpload
            | ModelOperation::Serve => self,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const OPERATIONS: [ModelOperation; 6] = [
        ModelOperation::PutShard,
        ModelOperation::FinishUpload,
        ModelOperation::DiscardUpload,
        ModelOperation::Activate,
        ModelOperation::Deprecate,
        ModelOperation::Serve,
    ];

    proptest! {
        #[test]
        fn status_never_goes_back(steps in prop::collection::vec(0usize..6, 0..40)) {
            let mut status = ModelStatus::Pending;
            for step in steps {
                let operation = OPERATIONS[step];
                let next = status.after(operation);
                prop_assert_eq!(next.is_some(), status.allows(operation));
                if let Some(next) = next {
                    prop_assert!(next >= status);
                    prop_assert!(next as u8 <= status as u8 + 1, "no step skips a status");
                    status = next;
                }
                if status > ModelStatus::Pending {
                    prop_assert!(!status.allows(ModelOperation::PutShard));
                    prop_assert!(!status.allows(ModelOperation::DiscardUpload));
                }
            }
        }
    }
}
