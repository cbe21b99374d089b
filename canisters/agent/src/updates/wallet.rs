//! The wallet.

use candid::Principal;
use ic_cdk::api::{canister_self, msg_caller, time};
use ic_cdk_management_canister::{EcdsaCurve, EcdsaKeyId, EcdsaPublicKeyArgs, ecdsa_public_key};
use serde_bytes::ByteBuf;
use shared_types::FieldError;
use shared_types::agent::phase::{AgentOperation, AgentRole};
use shared_types::agent::wallet::{
    Account, PayArgs, PaymentId, PaymentRecord, PaymentState, SetLedgerArgs, WalletAddress, WalletLedger,
    WithdrawArgs,
};
use shared_types::agent::{AgentError, MAX_KEY_BYTES};

use crate::guards::{require, require_owner};
use crate::{address, payments, state};

/// Name of the signer's master key on the Internet Computer ("Threshold ECDSA" in its interface specification).
const KEY_NAME: &str = "key_1";

/// The agent's public key and address at the threshold-ECDSA signer.
///
/// # Errors
/// [`AgentError::Unauthorized`], [`AgentError::NoAddress`].
pub async fn wallet_address() -> Result<WalletAddress, AgentError> {
    require_owner(AgentOperation::Read)?;
    if let Some(address) = state::read(|state| state.wallet.address()) {
        return Ok(address);
    }
    let key_id = EcdsaKeyId { curve: EcdsaCurve::Secp256k1, name: KEY_NAME.to_owned() };
    let args = EcdsaPublicKeyArgs { canister_id: None, derivation_path: Vec::new(), key_id };
    let no_address = |reason: String| AgentError::NoAddress { reason };
    let key = ecdsa_public_key(&args).await.map_err(|error| no_address(error.to_string()))?;
    let ethereum = address::ethereum(&key.public_key).map_err(no_address)?;
    let public_key = ByteBuf::from(key.public_key);
    let address = WalletAddress { key_name: KEY_NAME.to_owned(), public_key, ethereum };
    // The key is always the same: it does not matter who asked for it first.
    state::mutate(|state| state.wallet.set_address(address.clone()));
    Ok(address)
}

/// Registers a ledger, or changes its limits. A new one is asked for its symbol, decimals and fee.
///
/// # Errors
/// [`AgentError::Unauthorized`], [`AgentError::WrongPhase`], [`AgentError::TooManyLedgers`], [`AgentError::LedgerUnavailable`].
pub async fn set_ledger(args: SetLedgerArgs) -> Result<WalletLedger, AgentError> {
    require_owner(AgentOperation::Configure)?;
    let SetLedgerArgs { ledger, limits } = args;
    if state::mutate(|state| state.wallet.set_limits(ledger, limits)).is_err() {
        state::read(|state| state.wallet.check_room(ledger))?;
        let described = payments::describe(ledger, limits).await?;
        state::mutate(|state| {
            // Others may have been registered meanwhile.
            state.wallet.check_room(ledger)?;
            state.wallet.set_ledger(described);
            Ok::<_, AgentError>(())
        })?;
    }
    state::read(|state| state.wallet.ledger(ledger))
}

/// Forgets a ledger. What the agent has there stays there.
///
/// # Errors
/// [`AgentError::Unauthorized`], [`AgentError::UnknownLedger`], [`AgentError::OpenPayments`].
pub fn remove_ledger(ledger: Principal) -> Result<(), AgentError> {
    require_owner(AgentOperation::Withdraw)?;
    state::mutate(|state| state.wallet.remove_ledger(ledger))
}

/// Pays somebody, within the limits; what the coordinator asks for beyond `approval_above` waits for the owner. Returns when the
/// ledger has answered, or after a while.
///
/// # Errors
/// [`AgentError::Unauthorized`], [`AgentError::WrongPhase`], and see [`crate::wallet::Wallet::request`].
pub async fn pay(args: PayArgs) -> Result<PaymentRecord, AgentError> {
    let by_owner = require(AgentOperation::Pay)? == AgentRole::Owner;
    let record = state::mutate(|state| state.wallet.request(msg_caller(), by_owner, args, time()))?;
    submitted(record).await
}

/// Lets a payment be made that waits for it.
///
/// # Errors
/// [`AgentError::Unauthorized`], [`AgentError::WrongPhase`], and see [`crate::wallet::Wallet::decide`].
pub async fn approve_payment(id: PaymentId) -> Result<PaymentRecord, AgentError> {
    require_owner(AgentOperation::Approve)?;
    let record = state::mutate(|state| state.wallet.decide(id, true, time()))?;
    submitted(record).await
}

/// Refuses a payment that waits for approval.
///
/// # Errors
/// [`AgentError::Unauthorized`], [`AgentError::WrongPhase`], [`AgentError::UnknownPayment`].
pub fn reject_payment(id: PaymentId) -> Result<PaymentRecord, AgentError> {
    require_owner(AgentOperation::Approve)?;
    state::mutate(|state| state.wallet.decide(id, false, time()))
}

/// Sends tokens to the owner.
///
/// # Errors
/// [`AgentError::Unauthorized`], [`AgentError::InvalidField`], [`AgentError::UnknownLedger`], [`AgentError::LedgerUnavailable`],
/// [`AgentError::TooManyPayments`].
pub async fn withdraw(args: WithdrawArgs) -> Result<PaymentRecord, AgentError> {
    require_owner(AgentOperation::Withdraw)?;
    let owner = msg_caller();
    let WithdrawArgs { ledger, amount, key, subaccount } = args;
    FieldError::check_text("key", &key, MAX_KEY_BYTES)?;
    if let Some(known) = state::read(|state| state.wallet.known(owner, &key)) {
        return submitted(known).await;
    }
    let fee = state::read(|state| state.wallet.ledger(ledger))?.fee;
    let amount = match amount {
        Some(amount) => amount,
        None => payments::balance_of(ledger, canister_self().into()).await?.saturating_sub(fee),
    };
    let to = Account { owner, subaccount };
    let record = state::mutate(|state| state.wallet.withdraw(owner, ledger, (to, amount, key), time()))?;
    submitted(record).await
}

/// Sends all tokens to the owner, for a controller before deletion; returns at how many ledgers there were any. Payments that were not
/// submitted yet are rejected; one that is under way is waited for by calling again.
///
/// # Errors
/// [`AgentError::Unauthorized`]; [`AgentError::FundsRemain`], after which the call may be repeated.
pub async fn return_funds() -> Result<u32, AgentError> {
    require(AgentOperation::Return)?;
    let mut returned = 0;
    for WalletLedger { ledger, .. } in state::read(|state| state.wallet.ledgers()) {
        let remain = |reason: String| AgentError::FundsRemain { ledger, reason };
        for id in state::mutate(|state| state.wallet.wind_up(ledger, time())) {
            let record = payments::submit(id).await?;
            if !record.state.is_final() {
                return Err(remain(format!("payment {id} is {:?}", record.state)));
            }
        }
        if return_tokens(ledger).await.map_err(|error| remain(error.to_string()))? {
            returned += 1;
        }
    }
    Ok(returned)
}

/// Sends all tokens at a ledger to the owner; whether there were any that are worth a fee.
async fn return_tokens(ledger: Principal) -> Result<bool, AgentError> {
    // The ledger's fee may have changed: the first refusal tells.
    for _ in 0..2 {
        let balance = payments::balance_of(ledger, canister_self().into()).await?;
        let known = state::read(|state| state.wallet.ledger(ledger))?;
        let Some(amount) = balance.checked_sub(known.fee).filter(|amount| *amount > 0) else {
            return Ok(false);
        };
        let record = state::mutate(|state| {
            let owner = state.settings().owner;
            // No other withdrawal is under way: each has a key of its own.
            let key = format!("return/{}", time());
            state.wallet.withdraw(owner, ledger, (owner.into(), amount, key), time())
        })?;
        let record = payments::submit(record.id).await?;
        match record.state {
            PaymentState::Done { .. } => return Ok(true),
            PaymentState::Failed { .. } => {}
            state => {
                payments::schedule();
                return Err(AgentError::LedgerUnavailable {
                    ledger,
                    reason: format!("the transfer is {state:?}"),
                });
            }
        }
    }
    Err(AgentError::LedgerUnavailable { ledger, reason: "the transfer was refused".to_owned() })
}

/// Submits a payment that is to be submitted, and has the timer do it should the answer be lost.
async fn submitted(record: PaymentRecord) -> Result<PaymentRecord, AgentError> {
    payments::schedule();
    match record.state {
        PaymentState::Ready => payments::submit(record.id).await,
        _ => Ok(record),
    }
}
