use super::*;
use crate::memory::Memories;
use ic_stable_structures::DefaultMemoryImpl;
use proptest::prelude::*;
use std::collections::BTreeMap;

const FEE: u128 = 10;

fn who(id: u8) -> Principal {
    Principal::from_slice(&[id])
}

fn open(memory: &DefaultMemoryImpl) -> Wallet {
    Wallet::open(Memories::of(memory.clone()).wallet)
}

const LIMITS: SpendingLimits = SpendingLimits { per_payment: 500, per_day: 1_000, approval_above: 200 };

fn ledger() -> WalletLedger {
    WalletLedger {
        ledger: who(9),
        symbol: "T".to_owned(),
        decimals: 6,
        fee: FEE,
        limits: LIMITS,
        day: 0,
        spent: 0,
    }
}

fn wallet(memory: &DefaultMemoryImpl) -> Wallet {
    let mut wallet = open(memory);
    wallet.set_ledger(ledger());
    wallet
}

fn pay(amount: u128, key: &str) -> PayArgs {
    PayArgs {
        ledger: who(9),
        to: who(7).into(),
        amount,
        key: key.to_owned(),
        memo: None,
        purpose: String::new(),
    }
}

const OWNER: u8 = 1;
const COORDINATOR: u8 = 2;

/// A ledger as the standard describes it: it tells a repetition by its content and time, as long as it remembers it.
#[derive(Default)]
struct World {
    balance: u128,
    /// Blocks by the payment's number (which stands for its content) and time.
    executed: BTreeMap<(PaymentId, u64), u64>,
    blocks: Vec<PaymentId>,
}

impl World {
    fn transfer(&mut self, payment: &PaymentRecord, now_ns: u64) -> Answer {
        let created = payment.created_at_ns.unwrap();
        if created + DAY_NS < now_ns {
            return Answer::Refused("too old".to_owned());
        }
        if let Some(block) = self.executed.get(&(payment.id, created)) {
            return Answer::Done(*block);
        }
        let total = payment.amount + payment.fee;
        if self.balance < total {
            return Answer::Refused("insufficient funds".to_owned());
        }
        self.balance -= total;
        let block = self.blocks.len() as u64;
        self.blocks.push(payment.id);
        self.executed.insert((payment.id, created), block);
        Answer::Done(block)
    }
}

#[derive(Clone, Debug)]
enum Step {
    Request {
        by_owner: bool,
        amount: u128,
        key: u8,
    },
    Withdraw {
        amount: u128,
        key: u8,
    },
    Decide {
        id: u64,
        approves: bool,
    },
    /// The next payment is submitted, and this comes of it.
    Submit(Fate),
    Pass(u64),
}

#[derive(Clone, Copy, Debug)]
enum Fate {
    Answered,
    /// Executed, if the ledger does, and the answer is lost.
    AnswerLost,
    /// Neither executed nor answered.
    RequestLost,
    NotSent,
    NotNow,
    /// The message that takes the answer traps, or the canister is upgraded: nothing is reported.
    Forgotten,
}

fn step() -> impl Strategy<Value = Step> {
    let amount = prop_oneof![1u128..600, Just(1u128)];
    let fate = prop_oneof![
        4 => Just(Fate::Answered),
        2 => Just(Fate::AnswerLost),
        1 => Just(Fate::RequestLost),
        1 => Just(Fate::NotSent),
        1 => Just(Fate::NotNow),
        1 => Just(Fate::Forgotten),
    ];
    prop_oneof![
        4 => (any::<bool>(), amount.clone(), 0u8..12)
            .prop_map(|(by_owner, amount, key)| Step::Request { by_owner, amount, key }),
        1 => (amount, 0u8..12).prop_map(|(amount, key)| Step::Withdraw { amount, key }),
        2 => (1u64..12, any::<bool>()).prop_map(|(id, approves)| Step::Decide { id, approves }),
        8 => fate.prop_map(Step::Submit),
        2 => prop_oneof![Just(60_000_000_000), Just(DAY_NS / 3), Just(DAY_NS * 2)].prop_map(Step::Pass),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// Whatever is lost or repeated, no payment is executed twice, what is said of it is so, and limits hold on each day.
    #[test]
    fn nothing_is_spent_twice_and_limits_hold(
        steps in prop::collection::vec(step(), 1..80),
        balance in 0u128..4_000,
    ) {
        let memory = DefaultMemoryImpl::default();
        let mut wallet = wallet(&memory);
        let mut world = World { balance, ..World::default() };
        let mut now = 3 * DAY_NS;
        for step in steps {
            match step {
                Step::Request { by_owner, amount, key } => {
                    let caller = who(if by_owner { OWNER } else { COORDINATOR });
                    if let Ok(record) = wallet.request(caller, by_owner, pay(amount, &format!("p{key}")), now) {
                        let awaits = record.state == PaymentState::AwaitingApproval;
                        prop_assert!(!awaits || !by_owner && record.amount + FEE > LIMITS.approval_above);
                    }
                }
                Step::Withdraw { amount, key } => {
                    let order = (who(OWNER).into(), amount, format!("w{key}"));
                    wallet.withdraw(who(OWNER), who(9), order, now).unwrap();
                }
                Step::Decide { id, approves } => {
                    let _ = wallet.decide(id, approves, now);
                }
                Step::Submit(fate) => {
                    let Some(id) = wallet.next(|_| false, now).first().copied() else { continue };
                    let Some(payment) = wallet.begun(id, now).unwrap() else { continue };
                    let answer = match fate {
                        Fate::Answered => world.transfer(&payment, now),
                        Fate::AnswerLost => {
                            world.transfer(&payment, now);
                            Answer::Lost("lost".to_owned())
                        }
                        Fate::RequestLost => Answer::Lost("lost".to_owned()),
                        Fate::NotSent => Answer::NotSent("frozen".to_owned()),
                        Fate::NotNow => Answer::NotNow("busy".to_owned()),
                        Fate::Forgotten => {
                            world.transfer(&payment, now);
                            wallet = open(&memory);
                            continue;
                        }
                    };
                    wallet.answered(id, answer, now).unwrap();
                }
                Step::Pass(ns) => now += ns,
            }
            wallet = open(&memory);
            let payments = wallet.list(&ListPaymentsArgs { after: None, limit: 100 }).payments;
            let mut spent_by_day: BTreeMap<u64, u128> = BTreeMap::new();
            for payment in &payments {
                let times = world.blocks.iter().filter(|id| **id == payment.id).count();
                prop_assert!(times <= 1, "executed {} times", times);
                match payment.state {
                    PaymentState::Done { block } => prop_assert_eq!(world.blocks[block as usize], payment.id),
                    PaymentState::AwaitingApproval | PaymentState::Ready | PaymentState::Rejected | PaymentState::Failed { .. } =>
                        prop_assert_eq!(times, 0, "{:?}", payment.state),
                    PaymentState::Submitted | PaymentState::Unknown { .. } => {}
                }
                if payment.kind == PaymentKind::Payment && times == 1 {
                    prop_assert!(payment.amount + FEE <= LIMITS.per_payment);
                    // It counts on the day on which it was allowed.
                    let day = wallet.entry(payment.id).unwrap().day.unwrap();
                    *spent_by_day.entry(day).or_default() += payment.amount + FEE;
                }
            }
            prop_assert!(spent_by_day.values().all(|spent| *spent <= LIMITS.per_day));
            prop_assert_eq!(wallet.open_payments() as usize, payments.iter().filter(|it| !it.state.is_final()).count());
        }
        // Everything comes to an end when the ledger answers again.
        for id in wallet.open_at(who(9)) {
            let _ = wallet.decide(id, false, now);
        }
        for _ in 0..40 {
            now += MAX_BACKOFF_NS;
            for id in wallet.next(|_| false, now) {
                if let Some(payment) = wallet.begun(id, now).unwrap() {
                    let answer = world.transfer(&payment, now);
                    wallet.answered(id, answer, now).unwrap();
                }
            }
        }
        prop_assert_eq!(wallet.open_payments(), 0);
    }
}

#[test]
fn the_same_key_is_the_same_payment() {
    let mut wallet = wallet(&DefaultMemoryImpl::default());
    let first = wallet.request(who(OWNER), true, pay(100, "k"), 1).unwrap();
    assert_eq!(wallet.request(who(OWNER), true, pay(100, "k"), 2).unwrap(), first);
    let reused = wallet.request(who(OWNER), true, pay(101, "k"), 2).unwrap_err();
    assert_eq!(reused, AgentError::KeyReused { key: "k".to_owned(), job_id: 1, field: "amount".to_owned() });
    let other = wallet.request(who(COORDINATOR), false, pay(101, "k"), 2).unwrap();
    assert_eq!(other.id, 2, "keys belong to their callers");
}

#[test]
fn limits_name_what_is_left() {
    let mut wallet = wallet(&DefaultMemoryImpl::default());
    let limit = |refused: Result<PaymentRecord, AgentError>| match refused {
        Err(AgentError::LimitExceeded { limit, requested, available }) => (limit, requested, available),
        other => panic!("{other:?}"),
    };
    let requested = |wallet: &mut Wallet, by: u8, amount, key: &str, now| {
        wallet.request(who(by), by == OWNER, pay(amount, key), now)
    };
    assert_eq!(limit(requested(&mut wallet, OWNER, 491, "a", 0)), ("per_payment".to_owned(), 501, 500));
    requested(&mut wallet, OWNER, 490, "b", 0).unwrap();
    // What waits for approval is not spent yet; when it is approved, it has to fit.
    let waiting = requested(&mut wallet, COORDINATOR, 400, "c", 0).unwrap();
    assert_eq!(waiting.state, PaymentState::AwaitingApproval);
    requested(&mut wallet, OWNER, 290, "d", 0).unwrap();
    assert_eq!(limit(wallet.decide(waiting.id, true, 0)), ("per_day".to_owned(), 410, 200));
    assert_eq!(limit(requested(&mut wallet, OWNER, 191, "e", 0)), ("per_day".to_owned(), 201, 200));
    // What failed is not spent; the next day is another one.
    let failed = requested(&mut wallet, OWNER, 190, "f", 0).unwrap();
    wallet.begun(failed.id, 0).unwrap();
    wallet.answered(failed.id, Answer::BadFee(20), 0).unwrap();
    assert_eq!(wallet.ledger(who(9)).unwrap().fee, 20, "the next one pays it");
    assert_eq!(wallet.decide(waiting.id, true, DAY_NS).unwrap().state, PaymentState::Ready);
    assert_eq!(wallet.ledger(who(9)).unwrap().spent, 420);
    let unknown = PayArgs { ledger: who(8), ..pay(1, "g") };
    assert!(matches!(wallet.request(who(OWNER), true, unknown, 0), Err(AgentError::UnknownLedger { .. })));
}

#[test]
fn what_is_under_way_keeps_its_ledger() {
    let mut wallet = wallet(&DefaultMemoryImpl::default());
    let submitted = wallet.request(who(OWNER), true, pay(10, "a"), 0).unwrap();
    wallet.begun(submitted.id, 0).unwrap();
    let ready = wallet.request(who(OWNER), true, pay(10, "b"), 0).unwrap();
    assert_eq!(wallet.remove_ledger(who(9)), Err(AgentError::OpenPayments { payments: 2 }));
    assert_eq!(wallet.wind_up(who(9), 1), [submitted.id]);
    assert_eq!(wallet.get(ready.id).unwrap().state, PaymentState::Rejected);
    wallet.answered(submitted.id, Answer::Done(3), 1).unwrap();
    assert_eq!(wallet.remove_ledger(who(9)), Ok(()));
}
