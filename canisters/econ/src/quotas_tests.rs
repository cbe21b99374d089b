//! Quotas against an obvious model, and the cases that people would ask about.

use std::collections::BTreeMap;

use candid::Principal;
use ic_stable_structures::DefaultMemoryImpl;
use ic_stable_structures::memory_manager::MemoryManager;
use proptest::prelude::*;
use shared_types::econ::tiers::initial;
use shared_types::econ::{
    DAY_NS, EconConfig, EconError, EconInitArgs, HOUR_NS, ReserveArgs, Resource, ReturnAgentArgs,
    ServiceGrant, ServiceRole, SettleArgs, Settlement, SubscriptionInput, SubscriptionStatus, UsageEnvelope,
};

use crate::economy::{Economy, Task};
use crate::events::EventKind;
use crate::memory::Memories;

/// Whose quota.
pub fn user() -> Principal {
    Principal::from_slice(&[1, 1])
}

/// Who reserves.
pub fn coordinator() -> Principal {
    Principal::from_slice(&[2, 1])
}

/// A canister with a coordinator and a Basic subscription of [`user`], which began at 0.
pub fn economy() -> Economy {
    let memory = MemoryManager::init_with_bucket_size(DefaultMemoryImpl::default(), 1);
    let mut economy = Economy::open(Memories::divided(&memory));
    let args = EconInitArgs { admins: vec![Principal::from_slice(&[3, 1])], config: EconConfig::default() };
    economy.install(Principal::from_slice(&[4, 1]), args, 0).unwrap();
    economy
        .grant_service(ServiceGrant { service: coordinator(), role: ServiceRole::Coordinator }, 0)
        .unwrap();
    let input = SubscriptionInput::Started { terms: initial().swap_remove(0) };
    economy.record(0, EventKind::Subscription { account: user(), input, at_ns: 0 });
    economy
}

fn tokens(key: &str, tokens: u64, expires_ns: u64) -> ReserveArgs {
    ReserveArgs { account: user(), resource: Resource::Tokens(tokens), key: key.to_owned(), expires_ns }
}

fn spent(reservation: u64, amount: u64) -> SettleArgs {
    let usage = UsageEnvelope { tokens_in: amount, ..UsageEnvelope::default() };
    SettleArgs { reservation, amount, agents: Vec::new(), usage: Some(usage) }
}

#[derive(Debug, Clone)]
enum Step {
    Reserve { tokens: u64, hours: u64 },
    Settle { which: prop::sample::Index, amount: u64 },
    Release { which: prop::sample::Index },
    Wait { hours: u64 },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let which = any::<prop::sample::Index>;
    let step = prop_oneof![
        4 => (1u64..30_000, 1u64..24).prop_map(|(tokens, hours)| Step::Reserve { tokens, hours }),
        3 => (which(), 0u64..40_000).prop_map(|(which, amount)| Step::Settle { which, amount }),
        1 => which().prop_map(|which| Step::Release { which }),
        1 => (1u64..20).prop_map(|hours| Step::Wait { hours }),
    ];
    prop::collection::vec(step, 0..60)
}

/// What a careful clerk would write down.
#[derive(Default)]
struct Clerk {
    used: u64,
    open: BTreeMap<u64, (u64, u64)>,
    ended: BTreeMap<u64, u64>,
}

proptest! {
    /// INV-E3
    #[test]
    fn quotas_are_those_of_the_model(steps in steps()) {
        const QUOTA: u64 = 100_000;
        const OVERDRAFT: u64 = 1_000;
        let mut economy = economy();
        let (mut clerk, mut now, mut known) = (Clerk::default(), 1, Vec::new());
        for (index, step) in steps.into_iter().enumerate() {
            let held = |clerk: &Clerk| clerk.open.values().map(|(tokens, _)| tokens).sum::<u64>();
            match step {
                Step::Reserve { tokens: wanted, hours } => {
                    let possible = wanted + held(&clerk) + clerk.used <= QUOTA;
                    let args = tokens(&index.to_string(), wanted, now + hours * HOUR_NS);
                    match economy.reserve(coordinator(), &args, now) {
                        Ok(reservation) => {
                            prop_assert!(possible);
                            prop_assert_eq!(&economy.reserve(coordinator(), &args, now).unwrap(), &reservation);
                            clerk.open.insert(reservation.id, (wanted, args.expires_ns));
                            known.push(reservation.id);
                        }
                        Err(error) => {
                            prop_assert!(!possible, "{}", error);
                            let available = QUOTA.saturating_sub(clerk.used + held(&clerk));
                            let exceeded = EconError::QuotaExceeded {
                                resource: "tokens".to_owned(), requested: wanted, available, resets_ns: 30 * DAY_NS,
                            };
                            prop_assert_eq!(error, exceeded);
                        }
                    }
                }
                Step::Settle { which, amount } if !known.is_empty() => {
                    let id = known[which.index(known.len())];
                    let settled = economy.settle(coordinator(), &spent(id, amount), now);
                    let open = clerk.open.remove(&id);
                    if let Some(charged) = clerk.ended.get(&id) {
                        prop_assert_eq!(settled.unwrap().charged, *charged, "a repetition answers as at first");
                    } else if economy.reservation(id).is_ok_and(|r| matches!(r.state, shared_types::econ::ReservationState::Settled(_))) {
                        let room = QUOTA + OVERDRAFT - clerk.used - held(&clerk);
                        let charged = amount.min(room);
                        prop_assert_eq!(settled, Ok(Settlement { amount, charged, excess: amount - charged }));
                        clerk.used += charged;
                        clerk.ended.insert(id, charged);
                    } else {
                        prop_assert!(settled.is_err());
                        prop_assert!(open.is_none());
                    }
                }
                Step::Release { which } if !known.is_empty() => {
                    let id = known[which.index(known.len())];
                    let released = economy.release(coordinator(), id, now);
                    if clerk.open.remove(&id).is_some() {
                        prop_assert_eq!(released, Ok(()));
                    }
                }
                Step::Wait { hours } => {
                    now += hours * HOUR_NS;
                    clerk.open.retain(|_, (_, expires)| *expires > now);
                    clerk.ended.retain(|id, _| economy.reservation(*id).is_ok());
                    for task in economy.due(now, usize::MAX) {
                        if let Task::Reservation(id) = task {
                            economy.sweep_reservation(id, now);
                        }
                    }
                    known.retain(|id| economy.reservation(*id).is_ok());
                    clerk.ended.retain(|id, _| economy.reservation(*id).is_ok());
                }
                _ => {}
            }
            let meters = economy.summary(user()).tokens;
            prop_assert_eq!((meters.used, meters.reserved), (clerk.used, clerk.open.values().map(|(t, _)| t).sum::<u64>()));
            prop_assert!(meters.used + meters.reserved <= QUOTA + OVERDRAFT);
        }
    }
}

#[test]
fn of_two_that_want_the_last_unit_one_gets_it() {
    let mut economy = economy();
    let agents = Resource::Creation(5);
    let first = ReserveArgs { account: user(), resource: agents, key: "a".to_owned(), expires_ns: HOUR_NS };
    economy.reserve(coordinator(), &first, 1).unwrap();
    let second = ReserveArgs { resource: Resource::Creation(1), key: "b".to_owned(), ..first };
    let refused = economy.reserve(coordinator(), &second, 1).unwrap_err();
    assert!(
        matches!(&refused, EconError::QuotaExceeded { resource, available: 0, .. } if resource == "agents"),
        "{refused}"
    );
    economy.reserve(coordinator(), &tokens("c", 99_999, HOUR_NS), 1).unwrap();
    economy.reserve(coordinator(), &tokens("d", 1, HOUR_NS), 1).unwrap();
    assert!(matches!(
        economy.reserve(coordinator(), &tokens("e", 1, HOUR_NS), 1),
        Err(EconError::QuotaExceeded { available: 0, .. })
    ));
    // After an hour both are free again.
    assert!(economy.reserve(coordinator(), &tokens("f", 100_000, 2 * HOUR_NS), HOUR_NS).is_ok());
    assert!(economy.reserve(coordinator(), &second, HOUR_NS).is_err(), "its own time is over");
}

#[test]
fn agents_take_a_place_and_give_it_back() {
    let mut economy = economy();
    let args = ReserveArgs {
        account: user(),
        resource: Resource::Creation(5),
        key: "a".to_owned(),
        expires_ns: HOUR_NS,
    };
    let reservation = economy.reserve(coordinator(), &args, 1).unwrap().id;
    let agents: Vec<Principal> = (0..3).map(|n| Principal::from_slice(&[n, 9])).collect();
    let settled = SettleArgs { reservation, amount: 3, agents: agents.clone(), usage: None };
    let wrong = SettleArgs { amount: 4, ..settled.clone() };
    assert!(matches!(economy.settle(coordinator(), &wrong, 2), Err(EconError::InvalidField(_))));
    economy.settle(coordinator(), &settled, 2).unwrap();
    let summary = economy.summary(user());
    assert_eq!((summary.agents, summary.agents_reserved, summary.creations.used), (3, 0, 3));

    // An agent reserves for its account, and for no other.
    let own = tokens("run", 10, HOUR_NS);
    let run = economy.reserve(agents[0], &own, 3).unwrap();
    assert_eq!(
        economy.settle(coordinator(), &spent(run.id, 5), 3),
        Err(EconError::UnknownReservation { reservation: run.id })
    );
    assert_eq!(
        economy.reserve(agents[0], &ReserveArgs { account: coordinator(), ..own.clone() }, 3),
        Err(EconError::Unauthorized)
    );
    assert_eq!(
        economy.reserve(user(), &own, 3),
        Err(EconError::Unauthorized),
        "people read, they don't reserve"
    );

    for _ in 0..2 {
        economy
            .return_agent(coordinator(), ReturnAgentArgs { account: user(), agent: agents[0] }, 4)
            .unwrap();
    }
    assert_eq!(economy.summary(user()).agents, 2);
    assert_eq!(economy.reserve(agents[0], &own, 5), Err(EconError::Unauthorized), "it lives no more");
    // Three places are free, and seven creations of the month.
    let args = ReserveArgs { resource: Resource::Creation(3), key: "b".to_owned(), ..args };
    assert!(economy.reserve(coordinator(), &args, 6).is_ok());
}

#[test]
fn a_reset_is_a_new_key() {
    let mut economy = economy();
    let end = 30 * DAY_NS;
    let old = economy.reserve(coordinator(), &tokens("old", 90_000, end + HOUR_NS), end - HOUR_NS).unwrap();
    economy.advance_subscription(user(), end);
    assert_eq!(economy.summary(user()).subscription.status, SubscriptionStatus::PastDue);
    let input = SubscriptionInput::Renewed;
    economy.record(end, EventKind::Subscription { account: user(), input, at_ns: end });
    let new = economy.reserve(coordinator(), &tokens("new", 100_000, end + HOUR_NS), end).unwrap();
    assert_eq!((old.period, new.period), (1, 2));
    economy.settle(coordinator(), &spent(old.id, 80_000), end + 1).unwrap();
    economy.settle(coordinator(), &spent(new.id, 70_000), end + 1).unwrap();
    let account = economy.account(user());
    let used: Vec<_> = account.periods.iter().map(|meters| (meters.number, meters.tokens.used)).collect();
    assert_eq!(used, [(1, 80_000), (2, 70_000)], "each in the period that it was reserved in");
}

#[test]
fn bad_arguments_are_named() {
    let mut economy = economy();
    let field =
        |economy: &mut Economy, args: ReserveArgs| match economy.reserve(coordinator(), &args, HOUR_NS) {
            Err(EconError::InvalidField(error)) => error.field,
            other => format!("{other:?}"),
        };
    assert_eq!(field(&mut economy, tokens("", 1, 2 * HOUR_NS)), "key");
    assert_eq!(field(&mut economy, tokens(&"k".repeat(65), 1, 2 * HOUR_NS)), "key");
    assert_eq!(field(&mut economy, tokens("k", 0, 2 * HOUR_NS)), "resource");
    assert_eq!(field(&mut economy, tokens("k", 1, HOUR_NS)), "expires_ns");
    assert_eq!(field(&mut economy, tokens("k", 1, 2 * HOUR_NS + DAY_NS)), "expires_ns");
    economy.reserve(coordinator(), &tokens("k", 1, 2 * HOUR_NS), HOUR_NS).unwrap();
    let other = economy.reserve(coordinator(), &tokens("k", 2, 2 * HOUR_NS), HOUR_NS).unwrap_err();
    assert_eq!(other, EconError::KeyReused { key: "k".to_owned(), field: "resource".to_owned() });
}
