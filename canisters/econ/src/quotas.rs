//! Reserving, settling, releasing: what is asked of an authorised canister, and what is recorded.

use candid::Principal;
use canister_common::cbor::Cbor;
use shared_types::FieldError;
use shared_types::econ::quota::{MAX_OPEN_RESERVATIONS, MAX_RESERVATION_NS};
use shared_types::econ::{
    AccountSummary, EconError, MAX_KEY_BYTES, Meter, RateClass, Reservation, ReservationId, ReservationState,
    ReserveArgs, Resource, ReturnAgentArgs, ServiceRole, SettleArgs, Settlement,
};

use crate::economy::{Economy, PeriodMeters, StoredReservation, key_digest};
use crate::events::EventKind;
use crate::rules::{Rule, holds};

/// Most expired reservations that one call sweeps away before it looks at a quota; a timer takes the others.
const SWEPT_PER_CALL: usize = 8;

/// Most agents that one reservation may create.
pub const MAX_CREATIONS_PER_CALL: u32 = 100;

impl Economy {
    /// Whether a canister may reserve for `account`.
    pub fn may_reserve(&self, caller: Principal, account: Principal) -> bool {
        match self.services.get(&caller).map(|role| role.0) {
            Some(ServiceRole::Coordinator | ServiceRole::Factory) => true,
            Some(ServiceRole::Agent { account: owner }) => owner == account,
            None => false,
        }
    }

    /// The class of the account for which a caller speaks: its own, or its owner's if it is an agent.
    pub fn class_of(&self, caller: Principal) -> RateClass {
        let account = match self.services.get(&caller) {
            Some(Cbor(ServiceRole::Agent { account })) => account,
            _ => caller,
        };
        self.account(account).rate_class()
    }

    fn authorise(&self, caller: Principal, account: Principal) -> Result<(), EconError> {
        if self.may_reserve(caller, account) { Ok(()) } else { Err(EconError::Unauthorized) }
    }

    /// Reserves from an account's quota, or finds what the same key reserved before.
    ///
    /// # Errors
    /// [`EconError::Unauthorized`]; [`EconError::InvalidField`], [`EconError::KeyReused`] for the arguments;
    /// [`EconError::NotSubscribed`], [`EconError::QuotaExceeded`], [`EconError::TooManyReservations`].
    pub fn reserve(
        &mut self,
        caller: Principal,
        args: &ReserveArgs,
        now_ns: u64,
    ) -> Result<Reservation, EconError> {
        self.authorise(caller, args.account)?;
        FieldError::check_text("key", &args.key, MAX_KEY_BYTES)?;
        let digest = key_digest(args.account, Some(caller), &args.key);
        if let Some(id) = self.reservation_keys.get(&digest) {
            let known = self.reservation(id)?;
            return if known.resource == args.resource {
                Ok(known)
            } else {
                Err(EconError::KeyReused { key: args.key.clone(), field: "resource".to_owned() })
            };
        }
        if args.expires_ns <= now_ns || args.expires_ns > now_ns.saturating_add(MAX_RESERVATION_NS) {
            let reason =
                format!("is {}, must lie at most {MAX_RESERVATION_NS} ns ahead of {now_ns}", args.expires_ns);
            return Err(FieldError::new("expires_ns", reason).into());
        }
        let (asked, most) = match args.resource {
            Resource::Creation(agents) => (u64::from(agents), u64::from(MAX_CREATIONS_PER_CALL)),
            Resource::Tokens(tokens) => (tokens, u64::MAX),
        };
        if !(1..=most).contains(&asked) {
            return Err(FieldError::new("resource", format!("is {asked}, must be 1 to {most}")).into());
        }
        self.sweep_reservations(now_ns, SWEPT_PER_CALL);
        self.advance_subscription(args.account, now_ns);

        let account = self.account(args.account);
        let (Some(period), true) = (&account.subscription.period, account.subscription.is_usable()) else {
            let status = account.subscription.status;
            return Err(EconError::NotSubscribed { account: args.account, status });
        };
        if account.open_reservations >= MAX_OPEN_RESERVATIONS {
            return Err(EconError::TooManyReservations { open: account.open_reservations });
        }
        let meters = account.meters(period.number);
        let within = |resource: &str, available: u64| {
            if asked <= available {
                return Ok(());
            }
            let (resource, resets_ns) = (resource.to_owned(), period.end_ns);
            Err(EconError::QuotaExceeded { resource, requested: asked, available, resets_ns })
        };
        match args.resource {
            Resource::Creation(_) => {
                within("creations", meters.map_or(0, |meters| meters.creations.free(meters.creation_limit)))?;
                let living = account.agents.saturating_add(account.agents_reserved);
                within("agents", u64::from(period.terms.max_agents.saturating_sub(living)))?;
            }
            Resource::Tokens(_) => {
                within("tokens", meters.map_or(0, |meters| meters.tokens.free(meters.token_limit)))?;
            }
        }
        let id = self.events_len();
        let (account, resource, expires_ns) = (args.account, args.resource, args.expires_ns);
        let (key, period) = (args.key.clone(), period.number);
        self.record(now_ns, EventKind::Reserved { account, caller, key, resource, period, expires_ns });
        self.reservation(id)
    }

    /// Charges what was really spent, and gives back the rest. Repeated, it answers as at first.
    ///
    /// # Errors
    /// [`EconError::UnknownReservation`] also for reservations of others; [`EconError::InvalidField`];
    /// [`EconError::ReservationEnded`] for what was released.
    pub fn settle(
        &mut self,
        caller: Principal,
        args: &SettleArgs,
        now_ns: u64,
    ) -> Result<Settlement, EconError> {
        let reservation = self.reservation_of(caller, args.reservation)?;
        match &reservation.state {
            ReservationState::Settled(settlement) => return Ok(*settlement),
            ReservationState::Released => {
                return Err(EconError::ReservationEnded {
                    reservation: args.reservation,
                    state: "released".to_owned(),
                });
            }
            ReservationState::Open | ReservationState::Expired => {}
        }
        validate_settlement(&reservation, args)?;
        let account = self.account(reservation.account);
        let held = match (&reservation.state, reservation.resource) {
            (ReservationState::Open, Resource::Creation(agents)) => u64::from(agents),
            (ReservationState::Open, Resource::Tokens(tokens)) => tokens,
            _ => 0,
        };
        let chargeable = |meters: &PeriodMeters| match reservation.resource {
            Resource::Creation(_) => meters.creations.chargeable(args.amount, held, meters.creation_limit, 0),
            Resource::Tokens(_) => {
                meters.tokens.chargeable(args.amount, held, meters.token_limit, meters.overdraft)
            }
        };
        // The meters of a period whose reservations have all ended long ago may be gone.
        let charged = account.meters(reservation.period).map_or(0, chargeable);
        let charged = if holds(Rule::ChargeHasRoom) { charged } else { args.amount };
        let settlement = Settlement { amount: args.amount, charged, excess: args.amount - charged };
        let (id, agents, usage) = (args.reservation, args.agents.clone(), args.usage);
        self.record(now_ns, EventKind::Settled { reservation: id, settlement, agents, usage });
        Ok(settlement)
    }

    /// Gives a reservation back, of which nothing was spent. Repeated, or after it has expired, it changes nothing.
    ///
    /// # Errors
    /// [`EconError::UnknownReservation`] also for reservations of others; [`EconError::ReservationEnded`] for what was settled.
    pub fn release(&mut self, caller: Principal, id: ReservationId, now_ns: u64) -> Result<(), EconError> {
        match self.reservation_of(caller, id)?.state {
            ReservationState::Open => {
                self.record(now_ns, EventKind::Released(id));
                Ok(())
            }
            ReservationState::Released | ReservationState::Expired => Ok(()),
            ReservationState::Settled(_) => {
                Err(EconError::ReservationEnded { reservation: id, state: "settled".to_owned() })
            }
        }
    }

    /// Takes note that an agent does not live any more.
    ///
    /// # Errors
    /// [`EconError::Unauthorized`].
    pub fn return_agent(
        &mut self,
        caller: Principal,
        args: ReturnAgentArgs,
        now_ns: u64,
    ) -> Result<(), EconError> {
        self.authorise(caller, args.account)?;
        if self.agents.contains_key(&(args.account, args.agent)) {
            self.record(now_ns, EventKind::AgentReturned { account: args.account, agent: args.agent });
        }
        Ok(())
    }

    /// A reservation.
    ///
    /// # Errors
    /// [`EconError::UnknownReservation`].
    pub fn reservation(&self, id: ReservationId) -> Result<Reservation, EconError> {
        let stored = self.reservations.get(&id).ok_or(EconError::UnknownReservation { reservation: id })?;
        Ok(stored.0.reservation)
    }

    fn reservation_of(&self, caller: Principal, id: ReservationId) -> Result<Reservation, EconError> {
        let known = self.reservation(id).ok().filter(|reservation| reservation.caller == caller);
        known.ok_or(EconError::UnknownReservation { reservation: id })
    }

    /// Ends reservations whose time is over, and forgets those that ended long ago: at most `limit`.
    fn sweep_reservations(&mut self, now_ns: u64, limit: usize) {
        for id in self.due_reservations(now_ns, limit) {
            self.sweep_reservation(id, now_ns);
        }
    }

    /// Ends or forgets a reservation if it is due.
    pub fn sweep_reservation(&mut self, id: ReservationId, now_ns: u64) {
        let Some(StoredReservation { reservation, due_ns }) =
            self.reservations.get(&id).map(|stored| stored.0)
        else {
            return;
        };
        if due_ns <= now_ns {
            let open = reservation.state == ReservationState::Open;
            self.record(now_ns, if open { EventKind::Expired(id) } else { EventKind::Forgotten(id) });
        }
    }

    /// What somebody's subscription is, and what is left of it.
    pub fn summary(&self, principal: Principal) -> AccountSummary {
        let account = self.account(principal);
        let current = account.subscription.period.as_ref().and_then(|period| account.meters(period.number));
        AccountSummary {
            account: principal,
            tokens: current.map_or(Meter::default(), |meters| meters.tokens),
            creations: current.map_or(Meter::default(), |meters| meters.creations),
            subscription: account.subscription,
            credit_cents: account.credit_cents,
            method: account.method,
            open_invoices: account.open_invoices,
            totals: account.totals,
            earlier_totals: account.earlier,
            agents: account.agents,
            agents_reserved: account.agents_reserved,
            open_reservations: account.open_reservations,
        }
    }
}

fn validate_settlement(reservation: &Reservation, args: &SettleArgs) -> Result<(), FieldError> {
    match reservation.resource {
        Resource::Creation(agents) => {
            if args.amount > u64::from(agents) {
                return Err(FieldError::new("amount", format!("is {}, {agents} were reserved", args.amount)));
            }
            if args.usage.is_some() {
                return Err(FieldError::new("usage", "is for tokens, creations have none"));
            }
            let mut distinct = args.agents.clone();
            distinct.sort_unstable();
            distinct.dedup();
            if distinct.len() != args.agents.len() || distinct.len() as u64 != args.amount {
                let reason =
                    format!("has {} different canisters, the amount is {}", distinct.len(), args.amount);
                return Err(FieldError::new("agents", reason));
            }
            Ok(())
        }
        Resource::Tokens(_) => {
            if !args.agents.is_empty() {
                return Err(FieldError::new("agents", "are for creations, tokens have none"));
            }
            let Some(usage) = &args.usage else { return Ok(()) };
            usage.validate()?;
            if usage.tokens() != args.amount {
                let reason = format!("has {} tokens, the amount is {}", usage.tokens(), args.amount);
                return Err(FieldError::new("usage", reason));
            }
            Ok(())
        }
    }
}
