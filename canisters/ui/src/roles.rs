//! Who may do what. No role includes another: who publishes is never one principal alone.

use candid::Principal;
use ic_stable_structures::{Memory, StableBTreeMap};
use shared_types::paging;
use shared_types::ui::{ListUiRolesArgs, UiError, UiRole, UiRoleGrant, UiRolePage};

/// The grants, ordered by principal, then role.
pub struct Roles<M: Memory>(StableBTreeMap<(Principal, u8), (), M>);

const ROLES: [UiRole; 3] = [UiRole::Admin, UiRole::Prepare, UiRole::Commit];

fn key(grant: UiRoleGrant) -> (Principal, u8) {
    (grant.principal, grant.role as u8)
}

impl<M: Memory> Roles<M> {
    /// Opens the grants that `memory` holds.
    pub fn init(memory: M) -> Self {
        Self(StableBTreeMap::init(memory))
    }

    /// Whether `principal` has `role`.
    pub fn has(&self, principal: Principal, role: UiRole) -> bool {
        self.0.contains_key(&key(UiRoleGrant { principal, role }))
    }

    /// Checks that `principal` has `required`.
    ///
    /// # Errors
    /// [`UiError::Unauthorized`].
    pub fn require(&self, principal: Principal, required: UiRole) -> Result<(), UiError> {
        if self.has(principal, required) { Ok(()) } else { Err(UiError::Unauthorized { required }) }
    }

    /// Adds a grant.
    pub fn grant(&mut self, grant: UiRoleGrant) {
        self.0.insert(key(grant), ());
    }

    /// Removes a grant.
    ///
    /// # Errors
    /// [`UiError::LastAdmin`] when no admin would remain.
    pub fn revoke(&mut self, grant: UiRoleGrant) -> Result<(), UiError> {
        let admins = self.0.keys().filter(|(_, role)| *role == UiRole::Admin as u8);
        if grant.role == UiRole::Admin
            && self.has(grant.principal, UiRole::Admin)
            && admins.take(2).count() == 1
        {
            return Err(UiError::LastAdmin);
        }
        self.0.remove(&key(grant));
        Ok(())
    }

    /// A page of the grants.
    pub fn list(&self, args: &ListUiRolesArgs) -> UiRolePage {
        let from = args.after.map(key);
        let rest = self.0.keys().skip_while(|key| from.is_some_and(|from| *key <= from));
        let grants = rest.filter_map(|(principal, role)| {
            Some(UiRoleGrant { principal, role: *ROLES.get(usize::from(role))? })
        });
        let (grants, next) = paging::page(grants, args.limit, |grant| *grant);
        UiRolePage { grants, next }
    }
}
