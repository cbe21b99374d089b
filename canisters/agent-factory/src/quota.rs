//! The calls to `econ`: a creation is reserved before it begins, and charged or given back when it has ended.
//!
//! Each can be repeated: a reservation is known by its key, and the others change nothing the second time.

use candid::{CandidType, Principal};
use ic_cdk::api::time;
use ic_cdk::call::Call;
use serde::de::DeserializeOwned;
use shared_types::econ::{
    EconError, Reservation, ReservationState, ReserveArgs, Resource, ReturnAgentArgs, SettleArgs, Settlement,
};
use shared_types::factory::{AgentQuota, AgentRecord, AgentStep};

use crate::agents::Done;
use crate::state;

/// Seconds that `econ` has for an answer.
const ANSWER_SECONDS: u32 = 60;

/// How long a reservation holds; `econ` lets it hold for a day.
const RESERVATION_NS: u64 = 23 * 3_600 * 1_000_000_000;

async fn call<R: CandidType + DeserializeOwned>(
    econ: Principal,
    method: &str,
    argument: impl CandidType,
) -> Result<Result<R, EconError>, String> {
    let call = Call::bounded_wait(econ, method).with_arg(argument).change_timeout(ANSWER_SECONDS);
    let answer = call.await.map_err(|failed| failed.to_string())?;
    answer.candid().map_err(|error| error.to_string())
}

/// Performs a step.
///
/// # Errors
/// Why its outcome is not known, or why it has to be made again.
pub async fn perform(step: AgentStep, record: &AgentRecord) -> Result<Done, String> {
    // Without `econ` nothing is metered any more.
    let Some(econ) = state::read(|state| state.settings().config.econ) else {
        return Ok(if step == AgentStep::Reserve { Done::Reserved(0) } else { Done::AsAsked });
    };
    match (step, record.quota) {
        (AgentStep::Reserve, Some(AgentQuota::Asked(number))) => reserve(econ, record, number).await,
        (AgentStep::Settle, Some(AgentQuota::Reserved(reservation))) => {
            let agents: Vec<Principal> = record.canister.into_iter().collect();
            let args = SettleArgs { reservation, amount: agents.len() as u64, agents, usage: None };
            ended(call::<Settlement>(econ, "settle", args).await?.map(|_| ()))
        }
        (AgentStep::Release, Some(AgentQuota::Reserved(reservation))) => {
            ended(call(econ, "release", reservation).await?)
        }
        // Whether it was reserved is asked first: the same key is the same reservation.
        (AgentStep::Release, Some(AgentQuota::Asked(number))) => match reserve(econ, record, number).await? {
            Done::Reserved(reservation) => ended(call(econ, "release", reservation).await?),
            _ => Ok(Done::AsAsked),
        },
        (AgentStep::ReturnQuota, Some(AgentQuota::Charged(agent))) => {
            let args = ReturnAgentArgs { account: record.owner, agent };
            let returned: Result<(), EconError> = call(econ, "return_agent", args).await?;
            returned.map(|()| Done::AsAsked).map_err(|error| error.to_string())
        }
        _ => Ok(Done::AsAsked),
    }
}

async fn reserve(econ: Principal, record: &AgentRecord, number: u64) -> Result<Done, String> {
    let args = ReserveArgs {
        account: record.owner,
        resource: Resource::Creation(1),
        key: format!("creation/{number}"),
        expires_ns: time().saturating_add(RESERVATION_NS),
    };
    match call::<Reservation>(econ, "reserve", args).await? {
        Ok(Reservation { id, state: ReservationState::Open, .. }) => Ok(Done::Reserved(id)),
        Ok(_) => Ok(Done::ReservationEnded),
        // These may pass, and nothing was reserved: the next attempt asks again.
        Err(error @ (EconError::Busy { .. } | EconError::RateLimited { .. })) => Err(error.to_string()),
        Err(error) => Ok(Done::NoQuota(error.to_string())),
    }
}

/// What is not known at `econ` any more was settled or given back before, or has expired.
fn ended(outcome: Result<(), EconError>) -> Result<Done, String> {
    match outcome {
        Ok(()) | Err(EconError::UnknownReservation { .. } | EconError::ReservationEnded { .. }) => {
            Ok(Done::AsAsked)
        }
        Err(error) => Err(error.to_string()),
    }
}
