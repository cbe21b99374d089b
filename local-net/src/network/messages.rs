//! Messages between canisters: call contexts, callbacks and their execution.

use super::{
    Network, RequestId, SubnetIndex,
    execute::{Executed, Keep},
};
use crate::{
    canister::{LowMemoryHook, Status},
    execution::Function,
    limits,
    reject::{ErrorCode, Reject, Response},
    system_api::{EntryPoint, Message, OutgoingCall},
};
use candid::Principal;
use serde::{Deserialize, Serialize};

/// Where a call came from, and so where its answer goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Origin {
    /// A user's request.
    Ingress(RequestId),
    /// A canister, which waits with this callback.
    Canister(u64),
    /// The network: timers and heartbeats.
    System,
}

/// A call to a canister or to the management canister.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Request {
    /// The callee.
    pub callee: Principal,
    /// The caller.
    pub caller: Principal,
    /// The method's name.
    pub method: String,
    /// The argument's bytes.
    pub argument: Vec<u8>,
    /// Cycles attached.
    pub cycles: u128,
    /// When the caller stops waiting, in nanoseconds since 1970; 0 when it does not.
    pub deadline: u64,
    /// Where the answer goes.
    pub origin: Origin,
}

/// What the network asks canisters to do by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum SystemTask {
    Heartbeat,
    GlobalTimer,
    LowMemory,
}

impl SystemTask {
    /// The function that does it.
    pub(super) fn export(self) -> &'static str {
        match self {
            Self::Heartbeat => "canister_heartbeat",
            Self::GlobalTimer => "canister_global_timer",
            Self::LowMemory => "canister_on_low_wasm_memory",
        }
    }
}

/// Something that waits in the queue to be executed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum Delivery {
    Request(Request),
    Response { callback: u64, response: Response, refund: u128 },
    Task { canister: Principal, task: SystemTask },
}

/// Nanoseconds of a second, the unit of deadlines.
const SECOND: u64 = 1_000_000_000;

/// A call that its callee has not finished.
#[derive(Serialize, Deserialize)]
pub(super) struct CallContext {
    pub(super) canister: Principal,
    pub(super) origin: Origin,
    caller: Principal,
    deadline: u64,
    answered: bool,
    /// Calls made for it that wait for a response.
    outstanding: usize,
    /// Cycles not accepted yet.
    cycles: u128,
    /// Instructions of its messages so far.
    instructions: u64,
}

/// A call that its caller waits for.
#[derive(Serialize, Deserialize)]
pub(super) struct Callback {
    context: u64,
    pub(super) canister: Principal,
    pub(super) deadline: u64,
    /// The subnet that executes the call.
    subnet: SubnetIndex,
    /// Whether the deadline has passed: two responses come then, and the second one only brings cycles back.
    expired: bool,
    /// What to do with the first response.
    call: Option<OutgoingCall>,
}

fn deadline_expired() -> Reject {
    Reject::new(ErrorCode::DeadlineExpired, "Call deadline has expired.")
}

impl Network {
    /// Executes the next message of a subnet; the instructions it used, or `None` when none waits.
    pub(super) fn execute_next(&mut self, subnet: SubnetIndex) -> Option<u64> {
        let delivery = self.take_next(subnet)?;
        self.executed_messages += 1;
        let point = self.begin_message(&delivery);
        let instructions = match delivery {
            Delivery::Request(request) if request.callee == Principal::management_canister() => {
                self.manage(&request, subnet);
                0
            }
            Delivery::Request(request) if self.is_system_canister(request.callee) => {
                self.call_system_canister(&request);
                0
            }
            Delivery::Request(request) => self.execute_request(request),
            Delivery::Task { canister, task } => self.execute_task(canister, task),
            Delivery::Response { callback, response, refund } => {
                self.execute_response(callback, response, refund)
            }
        };
        if let Some(point) = point {
            self.end_message(point);
        }
        Some(instructions)
    }

    fn execute_request(&mut self, request: Request) -> u64 {
        if request.deadline != 0 && request.deadline <= self.time() {
            self.respond(request.origin, Err(deadline_expired()), request.cycles);
            return 0;
        }
        let (function, message, keep) = match self.prepare_request(&request) {
            Ok(prepared) => prepared,
            Err(reject) => {
                self.respond(request.origin, Err(reject), request.cycles);
                return 0;
            }
        };
        let context = self.open_context(CallContext {
            canister: request.callee,
            origin: request.origin,
            caller: request.caller,
            deadline: request.deadline,
            answered: false,
            outstanding: 0,
            cycles: request.cycles,
            instructions: 0,
        });
        let message = Message { argument: request.argument, ..message };
        let executed = self.execute(request.callee, Function::Export(&function), message, keep);
        self.finish(context, executed)
    }

    /// The function that a request runs, or why it cannot run.
    fn prepare_request(&self, request: &Request) -> Result<(String, Message, Keep), Reject> {
        let id = request.callee;
        let canister = self.canister(id)?;
        canister.check_running()?;
        let code = canister.code.as_ref().ok_or_else(|| Reject::no_module(id))?;
        let method = &request.method;
        let update = format!("canister_update {method}");
        let query = format!("canister_query {method}");
        let (function, entry_point, keep) = if code.module.exports(&update) {
            (update, EntryPoint::Update, Keep::Changes)
        } else if code.module.exports(&query) {
            (query, EntryPoint::ReplicatedQuery, Keep::Charge)
        } else if code.module.exports(&format!("canister_composite_query {method}")) {
            return Err(Reject::new(
                ErrorCode::CompositeQueryCalledInReplicatedMode,
                format!(
                    "Composite query cannot be called in replicated mode: canister {id}, method '{method}'"
                ),
            ));
        } else {
            return Err(Reject::no_method(id, "update", method));
        };
        let minimum = canister.settings.minimum_incoming_canister_call_cycles;
        let is_foreign = matches!(request.origin, Origin::Canister(_)) && request.caller != id;
        if is_foreign && request.cycles < minimum {
            return Err(Reject::new(
                ErrorCode::InsufficientCyclesInCall,
                format!(
                    "Canister {id} requires at least {minimum} transferred cycles, got {}",
                    request.cycles
                ),
            ));
        }
        let message = Message {
            unanswered: true,
            deadline: if entry_point == EntryPoint::Update { request.deadline } else { 0 },
            cycles_available: request.cycles,
            ..Message::new(entry_point, request.caller)
        };
        canister.check_cycles(canister.fees.execution(message.instruction_limit))?;
        Ok((function, message, keep))
    }

    fn execute_task(&mut self, id: Principal, task: SystemTask) -> u64 {
        let function = task.export();
        let Ok(canister) = self.canister(id) else { return 0 };
        let message = Message::new(EntryPoint::SystemTask, Principal::management_canister());
        let ready = canister.is_running()
            && canister.code.as_ref().is_some_and(|c| c.module.exports(function))
            && canister.check_cycles(canister.fees.execution(message.instruction_limit)).is_ok();
        if !ready {
            // The global timer is deactivated by its execution (`call_or_task.rs` of the replica): here it stays due.
            if task == SystemTask::GlobalTimer {
                let time = self.time();
                if let Ok(canister) = self.canister_mut(id)
                    && canister.code.is_some()
                    && canister.timer == 0
                {
                    canister.timer = time;
                }
            }
            return 0;
        }
        if task == SystemTask::LowMemory {
            match self.canisters.get_mut(&id) {
                Some(canister) if canister.low_memory_hook == LowMemoryHook::Ready => {
                    canister.low_memory_hook = LowMemoryHook::Executed;
                }
                _ => return 0,
            }
        }
        let context = self.open_context(CallContext {
            canister: id,
            origin: Origin::System,
            caller: Principal::management_canister(),
            deadline: 0,
            answered: true,
            outstanding: 0,
            cycles: 0,
            instructions: 0,
        });
        let executed = self.execute(id, Function::Export(function), message, Keep::Changes);
        self.finish(context, executed)
    }

    /// Lets the hook for low memory run before everything else that waits, if it is due.
    pub(crate) fn run_low_memory_hook(&mut self, id: Principal) {
        let Some(canister) = self.canisters.get(&id) else { return };
        if canister.low_memory_hook == LowMemoryHook::Ready {
            let task = Delivery::Task { canister: id, task: SystemTask::LowMemory };
            self.subnets[canister.subnet].queue.push_front(task);
        }
    }

    fn execute_response(&mut self, callback: u64, response: Response, refund: u128) -> u64 {
        // The callback is gone when its canister was uninstalled, or when it has got all responses.
        let Some(waiting) = self.callbacks.get_mut(&callback) else { return 0 };
        let (context_id, id, call) = (waiting.context, waiting.canister, waiting.call.take());
        if !waiting.expired || call.is_none() {
            self.callbacks.remove(&callback);
        }
        let Ok(canister) = self.canister_mut(id) else { return 0 };
        canister.balance += refund;
        let Some(call) = call else { return 0 };
        canister.balance += call.prepaid;
        if let Some(open) = canister.open_calls.get_mut(&call.callee) {
            *open = open.saturating_sub(1);
        }
        canister.open_calls.retain(|_, open| *open > 0);
        let Some(context) = self.contexts.get_mut(&context_id) else { return 0 };
        context.outstanding -= 1;
        let base = Message {
            unanswered: !context.answered,
            deadline: context.deadline,
            cycles_available: context.cycles,
            cycles_refunded: refund,
            earlier_instructions: context.instructions,
            ..Message::new(EntryPoint::Reply, context.caller)
        };
        let (closure, message) = match response {
            Ok(argument) => (call.on_reply, Message { argument, ..base.clone() }),
            Err(reject) => (
                call.on_reject,
                Message { entry_point: EntryPoint::Reject, reject: Some(reject), ..base.clone() },
            ),
        };
        let reject = message.reject.clone();
        let mut executed = self.execute(id, Function::Callback(closure), message, Keep::Changes);
        if executed.result.is_err()
            && let Some(cleanup) = call.on_cleanup
        {
            let message = Message { entry_point: EntryPoint::Cleanup, reject, unanswered: false, ..base };
            // A trap in the cleanup callback undoes the callback's changes only; the call fails either way.
            let cleanup = self.execute(id, Function::Callback(cleanup), message, Keep::Changes);
            executed.instructions += cleanup.instructions;
            executed.result = executed.result.map_err(|reject| reject.with_cleanup(cleanup.result.err()));
        }
        self.finish(context_id, executed)
    }

    fn open_context(&mut self, context: CallContext) -> u64 {
        if let Some(canister) = self.canisters.get_mut(&context.canister) {
            canister.open_contexts += 1;
        }
        let id = self.fresh_id();
        self.contexts.insert(id, context);
        id
    }

    /// Does what an execution asked for, and answers the call if that is due. Returns the instructions used.
    fn finish(&mut self, context_id: u64, executed: Executed) -> u64 {
        let Executed { result, instructions } = executed;
        let Some(context) = self.contexts.get_mut(&context_id) else { return instructions };
        let id = context.canister;
        context.instructions += instructions;
        let mut calls = Vec::new();
        let mut answer = None;
        match result {
            Ok(effects) => {
                context.cycles = context.cycles.saturating_sub(effects.cycles_accepted);
                context.outstanding += effects.calls.len();
                calls = effects.calls;
                answer = effects.answer.map(|answer| {
                    answer.map_err(|text| Reject::new(ErrorCode::CanisterRejectedMessage, text))
                });
            }
            Err(reject) if context.outstanding == 0 => answer = Some(Err(reject)),
            Err(_) => {}
        }
        if answer.is_none() && context.outstanding == 0 {
            answer = Some(Err(Reject::new(
                ErrorCode::CanisterDidNotReply,
                format!("Canister {id} did not reply to the call"),
            )));
        }
        let answer = answer.filter(|_| !context.answered);
        let (origin, finished) = (context.origin, context.outstanding == 0);
        let refund = if answer.is_some() {
            context.answered = true;
            std::mem::take(&mut context.cycles)
        } else {
            0
        };
        for call in calls {
            self.send(context_id, id, call);
        }
        if let Some(answer) = answer {
            self.respond(origin, answer, refund);
        }
        if finished {
            self.contexts.remove(&context_id);
            self.close_context(id);
        }
        instructions
    }

    /// Counts down the open calls of a canister; a stopping canister without any is stopped.
    fn close_context(&mut self, id: Principal) {
        let Some(canister) = self.canisters.get_mut(&id) else { return };
        canister.open_contexts = canister.open_contexts.saturating_sub(1);
        self.stop_if_idle(id);
    }

    /// Completes a stop request when the canister has no open calls.
    pub(crate) fn stop_if_idle(&mut self, id: Principal) {
        let Some(canister) = self.canisters.get_mut(&id) else { return };
        if canister.open_contexts > 0 || !matches!(canister.status, Status::Stopping(_)) {
            return;
        }
        canister.version += 1;
        if let Status::Stopping(waiting) = std::mem::replace(&mut canister.status, Status::Stopped) {
            for (origin, _) in waiting {
                self.respond(origin, Ok(crate::management::empty_reply()), 0);
            }
        }
    }

    /// Answers the stop requests that have waited too long; their canisters stay as they are.
    pub(super) fn expire_stop_requests(&mut self) {
        let time = self.time();
        let mut expired = Vec::new();
        for (id, canister) in &mut self.canisters {
            if let Status::Stopping(waiting) = &mut canister.status {
                expired.extend(
                    waiting.extract_if(.., |(_, until)| *until <= time).map(|(origin, _)| (*id, origin)),
                );
            }
        }
        for (id, origin) in expired {
            let text = format!("Stop canister request timed out: canister {id} has open calls");
            self.respond(origin, Err(Reject::new(ErrorCode::StopCanisterRequestTimeout, text)), 0);
        }
    }

    fn send(&mut self, context: u64, caller: Principal, mut call: OutgoingCall) {
        let Some(canister) = self.canisters.get_mut(&caller) else { return };
        *canister.open_calls.entry(call.callee).or_default() += 1;
        let from = canister.subnet;
        let to = self.route(call.callee, &call.argument, from);
        let callback = self.fresh_id();
        let deadline = call.timeout_seconds.map_or(0, |timeout| {
            let seconds = self.time() / SECOND + u64::from(timeout.min(limits::CALL_TIMEOUT_SECONDS));
            seconds * SECOND
        });
        let (method, argument) = (std::mem::take(&mut call.method), std::mem::take(&mut call.argument));
        let request = Request {
            callee: call.callee,
            caller,
            method,
            argument,
            cycles: call.cycles,
            deadline,
            origin: Origin::Canister(callback),
        };
        let bytes = request.method.len() + request.argument.len();
        let wrong_version = if request.callee == Principal::management_canister() {
            crate::management::check_sender_version(&request.argument, call.sender_version).err()
        } else {
            None
        };
        self.callbacks.insert(
            callback,
            Callback { context, canister: caller, deadline, subnet: to, expired: false, call: Some(call) },
        );
        if let Some(reject) = wrong_version {
            self.respond(request.origin, Err(reject), request.cycles);
        } else if from != to && bytes > limits::MESSAGE_BYTES {
            let reject = Reject::new(
                ErrorCode::CanisterContractViolation,
                format!(
                    "Canister {caller} violated contract: attempted to send a message of size {bytes} exceeding the limit {} \
                     to another subnet",
                    limits::MESSAGE_BYTES
                ),
            );
            self.respond(request.origin, Err(reject), request.cycles);
        } else {
            self.send_request(callback, request, from, to);
        }
    }

    /// Answers a call; `refund` are the cycles that were not accepted.
    pub(crate) fn respond(&mut self, origin: Origin, response: Response, refund: u128) {
        match origin {
            Origin::Ingress(request) => self.finish_ingress(request, response),
            Origin::Canister(callback) => {
                // Nobody waits any more when the caller was deleted, or has got all responses.
                let Some(waiting) = self.callbacks.get(&callback) else { return };
                let (from, Some(to)) =
                    (waiting.subnet, self.canisters.get(&waiting.canister).map(|c| c.subnet))
                else {
                    return;
                };
                self.send_response(callback, response, refund, from, to);
            }
            Origin::System => {}
        }
    }

    /// Ends the waiting of bounded-wait calls whose deadline has passed.
    pub(super) fn expire_calls(&mut self) {
        let time = self.time();
        let expired = self.callbacks.iter().filter(|(_, c)| c.deadline != 0 && c.deadline <= time);
        let expired: Vec<u64> = expired.map(|(id, _)| *id).collect();
        for callback in expired {
            let Some(waiting) = self.callbacks.get_mut(&callback) else { continue };
            waiting.deadline = 0;
            waiting.expired = true;
            let Some(subnet) = self.canisters.get(&waiting.canister).map(|c| c.subnet) else { continue };
            let reject = deadline_expired();
            self.deliver(Delivery::Response { callback, response: Err(reject), refund: 0 }, subnet, subnet);
        }
    }

    /// Rejects all calls that `id` has not answered and forgets its callbacks: its code is gone.
    pub(crate) fn abandon_calls(&mut self, id: Principal) {
        let gone: Vec<u64> =
            self.contexts.iter().filter(|(_, c)| c.canister == id).map(|(id, _)| *id).collect();
        for context_id in gone {
            let Some(context) = self.contexts.remove(&context_id) else { continue };
            if !context.answered {
                let reject = Reject::new(
                    ErrorCode::CanisterDidNotReply,
                    format!("Canister {id} has been uninstalled before it replied to the call"),
                );
                self.respond(context.origin, Err(reject), context.cycles);
            }
        }
        if let Some(canister) = self.canisters.get_mut(&id) {
            canister.open_contexts = 0;
        }
        self.stop_if_idle(id);
    }
}
