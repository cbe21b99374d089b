//! Queries: executed at once, without changing anything.

use super::{
    Network,
    execute::{Executed, Keep},
};
use crate::{
    canister::Code,
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

impl Network {
    /// Executes a query with a certificate of the canister's data.
    ///
    /// # Errors
    /// The reject that the caller gets.
    pub fn query(&mut self, query: Query) -> Response {
        if query.canister == Principal::management_canister() {
            return self.manage_query(query.caller, &query.method, &query.argument);
        }
        self.query_canister(query, &mut Vec::new())
    }

    /// Executes a query that is called by the composite queries of `callers`, outermost first.
    fn query_canister(&mut self, query: Query, callers: &mut Vec<Principal>) -> Response {
        let certificate = self.certify_data(query.canister);
        let id = query.canister;
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
            return Err(Reject::no_method(id, "query", &query.method));
        };
        canister.check_cycles(0)?;
        let message = Message {
            argument: query.argument,
            unanswered: true,
            certificate,
            ..Message::new(entry_point, query.caller)
        };
        let answer = if entry_point == EntryPoint::Query {
            self.execute(id, Function::Export(&function), message, Keep::Nothing).result?.answer
        } else {
            callers.push(id);
            let answer = self.run_composite(id, &function, message, callers);
            callers.pop();
            self.discard_changes(id);
            answer?
        };
        match answer {
            Some(answer) => answer.map_err(|text| Reject::new(ErrorCode::CanisterRejectedMessage, text)),
            None => Err(Reject::new(
                ErrorCode::CanisterDidNotReply,
                format!("Canister {id} did not reply to the call"),
            )),
        }
    }

    /// Executes a composite query and its callbacks until no call is open. A trap in any of them ends the query.
    fn run_composite(
        &mut self,
        id: Principal,
        function: &str,
        message: Message,
        callers: &mut Vec<Principal>,
    ) -> Result<Option<Result<Vec<u8>, String>>, Reject> {
        let caller = message.caller;
        let Executed { result, mut instructions } =
            self.execute(id, Function::Export(function), message, Keep::ForQuery);
        let effects = result?;
        let mut answer = effects.answer;
        let mut calls = VecDeque::from(effects.calls);
        while let Some(call) = calls.pop_front() {
            let query =
                Query { canister: call.callee, caller: id, method: call.method, argument: call.argument };
            let response = self.nested_query(query, callers);
            let base = Message {
                unanswered: answer.is_none(),
                earlier_instructions: instructions,
                ..Message::new(EntryPoint::CompositeReply, caller)
            };
            let (closure, message) = match response {
                Ok(argument) => (call.on_reply, Message { argument, ..base }),
                Err(reject) => (
                    call.on_reject,
                    Message { entry_point: EntryPoint::CompositeReject, reject: Some(reject), ..base },
                ),
            };
            let executed = self.execute(id, Function::Callback(closure), message, Keep::ForQuery);
            instructions += executed.instructions;
            let effects = executed.result?;
            answer = answer.or(effects.answer);
            calls.extend(effects.calls);
        }
        Ok(answer)
    }

    fn nested_query(&mut self, query: Query, callers: &mut Vec<Principal>) -> Response {
        if callers.contains(&query.canister) {
            return Err(Reject::new(
                ErrorCode::QueryCallGraphLoopDetected,
                format!("Canister {} is already part of this query's calls", query.canister),
            ));
        }
        if callers.len() >= limits::QUERY_DEPTH {
            return Err(Reject::new(
                ErrorCode::QueryCallGraphTooDeep,
                format!("Composite queries are nested deeper than {}", limits::QUERY_DEPTH),
            ));
        }
        let subnet = |id: &Principal| self.canisters.get(id).map(|canister| canister.subnet);
        if callers.last().and_then(subnet) != subnet(&query.canister) {
            return Err(Reject::canister_not_found(query.canister));
        }
        self.query_canister(query, callers)
    }

    /// Undoes what [`Keep::ForQuery`] left.
    fn discard_changes(&mut self, id: Principal) {
        if let Some(Code { instance, module }) = self.canisters.get_mut(&id).and_then(|c| c.code.as_mut()) {
            instance.roll_back(module);
        }
    }
}
