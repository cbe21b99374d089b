//! Queries: executed at once, without changing anything.

use super::{
    Network,
    messages::{Executed, Keep},
};
use crate::{
    execution::Function,
    reject::{ErrorCode, Reject, Response},
    system_api::{EntryPoint, Message},
};
use candid::Principal;

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
        let certificate = Some(self.certify_data(query.canister));
        let id = query.canister;
        let canister = self.canister(id)?;
        canister.check_running()?;
        let code = canister.code.as_ref().ok_or_else(|| Reject::no_module(id))?;
        let function = format!("canister_query {}", query.method);
        if !code.module.exports(&function) {
            return Err(Reject::no_method(id, "query", &query.method));
        }
        canister.check_cycles(0)?;
        let message = Message {
            argument: query.argument,
            unanswered: true,
            certificate,
            ..Message::new(EntryPoint::Query, query.caller)
        };
        let Executed { effects, .. } =
            self.execute(id, Function::Export(&function), message, Keep::Nothing)?;
        match effects.answer {
            Some(answer) => answer.map_err(|text| Reject::new(ErrorCode::CanisterRejectedMessage, text)),
            None => Err(Reject::new(
                ErrorCode::CanisterDidNotReply,
                format!("Canister {id} did not reply to the call"),
            )),
        }
    }
}
