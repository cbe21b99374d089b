//! Requests of users: admission, deduplication and status.

use super::{
    Network,
    execute::Keep,
    messages::{Delivery, Origin, Request},
};
use crate::{
    costs,
    execution::Function,
    limits,
    reject::{ErrorCode, Reject, Response},
    system_api::{EntryPoint, Message},
};
use candid::Principal;
use ic_management_canister_types::CanisterIdRecord;

/// SHA-256 of a request's content (interface specification, "Request ids").
pub type RequestId = [u8; 32];

/// A user's call.
#[derive(Clone, Debug)]
pub struct IngressMessage {
    /// The request's id; a second message with the same id is ignored.
    pub id: RequestId,
    /// Who signed it.
    pub sender: Principal,
    /// The callee.
    pub canister: Principal,
    /// The method's name.
    pub method: String,
    /// The argument's bytes.
    pub argument: Vec<u8>,
    /// Until when it may start, in nanoseconds since 1970.
    pub expiry: u64,
}

/// How far a user's call is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IngressState {
    /// Waiting or running.
    Processing,
    /// Finished.
    Done(Response),
}

/// What is known about a request.
pub(super) struct Entry {
    sender: Principal,
    expiry: u64,
    state: IngressState,
}

/// Methods of the management canister that users may call, besides canisters.
const MANAGEMENT_INGRESS: &[&str] = &[
    "canister_info",
    "canister_status",
    "clear_chunk_store",
    "delete_canister",
    "fetch_canister_logs",
    "install_chunked_code",
    "install_code",
    "provisional_create_canister_with_cycles",
    "provisional_top_up_canister",
    "start_canister",
    "stop_canister",
    "stored_chunks",
    "uninstall_code",
    "update_settings",
    "upload_chunk",
];

impl Network {
    /// Admits a user's call: the canister must exist, run, have cycles, and accept the message if it inspects
    /// messages. A message whose id is known already changes nothing.
    ///
    /// # Errors
    /// The reject that the user gets at once, without certificate.
    pub fn submit(&mut self, message: IngressMessage) -> Result<(), Reject> {
        if self.ingress.contains_key(&message.id) {
            return Ok(());
        }
        if message.argument.len() > limits::MESSAGE_BYTES {
            return Err(Reject::new(
                ErrorCode::InvalidManagementPayload,
                format!(
                    "the argument of {} bytes exceeds the limit of {} bytes",
                    message.argument.len(),
                    limits::MESSAGE_BYTES
                ),
            ));
        }
        let management = message.canister == Principal::management_canister();
        if management {
            if !MANAGEMENT_INGRESS.contains(&message.method.as_str()) {
                return Err(Reject::new(
                    ErrorCode::CanisterRejectedMessage,
                    format!("ic00 method {} can not be called via ingress messages", message.method),
                ));
            }
        } else {
            self.inspect(&message)?;
        }
        let payer = if management {
            candid::decode_one::<CanisterIdRecord>(&message.argument).ok().map(|r| r.canister_id)
        } else {
            Some(message.canister)
        };
        self.charge_ingress(payer, &message, management)?;
        self.ingress.insert(
            message.id,
            Entry { sender: message.sender, expiry: message.expiry, state: IngressState::Processing },
        );
        self.enqueue(Delivery::Request(Request {
            callee: message.canister,
            caller: message.sender,
            method: message.method,
            argument: message.argument,
            cycles: 0,
            deadline: 0,
            origin: Origin::Ingress(message.id),
        }));
        Ok(())
    }

    /// Charges the canister that receives the message. Management messages reach canisters without cycles too, so that
    /// these can be topped up or deleted.
    fn charge_ingress(
        &mut self,
        payer: Option<Principal>,
        message: &IngressMessage,
        management: bool,
    ) -> Result<(), Reject> {
        let fee = costs::ingress_fee((message.method.len() + message.argument.len()) as u64);
        let Some(canister) = payer.and_then(|id| self.canisters.get_mut(&id)) else { return Ok(()) };
        if !management {
            canister.check_cycles(fee)?;
        }
        canister.balance = canister.balance.saturating_sub(fee);
        Ok(())
    }

    /// Asks the canister whether it accepts the message.
    fn inspect(&mut self, message: &IngressMessage) -> Result<(), Reject> {
        let id = message.canister;
        let canister = self.canister(id)?;
        canister.check_running()?;
        let code = canister.code.as_ref().ok_or_else(|| Reject::no_module(id))?;
        if !code.module.exports("canister_inspect_message") {
            return Ok(());
        }
        let inspect = Message {
            method: message.method.clone(),
            argument: message.argument.clone(),
            ..Message::new(EntryPoint::InspectMessage, message.sender)
        };
        let function = Function::Export("canister_inspect_message");
        if self.execute(id, function, inspect, Keep::Nothing).result?.accepted {
            return Ok(());
        }
        Err(Reject::new(
            ErrorCode::CanisterRejectedMessage,
            format!("Error from Canister {id}: Canister rejected the message"),
        ))
    }

    /// The state of a request, and who sent it.
    pub fn ingress_state(&self, id: &RequestId) -> Option<(Principal, &IngressState)> {
        self.ingress.get(id).map(|entry| (entry.sender, &entry.state))
    }

    /// Executes rounds until the request is finished, at most [`limits::AWAIT_ROUNDS`]; `None` when it is not.
    pub fn await_ingress(&mut self, id: &RequestId) -> Option<Response> {
        for _ in 0..limits::AWAIT_ROUNDS {
            if let Some((_, IngressState::Done(response))) = self.ingress_state(id) {
                return Some(response.clone());
            }
            self.round();
        }
        match self.ingress_state(id) {
            Some((_, IngressState::Done(response))) => Some(response.clone()),
            _ => None,
        }
    }

    pub(super) fn finish_ingress(&mut self, id: RequestId, response: Response) {
        if let Some(entry) = self.ingress.get_mut(&id) {
            entry.state = IngressState::Done(response);
            self.finished_requests += 1;
        }
    }

    /// Forgets finished requests some time after nobody can send them again.
    pub(super) fn expire_ingress(&mut self) {
        let time = self.time();
        self.ingress.retain(|_, entry| {
            entry.state == IngressState::Processing || entry.expiry.saturating_add(limits::INGRESS_TTL) > time
        });
    }
}
