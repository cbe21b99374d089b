//! The system interface: what one execution sees, what it leaves behind, and the functions of `ic0`.

mod entry_point;
mod error;
mod functions;

pub use entry_point::EntryPoint;
pub use error::Stop;
pub use functions::link;

use crate::{
    certification::DataCertificate,
    costs::{Fees, OS_PAGE, PageCount, WASM_PAGE},
    limits,
    memory::{Memory, PageSet},
    reject::Reject,
};
use candid::Principal;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, ops::Range, sync::Arc};
use wasmtime::{Caller, Global, Val};

/// Heaps up to this number of OS pages are counted each time the canister reads `performance_counter`.
const ALWAYS_COUNTED_PAGES: u64 = 16_384;
/// Larger heaps are counted again after this number of instructions for each of their pages: about as long as counting takes.
const INSTRUCTIONS_PER_COUNTED_PAGE: u64 = 200;

/// A function of the canister, as an index into its table, and the value passed to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Closure {
    /// Index into table 0.
    pub function: u32,
    /// The argument.
    pub environment: u32,
}

/// A call to another canister that an execution made.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct OutgoingCall {
    /// The callee.
    pub callee: Principal,
    /// The method's name.
    pub method: String,
    /// The argument's bytes.
    pub argument: Vec<u8>,
    /// Cycles attached.
    pub cycles: u128,
    /// Called with the reply.
    pub on_reply: Closure,
    /// Called with the reject.
    pub on_reject: Closure,
    /// Called when the callback above traps.
    pub on_cleanup: Option<Closure>,
    /// Seconds after which the caller stops waiting, for a bounded-wait call.
    pub timeout_seconds: Option<u32>,
    /// Cycles set aside for the response and the callback; returned when the response arrives.
    pub prepaid: u128,
    /// The caller's version while it made the call.
    pub sender_version: u64,
}

/// Everything about the network and the canister that does not depend on the message.
#[derive(Clone, Debug)]
pub struct Environment {
    /// The canister.
    pub canister: Principal,
    /// The subnet.
    pub subnet: Principal,
    /// What the subnet charges.
    pub fees: Fees,
    /// DER-encoded root key.
    pub root_key: Arc<[u8]>,
    /// Nanoseconds since 1970.
    pub time: u64,
    /// Version of the canister.
    pub version: u64,
    /// 1 running, 2 stopping, 3 stopped.
    pub status: u32,
    /// The canister's controllers.
    pub controllers: Arc<[Principal]>,
    /// The canister's environment variables.
    pub variables: Arc<[(String, String)]>,
    /// Cycles that must stay in the balance so that the canister does not freeze.
    pub freezing_limit: u128,
    /// Calls that wait for a response, by callee.
    pub open_calls: BTreeMap<Principal, usize>,
}

/// The message that is executed.
#[derive(Clone, Debug)]
pub struct Message {
    /// The kind of function.
    pub entry_point: EntryPoint,
    /// Who called.
    pub caller: Principal,
    /// The method, in `canister_inspect_message`.
    pub method: String,
    /// The argument or, in a reply callback, the reply.
    pub argument: Vec<u8>,
    /// The reject, in a reject callback and its cleanup.
    pub reject: Option<Reject>,
    /// Whether the call still waits for an answer; otherwise answering is a contract violation.
    pub unanswered: bool,
    /// When the caller stops waiting, in nanoseconds since 1970; 0 when it does not.
    pub deadline: u64,
    /// Cycles of the call that have not been accepted yet.
    pub cycles_available: u128,
    /// Cycles that the callee did not accept, in a callback.
    pub cycles_refunded: u128,
    /// The certificate of the canister's data, in queries.
    pub certificate: Option<Arc<DataCertificate>>,
    /// Instructions this message may use.
    pub instruction_limit: u64,
    /// Instructions that earlier messages of the same call context used.
    pub earlier_instructions: u64,
}

impl Message {
    /// A message without argument, cycles or certificate from `caller`.
    pub fn new(entry_point: EntryPoint, caller: Principal) -> Self {
        let instruction_limit = match entry_point {
            EntryPoint::Start | EntryPoint::Init | EntryPoint::PreUpgrade | EntryPoint::PostUpgrade => {
                limits::INSTALL_INSTRUCTIONS
            }
            EntryPoint::InspectMessage => limits::INSPECT_INSTRUCTIONS,
            entry if entry.is_replicated() => limits::UPDATE_INSTRUCTIONS,
            _ => limits::QUERY_INSTRUCTIONS,
        };
        Self {
            entry_point,
            caller,
            method: String::new(),
            argument: Vec::new(),
            reject: None,
            unanswered: false,
            deadline: 0,
            cycles_available: 0,
            cycles_refunded: 0,
            certificate: None,
            instruction_limit,
            earlier_instructions: 0,
        }
    }
}

/// What an execution asks for; it happens when the execution ends without a trap.
#[derive(Debug, Default)]
pub struct Effects {
    /// The canister's balance.
    pub balance: u128,
    /// Cycles accepted from the call.
    pub cycles_accepted: u128,
    /// The answer to the call.
    pub answer: Option<Result<Vec<u8>, String>>,
    /// Calls to other canisters, in order.
    pub calls: Vec<OutgoingCall>,
    /// New certified data.
    pub certified_data: Option<Vec<u8>>,
    /// New global timer, in nanoseconds since 1970; 0 for none.
    pub timer: Option<u64>,
    /// Whether `canister_inspect_message` accepted the message.
    pub accepted: bool,
    /// Lines for the canister's log; kept even if the message traps.
    pub log: Vec<Vec<u8>>,
}

/// The state of one execution; the data of the canister's wasmtime store.
pub struct Execution {
    /// The heap.
    pub heap: Arc<Memory>,
    /// Stable memory.
    pub stable: Arc<Memory>,
    /// The instruction counter, which counts down; set after instantiation.
    pub counter: Option<Global>,
    /// The canister and the network around it.
    pub environment: Environment,
    /// The message.
    pub message: Message,
    /// What the execution did so far.
    pub effects: Effects,
    /// Stable pages read or written.
    pub stable_accessed: PageSet,
    /// Stable pages written.
    pub stable_written: PageSet,
    /// Instructions already charged for pages of the heap.
    heap_charged: u64,
    /// Instructions of this message when the heap's pages were counted last.
    heap_counted_at: u64,
    /// The global timer before this message, which `global_timer_set` returns.
    timer_before: u64,
    reply: Vec<u8>,
    call: Option<OutgoingCall>,
}

impl Execution {
    /// The state before the first message of a canister.
    pub fn new(heap: Arc<Memory>, stable: Arc<Memory>, environment: Environment, message: Message) -> Self {
        Self {
            heap,
            stable,
            counter: None,
            environment,
            message,
            effects: Effects::default(),
            stable_accessed: PageSet::default(),
            stable_written: PageSet::default(),
            heap_charged: 0,
            heap_counted_at: 0,
            timer_before: 0,
            reply: Vec::new(),
            call: None,
        }
    }

    /// Prepares for `message`.
    pub fn begin(&mut self, environment: Environment, message: Message, balance: u128, timer: u64) {
        self.environment = environment;
        self.message = message;
        self.effects = Effects { balance, ..Effects::default() };
        self.stable_accessed.clear();
        self.stable_written.clear();
        self.heap_charged = 0;
        self.heap_counted_at = 0;
        self.timer_before = timer;
        self.reply.clear();
        self.call = None;
    }

    /// Instructions charged for heap pages by system calls of this message.
    pub fn heap_charged(&self) -> u64 {
        self.heap_charged
    }

    fn heap_bytes(&self, at: u32, size: u32) -> Result<&[u8], Stop> {
        let start = at as usize;
        self.heap.get(start..start + size as usize).ok_or_else(Stop::heap_out_of_bounds)
    }

    fn text(&self, at: u32, size: u32) -> Result<String, Stop> {
        Ok(String::from_utf8_lossy(self.heap_bytes(at, size)?).into_owned())
    }

    /// Text that must be UTF-8; `what` is it.
    fn name(&self, at: u32, size: u32, what: &str) -> Result<String, Stop> {
        String::from_utf8(self.heap_bytes(at, size)?.to_vec())
            .map_err(|_| Stop::Contract(format!("the {what} is not UTF-8")))
    }

    /// Copies `data[offset..offset + size]` to the heap.
    fn put(&self, dst: u32, data: &[u8], offset: u32, size: u32) -> Result<(), Stop> {
        let start = offset as usize;
        let part = data.get(start..start + size as usize).ok_or_else(|| {
            Stop::Contract(format!("bytes {offset}..+{size} of a value of {} bytes", data.len()))
        })?;
        if self.heap.write(dst as usize, part) { Ok(()) } else { Err(Stop::heap_out_of_bounds()) }
    }

    fn put_u128(&self, dst: u32, value: u128) -> Result<(), Stop> {
        self.put(dst, &value.to_le_bytes(), 0, 16)
    }

    fn stable_range(&self, offset: u64, size: u64) -> Result<Range<usize>, Stop> {
        match offset.checked_add(size) {
            Some(end) if end <= self.stable.len() as u64 => Ok(offset as usize..end as usize),
            _ => Err(Stop::stable_out_of_bounds()),
        }
    }

    /// Counts an access to stable memory; returns the instructions it costs.
    fn touch_stable(&mut self, range: Range<usize>, write: bool) -> Result<u64, Stop> {
        let size = range.len() as u64;
        let new = PageCount {
            accessed: self.stable_accessed.insert_range(range.clone()),
            written: if write { self.stable_written.insert_range(range) } else { 0 },
        };
        let limit = match self.message.entry_point {
            EntryPoint::Init | EntryPoint::PreUpgrade | EntryPoint::PostUpgrade => {
                limits::STABLE_ACCESS_BYTES_INSTALL
            }
            EntryPoint::ReplicatedQuery => limits::STABLE_ACCESS_BYTES_QUERY,
            entry if !entry.is_replicated() => limits::STABLE_ACCESS_BYTES_QUERY,
            _ => limits::STABLE_ACCESS_BYTES,
        };
        if self.stable_accessed.len() > limit / WASM_PAGE as u64 {
            return Err(Stop::MemoryAccess(format!(
                "Exceeded the limit for the number of accessed pages in the stable memory in a single message \
                 execution: limit {} KB.",
                limit / 1024
            )));
        }
        Ok(new.charge() + size)
    }

    /// Counts the heap pages touched since the last time; returns the instructions they cost. `used` are the message's
    /// instructions so far.
    fn touch_heap(&mut self, used: u64) -> u64 {
        let pages = (self.heap.len() / OS_PAGE) as u64;
        let since = used - self.heap_counted_at.min(used);
        if pages > ALWAYS_COUNTED_PAGES && since < pages * INSTRUCTIONS_PER_COUNTED_PAGE {
            return 0;
        }
        self.heap_counted_at = used;
        let charge = self.heap.scan().count().charge();
        let new = charge.saturating_sub(self.heap_charged);
        self.heap_charged = charge.max(self.heap_charged);
        new
    }

    fn liquid_balance(&self) -> u128 {
        self.effects.balance.saturating_sub(self.environment.freezing_limit)
    }

    fn answer(&mut self, answer: Result<Vec<u8>, String>) -> Result<(), Stop> {
        if !self.message.unanswered || self.effects.answer.is_some() {
            return Err(Stop::Contract("the call has already been answered".into()));
        }
        self.effects.answer = Some(answer);
        // What was not accepted goes back with the answer.
        self.message.cycles_available = 0;
        Ok(())
    }

    fn append_reply(&mut self, at: u32, size: u32) -> Result<(), Stop> {
        if !self.message.unanswered || self.effects.answer.is_some() {
            return Err(Stop::Contract("the call has already been answered".into()));
        }
        let limit = match self.message.entry_point {
            EntryPoint::Query | EntryPoint::CompositeQuery => limits::QUERY_REPLY_BYTES,
            _ => limits::MESSAGE_BYTES,
        };
        if self.reply.len() + size as usize > limit {
            return Err(Stop::Contract(format!(
                "the reply of {} bytes exceeds the limit of {limit} bytes",
                self.reply.len() + size as usize
            )));
        }
        let part = self.heap_bytes(at, size)?.to_vec();
        self.reply.extend(part);
        Ok(())
    }

    /// The call under construction.
    fn current_call(&mut self) -> Result<&mut OutgoingCall, Stop> {
        self.call.as_mut().ok_or_else(|| Stop::Contract("there is no call under construction".into()))
    }

    /// Drops the call under construction; its cycles return to the balance.
    fn abandon_call(&mut self) {
        if let Some(call) = self.call.take() {
            self.effects.balance += call.cycles;
        }
    }

    fn append_argument(&mut self, at: u32, size: u32) -> Result<(), Stop> {
        let part = self.heap_bytes(at, size)?.to_vec();
        let call = self.current_call()?;
        if call.argument.len() + part.len() > limits::SAME_SUBNET_REQUEST_BYTES {
            return Err(Stop::Contract(format!(
                "the argument of {} bytes exceeds the limit of {} bytes",
                call.argument.len() + part.len(),
                limits::SAME_SUBNET_REQUEST_BYTES
            )));
        }
        call.argument.extend(part);
        Ok(())
    }

    fn add_call_cycles(&mut self, amount: u128) -> Result<(), Stop> {
        self.current_call()?;
        let available = self.liquid_balance();
        if amount > available {
            return Err(Stop::Contract(format!(
                "attaching {amount} cycles to a call, but only {available} are above the freezing limit"
            )));
        }
        self.effects.balance -= amount;
        self.current_call()?.cycles += amount;
        Ok(())
    }

    /// Puts the call into the output queue; returns 0, or a reject code when that is not possible.
    fn perform_call(&mut self) -> Result<u32, Stop> {
        let mut call =
            self.call.take().ok_or_else(|| Stop::Contract("there is no call under construction".into()))?;
        let composite = !self.message.entry_point.is_replicated();
        let fees = self.environment.fees;
        let fee = fees.call((call.method.len() + call.argument.len()) as u64);
        let prepaid = fees.response_reserve();
        let open = self.environment.open_calls.entry(call.callee).or_default();
        if !composite {
            if *open >= limits::OPEN_CALLS_PER_CALLEE || fee + prepaid > self.liquid_balance() {
                self.effects.balance += call.cycles;
                return Ok(crate::reject::RejectCode::SysTransient as u32);
            }
            self.effects.balance -= fee + prepaid;
            call.prepaid = prepaid;
        }
        *self.environment.open_calls.entry(call.callee).or_default() += 1;
        self.effects.calls.push(call);
        Ok(0)
    }
}

/// Takes `instructions` from the counter.
fn charge(caller: &mut Caller<'_, Execution>, instructions: u64) -> Result<(), Stop> {
    let Some(counter) = caller.data().counter else { return Ok(()) };
    let left = counter.get(&mut *caller).i64().unwrap_or(0);
    if instructions > limits::SLICE_INSTRUCTIONS && caller.data().message.entry_point.is_sliced() {
        return Err(Stop::SliceOverrun(instructions));
    }
    let left = left.saturating_sub(i64::try_from(instructions).unwrap_or(i64::MAX));
    counter
        .set(&mut *caller, Val::I64(left))
        .map_err(|e| Stop::Trapped(format!("the instruction counter is not writable: {e:#}")))?;
    if left < 0 { Err(Stop::InstructionLimit(caller.data().message.instruction_limit)) } else { Ok(()) }
}

/// Instructions used so far by this message.
fn used(caller: &mut Caller<'_, Execution>) -> u64 {
    let limit = caller.data().message.instruction_limit;
    let Some(counter) = caller.data().counter else { return 0 };
    let left = counter.get(&mut *caller).i64().unwrap_or(0);
    limit.saturating_sub(left.max(0) as u64)
}
