//! Creating and deleting agents.

use candid::Principal;
use ic_cdk::api::{canister_liquid_cycle_balance, cost_create_canister, time};
use shared_types::FieldError;
use shared_types::factory::{
    AgentQuota, AgentRecord, AgentState, AgentStep, CreateAgentArgs, FactoryError, TOP_UP_INTERVAL_NS,
    TopUpAgentArgs,
};

use crate::agents::{Done, Next};
use crate::guards::{require_admin, signed_caller};
use crate::platform::Wish;
use crate::state::{self, Turn};
use crate::{platform, upkeep};

/// Creates an agent that obeys the caller, or finds the one that the same key made before.
///
/// # Errors
/// [`FactoryError::InvalidField`], [`FactoryError::NoTemplate`] and the like for the arguments;
/// [`FactoryError::InProgress`], [`FactoryError::Busy`], [`FactoryError::TooManyAgents`],
/// [`FactoryError::OutOfCycles`]; [`FactoryError::StepFailed`], after which the same call may be repeated.
pub async fn create_agent(args: CreateAgentArgs) -> Result<AgentRecord, FactoryError> {
    let caller = signed_caller()?;
    let owner = owner_for(caller, &args)?;
    let wish = Wish { config: args.config.clone().unwrap_or_default(), profile: args.profile.clone() };
    wish.config.validate().map_err(|error| {
        FactoryError::InvalidField(FieldError::new(format!("config.{}", error.field), error.reason))
    })?;
    if let Some(profile) = &wish.profile {
        profile.validate().map_err(FactoryError::InvalidField)?;
    }
    let limits = state::read(|state| state.settings().config.clone());
    let turn = Turn::take(owner, &args.key, limits.max_concurrent)?;
    // A creation that failed gives back its quota before another one begins.
    if state::read(|state| state.agents.is_unfinished(owner, &args.key)) {
        proceed(owner, &args.key, &wish).await.ended?;
    }
    state::mutate(|state| {
        let template = match &args.template {
            Some(template) => state.templates.committed(Some(template))?.sha256,
            None => state.default_template()?,
        };
        let coordinator = (owner != caller).then_some(caller);
        let quota = match coordinator {
            // It has reserved all creations of its plan.
            Some(_) => AgentQuota::ByCoordinator,
            None => AgentQuota::Needed,
        };
        let quota = limits.econ.map(|_| quota);
        let most = limits.max_agents_per_owner;
        state.agents.request(owner, coordinator, &args, quota, template, most, time())
    })?;
    let proceeded = proceed(owner, &args.key, &wish).await;
    // A spare may have been taken, and what failed may have left something to give back.
    drop(turn);
    upkeep::schedule();
    proceeded.ended?;
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

/// Deletes an agent of the caller. Its tokens go to the owner, its cycles to the factory, up to what the factory gave, and to the
/// owner.
///
/// # Errors
/// [`FactoryError::UnknownAgent`], [`FactoryError::InProgress`], [`FactoryError::Busy`];
/// [`FactoryError::StepFailed`], after which the same call may be repeated.
pub async fn delete_agent(key: String) -> Result<(), FactoryError> {
    let owner = signed_caller()?;
    let limits = state::read(|state| state.settings().config.clone());
    let _turn = Turn::take(owner, &key, limits.max_concurrent)?;
    state::mutate(|state| state.agents.request_deletion(owner, &key, time()))?;
    proceed(owner, &key, &Wish::default()).await.ended
}

/// Stops or starts an agent of the caller.
///
/// # Errors
/// [`FactoryError::UnknownAgent`], [`FactoryError::WrongState`], [`FactoryError::InProgress`], [`FactoryError::Busy`];
/// [`FactoryError::StepFailed`], after which the factory tries it again by itself.
pub async fn set_running(key: String, runs: bool) -> Result<AgentRecord, FactoryError> {
    let owner = signed_caller()?;
    let limits = state::read(|state| state.settings().config.clone());
    let turn = Turn::take(owner, &key, limits.max_concurrent)?;
    state::mutate(|state| state.agents.request_running(owner, &key, runs))?;
    let proceeded = proceed(owner, &key, &Wish::default()).await;
    drop(turn);
    upkeep::schedule();
    proceeded.ended?;
    state::read(|state| state.agents.get(owner, &key))
}

/// Adds cycles of the factory to an agent.
///
/// # Errors
/// [`FactoryError::Unauthorized`] for others than admins who name another's agent or a number of cycles;
/// [`FactoryError::UnknownAgent`], [`FactoryError::WrongState`], [`FactoryError::ToppedUp`], [`FactoryError::OutOfCycles`],
/// [`FactoryError::InProgress`], [`FactoryError::Busy`], [`FactoryError::StepFailed`].
pub async fn top_up_agent(args: TopUpAgentArgs) -> Result<AgentRecord, FactoryError> {
    let caller = signed_caller()?;
    let owner = args.owner.unwrap_or(caller);
    let is_admin = require_admin().is_ok();
    if !is_admin && (owner != caller || args.cycles.is_some()) {
        return Err(FactoryError::Unauthorized);
    }
    let limits = state::read(|state| state.settings().config.clone());
    let _turn = Turn::take(owner, &args.key, limits.max_concurrent)?;
    let record = state::read(|state| state.agents.get(owner, &args.key))?;
    let (Some(canister), AgentState::Running | AgentState::Stopped) = (record.canister, &record.state) else {
        return Err(FactoryError::WrongState { key: record.key, state: record.state });
    };
    let (required, available) = (args.cycles.unwrap_or(limits.agent_cycles), canister_liquid_cycle_balance());
    if available < required {
        return Err(FactoryError::OutOfCycles { available, required });
    }
    state::mutate(|state| {
        if !is_admin {
            state.agents.request_top_up(owner, &args.key, TOP_UP_INTERVAL_NS, time())?;
        }
        state.agents.begun(owner, &args.key, AgentStep::TopUp, time());
        Ok::<_, FactoryError>(())
    })?;
    let outcome = match args.cycles {
        Some(cycles) => platform::add_cycles(canister, cycles).await,
        None => match platform::perform(AgentStep::TopUp, Some(canister), &record, &Wish::default()).await {
            Ok(Done::Granted(cycles)) => Ok(cycles),
            Ok(_) => Err("the canister does not exist".to_owned()),
            Err(reason) => Err(reason),
        },
    };
    let failed = outcome.clone().err();
    let record = state::mutate(|state| state.agents.topped_up(owner, &args.key, outcome, time()))?;
    failed.map_or(Ok(record), |reason| Err(FactoryError::StepFailed { step: AgentStep::TopUp, reason }))
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

/// How far a request has come.
pub struct Proceeded {
    /// The last step that failed, and why.
    pub failure: Option<(AgentStep, String)>,
    /// Why the request ended before the agent was as wished.
    pub ended: Result<(), FactoryError>,
}

/// Performs the steps that the agent needs, each journalled before and after it awaits.
pub async fn proceed(owner: Principal, key: &str, wish: &Wish) -> Proceeded {
    let (mut last, mut failure, mut missing_cycles) = (None, None, Ok(()));
    while let Next::Step(step, canister) = state::mutate(|state| state.agents.next(owner, key, last)) {
        let begun = state::mutate(|state| {
            let refund_cycles = state.agents.get(owner, key)?.refund_cycles;
            state.agents.begun(owner, key, step, time());
            Ok(AgentRecord { refund_cycles, ..state.agents.get(owner, key)? })
        });
        let record = match begun {
            Ok(record) => record,
            Err(error) => return Proceeded { failure, ended: Err(error) },
        };
        let creates = step == AgentStep::Create && canister.is_none();
        let cycles = if creates { check_cycles() } else { Ok(()) };
        let outcome = match &cycles {
            Ok(()) => platform::perform(step, canister, &record, wish).await,
            Err(missing) => Err(missing.to_string()),
        };
        if let Err(reason) = &outcome {
            failure = Some((step, reason.clone()));
            if step == AgentStep::Refund {
                state::mutate(|state| state.agents.refund_failed(owner, key, record.refund_cycles));
            }
        }
        last = Some((step, outcome.is_ok()));
        let completed = state::mutate(|state| state.agents.completed(owner, key, step, outcome, time()));
        missing_cycles = missing_cycles.and(cycles);
        if completed.is_err() {
            return Proceeded { failure, ended: missing_cycles.and(completed) };
        }
    }
    Proceeded { failure, ended: missing_cycles }
}

/// Says how many cycles a creation lacks, before it is tried.
fn check_cycles() -> Result<(), FactoryError> {
    let agent_cycles = state::read(|state| state.settings().config.agent_cycles);
    let required = agent_cycles.saturating_add(cost_create_canister());
    let available = canister_liquid_cycle_balance();
    if available < required { Err(FactoryError::OutOfCycles { available, required }) } else { Ok(()) }
}
