//! Who may do what. An admin may do whatever an uploader may.

use candid::Principal;
use ic_stable_structures::{Memory, StableBTreeMap};
use shared_types::model::{ListRolesArgs, ModelError, Role, RoleGrant, RolePage};
use shared_types::paging;

/// The grants, ordered by principal, then role.
pub struct Roles<M: Memory>(StableBTreeMap<(Principal, u8), (), M>);

fn key(grant: RoleGrant) -> (Principal, u8) {
    let role = match grant.role {
        Role::Admin => 0,
        Role::Uploader => 1,
    };
    (grant.principal, role)
}

fn grant((principal, role): (Principal, u8)) -> RoleGrant {
    RoleGrant { principal, role: if role == 0 { Role::Admin } else { Role::Uploader } }
}

impl<M: Memory> Roles<M> {
    /// Opens the grants that `memory` holds.
    pub fn init(memory: M) -> Self {
        Self(StableBTreeMap::init(memory))
    }

    /// Whether `principal` has `role`, granted or by being an admin.
    pub fn has(&self, principal: Principal, role: Role) -> bool {
        self.0.contains_key(&key(RoleGrant { principal, role }))
            || self.0.contains_key(&key(RoleGrant { principal, role: Role::Admin }))
    }

    /// Checks that `principal` has `required`.
    ///
    /// # Errors
    /// [`ModelError::Unauthorized`].
    pub fn require(&self, principal: Principal, required: Role) -> Result<(), ModelError> {
        if self.has(principal, required) { Ok(()) } else { Err(ModelError::Unauthorized { required }) }
    }

    /// Adds a grant; returns whether it is new.
    pub fn grant(&mut self, grant: RoleGrant) -> bool {
        self.0.insert(key(grant), ()).is_none()
    }

    /// Removes a grant; returns whether it was there.
    ///
    /// # Errors
    /// [`ModelError::LastAdmin`] when no admin would remain.
    pub fn revoke(&mut self, grant: RoleGrant) -> Result<bool, ModelError> {
        let there = self.0.contains_key(&key(grant));
        if there && grant.role == Role::Admin && self.admins().take(2).count() == 1 {
            return Err(ModelError::LastAdmin);
        }
        Ok(self.0.remove(&key(grant)).is_some())
    }

    fn admins(&self) -> impl Iterator<Item = Principal> {
        self.0.keys().filter(|(_, role)| *role == 0).map(|(principal, _)| principal)
    }

    /// A page of the grants.
    pub fn list(&self, args: &ListRolesArgs) -> RolePage {
        let from = args.after.map(key);
        let rest = self.0.keys().map(|k| (k, grant(k)));
        let rest = rest.skip_while(|(k, _)| from.is_some_and(|from| *k <= from)).map(|(_, grant)| grant);
        let (grants, next) = paging::page(rest, args.limit, |grant| *grant);
        RolePage { grants, next }
    }
}
