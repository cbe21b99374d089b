//! Who may do what, and which keys are whose.

use candid::Principal;
use ic_stable_structures::{Memory, StableBTreeMap};
use shared_types::model::{
    ListRolesArgs, MAX_GRANTS, MAX_KEYS_PER_UPLOADER, ModelError, Role, RoleGrant, RolePage,
};
use shared_types::paging;

/// The grants, ordered by principal, then role.
pub struct Roles<M: Memory>(StableBTreeMap<(Principal, u8), (), M>);

/// The stored number of a role. A number is never given to another role.
fn key(grant: RoleGrant) -> (Principal, u8) {
    let role = match grant.role {
        Role::Admin => 0,
        Role::Uploader => 1,
        Role::Owner => 2,
        Role::Auditor => 3,
    };
    (grant.principal, role)
}

/// The grant, unless a newer version of the code stored a role that this one does not know.
fn grant((principal, role): (Principal, u8)) -> Option<RoleGrant> {
    let role = match role {
        0 => Role::Admin,
        1 => Role::Uploader,
        2 => Role::Owner,
        3 => Role::Auditor,
        _ => return None,
    };
    Some(RoleGrant { principal, role })
}

impl<M: Memory> Roles<M> {
    /// Opens the grants that `memory` holds.
    pub fn init(memory: M) -> Self {
        Self(StableBTreeMap::init(memory))
    }

    fn granted(&self, principal: Principal, role: Role) -> bool {
        self.0.contains_key(&key(RoleGrant { principal, role }))
    }

    /// Whether `principal` votes on proposals: admins and owners do.
    pub fn votes(&self, principal: Principal) -> bool {
        self.granted(principal, Role::Admin) || self.granted(principal, Role::Owner)
    }

    /// Whether `principal` has `role`, granted or by another that includes it.
    pub fn has(&self, principal: Principal, role: Role) -> bool {
        self.granted(principal, role) || (role != Role::Owner && self.votes(principal))
    }

    /// Checks that `principal` has `required`.
    ///
    /// # Errors
    /// [`ModelError::Unauthorized`].
    pub fn require(&self, principal: Principal, required: Role) -> Result<(), ModelError> {
        if self.has(principal, required) { Ok(()) } else { Err(ModelError::Unauthorized { required }) }
    }

    /// Principals that vote.
    pub fn voters(&self) -> u32 {
        let mut last = None;
        let mut voters = 0;
        // Ordered by principal: both roles of one stand together.
        for (principal, role) in self.0.keys() {
            if matches!(role, 0 | 2) && last != Some(principal) {
                last = Some(principal);
                voters += 1;
            }
        }
        voters
    }

    /// Adds a grant; returns whether it is new.
    pub fn grant(&mut self, grant: RoleGrant) -> bool {
        self.0.insert(key(grant), ()).is_none()
    }

    /// Checks that a grant more is possible.
    ///
    /// # Errors
    /// [`ModelError::TooMany`].
    pub fn check_grant(&self, grant: RoleGrant) -> Result<(), ModelError> {
        if self.0.len() >= MAX_GRANTS && !self.granted(grant.principal, grant.role) {
            return Err(ModelError::TooMany { what: "grants of roles".to_owned(), limit: MAX_GRANTS });
        }
        Ok(())
    }

    /// Checks that taking a grant leaves `approvals` principals that vote.
    ///
    /// # Errors
    /// [`ModelError::LastAdmin`], [`ModelError::ThresholdOutOfReach`].
    pub fn check_revocation(&self, grant: RoleGrant, approvals: u32) -> Result<(), ModelError> {
        let other = match grant.role {
            Role::Owner => Role::Admin,
            Role::Admin => Role::Owner,
            Role::Uploader | Role::Auditor => return Ok(()),
        };
        let stays = self.granted(grant.principal, other) || !self.granted(grant.principal, grant.role);
        let voters = self.voters() - u32::from(!stays);
        match voters {
            0 => Err(ModelError::LastAdmin),
            voters if voters < approvals => Err(ModelError::ThresholdOutOfReach { approvals, voters }),
            _ => Ok(()),
        }
    }

    /// Removes a grant, which was checked; returns whether it was there.
    pub fn revoke(&mut self, grant: RoleGrant) -> bool {
        self.0.remove(&key(grant)).is_some()
    }

    /// A page of the grants.
    pub fn list(&self, args: &ListRolesArgs) -> RolePage {
        let from = args.after.map(key);
        let rest = self.0.keys().skip_while(|k| from.is_some_and(|from| *k <= from)).filter_map(grant);
        let (grants, next) = paging::page(rest, args.limit, |grant| *grant);
        RolePage { grants, next }
    }
}

/// Signing keys by their bytes.
pub struct Keys<M: Memory>(StableBTreeMap<[u8; 32], Principal, M>);

impl<M: Memory> Keys<M> {
    /// Opens the keys that `memory` holds.
    pub fn init(memory: M) -> Self {
        Self(StableBTreeMap::init(memory))
    }

    /// Whose signatures `key` makes.
    pub fn uploader(&self, key: &[u8; 32]) -> Option<Principal> {
        self.0.get(key)
    }

    /// Registers a key; returns whether it is new.
    ///
    /// # Errors
    /// [`ModelError::KeyTaken`], [`ModelError::TooMany`].
    pub fn register(&mut self, key: [u8; 32], uploader: Principal) -> Result<bool, ModelError> {
        match self.0.get(&key) {
            Some(other) if other == uploader => return Ok(false),
            Some(other) => return Err(ModelError::KeyTaken { uploader: other }),
            None => {}
        }
        let limit = u64::from(MAX_KEYS_PER_UPLOADER);
        if self.of(uploader).len() as u64 >= limit {
            return Err(ModelError::TooMany { what: "keys of an uploader".to_owned(), limit });
        }
        self.0.insert(key, uploader);
        Ok(true)
    }

    /// Takes a key off.
    pub fn remove(&mut self, key: &[u8; 32]) {
        self.0.remove(key);
    }

    /// The keys of `uploader`.
    pub fn of(&self, uploader: Principal) -> Vec<[u8; 32]> {
        self.0.iter().filter(|entry| entry.value() == uploader).map(|entry| *entry.key()).collect()
    }
}
