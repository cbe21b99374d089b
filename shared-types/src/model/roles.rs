//! Who may do what, and the keys that uploaders sign with.

use candid::{CandidType, Principal};
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

/// Most keys that one uploader may register.
pub const MAX_KEYS_PER_UPLOADER: u32 = 8;

/// What a principal may do in the repository.
#[derive(CandidType, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Votes as an admin does, and may stop any proposal alone, but for one that takes this role from itself.
    Owner,
    /// Proposes and votes, and whatever an uploader or an auditor may do.
    Admin,
    /// Begins uploads, works on its own Pending models and proposes their activation.
    Uploader,
    /// Reads Pending models of anybody, and may have any model validated again.
    Auditor,
}

/// A role and who has it.
#[derive(CandidType, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RoleGrant {
    /// Who has the role.
    pub principal: Principal,
    /// The role.
    pub role: Role,
}

/// Page request of `list_roles`.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct ListRolesArgs {
    /// The last grant of the page before.
    pub after: Option<RoleGrant>,
    /// Most grants to return; see [`crate::paging::MAX_PAGE`].
    pub limit: u32,
}

/// Page of `list_roles`, ordered by principal.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct RolePage {
    /// The grants.
    pub grants: Vec<RoleGrant>,
    /// `after` of the next page.
    pub next: Option<RoleGrant>,
}

/// Argument of `register_key`.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct RegisterKeyArgs {
    /// An ed25519 public key, 32 bytes.
    pub public_key: ByteBuf,
    /// Its signature of [`key_possession_message`], 64 bytes: nobody registers what is another's.
    pub possession: ByteBuf,
}

/// A key and whose it is.
#[derive(CandidType, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct RegisteredKey {
    /// An ed25519 public key, 32 bytes.
    pub public_key: ByteBuf,
    /// Whose signatures it makes.
    pub uploader: Principal,
}

/// What a key signs to be registered for `uploader` in `repository`. The ed25519 key of an uploader's own identity needs no
/// registration: its principal says so.
pub fn key_possession_message(repository: Principal, uploader: Principal) -> Vec<u8> {
    format!("ohms-key-1\n{repository}\n{uploader}\n").into_bytes()
}
