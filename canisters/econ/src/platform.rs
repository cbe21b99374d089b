//! The calls to ledgers and to the exchange-rate canister.

use candid::{Nat, Principal};
use canister_common::calls::{NoAnswer, ask};
use ic_xrc_types::GetExchangeRateResult;
use icrc_ledger_types::icrc::generic_value::ICRC3Value;
use icrc_ledger_types::icrc1::account::Account;
use icrc_ledger_types::icrc1::transfer::{Memo, TransferArg, TransferError};
use icrc_ledger_types::icrc2::transfer_from::{TransferFromArgs, TransferFromError};
use icrc_ledger_types::icrc3::blocks::{GetBlocksRequest, GetBlocksResult};
use serde_bytes::ByteBuf;
use shared_types::econ::EconError;
use shared_types::econ::payment::{BlockLog, LedgerArgs, LedgerInfo, Rate};

use crate::blocks::{self, Reading};
use crate::pricing;
use crate::state;
use crate::transfers::{Answer, BLOCKS_PER_READ, Order, Refusal, Source, Step};

/// Archives that are asked for the blocks of one reading.
const MAX_ARCHIVES: usize = 4;

/// Performs a step of a transfer.
pub async fn perform(step: Step, order: &Order, created_at_ns: Option<u64>) -> Answer {
    match step {
        Step::ReadTip => match read_blocks(order, u64::MAX, 0).await {
            Ok(reading) => Answer::Tip(reading.log_length),
            Err(reason) => Answer::NotRead(reason),
        },
        Step::Submit => submit(order, created_at_ns).await,
        Step::ReadBlocks { from, asked_ns } => match read_blocks(order, from, BLOCKS_PER_READ).await {
            Ok(Reading { log_length, next, found }) => Answer::Blocks { asked_ns, next, log_length, found },
            Err(reason) => Answer::NotRead(reason),
        },
    }
}

async fn submit(order: &Order, created_at_time: Option<u64>) -> Answer {
    let (amount, fee) = (Nat::from(order.amount), Some(Nat::from(order.fee)));
    let memo = Some(Memo(ByteBuf::from(order.memo.as_bytes().to_vec())));
    let answer = match order.source {
        Source::Allowance { spender, from } => {
            let args = TransferFromArgs {
                spender_subaccount: Some(spender),
                from,
                to: order.to,
                amount,
                fee,
                memo,
                created_at_time,
            };
            let answer: Result<Result<Nat, TransferFromError>, _> =
                ask(order.ledger, "icrc2_transfer_from", &args, 0).await;
            answer.map(|answer| answer.map_err(refusal_of_transfer_from))
        }
        Source::Own { subaccount } => {
            let args =
                TransferArg { from_subaccount: subaccount, to: order.to, amount, fee, memo, created_at_time };
            let answer: Result<Result<Nat, TransferError>, _> =
                ask(order.ledger, "icrc1_transfer", &args, 0).await;
            answer.map(|answer| answer.map_err(refusal_of_transfer))
        }
    };
    let block = |block: &Nat| u64::try_from(&block.0).map(Answer::Block);
    match answer {
        Ok(Ok(index)) => {
            block(&index).unwrap_or_else(|_| Answer::Lost("the block's number is too large".to_owned()))
        }
        Ok(Err(Refused::Duplicate(index))) => {
            block(&index).unwrap_or_else(|_| Answer::Lost("the block's number is too large".to_owned()))
        }
        Ok(Err(Refused::Other(refusal))) => Answer::Refused(refusal),
        Err(NoAnswer::NotDelivered(reason)) => Answer::NotSent(reason),
        Err(NoAnswer::Unknown(reason)) => Answer::Lost(reason),
    }
}

enum Refused {
    /// It was executed before, in this block.
    Duplicate(Nat),
    Other(Refusal),
}

fn refusal_of_transfer_from(error: TransferFromError) -> Refused {
    use TransferFromError as E;
    let reason = error.to_string();
    match error {
        E::Duplicate { duplicate_of } => Refused::Duplicate(duplicate_of),
        E::BadFee { expected_fee } => bad_fee(&expected_fee, reason),
        E::TooOld => Refused::Other(Refusal::TooOld),
        E::CreatedInFuture { .. } => Refused::Other(Refusal::CreatedInFuture),
        E::TemporarilyUnavailable => Refused::Other(Refusal::Unavailable(reason)),
        E::BadBurn { .. }
        | E::InsufficientFunds { .. }
        | E::InsufficientAllowance { .. }
        | E::GenericError { .. } => Refused::Other(Refusal::Final(reason)),
    }
}

fn refusal_of_transfer(error: TransferError) -> Refused {
    use TransferError as E;
    let reason = error.to_string();
    match error {
        E::Duplicate { duplicate_of } => Refused::Duplicate(duplicate_of),
        E::BadFee { expected_fee } => bad_fee(&expected_fee, reason),
        E::TooOld => Refused::Other(Refusal::TooOld),
        E::CreatedInFuture { .. } => Refused::Other(Refusal::CreatedInFuture),
        E::TemporarilyUnavailable => Refused::Other(Refusal::Unavailable(reason)),
        E::BadBurn { .. } | E::InsufficientFunds { .. } | E::GenericError { .. } => {
            Refused::Other(Refusal::Final(reason))
        }
    }
}

fn bad_fee(expected: &Nat, reason: String) -> Refused {
    Refused::Other(
        u128::try_from(&expected.0).map_or(Refusal::Final(reason), |expected| Refusal::BadFee { expected }),
    )
}

/// Reads up to `length` blocks from `from` on, those in archives included, and looks for the transfer among them.
async fn read_blocks(order: &Order, from: u64, length: u64) -> Result<Reading, String> {
    let log = state::read(|economy| economy.ledger(order.ledger).map(|ledger| ledger.args.block_log))
        .map_err(|error| error.to_string())?;
    match log {
        BlockLog::Icrc3 => read_icrc3(order, from, length).await,
        BlockLog::IcpLedger => read_icp_ledger(order, from, length).await,
    }
}

async fn read_icrc3(order: &Order, from: u64, length: u64) -> Result<Reading, String> {
    // Where the blocks end is asked for with an empty request.
    let start = if length == 0 { 0 } else { from };
    let request = vec![GetBlocksRequest { start: Nat::from(start), length: Nat::from(length) }];
    let result: GetBlocksResult =
        ask(order.ledger, "icrc3_get_blocks", &request, 0).await.map_err(NoAnswer::reason)?;
    let log_length =
        u64::try_from(&result.log_length.0).map_err(|_| "the number of blocks is too large".to_owned())?;
    let mut blocks: Vec<(u64, ICRC3Value)> = Vec::new();
    let mut take = |result: Vec<icrc_ledger_types::icrc3::blocks::BlockWithId>| {
        blocks.extend(
            result.into_iter().filter_map(|block| Some((u64::try_from(&block.id.0).ok()?, block.block))),
        );
    };
    take(result.blocks);
    for archived in result.archived_blocks.into_iter().take(MAX_ARCHIVES) {
        let callback = archived.callback;
        let archive: GetBlocksResult =
            ask(callback.canister_id, &callback.method, &archived.args, 0).await.map_err(NoAnswer::reason)?;
        take(archive.blocks);
    }
    Ok(blocks::reading(order, from, log_length, &blocks))
}

async fn read_icp_ledger(order: &Order, from: u64, length: u64) -> Result<Reading, String> {
    let start = if length == 0 { 0 } else { from };
    let request = blocks::icp::GetBlocksArgs { start, length };
    let result: blocks::icp::QueryBlocksResponse =
        ask(order.ledger, "query_blocks", &request, 0).await.map_err(NoAnswer::reason)?;
    let mut blocks: Vec<(u64, blocks::icp::Block)> =
        (result.first_block_index..).zip(result.blocks).collect();
    for archived in result.archived_blocks.into_iter().take(MAX_ARCHIVES) {
        let request = blocks::icp::GetBlocksArgs { start: archived.start, length: archived.length };
        let callback = archived.callback;
        let range: Result<blocks::icp::BlockRange, candid::Reserved> =
            ask(callback.canister_id, &callback.method, &request, 0).await.map_err(NoAnswer::reason)?;
        let range = range.map_err(|_| "the archive refused".to_owned())?;
        blocks.extend((archived.start..).zip(range.blocks));
    }
    Ok(blocks::icp::reading(order, from, result.chain_length, &blocks))
}

/// Asks a ledger for its symbol, decimals and fee.
///
/// # Errors
/// [`EconError::LedgerUnavailable`].
pub async fn describe(args: LedgerArgs) -> Result<LedgerInfo, EconError> {
    let ledger = args.canister;
    let unavailable = |failure: NoAnswer| EconError::LedgerUnavailable { ledger, reason: failure.reason() };
    let symbol: String = ask(ledger, "icrc1_symbol", &(), 0).await.map_err(unavailable)?;
    let decimals: u8 = ask(ledger, "icrc1_decimals", &(), 0).await.map_err(unavailable)?;
    let fee: Nat = ask(ledger, "icrc1_fee", &(), 0).await.map_err(unavailable)?;
    let fee = u128::try_from(&fee.0)
        .map_err(|_| EconError::LedgerUnavailable { ledger, reason: "its fee is too large".to_owned() })?;
    Ok(LedgerInfo { args, symbol, decimals, fee })
}

/// Asks a ledger what an account has.
///
/// # Errors
/// [`EconError::LedgerUnavailable`].
pub async fn balance_of(ledger: Principal, account: Account) -> Result<u128, EconError> {
    let balance: Result<Nat, NoAnswer> = ask(ledger, "icrc1_balance_of", &account, 0).await;
    let unavailable = |reason: String| EconError::LedgerUnavailable { ledger, reason };
    let balance = balance.map_err(|failure| unavailable(failure.reason()))?;
    u128::try_from(&balance.0).map_err(|_| unavailable("the balance is too large".to_owned()))
}

/// Asks the exchange-rate canister for dollars per token.
///
/// # Errors
/// Says why there is no usable rate.
pub async fn rate(symbol: &str) -> Result<Rate, String> {
    let config = state::read(|economy| economy.settings().config.clone());
    let canister =
        config.exchange_rates.ok_or_else(|| "no exchange-rate canister is configured".to_owned())?;
    let request = pricing::request(symbol);
    let answer: GetExchangeRateResult = ask(canister, "get_exchange_rate", &request, pricing::REQUEST_CYCLES)
        .await
        .map_err(NoAnswer::reason)?;
    pricing::usable(symbol, answer, &config, ic_cdk::api::time())
}
