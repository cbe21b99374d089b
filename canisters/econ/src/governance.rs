//! What admins set: governance itself, limits, tiers, ledgers, authorised canisters.

use candid::Principal;
use shared_types::FieldError;
use shared_types::econ::admin::MAX_ADMINS;
use shared_types::econ::tiers::{announce, in_force, initial};
use shared_types::econ::{
    EconConfig, EconError, EconEvent, EconInitArgs, EventsArgs, EventsPage, LedgerInfo, ListServicesArgs,
    ServiceGrant, ServicePage, Terms, TierVersion,
};
use shared_types::paging;

use crate::economy::Economy;
use crate::events::EventKind;

/// Most ledgers.
pub const MAX_LEDGERS: usize = 16;

impl Economy {
    /// Sets up a new canister: governance, limits, and the tiers that OHMS begins with.
    ///
    /// # Errors
    /// Names the field that breaks a rule.
    pub fn install(
        &mut self,
        canister: Principal,
        args: EconInitArgs,
        now_ns: u64,
    ) -> Result<(), FieldError> {
        check_admins(&args.admins)?;
        args.config.validate()?;
        self.record(now_ns, EventKind::Installed { canister });
        self.record(now_ns, EventKind::AdminsSet(args.admins));
        self.record(now_ns, EventKind::ConfigSet(args.config));
        for terms in initial() {
            self.record(now_ns, EventKind::TierAnnounced(TierVersion { terms, effective_ns: now_ns }));
        }
        Ok(())
    }

    /// Whether `principal` is governance.
    pub fn is_admin(&self, principal: Principal) -> bool {
        self.settings().admins.contains(&principal)
    }

    /// Hands governance over.
    ///
    /// # Errors
    /// Names what is wrong with the list.
    pub fn set_admins(&mut self, admins: Vec<Principal>, now_ns: u64) -> Result<(), EconError> {
        check_admins(&admins)?;
        self.record(now_ns, EventKind::AdminsSet(admins));
        Ok(())
    }

    /// Changes times and limits.
    ///
    /// # Errors
    /// Names the field that breaks a rule.
    pub fn set_config(&mut self, config: EconConfig, now_ns: u64) -> Result<(), EconError> {
        config.validate()?;
        self.record(now_ns, EventKind::ConfigSet(config));
        Ok(())
    }

    /// Announces a version of a tier. Periods that have begun before it takes effect keep their terms.
    ///
    /// # Errors
    /// Names the field: figures out of bounds, or a moment before the end of the notice period.
    pub fn announce_tier(&mut self, version: TierVersion, now_ns: u64) -> Result<(), EconError> {
        let settings = self.settings();
        announce(&mut settings.tiers.clone(), version.clone(), settings.config.notice_ns, now_ns)?;
        self.record(now_ns, EventKind::TierAnnounced(version));
        Ok(())
    }

    /// The terms of a tier in force.
    ///
    /// # Errors
    /// [`EconError::UnknownTier`].
    pub fn terms(&self, tier: &str, now_ns: u64) -> Result<Terms, EconError> {
        let terms = in_force(&self.settings().tiers, tier, now_ns).cloned();
        terms.ok_or_else(|| EconError::UnknownTier { tier: tier.to_owned() })
    }

    /// Enters a ledger as it has described itself.
    ///
    /// # Errors
    /// [`EconError::LimitReached`]; [`EconError::InvalidField`] for decimals that no amount could be written with.
    pub fn set_ledger(&mut self, ledger: LedgerInfo, now_ns: u64) -> Result<(), EconError> {
        if ledger.decimals > 18 {
            return Err(FieldError::new(
                "decimals",
                format!("are {}, at most 18 are allowed", ledger.decimals),
            )
            .into());
        }
        let known = self.settings().ledgers.iter().any(|other| other.args.canister == ledger.args.canister);
        if !known && self.settings().ledgers.len() >= MAX_LEDGERS {
            return Err(EconError::LimitReached { what: "ledgers".to_owned(), most: MAX_LEDGERS as u64 });
        }
        self.record(now_ns, EventKind::LedgerSet(ledger));
        Ok(())
    }

    /// A ledger that is known, whether or not new payments may use it.
    ///
    /// # Errors
    /// [`EconError::UnknownLedger`].
    pub fn ledger(&self, ledger: Principal) -> Result<&LedgerInfo, EconError> {
        let known = self.settings().ledgers.iter().find(|known| known.args.canister == ledger);
        known.ok_or(EconError::UnknownLedger { ledger })
    }

    /// Authorises a canister.
    ///
    /// # Errors
    /// [`EconError::InvalidField`] for the anonymous principal.
    pub fn grant_service(&mut self, grant: ServiceGrant, now_ns: u64) -> Result<(), EconError> {
        if grant.service == Principal::anonymous() {
            return Err(FieldError::new("service", "must not be the anonymous principal").into());
        }
        self.record(now_ns, EventKind::ServiceGranted(grant));
        Ok(())
    }

    /// Withdraws an authorisation. What is not there is gone already.
    pub fn revoke_service(&mut self, service: Principal, now_ns: u64) {
        if self.services.contains_key(&service) {
            self.record(now_ns, EventKind::ServiceRevoked(service));
        }
    }

    /// A page of the authorised canisters.
    pub fn list_services(&self, args: &ListServicesArgs) -> ServicePage {
        let from = args.after.unwrap_or(Principal::management_canister());
        let rest = self.services.range(from..).filter(|entry| Some(*entry.key()) != args.after);
        let rest = rest.map(|entry| ServiceGrant { service: *entry.key(), role: entry.value().0 });
        let (services, next) = paging::page(rest, args.limit, |grant| grant.service);
        ServicePage { services, next }
    }

    /// A page of the event log, from the first event that is kept on.
    pub fn list_events(&self, args: &EventsArgs) -> EventsPage {
        let first = args.after.map_or(0, |after| after.saturating_add(1)).max(self.events.first());
        let rest = (first..self.events_len()).filter_map(|index| Some((index, self.event(index)?)));
        let rest = rest.map(|(index, event)| EconEvent {
            index,
            time_ns: event.time_ns,
            event: serde_json::to_string(&event.kind).unwrap_or_default(),
        });
        let (events, next) = paging::page(rest, args.limit, |event| event.index);
        EventsPage { events, next }
    }
}

fn check_admins(admins: &[Principal]) -> Result<(), FieldError> {
    if admins.is_empty() || admins.len() > MAX_ADMINS {
        return Err(FieldError::new("admins", format!("are {}, must be 1 to {MAX_ADMINS}", admins.len())));
    }
    if admins.contains(&Principal::anonymous()) {
        return Err(FieldError::new("admins", "must not contain the anonymous principal"));
    }
    Ok(())
}
