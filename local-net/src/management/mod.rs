//! The management canister.

mod code;
mod http_outcalls;
mod settings;
mod snapshots;
mod threshold;

pub use http_outcalls::{AnswerError, MAX_RESPONSE_BYTES, Outcall, Outcalls, headers_bytes};
pub use threshold::THRESHOLD_KEYS;

use crate::{
    canister::{Canister, Status},
    limits,
    network::{Network, Origin, Request, SubnetIndex},
    reject::{ErrorCode, Reject, Response},
};
use candid::{CandidType, Nat, Principal, utils::ArgumentDecoder};
use ic_management_canister_types as types;
use rand::RngCore;
use sha2::{Digest, Sha256};

/// What became of a call.
enum Outcome {
    /// It is answered; the cycles come back to the caller.
    Answered { response: Response, refund: u128 },
    /// It will be answered later.
    Pending,
}

impl From<Response> for Outcome {
    fn from(response: Response) -> Self {
        Self::Answered { response, refund: 0 }
    }
}

/// Who calls the management canister.
#[derive(Clone, Copy)]
struct Sender {
    id: Principal,
    is_canister: bool,
}

impl Sender {
    fn of(request: &Request) -> Self {
        Self { id: request.caller, is_canister: matches!(request.origin, Origin::Canister(_)) }
    }

    /// How the history calls the sender; `version` is what a canister says of itself.
    fn origin(self, version: Option<u64>) -> types::ChangeOrigin {
        if self.is_canister {
            types::ChangeOrigin::FromCanister(types::FromCanisterRecord {
                canister_id: self.id,
                canister_version: version,
            })
        } else {
            types::ChangeOrigin::FromUser(types::FromUserRecord { user_id: self.id })
        }
    }
}

/// The part of an argument that says which version the calling canister believes to have.
#[derive(CandidType, candid::Deserialize)]
struct SenderVersion {
    sender_canister_version: Option<u64>,
}

/// Checks that a canister's call to the management canister does not name a wrong version of itself.
///
/// # Errors
/// `IC0504` when it does.
pub(crate) fn check_sender_version(argument: &[u8], version: u64) -> Result<(), Reject> {
    let named = candid::decode_one::<SenderVersion>(argument).ok().and_then(|s| s.sender_canister_version);
    match named {
        Some(named) if named != version => Err(Reject::new(
            ErrorCode::CanisterContractViolation,
            format!(
                "Management canister call payload includes sender canister version {named} that does not match the actual \
                 sender canister version {version}."
            ),
        )),
        _ => Ok(()),
    }
}

/// The Candid encoding of no values.
pub(crate) fn empty_reply() -> Vec<u8> {
    b"DIDL\0\0".to_vec()
}

fn decode<T: for<'a> candid::Deserialize<'a> + CandidType>(argument: &[u8]) -> Result<T, Reject> {
    candid::decode_one(argument).map_err(Reject::bad_payload)
}

fn encode(value: impl CandidType) -> Response {
    candid::encode_one(value).map_err(Reject::bad_payload)
}

fn cycles_of(amount: &Nat) -> Result<u128, Reject> {
    u128::try_from(&amount.0).map_err(|_| Reject::bad_payload("more than 2^128 cycles"))
}

/// What remains of the attached cycles after a fee that the caller must attach.
fn take_fee(method: &str, fee: u128, cycles: u128) -> Result<u128, Reject> {
    cycles.checked_sub(fee).ok_or_else(|| {
        Reject::new(
            ErrorCode::CanisterRejectedMessage,
            format!("{method} request sent with {cycles} cycles, but {fee} cycles are required."),
        )
    })
}

/// `create_canister` and its kin need at most this many cycles when the caller names no amount.
const DEFAULT_PROVISIONAL_CYCLES: u128 = 100_000_000_000_000;

/// Instructions of uploading a chunk (`subnet_config.rs` of the replica).
const UPLOAD_CHUNK_INSTRUCTIONS: u64 = 200_000_000;

impl Canister {
    /// Charges for `instructions` that the management canister uses.
    ///
    /// # Errors
    /// `IC0207` when the canister would be frozen.
    fn pay_instructions(&mut self, instructions: u64) -> Result<(), Reject> {
        let fee = self.fees.execution(instructions);
        self.check_cycles(fee)?;
        self.balance -= fee;
        Ok(())
    }
}

impl Network {
    /// Executes a call to the management canister of `subnet` and answers it.
    pub(crate) fn manage(&mut self, request: &Request, subnet: SubnetIndex) {
        let (origin, cycles) = (request.origin, request.cycles);
        match self.execute_management(request, subnet) {
            Ok(Outcome::Answered { response, refund }) => self.respond(origin, response, refund),
            Ok(Outcome::Pending) => {}
            Err(reject) => self.respond(origin, Err(reject), cycles),
        }
    }

    /// Executes a query to the management canister.
    pub(crate) fn manage_query(&mut self, caller: Principal, method: &str, argument: &[u8]) -> Response {
        match method {
            "fetch_canister_logs" => self.fetch_canister_logs(caller, argument),
            "canister_status" => self.canister_status(caller, argument),
            "list_canister_snapshots" => self.list_canister_snapshots(caller, argument),
            _ => Err(unknown_method(method)),
        }
    }

    fn execute_management(&mut self, request: &Request, subnet: SubnetIndex) -> Result<Outcome, Reject> {
        let Request { caller, method, argument, cycles, origin, .. } = request;
        let (caller, cycles, origin) = (*caller, *cycles, *origin);
        let sender = Sender::of(request);
        let outcome = match method.as_str() {
            "create_canister" => return self.create_canister(sender, argument, cycles, subnet),
            "deposit_cycles" => return self.deposit_cycles(argument, cycles),
            "stop_canister" => return self.stop_canister(caller, argument, origin),
            "http_request" => return self.http_request(caller, argument, cycles, origin, subnet),
            "sign_with_ecdsa" => return self.sign_with_ecdsa(caller, argument, cycles, subnet),
            "sign_with_schnorr" => return self.sign_with_schnorr(caller, argument, cycles, subnet),
            "ecdsa_public_key" => self.ecdsa_public_key(caller, argument),
            "schnorr_public_key" => self.schnorr_public_key(caller, argument),
            "provisional_create_canister_with_cycles" => self.provisional_create(sender, argument, subnet),
            "provisional_top_up_canister" => self.provisional_top_up(argument),
            "start_canister" => self.start_canister(caller, argument),
            "delete_canister" => self.delete_canister(caller, argument),
            "install_code" => self.install_code(sender, argument),
            "install_chunked_code" => self.install_chunked_code(sender, argument),
            "uninstall_code" => self.uninstall_code(sender, argument),
            "upload_chunk" => self.upload_chunk(caller, argument),
            "stored_chunks" => self.stored_chunks(caller, argument),
            "clear_chunk_store" => self.clear_chunk_store(caller, argument),
            "update_settings" => self.update_settings(sender, argument),
            "canister_status" => self.canister_status(caller, argument),
            "canister_info" => self.canister_info(argument),
            "canister_metadata" => self.canister_metadata(caller, argument),
            "fetch_canister_logs" => self.fetch_canister_logs(caller, argument),
            "take_canister_snapshot" => self.take_canister_snapshot(sender, argument),
            "load_canister_snapshot" => self.load_canister_snapshot(sender, argument),
            "list_canister_snapshots" => self.list_canister_snapshots(caller, argument),
            "delete_canister_snapshot" => self.delete_canister_snapshot(caller, argument),
            "read_canister_snapshot_metadata" => self.read_canister_snapshot_metadata(caller, argument),
            "read_canister_snapshot_data" => self.read_canister_snapshot_data(caller, argument),
            "upload_canister_snapshot_metadata" => self.upload_canister_snapshot_metadata(caller, argument),
            "upload_canister_snapshot_data" => self.upload_canister_snapshot_data(caller, argument),
            "raw_rand" => self.raw_rand(argument),
            _ => Err(unknown_method(method)),
        };
        outcome.map(|reply| Outcome::Answered { response: Ok(reply), refund: cycles })
    }

    /// The canister, if `caller` controls it.
    fn controlled(
        &mut self,
        id: Principal,
        caller: Principal,
        method: &str,
    ) -> Result<&mut Canister, Reject> {
        let canister = self.canister_mut(id)?;
        if canister.is_controlled_by(caller) {
            return Ok(canister);
        }
        let controllers: Vec<String> = canister.settings.controllers.iter().map(Principal::to_text).collect();
        Err(Reject::new(
            ErrorCode::CanisterInvalidController,
            format!(
                "Only controllers of canister {id} can call ic00 method {method}: the caller is {caller}, the \
                 controllers are {}",
                controllers.join(" ")
            ),
        ))
    }

    /// The canister, if `caller` controls it or is it.
    fn own_or_controlled(
        &mut self,
        id: Principal,
        caller: Principal,
        method: &str,
    ) -> Result<&mut Canister, Reject> {
        if id == caller { self.canister_mut(id) } else { self.controlled(id, caller, method) }
    }

    fn add_canister(
        &mut self,
        (id, subnet): (Principal, SubnetIndex),
        sender: Sender,
        balance: u128,
        settings: Option<types::CanisterSettings>,
        version: Option<u64>,
    ) -> Result<Principal, Reject> {
        let (place, time) = ((subnet, self.subnets()[subnet].fees()), self.time());
        let mut canister = Canister::new(id, place, vec![sender.id], balance, time).map_err(|e| {
            Reject::new(ErrorCode::CanisterOutOfMemory, format!("cannot create a canister: {e}"))
        })?;
        let has_variables = settings.as_ref().is_some_and(|s| s.environment_variables.is_some());
        if let Some(settings) = settings {
            canister.change_settings(settings)?;
        }
        let creation = canister.creation(has_variables);
        canister.record(time, sender.origin(version), creation);
        self.canisters.insert(id, canister);
        Ok(id)
    }

    /// Creates a canister on `subnet` for the canister `creator`, and takes the fee out of `cycles`.
    ///
    /// # Errors
    /// `IC0403` when the cycles do not cover the fee, `IC0408` when a setting is out of range.
    pub(crate) fn create_canister_on(
        &mut self,
        subnet: SubnetIndex,
        creator: Principal,
        settings: Option<types::CanisterSettings>,
        cycles: u128,
    ) -> Result<Principal, Reject> {
        let sender = Sender { id: creator, is_canister: true };
        let args = types::CreateCanisterArgs { settings, sender_canister_version: None };
        self.create_paid(sender, args, cycles, subnet)
    }

    fn create_canister(
        &mut self,
        sender: Sender,
        argument: &[u8],
        cycles: u128,
        subnet: SubnetIndex,
    ) -> Result<Outcome, Reject> {
        let canister_id = self.create_paid(sender, decode(argument)?, cycles, subnet)?;
        Ok(Ok(encode(types::CanisterIdRecord { canister_id })?).into())
    }

    /// Creates a canister and takes the fee out of `cycles`.
    fn create_paid(
        &mut self,
        sender: Sender,
        args: types::CreateCanisterArgs,
        cycles: u128,
        subnet: SubnetIndex,
    ) -> Result<Principal, Reject> {
        let fee = self.subnets()[subnet].fees().canister_creation();
        let Some(balance) = cycles.checked_sub(fee) else {
            return Err(Reject::new(
                ErrorCode::InsufficientCyclesForCreateCanister,
                format!(
                    "Creating a canister requires a fee of {fee} cycles, but {cycles} cycles were received with the \
                     create_canister request."
                ),
            ));
        };
        let id = self.fresh_canister_id(subnet).ok_or_else(no_canister_ids)?;
        self.add_canister((id, subnet), sender, balance, args.settings, args.sender_canister_version)
    }

    fn provisional_create(&mut self, sender: Sender, argument: &[u8], subnet: SubnetIndex) -> Response {
        let args: types::ProvisionalCreateCanisterWithCyclesArgs = decode(argument)?;
        let balance = args.amount.as_ref().map_or(Ok(DEFAULT_PROVISIONAL_CYCLES), cycles_of)?;
        let place = match args.specified_id {
            Some(id) if self.canisters.contains_key(&id) || self.is_system_canister(id) => {
                return Err(Reject::new(
                    ErrorCode::CanisterIdAlreadyExists,
                    format!("Unsuccessful canister creation: canister id {id} already exists"),
                ));
            }
            // A canister lives on the subnet to which its id belongs, whatever subnet was asked.
            Some(id) => (id, self.subnet_of(id).unwrap_or(subnet)),
            None => (self.fresh_canister_id(subnet).ok_or_else(no_canister_ids)?, subnet),
        };
        let canister_id =
            self.add_canister(place, sender, balance, args.settings, args.sender_canister_version)?;
        encode(types::CanisterIdRecord { canister_id })
    }

    fn provisional_top_up(&mut self, argument: &[u8]) -> Response {
        let args: types::ProvisionalTopUpCanisterArgs = decode(argument)?;
        self.add_cycles(args.canister_id, cycles_of(&args.amount)?)?;
        Ok(empty_reply())
    }

    /// Adds cycles to a canister from nowhere; the new balance.
    ///
    /// # Errors
    /// `IC0301` when there is no such canister.
    pub fn add_cycles(&mut self, id: Principal, amount: u128) -> Result<u128, Reject> {
        let canister = self.canister_mut(id)?;
        canister.balance = canister.balance.saturating_add(amount);
        Ok(canister.balance)
    }

    fn deposit_cycles(&mut self, argument: &[u8], cycles: u128) -> Result<Outcome, Reject> {
        let args: types::CanisterIdRecord = decode(argument)?;
        self.add_cycles(args.canister_id, cycles)?;
        Ok(Ok(empty_reply()).into())
    }

    fn start_canister(&mut self, caller: Principal, argument: &[u8]) -> Response {
        let args: types::CanisterIdRecord = decode(argument)?;
        self.controlled(args.canister_id, caller, "start_canister")?;
        self.start(args.canister_id);
        Ok(empty_reply())
    }

    /// Starts a canister; requests to stop it that wait are rejected.
    pub(crate) fn start(&mut self, id: Principal) {
        let Some(canister) = self.canisters.get_mut(&id) else { return };
        canister.version += 1;
        if let Status::Stopping(waiting) = std::mem::replace(&mut canister.status, Status::Running) {
            for (origin, _) in waiting {
                let reject = Reject::new(
                    ErrorCode::CanisterStoppingCancelled,
                    format!("Canister {id}'s stop request was cancelled"),
                );
                self.respond(origin, Err(reject), 0);
            }
        }
    }

    fn stop_canister(
        &mut self,
        caller: Principal,
        argument: &[u8],
        origin: Origin,
    ) -> Result<Outcome, Reject> {
        let args: types::CanisterIdRecord = decode(argument)?;
        let waiting = (origin, self.time().saturating_add(limits::STOP_TIMEOUT));
        let canister = self.controlled(args.canister_id, caller, "stop_canister")?;
        match &mut canister.status {
            Status::Stopped => return Ok(Ok(empty_reply()).into()),
            Status::Stopping(requests) => requests.push(waiting),
            Status::Running => {
                canister.status = Status::Stopping(vec![waiting]);
                canister.version += 1;
            }
        }
        self.stop_if_idle(args.canister_id);
        Ok(Outcome::Pending)
    }

    fn delete_canister(&mut self, caller: Principal, argument: &[u8]) -> Response {
        let args: types::CanisterIdRecord = decode(argument)?;
        let id = args.canister_id;
        if id == caller {
            return Err(Reject::new(
                ErrorCode::CanisterInvalidController,
                format!("Canister {id} cannot delete itself."),
            ));
        }
        let canister = self.controlled(id, caller, "delete_canister")?;
        if !matches!(canister.status, Status::Stopped) {
            return Err(Reject::new(
                ErrorCode::CanisterNotStopped,
                format!("Canister {id} must be stopped before it is deleted."),
            ));
        }
        self.abandon_calls(id);
        self.canisters.remove(&id);
        Ok(empty_reply())
    }

    fn upload_chunk(&mut self, caller: Principal, argument: &[u8]) -> Response {
        let args: types::UploadChunkArgs = decode(argument)?;
        let canister = self.own_or_controlled(args.canister_id, caller, "upload_chunk")?;
        if args.chunk.len() > limits::CHUNK_BYTES {
            return Err(Reject::bad_payload(format!(
                "the chunk of {} bytes exceeds the limit of {} bytes",
                args.chunk.len(),
                limits::CHUNK_BYTES
            )));
        }
        let hash: [u8; 32] = Sha256::digest(&args.chunk).into();
        canister.check_memory(limits::CHUNK_BYTES as u64, 0)?;
        if canister.chunks.len() >= limits::CHUNKS && !canister.chunks.contains_key(&hash) {
            return Err(Reject::bad_payload(format!(
                "the chunk store holds {} chunks already",
                limits::CHUNKS
            )));
        }
        canister.pay_instructions(UPLOAD_CHUNK_INSTRUCTIONS)?;
        canister.chunks.insert(hash, args.chunk);
        encode(types::ChunkHash { hash: hash.to_vec() })
    }

    fn stored_chunks(&mut self, caller: Principal, argument: &[u8]) -> Response {
        let args: types::CanisterIdRecord = decode(argument)?;
        let canister = self.own_or_controlled(args.canister_id, caller, "stored_chunks")?;
        let hashes = canister.chunks.keys().map(|hash| types::ChunkHash { hash: hash.to_vec() });
        encode(hashes.collect::<Vec<_>>())
    }

    fn clear_chunk_store(&mut self, caller: Principal, argument: &[u8]) -> Response {
        let args: types::CanisterIdRecord = decode(argument)?;
        self.own_or_controlled(args.canister_id, caller, "clear_chunk_store")?.chunks.clear();
        Ok(empty_reply())
    }

    fn fetch_canister_logs(&mut self, caller: Principal, argument: &[u8]) -> Response {
        let args: types::FetchCanisterLogsArgs = decode(argument)?;
        let canister = self.canister(args.canister_id)?;
        let allowed = canister.lets_read(&canister.settings.log_visibility, caller);
        if !allowed {
            return Err(Reject::new(
                ErrorCode::CanisterRejectedMessage,
                format!("Caller {caller} is not allowed to access canister logs"),
            ));
        }
        let wanted = |index: u64, time: u64| match args.filter {
            None => true,
            Some(types::CanisterLogFilter::ByIdx { start, end }) => (start..end).contains(&index),
            Some(types::CanisterLogFilter::ByTimestampNanos { start, end }) => (start..end).contains(&time),
        };
        let records = canister.log.records().filter(|r| wanted(r.index, r.time));
        let canister_log_records = records
            .map(|r| types::CanisterLogRecord {
                idx: r.index,
                timestamp_nanos: r.time,
                content: r.content.clone(),
            })
            .collect();
        encode(types::FetchCanisterLogsResult { canister_log_records })
    }

    fn raw_rand(&mut self, argument: &[u8]) -> Response {
        <()>::decode_arguments(argument)?;
        let mut bytes = [0; 32];
        self.random.fill_bytes(&mut bytes);
        encode(bytes.to_vec())
    }
}

/// Decoding a tuple of arguments with the management canister's error.
trait DecodeArguments: Sized {
    fn decode_arguments(argument: &[u8]) -> Result<Self, Reject>;
}

impl<T: for<'a> ArgumentDecoder<'a>> DecodeArguments for T {
    fn decode_arguments(argument: &[u8]) -> Result<Self, Reject> {
        candid::decode_args(argument).map_err(Reject::bad_payload)
    }
}

fn no_canister_ids() -> Reject {
    Reject::new(ErrorCode::SubnetOversubscribed, "The subnet has handed out all its canister ids")
}

fn unknown_method(method: &str) -> Reject {
    Reject::new(ErrorCode::UnknownManagementMessage, format!("Management canister has no method '{method}'"))
}
