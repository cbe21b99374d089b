//! Queries: executed at once, without changing anything.

use super::{
    Network,
    execute::{Executed, Keep},
};
use crate::{
    execution::Function,
    limits,
    reject::{ErrorCode, Reject, Response},
    system_api::{EntryPoint, Message},
};
use candid::Principal;
use std::collections::VecDeque;

/// A user's query.
#[derive(Clone, Debug)]
pub struct Query {
    /// The callee.
    pub canister: Principal,
    /// Who asks.
    pub caller: Principal,
    /// The method's name.
    pub method: String,
    /// The argument's bytes.
    pub argument: Vec<u8>,
}

/// A user's query and the queries it has called.
struct CallGraph {
    /// The composite queries that wait for the present one, outermost first.
    callers: Vec<Principal>,
    /// Instructions that are left for all of them.
    instructions: u64,
}

/// Why a query has no reply.
enum Failure {
    /// Its caller gets this reject.
    Rejected(Reject),
    /// The user's query ends with this reject.
    Ended(Reject),
}

impl From<Reject> for Failure {
    fn from(reject: Reject) -> Self {
        Self::Rejected(reject)
    }
}

impl From<Failure> for Reject {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Rejected(reject) | Failure::Ended(reject) => reject,
        }
    }
}

impl CallGraph {
    /// Checks whether another query may be executed.
    fn check(&self) -> Result<(), Failure> {
        let (code, text) = if self.callers.len() > limits::QUERY_DEPTH {
            (ErrorCode::QueryCallGraphTooDeep, "Composite query calls exceeded the maximum call depth.")
        } else if self.instructions == 0 {
            let code = ErrorCode::QueryCallGraphTotalInstructionLimitExceeded;
            (code, "Composite query calls exceeded the instruction limit.")
        } else {
            return Ok(());
        };
        Err(Failure::Ended(Reject::new(code, text)))
    }

    /// Instructions that the next message may use.
    fn limit(&self) -> u64 {
        self.instructions.min(limits::QUERY_INSTRUCTIONS)
    }

    fn count(&mut self, instructions: u64) {
        self.instructions = self.instructions.saturating_sub(instructions);
    }
}

impl Network {
    /// Executes a query with a certificate of the canister's data.
    ///
    /// # Errors
    /// The reject that the caller gets.
    pub fn query(&mut self, query: Query) -> Response {
        if query.canister == Principal::management_canister() {
            return self.manage_query(query.caller, &query.method, &query.argument);
        }
        let mut graph = CallGraph { callers: Vec::new(), instructions: limits::QUERY_INSTRUCTIONS };
        Ok(self.query_canister(query, &mut graph)?)
    }

    /// Executes a query, and counts it in the canister's statistics.
    fn query_canister(&mut self, query: Query, graph: &mut CallGraph) -> Result<Vec<u8>, Failure> {
        let (id, request_bytes, before) = (query.canister, query.argument.len(), graph.instructions);
        let response = self.evaluate(query, graph);
        let response_bytes = match &response {
            Ok(reply) => reply.len(),
            Err(Failure::Rejected(reject) | Failure::Ended(reject)) => reject.message.len(),
        };
        if let Some(canister) = self.canisters.get_mut(&id).filter(|c| c.code.is_some()) {
            let stats = &mut canister.query_stats;
            stats.calls += 1;
            stats.instructions += before - graph.instructions;
            stats.request_bytes += request_bytes as u64;
            stats.response_bytes += response_bytes as u64;
        }
        response
    }

    fn evaluate(&mut self, query: Query, graph: &mut CallGraph) -> Result<Vec<u8>, Failure> {
        let id = query.canister;
        if self.is_system_canister(id) {
            return Ok(self.query_system_canister(&query)?);
        }
        // Only the canister that the user asks can prove what it says.
        let certificate = if graph.callers.is_empty() { self.certify_data(id) } else { None };
        let canister = self.canister(id)?;
        canister.check_running()?;
        let code = canister.code.as_ref().ok_or_else(|| Reject::no_module(id))?;
        let plain = format!("canister_query {}", query.method);
        let composite = format!("canister_composite_query {}", query.method);
        let (function, entry_point) = if code.module.exports(&plain) {
            (plain, EntryPoint::Query)
        } else if code.module.exports(&composite) {
            (composite, EntryPoint::CompositeQuery)
        } else {
            return Err(Reject::no_method(id, "query", &query.method).into());
        };
        canister.check_cycles(0)?;
        let message = Message {
            argument: query.argument,
            unanswered: true,
            certificate,
            instruction_limit: graph.limit(),
            ..Message::new(entry_point, query.caller)
        };
        let answer = if entry_point == EntryPoint::Query {
            let executed = self.execute(id, Function::Export(&function), message, Keep::Nothing);
            graph.count(executed.instructions);
            executed.result?.answer
        } else {
            graph.callers.push(id);
            let answer = self.run_composite(id, &function, message, graph);
            graph.callers.pop();
            self.discard_changes(id);
            answer?
        };
        match answer {
            Some(Ok(reply)) => Ok(reply),
            Some(Err(text)) => Err(Reject::new(ErrorCode::CanisterRejectedMessage, text).into()),
            None => Err(Reject::new(
                ErrorCode::CanisterDidNotReply,
                format!("Canister {id} did not reply to the call"),
            )
            .into()),
        }
    }

    /// Executes a composite query and its callbacks until it is answered or no call is open.
    fn run_composite(
        &mut self,
        id: Principal,
        function: &str,
        message: Message,
        graph: &mut CallGraph,
    ) -> Result<Option<Result<Vec<u8>, String>>, Failure> {
        let caller = message.caller;
        let Executed { result, mut instructions } =
            self.execute(id, Function::Export(function), message, Keep::ForQuery);
        graph.count(instructions);
        let effects = result?;
        let mut answer = effects.answer;
        let mut calls = VecDeque::from(effects.calls);
        while answer.is_none()
            && let Some(call) = calls.pop_front()
        {
            let query =
                Query { canister: call.callee, caller: id, method: call.method, argument: call.argument };
            let response = match self.nested_query(query, graph) {
                Ok(reply) => Ok(reply),
                Err(Failure::Rejected(reject)) => Err(reject),
                Err(ended) => return Err(ended),
            };
            graph.check()?;
            let base = Message {
                unanswered: true,
                earlier_instructions: instructions,
                instruction_limit: graph.limit(),
                ..Message::new(EntryPoint::CompositeReply, caller)
            };
            let (closure, message) = match response {
                Ok(argument) => (call.on_reply, Message { argument, ..base.clone() }),
                Err(reject) => (
                    call.on_reject,
                    Message {
                        entry_point: EntryPoint::CompositeReject,
                        reject: Some(reject),
                        ..base.clone()
                    },
                ),
            };
            let executed = self.execute(id, Function::Callback(closure), message, Keep::ForQuery);
            instructions += executed.instructions;
            graph.count(executed.instructions);
            let effects = match executed.result {
                Ok(effects) => effects,
                Err(reject) => {
                    let Some(cleanup) = call.on_cleanup else { return Err(reject.into()) };
                    let message = Message {
                        entry_point: EntryPoint::CompositeCleanup,
                        unanswered: false,
                        instruction_limit: graph.limit(),
                        ..base
                    };
                    let cleanup = self.execute(id, Function::Callback(cleanup), message, Keep::ForQuery);
                    graph.count(cleanup.instructions);
                    return Err(reject.with_cleanup(cleanup.result.err()).into());
                }
            };
            answer = effects.answer;
            calls.extend(effects.calls);
        }
        Ok(answer)
    }

    fn nested_query(&mut self, query: Query, graph: &mut CallGraph) -> Result<Vec<u8>, Failure> {
        graph.check()?;
        graph.count(limits::QUERY_CALL_OVERHEAD);
        if graph.callers.contains(&query.canister) {
            return Err(Reject::new(
                ErrorCode::QueryCallGraphLoopDetected,
                format!("Canister {} is already part of this query's calls", query.canister),
            )
            .into());
        }
        let subnet = |id: &Principal| self.canisters.get(id).map(|canister| canister.subnet);
        if graph.callers.last().and_then(subnet) != subnet(&query.canister) {
            return Err(Reject::canister_not_found(query.canister).into());
        }
        self.query_canister(query, graph)
    }

    /// Undoes what [`Keep::ForQuery`] left.
    fn discard_changes(&mut self, id: Principal) {
        if let Some(code) = self.canisters.get_mut(&id).and_then(|c| c.code.as_mut()) {
            code.instance.roll_back();
        }
    }
}
