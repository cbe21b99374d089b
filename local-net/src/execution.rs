//! Running one function of a canister.

use crate::{
    costs::PageCount,
    limits,
    memory::{self, Memory, PageScan},
    module::{
        COUNTER_EXPORT, CompiledModule, ENGINE, GLOBAL_EXPORT_PREFIX, OPERATION_EXPORT, OPERATION_TOO_LARGE,
        START_EXPORT, TABLE_EXPORT,
    },
    system_api::{self, Closure, Effects, Environment, Execution, Message, Stop},
};
use serde::{Deserialize, Serialize};
use std::sync::{Arc, LazyLock};
use wasmtime::{Global, Linker, Mutability, Store, Table, Trap, Val, WasmBacktrace};

static LINKER: LazyLock<Linker<Execution>> = LazyLock::new(|| {
    let mut linker = Linker::new(&ENGINE);
    system_api::link(&mut linker).expect("every function of the system interface is defined once");
    linker
});

/// The function to run.
#[derive(Clone, Copy, Debug)]
pub enum Function<'a> {
    /// An exported function without parameters.
    Export(&'a str),
    /// A callback.
    Callback(Closure),
}

/// The value of a global; floats by their bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum GlobalValue {
    /// A 32-bit integer.
    I32(i32),
    /// A 64-bit integer.
    I64(i64),
    /// A 32-bit float.
    F32(u32),
    /// A 64-bit float.
    F64(u64),
    /// A vector.
    V128(u128),
}

impl GlobalValue {
    fn of(value: Val) -> Self {
        match value {
            Val::I32(value) => Self::I32(value),
            Val::I64(value) => Self::I64(value),
            Val::F32(bits) => Self::F32(bits),
            Val::F64(bits) => Self::F64(bits),
            Val::V128(value) => Self::V128(value.as_u128()),
            _ => unreachable!("`module::compile` refuses globals that hold references"),
        }
    }

    fn val(self) -> Val {
        match self {
            Self::I32(value) => Val::I32(value),
            Self::I64(value) => Val::I64(value),
            Self::F32(bits) => Val::F32(bits),
            Self::F64(bits) => Val::F64(bits),
            Self::V128(value) => Val::V128(value.into()),
        }
    }
}

/// What running a function led to. Memory is neither committed nor rolled back yet.
pub struct Outcome {
    /// Whether it returned.
    pub result: Result<(), Stop>,
    /// The functions that were running when it trapped, innermost first; empty when the module does not name them.
    pub backtrace: Vec<String>,
    /// What it asks for; only the log counts when it did not return.
    pub effects: Effects,
    /// Instructions it used, pages included; never more than the limit.
    pub instructions: u64,
    /// Instructions charged for copying dirty pages afterwards.
    pub copy_instructions: u64,
    /// The heap's pages.
    pub heap_pages: PageScan,
}

/// A canister's code, ready to run, with the values of its globals.
pub struct Instance {
    module: Arc<CompiledModule>,
    store: Store<Execution>,
    code: wasmtime::Instance,
    counter: Option<Global>,
    operation: Option<Global>,
    /// The globals that are mutable or exported, by index.
    globals: Vec<Global>,
    committed_globals: Vec<GlobalValue>,
    table: Option<Table>,
    /// Whether a message may have changed tables or dropped segments.
    stale: bool,
}

impl Instance {
    /// Instantiates `module` on `heap` and writes its active data segments; the start function does not run yet.
    ///
    /// # Errors
    /// [`Stop::Trapped`] when a data or element segment does not fit, or an import is unknown.
    pub fn new(
        module: &Arc<CompiledModule>,
        heap: Arc<Memory>,
        stable: Arc<Memory>,
        environment: Environment,
        message: Message,
    ) -> Result<Self, Stop> {
        let this = Self::resume(module, heap, stable, environment, message)?;
        let heap = &this.store.data().heap;
        let fits = module.data.iter().all(|(at, bytes)| heap.write(*at, bytes));
        if fits { Ok(this) } else { Err(Stop::heap_out_of_bounds()) }
    }

    /// Instantiates `module` on a heap that it has run on before.
    ///
    /// # Errors
    /// As [`Instance::new`].
    pub fn resume(
        module: &Arc<CompiledModule>,
        heap: Arc<Memory>,
        stable: Arc<Memory>,
        environment: Environment,
        message: Message,
    ) -> Result<Self, Stop> {
        memory::provide_heap(heap.clone());
        let mut store = Store::new(&ENGINE, Execution::new(heap, stable, environment, message));
        let instance = LINKER.instantiate(&mut store, &module.module).map_err(|e| stop(&e, 0, false))?;
        let counter = instance.get_global(&mut store, COUNTER_EXPORT);
        let operation = instance.get_global(&mut store, OPERATION_EXPORT);
        let names = module.module.exports().map(|e| e.name().to_owned());
        let names: Vec<String> = names.filter(|name| name.starts_with(GLOBAL_EXPORT_PREFIX)).collect();
        let globals = names.iter().filter_map(|name| instance.get_global(&mut store, name)).collect();
        let table = instance.get_table(&mut store, TABLE_EXPORT);
        store.data_mut().counter = counter;
        let mut this = Self {
            module: module.clone(),
            store,
            code: instance,
            counter,
            operation,
            globals,
            committed_globals: Vec::new(),
            table,
            stale: false,
        };
        this.commit_globals();
        Ok(this)
    }

    /// Whether the module has a start function.
    pub fn has_start(&mut self) -> bool {
        self.code.get_func(&mut self.store, START_EXPORT).is_some()
    }

    /// The globals that are mutable or exported, by index, as of the last commit.
    pub fn globals(&self) -> &[GlobalValue] {
        &self.committed_globals
    }

    /// Sets the globals that are mutable or exported, and keeps these values.
    ///
    /// # Errors
    /// Says what is wrong when number or types are not those of the module, or a constant would change; then nothing has
    /// changed.
    pub fn set_globals(&mut self, values: &[GlobalValue]) -> Result<(), String> {
        let present = self.present_globals();
        if values.len() != present.len() {
            return Err(format!("{} globals, but the module has {}", values.len(), present.len()));
        }
        for (index, (value, present)) in values.iter().zip(&present).enumerate() {
            let same_type = std::mem::discriminant(value) == std::mem::discriminant(present);
            let constant = self.globals[index].ty(&self.store).mutability() == Mutability::Const;
            if !same_type || constant && value != present {
                return Err(format!(
                    "global {index} does not have the type or constant value of the module's"
                ));
            }
        }
        self.committed_globals = values.to_vec();
        self.roll_back_globals();
        Ok(())
    }

    fn present_globals(&mut self) -> Vec<GlobalValue> {
        self.globals.iter().map(|g| GlobalValue::of(g.get(&mut self.store))).collect()
    }

    /// Runs `function` for `message`; `balance` and `timer` are the canister's before the message.
    pub fn run(
        &mut self,
        function: Function<'_>,
        environment: Environment,
        message: Message,
        balance: u128,
        timer: u64,
    ) -> Outcome {
        if self.stale {
            self.renew();
        }
        self.stale = self.module.changes_instance;
        let limit = message.instruction_limit;
        let operation_limit =
            if message.entry_point.is_sliced() { limits::SLICE_INSTRUCTIONS as i64 } else { i64::MAX };
        self.store.data_mut().begin(environment, message, balance, timer);
        let called = self.set_limits(limit as i64, operation_limit).and_then(|()| self.call(function));
        let left = self.counter.map_or(0, |c| c.get(&mut self.store).i64().unwrap_or(0));
        let moved = self.operation.map_or(0, |o| o.get(&mut self.store).i64().unwrap_or(0));
        let execution = self.store.data_mut();
        let heap_pages = execution.heap.scan();
        let heap = heap_pages.count();
        let uncharged = heap.charge().saturating_sub(execution.heap_charged());
        let stable =
            PageCount { accessed: execution.stable_accessed.len(), written: execution.stable_written.len() };
        let (result, backtrace) = match called {
            Err(_) if left == OPERATION_TOO_LARGE => (Err(Stop::SliceOverrun(moved as u64)), Vec::new()),
            Err(error) => (Err(stop(&error, limit, left < 0)), backtrace(&error)),
            Ok(()) if left < i64::try_from(uncharged).unwrap_or(i64::MAX) => {
                (Err(Stop::InstructionLimit(limit)), Vec::new())
            }
            Ok(()) => (Ok(()), Vec::new()),
        };
        let left = left.saturating_sub_unsigned(uncharged).max(0);
        Outcome {
            result,
            backtrace,
            effects: std::mem::take(&mut execution.effects),
            instructions: limit.saturating_sub(left as u64),
            copy_instructions: (heap + stable).copy_charge(),
            heap_pages,
        }
    }

    /// The stable pages the last message wrote.
    pub fn stable_written(&self) -> &memory::PageSet {
        &self.store.data().stable_written
    }

    /// Keeps the values of the globals.
    pub fn commit_globals(&mut self) {
        self.committed_globals = self.present_globals();
    }

    /// Undoes what happened since the last commit, in memories and globals.
    pub fn roll_back(&mut self) {
        let Execution { heap, stable, .. } = self.store.data();
        let grown = heap.len();
        heap.roll_back();
        stable.roll_back();
        if heap.len() < grown {
            // The instance remembers the heap's length; a new one reads it again.
            self.renew();
        }
        self.roll_back_globals();
    }

    /// Instantiates the module again: tables and segments are as at first, memories and globals stay.
    fn renew(&mut self) {
        let Execution { heap, stable, environment, message, .. } = self.store.data();
        let (heap, stable) = (heap.clone(), stable.clone());
        let (environment, message) = (environment.clone(), message.clone());
        let globals = self.present_globals();
        let committed_globals = std::mem::take(&mut self.committed_globals);
        *self = Self::resume(&self.module.clone(), heap, stable, environment, message)
            .expect("a module that was instantiated on this heap can be instantiated again");
        self.committed_globals = globals;
        self.roll_back_globals();
        self.committed_globals = committed_globals;
    }

    /// Gives the globals the values of the last commit.
    fn roll_back_globals(&mut self) {
        for (global, value) in self.globals.iter().zip(&self.committed_globals) {
            if global.ty(&self.store).mutability() == Mutability::Var {
                global.set(&mut self.store, value.val()).expect("a mutable global takes a value of its type");
            }
        }
    }

    fn set_limits(&mut self, instructions: i64, operation: i64) -> wasmtime::Result<()> {
        for (global, value) in [(self.counter, instructions), (self.operation, operation)] {
            if let Some(global) = global {
                global.set(&mut self.store, Val::I64(value))?;
            }
        }
        Ok(())
    }

    fn call(&mut self, function: Function<'_>) -> wasmtime::Result<()> {
        match function {
            Function::Export(name) => {
                let function = self.code.get_typed_func::<(), ()>(&mut self.store, name)?;
                function.call(&mut self.store, ())
            }
            Function::Callback(closure) => {
                let entry = self.table.and_then(|t| t.get(&mut self.store, u64::from(closure.function)));
                let function = entry.as_ref().and_then(wasmtime::Ref::as_func).flatten().copied();
                let function = function.and_then(|f| f.typed::<u32, ()>(&self.store).ok());
                let function =
                    function.ok_or_else(|| wasmtime::Error::new(Stop::NoFunction(closure.function)))?;
                function.call(&mut self.store, closure.environment)
            }
        }
    }
}

/// The functions on the stack when `error` happened, innermost first, if the module has names.
fn backtrace(error: &wasmtime::Error) -> Vec<String> {
    let frames = error.downcast_ref::<WasmBacktrace>().map_or(&[][..], WasmBacktrace::frames);
    if frames.iter().all(|frame| frame.func_name().is_none()) {
        return Vec::new();
    }
    let name = |frame: &wasmtime::FrameInfo| match frame.func_name() {
        Some(name) => format!("{:#}", rustc_demangle::demangle(name)),
        None => format!("unknown function at index {}", frame.func_index()),
    };
    frames.iter().map(name).collect()
}

/// Why wasmtime stopped. The check for remaining instructions ends in `unreachable`, with a negative counter.
fn stop(error: &wasmtime::Error, limit: u64, exhausted: bool) -> Stop {
    if let Some(stop) = error.downcast_ref::<Stop>() {
        return stop.clone();
    }
    match error.downcast_ref::<Trap>() {
        Some(Trap::UnreachableCodeReached) if exhausted => Stop::InstructionLimit(limit),
        Some(trap) => Stop::Trapped(trap_text(*trap).into()),
        None => Stop::Trapped(format!("{error:#}")),
    }
}

/// The replica's words for WebAssembly's traps.
fn trap_text(trap: Trap) -> &'static str {
    match trap {
        Trap::StackOverflow => "stack overflow",
        Trap::MemoryOutOfBounds => "heap out of bounds",
        Trap::TableOutOfBounds => "table out of bounds",
        Trap::IndirectCallToNull => "indirect call to null",
        Trap::BadSignature => "indirect call type mismatch",
        Trap::IntegerOverflow => "integer overflow",
        Trap::IntegerDivisionByZero => "integer division by 0",
        Trap::BadConversionToInteger => "bad conversion to integer",
        Trap::UnreachableCodeReached => "unreachable",
        _ => "wasm trap",
    }
}
