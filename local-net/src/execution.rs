//! Running one function of a canister.

use crate::{
    costs::PageCount,
    memory::{self, Memory, PageScan},
    module::{COUNTER_EXPORT, CompiledModule, ENGINE, GLOBAL_EXPORT_PREFIX, START_EXPORT, TABLE_EXPORT},
    system_api::{self, Closure, Effects, Environment, Execution, Message, Stop},
};
use std::sync::{Arc, LazyLock};
use wasmtime::{Global, Linker, Store, Table, Trap, Val};

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

/// What running a function led to. Memory is neither committed nor rolled back yet.
pub struct Outcome {
    /// Whether it returned.
    pub result: Result<(), Stop>,
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
    store: Store<Execution>,
    code: wasmtime::Instance,
    counter: Option<Global>,
    globals: Vec<Global>,
    committed_globals: Vec<Val>,
    table: Option<Table>,
}

impl Instance {
    /// Instantiates `module` on `heap`; active data segments are written, the start function does not run yet.
    ///
    /// # Errors
    /// [`Stop::Trapped`] when a data or element segment does not fit, or an import is unknown.
    pub fn new(
        module: &CompiledModule,
        heap: Arc<Memory>,
        stable: Arc<Memory>,
        environment: Environment,
        message: Message,
    ) -> Result<Self, Stop> {
        memory::provide_heap(heap.clone());
        let mut store = Store::new(&ENGINE, Execution::new(heap, stable, environment, message));
        let instance = LINKER.instantiate(&mut store, &module.module).map_err(|e| stop(&e, 0, false))?;
        let counter = instance.get_global(&mut store, COUNTER_EXPORT);
        let names = module.module.exports().map(|e| e.name().to_owned());
        let names: Vec<String> = names.filter(|name| name.starts_with(GLOBAL_EXPORT_PREFIX)).collect();
        let globals = names.iter().filter_map(|name| instance.get_global(&mut store, name)).collect();
        let table = instance.get_table(&mut store, TABLE_EXPORT);
        store.data_mut().counter = counter;
        let mut this = Self { store, code: instance, counter, globals, committed_globals: Vec::new(), table };
        this.commit_globals();
        Ok(this)
    }

    /// Whether the module has a start function.
    pub fn has_start(&mut self) -> bool {
        self.code.get_func(&mut self.store, START_EXPORT).is_some()
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
        let limit = message.instruction_limit;
        self.store.data_mut().begin(environment, message, balance, timer);
        let called = self.set_counter(limit).and_then(|()| self.call(function));
        let left = self.counter.map_or(0, |c| c.get(&mut self.store).i64().unwrap_or(0));
        let execution = self.store.data_mut();
        let heap_pages = execution.heap.scan();
        let heap = heap_pages.count();
        let uncharged = heap.charge().saturating_sub(execution.heap_charged());
        let stable =
            PageCount { accessed: execution.stable_accessed.len(), written: execution.stable_written.len() };
        let left = left.saturating_sub_unsigned(uncharged);
        let result = match called {
            Ok(()) if left < 0 => Err(Stop::InstructionLimit(limit)),
            Ok(()) => Ok(()),
            Err(error) => Err(stop(&error, limit, left < 0)),
        };
        Outcome {
            result,
            effects: std::mem::take(&mut execution.effects),
            instructions: limit.saturating_sub(left.max(0) as u64),
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
        self.committed_globals = self.globals.iter().map(|g| g.get(&mut self.store)).collect();
    }

    /// Undoes what happened since the last commit, in memories and globals.
    pub fn roll_back(&mut self, module: &CompiledModule) {
        let Execution { heap, stable, environment, message, .. } = self.store.data();
        let (heap, stable) = (heap.clone(), stable.clone());
        let grown = heap.len();
        heap.roll_back();
        stable.roll_back();
        if heap.len() < grown {
            // The instance remembers the heap's length; a new one reads it again.
            let committed_globals = std::mem::take(&mut self.committed_globals);
            let (environment, message) = (environment.clone(), message.clone());
            *self = Self::new(module, heap.clone(), stable, environment, message)
                .expect("a module that was instantiated on a smaller heap can be instantiated again");
            self.committed_globals = committed_globals;
            // Instantiation has written the data segments once more.
            heap.roll_back();
        }
        self.roll_back_globals();
    }

    /// Gives the globals the values of the last commit.
    fn roll_back_globals(&mut self) {
        for (global, value) in self.globals.iter().zip(&self.committed_globals) {
            global.set(&mut self.store, *value).expect("a mutable global takes a value it had before");
        }
    }

    fn set_counter(&mut self, limit: u64) -> wasmtime::Result<()> {
        match self.counter {
            Some(counter) => counter.set(&mut self.store, Val::I64(limit as i64)),
            None => Ok(()),
        }
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
