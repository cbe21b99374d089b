//! What is kept, and for how long: nothing grows without a bound, and what goes takes nothing with it that counts.

use candid::Principal;
use shared_types::econ::payment::{
    BlockLog, Currency, InvoiceState, LedgerArgs, MAX_VOID_INVOICES, PAID_REMEMBERED_NS, VOID_REMEMBERED_NS,
};
use shared_types::econ::quota::IDLE_REMEMBERED_NS;
use shared_types::econ::{
    EconConfig, EconError, InvoiceArgs, LedgerInfo, ListInvoicesArgs, PaymentMethod, QuoteArgs, SubscribeArgs,
};

use crate::charges::Work;
use crate::economy::{Economy, Task};
use crate::quotas_tests::economy;
use crate::transfers::{self, Answer, Refusal, Step};

fn ledger() -> Principal {
    Principal::from_slice(&[5, 1])
}

/// Somebody without a subscription.
fn newcomer() -> Principal {
    Principal::from_slice(&[6, 1])
}

fn method() -> PaymentMethod {
    PaymentMethod { ledger: ledger(), from: newcomer().into() }
}

fn with_a_ledger() -> Economy {
    let mut economy = economy();
    let args = LedgerArgs {
        canister: ledger(),
        currency: Currency::Dollar,
        block_log: BlockLog::Icrc3,
        enabled: true,
    };
    economy.set_ledger(LedgerInfo { args, symbol: "T".to_owned(), decimals: 6, fee: 1 }, 0).unwrap();
    economy
}

/// The newcomer subscribes, and the ledger answers this.
fn subscribe(economy: &mut Economy, key: &str, answer: Answer, now_ns: u64) -> Result<u64, EconError> {
    let args = SubscribeArgs { tier: "Basic".to_owned(), method: method(), key: key.to_owned() };
    let invoice = economy.subscribe(newcomer(), &args, now_ns)?;
    let Work::Transfer(transfer) = economy.collect(invoice, now_ns) else { panic!("it is to be collected") };
    for (step, answer) in [(Step::ReadTip, Answer::Tip(0)), (Step::Submit, answer)] {
        economy.begin_step(transfer, step, now_ns);
        economy.answer_step(transfer, answer, now_ns);
    }
    Ok(invoice)
}

fn refused() -> Answer {
    Answer::Refused(Refusal::Final("no funds".to_owned()))
}

/// What the timer does until a time, as often as something is due.
fn pass(economy: &mut Economy, until_ns: u64) {
    for _ in 0..1_000 {
        let due = economy.due(until_ns, 100);
        if due.is_empty() {
            return;
        }
        for task in due {
            assert!(!economy.take_up(task, until_ns), "{task:?} takes no call");
        }
    }
    panic!("{:?} stays due", economy.due(until_ns, 100));
}

fn invoices(economy: &Economy) -> Vec<u64> {
    let args = ListInvoicesArgs { account: None, after: None, limit: 100 };
    economy.list_invoices(newcomer(), &args).invoices.iter().map(|invoice| invoice.id).collect()
}

#[test]
fn what_came_to_nothing_is_forgotten() {
    let mut economy = with_a_ledger();
    let accounts = economy.accounts_len();
    let void = subscribe(&mut economy, "first", refused(), 1).unwrap();
    assert!(matches!(economy.stored_invoice(void).unwrap().invoice.state, InvoiceState::Void { .. }));
    // It is kept as long as was said, and its key with it.
    pass(&mut economy, VOID_REMEMBERED_NS);
    assert_eq!(invoices(&economy), [void]);
    assert_eq!(economy.accounts_len(), accounts + 1);
    pass(&mut economy, VOID_REMEMBERED_NS + 1);
    assert_eq!(invoices(&economy), [0; 0]);
    let by_key = economy.invoice(newcomer(), &InvoiceArgs::Key("first".to_owned()));
    assert_eq!(by_key, Err(EconError::UnknownInvoice));
    // A number is never given again: the memo of a transfer names it.
    let now_ns = VOID_REMEMBERED_NS + 2;
    let next = subscribe(&mut economy, "first", refused(), now_ns).unwrap();
    assert_eq!(next, void + 1);
    pass(&mut economy, now_ns + VOID_REMEMBERED_NS);
    let end_ns = now_ns + VOID_REMEMBERED_NS + IDLE_REMEMBERED_NS;
    pass(&mut economy, end_ns - 1);
    assert_eq!(economy.accounts_len(), accounts + 1);
    pass(&mut economy, end_ns);
    assert_eq!(economy.accounts_len(), accounts, "who never had anything is forgotten");
    assert_eq!((economy.invoices_len(), economy.transfers.len()), (0, 0));
    assert!(!economy.schedule.keys().any(|due| due.task == Task::Account(newcomer())));
}

#[test]
fn what_was_paid_is_kept_for_ten_years() {
    let mut economy = with_a_ledger();
    let paid = subscribe(&mut economy, "first", Answer::Block(7), 1).unwrap();
    assert_eq!(economy.transfers.len(), 1);
    // Nobody pays the renewal: the account expires, and stays.
    economy.cancel(newcomer(), 2).unwrap();
    pass(&mut economy, transfers::REMEMBERED_NS + 1);
    assert_eq!(economy.transfers.len(), 0, "the invoice has the block");
    pass(&mut economy, PAID_REMEMBERED_NS);
    assert_eq!(invoices(&economy), [paid]);
    pass(&mut economy, PAID_REMEMBERED_NS + 1);
    assert_eq!(invoices(&economy), [0; 0]);
    assert!(economy.knows_account(newcomer()), "who has been a customer stays known");
}

#[test]
fn who_lets_payments_fail_waits() {
    let mut economy = with_a_ledger();
    for n in 0..MAX_VOID_INVOICES {
        subscribe(&mut economy, &n.to_string(), refused(), u64::from(n)).unwrap();
    }
    let limit = |economy: &mut Economy, now_ns| subscribe(economy, "more", refused(), now_ns);
    let reached =
        EconError::LimitReached { what: "void invoices".to_owned(), most: MAX_VOID_INVOICES.into() };
    assert_eq!(limit(&mut economy, 100), Err(reached));
    pass(&mut economy, VOID_REMEMBERED_NS);
    assert_eq!(limit(&mut economy, VOID_REMEMBERED_NS), Ok(u64::from(MAX_VOID_INVOICES) + 1));
}

#[test]
fn accounts_have_a_bound() {
    let mut economy = with_a_ledger();
    let max_accounts = economy.accounts_len();
    economy.set_config(EconConfig { max_accounts, ..EconConfig::default() }, 0).unwrap();
    let reached = EconError::LimitReached { what: "accounts".to_owned(), most: max_accounts };
    let quote = QuoteArgs { ledger: ledger(), tier: "Basic".to_owned() };
    assert_eq!(economy.quote(newcomer(), &quote, None, 1).unwrap_err(), reached);
    assert_eq!(economy.set_method(newcomer(), method(), 1), Err(reached.clone()));
    assert_eq!(subscribe(&mut economy, "first", refused(), 1), Err(reached));
    assert_eq!(economy.accounts_len(), max_accounts);
    // Those who are there go on.
    assert_eq!(economy.set_method(crate::quotas_tests::user(), method(), 1), Ok(()));
}
