//! Creating and deleting agents.

use candid::Principal;
use ic_cdk::api::{canister_liquid_cycle_balance, cost_create_canister, time};
use shared_types::FieldError;
use shared_types::agent::AgentConfig;
use shared_types::factory::{AgentRecord, AgentState, CreateAgentArgs, FactoryError};

use crate::agents::Next;
use crate::guards::{require_admin, signed_caller};
use crate::platform;
use crate::state::{self, Turn};

/// Creates an agent that obeys the caller, or finds the one that the same key made before.
///
/// # Errors
/// [`FactoryError::InvalidField`], [`FactoryError::NoTemplate`] and the like for the arguments;
/// [`FactoryError::InProgress`], [`FactoryError::Busy`], [`FactoryError::TooManyAgents`],
/// [`FactoryError::OutOfCycles`]; [`FactoryError::StepFailed`], after which the same call may be repeated.
pub async fn create_agent(args: CreateAgentArgs) -> Result<AgentRecord, FactoryError> {
    let caller = signed_caller()?;
    let owner = owner_for(caller, &args)?;
    let config = args.config.clone().unwrap_or_default();
    config.validate().map_err(|error| {
        FactoryError::InvalidField(FieldError::new(format!("config.{}", error.field), error.reason))
    })?;
    let limits = state::read(|state| state.settings().config.clone());
    let _turn = Turn::take(owner, &args.key, limits.max_concurrent)?;
    state::mutate(|state| {
        let template = state.templates.committed(args.template.as_ref())?;
        let coordinator = (owner != caller).then_some(caller);
        let most = limits.max_agents_per_owner;
        state.agents.request(owner, coordinator, &args, template.sha256, most, time())
    })?;
    proceed(owner, &args.key, &config).await?;
    let record = state::read(|state| state.agents.get(owner, &args.key))?;
    match record.state {
        AgentState::Failed { step, reason } => Err(FactoryError::StepFailed { step, reason }),
        _ => Ok(record),
    }
}

/// Whom a new agent obeys: the caller, or whom a registered coordinator names.
fn owner_for(caller: Principal, args: &CreateAgentArgs) -> Result<Principal, FactoryError> {
    let Some(owner) = args.owner.filter(|owner| *owner != caller) else { return Ok(caller) };
    let invalid = |reason: &str| FactoryError::InvalidField(FieldError::new("owner", reason));
    if !state::read(|state| state.settings().coordinators.contains(&caller)) {
        return Err(invalid("is not the caller, and only a registered coordinator names another"));
    }
    if owner == Principal::anonymous() {
        return Err(invalid("is the anonymous principal, which can't own an agent"));
    }
    Ok(owner)
}

/// Deletes an agent of the caller; its cycles return to the factory.
///
/// # Errors
/// [`FactoryError::UnknownAgent`], [`FactoryError::InProgress`], [`FactoryError::Busy`];
/// [`FactoryError::StepFailed`], after which the same call may be repeated.
pub async fn delete_agent(key: String) -> Result<(), FactoryError> {
    let owner = signed_caller()?;
    let limits = state::read(|state| state.settings().config.clone());
    let _turn = Turn::take(owner, &key, limits.max_concurrent)?;
    state::mutate(|state| state.agents.request_deletion(owner, &key, time()))?;
    proceed(owner, &key, &AgentConfig::default()).await
}

/// Makes a canister that a creation left behind a spare; see [`shared_types::factory::StepPhase::Unknown`]. To adopt a spare
/// again changes nothing.
///
/// # Errors
/// Callers that are no admins are refused; [`FactoryError::NotAdoptable`] for an agent's canister, one with code or with
/// another controller.
pub async fn adopt_canister(canister: Principal) -> Result<(), FactoryError> {
    require_admin()?;
    let refuse = |reason: String| Err(FactoryError::NotAdoptable { canister, reason });
    match platform::objection(canister).await {
        Ok(None) => {}
        Ok(Some(reason)) | Err(reason) => return refuse(reason),
    }
    // Looked at after the await: a creation may have taken the canister meanwhile.
    state::mutate(|state| {
        if state.agents.is_agents(canister) {
            return refuse("it is an agent's".to_owned());
        }
        state.agents.adopt(canister);
        Ok(())
    })
}

/// Performs the steps that the agent needs, each journalled before and after it awaits.
async fn proceed(owner: Principal, key: &str, config: &AgentConfig) -> Result<(), FactoryError> {
    let mut last = None;
    while let Next::Step(step, canister) = state::mutate(|state| state.agents.next(owner, key, last)) {
        let record = state::read(|state| state.agents.get(owner, key))?;
        state::mutate(|state| state.agents.begun(owner, key, step, time()));
        let cycles = if canister.is_none() { check_cycles() } else { Ok(()) };
        let outcome = match &cycles {
            Ok(()) => platform::perform(step, canister, &record, config).await,
            Err(missing) => Err(missing.to_string()),
        };
        last = Some((step, outcome.is_ok()));
        let completed = state::mutate(|state| state.agents.completed(owner, key, step, outcome, time()));
        cycles.and(completed)?;
    }
    Ok(())
}

/// Says how many cycles a creation lacks, before it is tried.
fn check_cycles() -> Result<(), FactoryError> {
    let agent_cycles = state::read(|state| state.settings().config.agent_cycles);
    let required = agent_cycles.saturating_add(cost_create_canister());
    let available = canister_liquid_cycle_balance();
    if available < required { Err(FactoryError::OutOfCycles { available, required }) } else { Ok(()) }
}
