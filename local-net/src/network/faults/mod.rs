//! Faults on demand: what the Internet Computer may do to a canister, at a moment that a test chooses.
//!
//! A [`FaultPlan`] has rules. A rule names a **point** of the run and a [`Fault`]. Points are of two kinds, each counted from 0 since
//! the plan was set: **awaits**, the calls that canisters make (a canister's calls to itself and to the management canister
//! included), and **messages**, everything that is executed. The [`FaultTrace`] lists them, so that a test can run a scenario
//! once, read how many points it has, and run it again with a fault at each.
//!
//! **Invariant**: the same network, requests and plan give the same trace. What a rule leaves to chance is a function of
//! the plan's seed, the rule's position and the point's number; nothing else is random.
//!
//! **Invariant**: a fault does nothing that the Internet Computer could not do. A fault that the specification rules out at
//! a point (losing the answer of an unbounded-wait call, whose delivery is guaranteed) is not injected, and the trace says so.
//! The exception is [`Fault::Duplicate`], which stands for a caller that repeats a call.

mod plan;
mod trace;

pub use plan::{CyclesLeft, Delay, Fault, FaultPlan, MAX_ROUNDS, MAX_RULES, PlanError, Rule, When};
pub use trace::{Await, ExecutedMessage, FaultTrace, Injected, MAX_RECORDS, MessageKind, Point};

use super::{
    Network, SubnetIndex,
    messages::{Delivery, Origin, Request},
};
use crate::{
    canister::Status,
    limits,
    reject::{ErrorCode, Reject, Response},
};
use candid::Principal;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Waiting messages from which the next one is chosen when a plan changes their order.
const WINDOW: usize = 64;
/// The stream of random numbers that chooses the order of messages; those of the rules have smaller numbers.
const ORDER: u64 = u64::MAX;

/// What becomes of a request.
enum Dispatch {
    Deliver,
    Twice,
    Delay(Delay),
    Drop,
    Reject,
}

/// What becomes of an answer.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
enum AnswerFault {
    /// The callback traps; the position of the fault in the trace.
    Trap(usize),
    Unknown,
    Drop,
    Delay(Delay),
}

/// A message on its way from one subnet to another, or to the same.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Transit {
    delivery: Delivery,
    from: SubnetIndex,
    to: SubnetIndex,
}

/// A message that arrives later.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Held {
    transit: Transit,
    /// The first round and the time from which it arrives.
    round: u64,
    time: u64,
}

/// Cycles that were taken from a canister until a round.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Taken {
    canister: Principal,
    cycles: u128,
    round: u64,
}

/// A canister that is stopped for an upgrade; the position of the fault in the trace.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Restart {
    canister: Principal,
    injected: usize,
}

/// A message that is about to be executed, and the fault that comes after it.
pub(super) struct MessagePoint {
    message: ExecutedMessage,
    fault: Option<(usize, Fault)>,
}

/// A plan under way.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Faults {
    trace: FaultTrace,
    /// How many points each rule has admitted.
    admitted: Vec<u64>,
    /// Awaits whose answer is still to come, by callback.
    open: BTreeMap<u64, (Await, Option<AnswerFault>)>,
    /// The next execution traps; the position of the fault in the trace.
    armed: Option<usize>,
    round: u64,
    held: Vec<Held>,
    taken: Vec<Taken>,
    restarts: Vec<Restart>,
}

impl Faults {
    fn new(plan: FaultPlan) -> Self {
        let admitted = vec![0; plan.rules.len()];
        Self { trace: FaultTrace { plan, ..FaultTrace::default() }, admitted, ..Self::default() }
    }

    /// The fault of the first rule that applies to this point: a message of a kind, or an await.
    fn decide(
        &mut self,
        kind: Option<MessageKind>,
        point: u64,
        caller: Option<Principal>,
        callee: Principal,
        method: &str,
    ) -> Option<(usize, Fault)> {
        let plan = &self.trace.plan;
        let mut decision = None;
        for (i, (rule, admitted)) in plan.rules.iter().zip(&mut self.admitted).enumerate() {
            if !rule.admits(kind, caller, callee, method) {
                continue;
            }
            let nth = *admitted;
            *admitted += 1;
            if decision.is_none() && plan.applies(i, nth, point) {
                decision = Some((i, rule.fault.clone()));
            }
        }
        decision
    }

    /// Records a fault; returns its position in the trace.
    fn inject(&mut self, rule: usize, point: Point, fault: Fault, prevented: Option<String>) -> usize {
        let position = self.trace.injected.len();
        trace::record(&mut self.trace.injected, Injected { rule, point, fault, prevented });
        position
    }

    fn prevent(&mut self, position: usize, reason: String) {
        if let Some(injected) = self.trace.injected.get_mut(position) {
            injected.prevented = Some(reason);
        }
    }

    /// Records the await that `request` begins, and decides what becomes of it.
    fn begin_await(&mut self, callback: u64, request: &Request) -> Dispatch {
        let point = Await {
            index: self.trace.await_count,
            message: self.trace.message_count.saturating_sub(1),
            caller: request.caller,
            callee: request.callee,
            method: request.method.clone(),
            bounded: request.deadline != 0,
        };
        self.trace.await_count += 1;
        trace::record(&mut self.trace.awaits, point.clone());
        let decision = self.decide(None, point.index, Some(request.caller), request.callee, &request.method);
        let (mut dispatch, mut answer) = (Dispatch::Deliver, None);
        if let Some((rule, fault)) = decision {
            let prevented = (fault.is_bounded_only() && !point.bounded)
                .then(|| "the answer to an unbounded-wait call is guaranteed".to_owned());
            let applies = prevented.is_none();
            let position = self.inject(rule, Point::Await(point.clone()), fault.clone(), prevented);
            if applies {
                match fault {
                    Fault::Trap => answer = Some(AnswerFault::Trap(position)),
                    Fault::RejectUnknown => answer = Some(AnswerFault::Unknown),
                    Fault::DropAnswer => answer = Some(AnswerFault::Drop),
                    Fault::DelayAnswer(delay) => answer = Some(AnswerFault::Delay(delay)),
                    Fault::Reject => dispatch = Dispatch::Reject,
                    Fault::DropRequest => dispatch = Dispatch::Drop,
                    Fault::DelayRequest(delay) => dispatch = Dispatch::Delay(delay),
                    Fault::Duplicate => dispatch = Dispatch::Twice,
                    Fault::TrapMessage
                    | Fault::Upgrade { .. }
                    | Fault::AdvanceTime { .. }
                    | Fault::LowCycles { .. } => {}
                }
            }
        }
        self.open.insert(callback, (point, answer));
        dispatch
    }

    fn hold(&mut self, transit: Transit, delay: Delay, now: u64) {
        let (round, time) = (self.round.saturating_add(delay.rounds), now.saturating_add(delay.nanos));
        self.held.push(Held { transit, round, time });
    }

    /// Holds a request back when an earlier one between the same canisters is held: it may not overtake that.
    fn queue_behind(&mut self, transit: Transit) -> Option<Transit> {
        let Delivery::Request(request) = &transit.delivery else { return Some(transit) };
        let between = |held: &&Held| {
            matches!(&held.transit.delivery, Delivery::Request(earlier)
                if earlier.caller == request.caller && earlier.callee == request.callee)
        };
        let Some(&Held { round, time, .. }) = self.held.iter().rfind(between) else { return Some(transit) };
        self.held.push(Held { transit, round, time });
        None
    }

    /// The message that `delivery` is, and the fault that is due.
    fn begin_message(
        &mut self,
        kind: MessageKind,
        call: (Option<Principal>, Principal, String),
    ) -> MessagePoint {
        let (caller, callee, method) = call;
        let message = ExecutedMessage { index: self.trace.message_count, kind, caller, callee, method };
        self.trace.message_count += 1;
        trace::record(&mut self.trace.messages, message.clone());
        let mut fault = self.decide(Some(kind), message.index, caller, callee, &message.method);
        if let Some((rule, Fault::TrapMessage)) = fault {
            let prevented = (callee == Principal::management_canister())
                .then(|| "the management canister does not trap".to_owned());
            let traps = prevented.is_none();
            let position = self.inject(rule, Point::Message(message.clone()), Fault::TrapMessage, prevented);
            self.armed = traps.then_some(position);
            fault = None;
        }
        MessagePoint { message, fault }
    }
}

impl Network {
    /// Begins to follow `plan`, with a new trace; a plan under way ends.
    ///
    /// # Errors
    /// When the plan cannot be followed; nothing has changed then.
    pub fn set_faults(&mut self, plan: FaultPlan) -> Result<(), PlanError> {
        plan.validate()?;
        self.clear_faults();
        self.faults = Some(Box::new(Faults::new(plan)));
        Ok(())
    }

    /// What happened since a plan was set.
    pub fn fault_trace(&self) -> Option<&FaultTrace> {
        self.faults.as_ref().map(|faults| &faults.trace)
    }

    /// Ends the plan: messages that are held back arrive, cycles that were taken come back, canisters that are being stopped
    /// for an upgrade run on.
    pub fn clear_faults(&mut self) -> Option<FaultTrace> {
        let mut faults = self.faults.take()?;
        for held in std::mem::take(&mut faults.held) {
            self.arrive(held.transit);
        }
        for taken in std::mem::take(&mut faults.taken) {
            if self.add_cycles(taken.canister, taken.cycles).is_err() {
                faults.trace.lost_cycles += taken.cycles;
            }
        }
        for restart in std::mem::take(&mut faults.restarts) {
            self.start(restart.canister);
        }
        Some(faults.trace)
    }

    /// Puts a call on its way.
    pub(super) fn send_request(
        &mut self,
        callback: u64,
        request: Request,
        from: SubnetIndex,
        to: SubnetIndex,
    ) {
        let now = self.time();
        let transit = |request| Transit { delivery: Delivery::Request(request), from, to };
        let Some(faults) = &mut self.faults else { return self.arrive(transit(request)) };
        match faults.begin_await(callback, &request) {
            Dispatch::Deliver => {
                if let Some(transit) = faults.queue_behind(transit(request)) {
                    self.arrive(transit);
                }
            }
            Dispatch::Twice => {
                let repeated = Request { cycles: 0, origin: Origin::System, ..request.clone() };
                let both = [transit(request), transit(repeated)];
                for transit in both.map(|transit| faults.queue_behind(transit)).into_iter().flatten() {
                    self.arrive(transit);
                }
            }
            Dispatch::Delay(delay) => faults.hold(transit(request), delay, now),
            Dispatch::Drop => faults.trace.lost_cycles += request.cycles,
            Dispatch::Reject => {
                let text = format!("Canister {}'s queue is full (injected fault)", request.callee);
                let reject = Reject::new(ErrorCode::CanisterQueueFull, text);
                self.respond(request.origin, Err(reject), request.cycles);
            }
        }
    }

    /// Puts the answer to a call on its way.
    pub(super) fn send_response(
        &mut self,
        callback: u64,
        mut response: Response,
        mut refund: u128,
        from: SubnetIndex,
        to: SubnetIndex,
    ) {
        let now = self.time();
        let mut delay = None;
        if let Some(faults) = &mut self.faults
            && let Some((_, fault)) = faults.open.get_mut(&callback)
        {
            match *fault {
                None | Some(AnswerFault::Trap(_)) => {}
                Some(AnswerFault::Unknown) => {
                    response = Err(Reject::new(
                        ErrorCode::DeadlineExpired,
                        "Call deadline has expired (injected fault).",
                    ));
                    faults.trace.lost_cycles += std::mem::take(&mut refund);
                }
                Some(AnswerFault::Drop) => {
                    faults.trace.lost_cycles += refund;
                    return;
                }
                Some(AnswerFault::Delay(by)) => {
                    delay = Some(by);
                    *fault = None;
                }
            }
        }
        let transit = Transit { delivery: Delivery::Response { callback, response, refund }, from, to };
        match (&mut self.faults, delay) {
            (Some(faults), Some(delay)) => faults.hold(transit, delay, now),
            _ => self.arrive(transit),
        }
    }

    /// Takes the next message from the queue of a subnet.
    pub(super) fn take_next(&mut self, subnet: SubnetIndex) -> Option<Delivery> {
        let queue = &mut self.subnets[subnet].queue;
        let position = match &self.faults {
            Some(faults) if faults.trace.plan.reorder => {
                let mut pairs = BTreeSet::new();
                let permitted =
                    queue.iter().take(WINDOW).enumerate().filter(|(_, delivery)| match delivery {
                        Delivery::Request(request) if matches!(request.origin, Origin::Canister(_)) => {
                            pairs.insert((request.caller, request.callee))
                        }
                        _ => true,
                    });
                let permitted: Vec<usize> = permitted.map(|(position, _)| position).collect();
                let random = faults.trace.plan.draw(ORDER, faults.trace.message_count);
                let choice = random.checked_rem(permitted.len() as u64)?;
                permitted[choice as usize]
            }
            _ => 0,
        };
        queue.remove(position)
    }

    /// Notes that `delivery` is about to be executed.
    pub(super) fn begin_message(&mut self, delivery: &Delivery) -> Option<MessagePoint> {
        let faults = self.faults.as_mut()?;
        Some(match delivery {
            Delivery::Request(request) => faults.begin_message(
                MessageKind::Request,
                (Some(request.caller), request.callee, request.method.clone()),
            ),
            Delivery::Task { canister, task } => {
                faults.begin_message(MessageKind::Task, (None, *canister, task.export().to_owned()))
            }
            Delivery::Response { callback, .. } => {
                // Nobody waits any more, or the call was made before the plan was set.
                if !self.callbacks.contains_key(callback) {
                    return None;
                }
                let (call, fault) = faults.open.remove(callback)?;
                let point =
                    faults.begin_message(MessageKind::Answer, (Some(call.callee), call.caller, call.method));
                if let Some(AnswerFault::Trap(position)) = fault {
                    faults.armed = Some(position);
                }
                point
            }
        })
    }

    /// Whether the execution that begins now is to trap.
    pub(super) fn take_trap(&mut self) -> bool {
        self.faults.as_mut().is_some_and(|faults| faults.armed.take().is_some())
    }

    /// Does what is due after a message.
    pub(super) fn end_message(&mut self, point: MessagePoint) {
        let MessagePoint { message, fault } = point;
        if let Some(faults) = &mut self.faults
            && let Some(position) = faults.armed.take()
        {
            faults.prevent(position, "the message was not executed".to_owned());
        }
        if let Some((rule, fault)) = fault {
            let executed_by = message.callee;
            let Some(faults) = &mut self.faults else { return };
            let position = faults.inject(rule, Point::Message(message), fault.clone(), None);
            if let Err(reason) = self.disturb(&fault, executed_by, position)
                && let Some(faults) = &mut self.faults
            {
                faults.prevent(position, reason);
            }
        }
        self.finish_restarts();
    }

    /// Does what a fault between two messages does, or says why it can't.
    fn disturb(&mut self, fault: &Fault, executed_by: Principal, position: usize) -> Result<(), String> {
        match fault {
            Fault::Upgrade { canister, stop: false } => {
                self.upgrade_to_itself(canister.unwrap_or(executed_by)).map_err(|reject| reject.message)
            }
            Fault::Upgrade { canister, stop: true } => {
                let id = canister.unwrap_or(executed_by);
                let canister = self.canister_mut(id).map_err(|reject| reject.message)?;
                if canister.code.is_none() || !canister.is_running() {
                    return Err(format!("canister {id} does not run"));
                }
                canister.status = Status::Stopping(Vec::new());
                if let Some(faults) = &mut self.faults {
                    faults.restarts.push(Restart { canister: id, injected: position });
                }
                self.stop_if_idle(id);
                Ok(())
            }
            Fault::AdvanceTime { nanos } => {
                self.set_time(self.time().saturating_add(*nanos));
                Ok(())
            }
            Fault::LowCycles { canister, left, rounds } => {
                self.take_cycles(canister.unwrap_or(executed_by), *left, *rounds)
            }
            _ => Ok(()),
        }
    }

    fn take_cycles(&mut self, id: Principal, left: CyclesLeft, rounds: u64) -> Result<(), String> {
        let canister = self.canister_mut(id).map_err(|reject| reject.message)?;
        let message = canister.freezing_limit() + canister.fees.execution(limits::UPDATE_INSTRUCTIONS);
        let left = match left {
            CyclesLeft::Frozen => message - 1,
            CyclesLeft::OneMessage => message,
        };
        let cycles = canister.balance.saturating_sub(left);
        if cycles == 0 {
            return Err(format!("canister {id} has no more than that"));
        }
        canister.balance -= cycles;
        if let Some(faults) = &mut self.faults {
            let round = faults.round.saturating_add(rounds);
            faults.taken.push(Taken { canister: id, cycles, round });
        }
        Ok(())
    }

    /// Upgrades and starts the canisters that have stopped for it.
    fn finish_restarts(&mut self) {
        let Some(faults) = &mut self.faults else { return };
        if faults.restarts.is_empty() {
            return;
        }
        for restart in std::mem::take(&mut faults.restarts) {
            let Ok(canister) = self.canister(restart.canister) else { continue };
            let upgraded = match canister.status {
                Status::Stopping(_) => {
                    if let Some(faults) = &mut self.faults {
                        faults.restarts.push(restart);
                    }
                    continue;
                }
                Status::Running => Err("somebody else has started the canister".to_owned()),
                Status::Stopped => {
                    let upgraded = self.upgrade_to_itself(restart.canister);
                    self.start(restart.canister);
                    upgraded.map_err(|reject| reject.message)
                }
            };
            if let (Err(reason), Some(faults)) = (upgraded, &mut self.faults) {
                faults.prevent(restart.injected, reason);
            }
        }
    }

    /// Lets arrive what is due in the round that begins.
    pub(super) fn start_faulty_round(&mut self) {
        let now = self.time();
        let Some(faults) = &mut self.faults else { return };
        faults.round += 1;
        let round = faults.round;
        faults.open.retain(|callback, _| self.callbacks.contains_key(callback));
        let due: Vec<Held> =
            faults.held.extract_if(.., |held| held.round <= round && held.time <= now).collect();
        let returned: Vec<Taken> = faults.taken.extract_if(.., |taken| taken.round <= round).collect();
        for held in due {
            self.arrive(held.transit);
        }
        for taken in returned {
            if self.add_cycles(taken.canister, taken.cycles).is_err()
                && let Some(faults) = &mut self.faults
            {
                faults.trace.lost_cycles += taken.cycles;
            }
        }
        self.finish_restarts();
    }

    fn arrive(&mut self, Transit { delivery, from, to }: Transit) {
        self.deliver(delivery, from, to);
    }
}
