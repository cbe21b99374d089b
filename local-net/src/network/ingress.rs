//! Requests of users: admission, deduplication and status.

use super::{
    Network, SubnetIndex,
    execute::Keep,
    messages::{Delivery, Origin, Request},
    subnet::managed,
};
use crate::{
    execution::Function,
    limits,
    reject::{ErrorCode, Reject, Response},
    system_api::{EntryPoint, Message},
};
use candid::Principal;
use serde::{Deserialize, Serialize};

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
    /// The canister or subnet for which a call to the management canister is meant, if its argument names no canister.
    pub effective: Option<Principal>,
}

/// How far a user's call is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum IngressState {
    /// Waiting or running.
    Processing,
    /// Finished.
    Done(Response),
}

/// What is known about a request.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct IngressRequest {
    /// The subnet that executes it and certifies its state.
    pub subnet: SubnetIndex,
    /// Who sent it.
    pub sender: Principal,
    /// How far it is.
    pub state: IngressState,
    expiry: u64,
}

impl IngressRequest {
    /// Whether it is answered.
    pub fn is_done(&self) -> bool {
        matches!(self.state, IngressState::Done(_))
    }
}

/// Methods of the management canister that users may call, besides canisters.
const MANAGEMENT_INGRESS: &[&str] = &[
    "canister_status",
    "clear_chunk_store",
    "delete_canister",
    "delete_canister_snapshot",
    "install_chunked_code",
    "install_code",
    "list_canister_snapshots",
    "load_canister_snapshot",
    "provisional_create_canister_with_cycles",
    "provisional_top_up_canister",
    "read_canister_snapshot_data",
    "read_canister_snapshot_metadata",
    "start_canister",
    "stop_canister",
    "stored_chunks",
    "take_canister_snapshot",
    "uninstall_code",
    "update_settings",
    "upload_canister_snapshot_data",
    "upload_canister_snapshot_metadata",
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
        } else if !self.is_system_canister(message.canister) {
            self.inspect(&message)?;
        }
        let payer = if management { managed(&message.argument) } else { Some(message.canister) };
        self.charge_ingress(payer, &message, management)?;
        let named = message.effective.and_then(|id| self.subnet_of(id));
        let subnet =
            self.route(message.canister, &message.argument, named.unwrap_or_else(|| self.default_subnet()));
        self.ingress.insert(
            message.id,
            IngressRequest {
                subnet,
                sender: message.sender,
                state: IngressState::Processing,
                expiry: message.expiry,
            },
        );
        let request = Request {
            callee: message.canister,
            caller: message.sender,
            method: message.method,
            argument: message.argument,
            cycles: 0,
            deadline: 0,
            origin: Origin::Ingress(message.id),
        };
        self.deliver(Delivery::Request(request), subnet, subnet);
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
        let Some(canister) = payer.and_then(|id| self.canisters.get_mut(&id)) else { return Ok(()) };
        let fee = canister.fees.ingress((message.method.len() + message.argument.len()) as u64);
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

    /// What is known about a request.
    pub fn ingress_request(&self, id: &RequestId) -> Option<&IngressRequest> {
        self.ingress.get(id)
    }

    /// The answer to a request, once there is one.
    pub fn ingress_response(&self, id: &RequestId) -> Option<&Response> {
        match &self.ingress.get(id)?.state {
            IngressState::Processing => None,
            IngressState::Done(response) => Some(response),
        }
    }

    /// Executes rounds until the request is finished, at most [`limits::AWAIT_ROUNDS`]; `None` when it is not.
    pub fn await_ingress(&mut self, id: &RequestId) -> Option<Response> {
        for _ in 0..limits::AWAIT_ROUNDS {
            if self.ingress_response(id).is_some() {
                break;
            }
            self.round();
        }
        self.ingress_response(id).cloned()
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
        self.ingress
            .retain(|_, entry| !entry.is_done() || entry.expiry.saturating_add(limits::INGRESS_TTL) > time);
    }
}
