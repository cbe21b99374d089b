//! Canister modules: decompression, validation, metering and compilation.
//!
//! The module is rewritten as the replica does it: a counter is decremented at the start of every block by the block's
//! cost, and compared with zero at the entry of functions and loops. Also, table 0 and all mutable globals are exported,
//! because callbacks are called by table index and globals must be restored when a message is undone. The
//! start function becomes an export, so that it runs when the counter is set.

use crate::{
    costs::operator_cost,
    limits,
    memory::HeapCreator,
    reject::{ErrorCode, Reject},
};
use sha2::{Digest, Sha256};
use std::{
    collections::BTreeMap,
    io::Read,
    sync::{Arc, LazyLock, Mutex},
};
use wasm_encoder::{
    CodeSection, ExportKind, ExportSection, Function, GlobalSection, Instruction, RawSection,
    reencode::{Reencode, RoundtripReencoder},
};
use wasmparser::{BinaryReaderError, FunctionBody, Operator, Parser, Payload, TypeRef, WasmFeatures};
use wasmtime::{Config, Engine, Module};

/// Export name of the instruction counter, which counts down from the message's limit.
pub const COUNTER_EXPORT: &str = "__local_net_instructions";
/// Export name of table 0.
pub const TABLE_EXPORT: &str = "__local_net_table";
/// Export name of the module's start function.
pub const START_EXPORT: &str = "__local_net_start";
/// Prefix of the export names of mutable globals.
pub const GLOBAL_EXPORT_PREFIX: &str = "__local_net_global_";

/// Bytes of Wasm stack a canister may use.
const WASM_STACK_BYTES: usize = 4 << 20;

/// A custom section that the state tree shows as canister metadata.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metadata {
    /// Whether everybody may read it; otherwise only controllers.
    pub public: bool,
    /// The section's bytes.
    pub content: Vec<u8>,
}

/// A compiled canister module.
pub struct CompiledModule {
    /// The metered code.
    pub module: Module,
    /// SHA-256 of the bytes that were installed (compressed, if they were).
    pub hash: [u8; 32],
    /// Bytes that were installed.
    pub bytes: u64,
    /// The sections `icp:public …` and `icp:private …` by name.
    pub metadata: BTreeMap<String, Metadata>,
    /// Names of the exported functions.
    exports: Vec<String>,
}

impl CompiledModule {
    /// Whether the module exports the function `name`.
    pub fn exports(&self, name: &str) -> bool {
        self.exports.binary_search_by(|e| e.as_str().cmp(name)).is_ok()
    }
}

/// Why a module was refused.
#[derive(Debug, thiserror::Error)]
pub enum ModuleError {
    /// The gzip stream is damaged or expands beyond the limit.
    #[error("cannot decompress the module: {0}")]
    Decompress(std::io::Error),
    /// More bytes than [`limits::MODULE_BYTES`].
    #[error("the module has more than {} bytes", limits::MODULE_BYTES)]
    TooLarge,
    /// The bytes are not a valid module.
    #[error("{0}")]
    Invalid(#[from] BinaryReaderError),
    /// The module imports something that is not a function of `ic0`.
    #[error("the module imports `{module}.{name}`, which is no function of the system interface")]
    Import {
        /// Import module.
        module: String,
        /// Import name.
        name: String,
    },
    /// The module declares a 64-bit memory.
    #[error("modules with a 64-bit memory are not supported by this network")]
    Memory64,
    /// The module could not be rewritten.
    #[error("cannot instrument the module: {0}")]
    Instrument(String),
    /// The module could not be compiled.
    #[error("{0:#}")]
    Compile(wasmtime::Error),
}

impl From<ModuleError> for Reject {
    fn from(e: ModuleError) -> Self {
        Self::new(ErrorCode::CanisterInvalidWasm, format!("Canister's Wasm module is not valid: {e}"))
    }
}

/// The engine that all networks of this process share. Compiled code also goes to wasmtime's cache directory, so that a
/// second process need not compile the same module again.
pub static ENGINE: LazyLock<Engine> = LazyLock::new(|| {
    let mut config = Config::new();
    config
        .wasm_simd(true)
        .wasm_relaxed_simd(false)
        .wasm_memory64(false)
        .wasm_multi_memory(false)
        .wasm_tail_call(true)
        .cranelift_nan_canonicalization(true)
        .with_host_memory(Arc::new(HeapCreator))
        .memory_reservation(limits::HEAP_BYTES)
        .memory_guard_size(crate::memory::GUARD_BYTES as u64)
        .memory_init_cow(false)
        .max_wasm_stack(WASM_STACK_BYTES)
        .async_stack_size(2 * WASM_STACK_BYTES);
    match wasmtime::Cache::from_file(None) {
        Ok(cache) => {
            config.cache(Some(cache));
        }
        Err(error) => tracing::warn!("compiled modules are not cached on disk: {error:#}"),
    }
    Engine::new(&config).expect("the engine's configuration is constant")
});

type Slot = Arc<Mutex<Option<Arc<CompiledModule>>>>;

/// Compiled modules by hash. A second network that installs the same module waits for the first one's compilation.
static MODULES: LazyLock<Mutex<BTreeMap<[u8; 32], Slot>>> = LazyLock::new(Mutex::default);

/// Compiles `bytes` (a Wasm module, or one compressed with gzip), or finds it compiled already.
///
/// # Errors
/// Says why the module cannot be a canister's.
pub fn compile(bytes: &[u8]) -> Result<Arc<CompiledModule>, ModuleError> {
    let hash: [u8; 32] = Sha256::digest(bytes).into();
    let slot = lock(&MODULES).entry(hash).or_default().clone();
    let mut slot = lock(&slot);
    if let Some(module) = &*slot {
        return Ok(module.clone());
    }
    let plain = decompress(bytes)?;
    let instrumented = instrument(&plain)?;
    let module = Module::new(&ENGINE, &instrumented.wasm).map_err(ModuleError::Compile)?;
    let mut exports: Vec<String> =
        module.exports().filter(|e| e.ty().func().is_some()).map(|e| e.name().to_owned()).collect();
    exports.sort_unstable();
    let compiled =
        CompiledModule { module, hash, bytes: bytes.len() as u64, metadata: instrumented.metadata, exports };
    Ok(slot.insert(Arc::new(compiled)).clone())
}

/// A panic while the lock was held leaves the cache usable: a slot is filled in one step.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn decompress(bytes: &[u8]) -> Result<Vec<u8>, ModuleError> {
    let plain = if bytes.starts_with(&[0x1f, 0x8b]) {
        let mut plain = Vec::new();
        let limit = limits::MODULE_BYTES as u64 + 1;
        flate2::read::GzDecoder::new(bytes)
            .take(limit)
            .read_to_end(&mut plain)
            .map_err(ModuleError::Decompress)?;
        plain
    } else {
        bytes.to_vec()
    };
    if plain.len() > limits::MODULE_BYTES { Err(ModuleError::TooLarge) } else { Ok(plain) }
}

struct Instrumented {
    wasm: Vec<u8>,
    metadata: BTreeMap<String, Metadata>,
}

/// What the rewriting needs to know about the module before it writes the first section.
#[derive(Default)]
struct Survey<'a> {
    sections: Vec<(u8, std::ops::Range<usize>)>,
    bodies: Vec<FunctionBody<'a>>,
    exports: ExportSection,
    globals: GlobalSection,
    mutable_globals: Vec<u32>,
    global_count: u32,
    has_table: bool,
    start: Option<u32>,
    metadata: BTreeMap<String, Metadata>,
    /// Parameters of each type that is a function type.
    type_params: Vec<u32>,
    /// Type of each defined function.
    function_types: Vec<u32>,
}

fn instrument(wasm: &[u8]) -> Result<Instrumented, ModuleError> {
    wasmparser::Validator::new_with_features(features()).validate_all(wasm)?;
    let survey = survey(wasm)?;
    let counter = survey.global_count;
    let mut globals = survey.globals;
    globals.global(
        wasm_encoder::GlobalType { val_type: wasm_encoder::ValType::I64, mutable: true, shared: false },
        &wasm_encoder::ConstExpr::i64_const(0),
    );
    let mut exports = survey.exports;
    exports.export(COUNTER_EXPORT, ExportKind::Global, counter);
    for index in &survey.mutable_globals {
        exports.export(&format!("{GLOBAL_EXPORT_PREFIX}{index}"), ExportKind::Global, *index);
    }
    if survey.has_table {
        exports.export(TABLE_EXPORT, ExportKind::Table, 0);
    }
    if let Some(start) = survey.start {
        exports.export(START_EXPORT, ExportKind::Func, start);
    }
    let mut code = CodeSection::new();
    for (body, type_index) in survey.bodies.iter().zip(&survey.function_types) {
        let params = survey.type_params.get(*type_index as usize).copied().unwrap_or(0);
        code.function(&meter(wasm, body, params, counter)?);
    }
    let mut out = wasm_encoder::Module::new();
    let mut sections = survey.sections.into_iter().peekable();
    let mut copy_until = |out: &mut wasm_encoder::Module, before: u8| {
        while let Some((id, range)) = sections.next_if(|(id, _)| order(*id) < order(before)) {
            out.section(&RawSection { id, data: &wasm[range] });
        }
    };
    copy_until(&mut out, GLOBAL);
    out.section(&globals);
    copy_until(&mut out, EXPORT);
    out.section(&exports);
    copy_until(&mut out, CODE);
    out.section(&code);
    copy_until(&mut out, u8::MAX);
    Ok(Instrumented { wasm: out.finish(), metadata: survey.metadata })
}

const GLOBAL: u8 = 6;
const EXPORT: u8 = 7;
const START: u8 = 8;
const CODE: u8 = 10;

/// Position of a section in a module; the data count section (12) stands before the code section.
fn order(id: u8) -> u8 {
    match id {
        12 => 19,
        u8::MAX => u8::MAX,
        id => id * 2,
    }
}

/// The proposals a canister module may use.
fn features() -> WasmFeatures {
    WasmFeatures::WASM1
        | WasmFeatures::SIGN_EXTENSION
        | WasmFeatures::SATURATING_FLOAT_TO_INT
        | WasmFeatures::MULTI_VALUE
        | WasmFeatures::BULK_MEMORY
        | WasmFeatures::REFERENCE_TYPES
        | WasmFeatures::SIMD
        | WasmFeatures::TAIL_CALL
        | WasmFeatures::EXTENDED_CONST
        | WasmFeatures::GC_TYPES
        | WasmFeatures::MEMORY64
}

fn reencode_error(e: impl std::fmt::Debug) -> ModuleError {
    ModuleError::Instrument(format!("{e:?}"))
}

fn survey(wasm: &[u8]) -> Result<Survey<'_>, ModuleError> {
    let mut s = Survey::default();
    for payload in Parser::new(0).parse_all(wasm) {
        let payload = payload?;
        match &payload {
            Payload::TypeSection(types) => {
                for group in types.clone() {
                    for ty in group?.into_types() {
                        s.type_params.push(match &ty.composite_type.inner {
                            wasmparser::CompositeInnerType::Func(f) => f.params().len() as u32,
                            _ => 0,
                        });
                    }
                }
            }
            Payload::ImportSection(imports) => {
                for import in imports.clone().into_imports() {
                    let import = import?;
                    if import.module != "ic0" || !matches!(import.ty, TypeRef::Func(_)) {
                        return Err(ModuleError::Import {
                            module: import.module.to_owned(),
                            name: import.name.to_owned(),
                        });
                    }
                }
            }
            Payload::FunctionSection(functions) => {
                s.function_types = functions.clone().into_iter().collect::<Result<_, _>>()?;
            }
            Payload::TableSection(tables) => s.has_table = tables.count() > 0,
            Payload::MemorySection(memories) => {
                for memory in memories.clone() {
                    if memory?.memory64 {
                        return Err(ModuleError::Memory64);
                    }
                }
            }
            Payload::GlobalSection(globals) => {
                for (index, global) in globals.clone().into_iter().enumerate() {
                    if global?.ty.mutable {
                        s.mutable_globals.push(index as u32);
                    }
                }
                s.global_count = globals.count();
                RoundtripReencoder
                    .parse_global_section(&mut s.globals, globals.clone())
                    .map_err(reencode_error)?;
                continue;
            }
            Payload::ExportSection(exports) => {
                RoundtripReencoder
                    .parse_export_section(&mut s.exports, exports.clone())
                    .map_err(reencode_error)?;
                continue;
            }
            Payload::StartSection { func, .. } => s.start = Some(*func),
            Payload::CodeSectionEntry(body) => s.bodies.push(body.clone()),
            Payload::CustomSection(section) => {
                for (prefix, public) in [("icp:public ", true), ("icp:private ", false)] {
                    if let Some(name) = section.name().strip_prefix(prefix) {
                        let content = section.data().to_vec();
                        s.metadata.insert(name.to_owned(), Metadata { public, content });
                    }
                }
                continue;
            }
            _ => {}
        }
        if let Some((id, range)) = payload.as_section()
            && id != CODE
            && id != START
        {
            s.sections.push((id, range));
        }
    }
    Ok(s)
}

/// A place in a function where the counter is decremented.
enum Meter {
    /// By the cost of the block that starts here; functions and loops also check that instructions are left.
    Block { cost: u64, check: bool },
    /// By the operand on top of the stack, the length of a bulk operation.
    Bulk,
}

/// Finds the places of `body` where the counter is decremented, as (byte offset in the module, what happens there).
/// The rules are those of the replica's `instrumentation.rs`: every branch starts a new block, calls do not.
fn meter_points(body: &FunctionBody<'_>) -> Result<Vec<(usize, Meter)>, BinaryReaderError> {
    let mut points = Vec::new();
    let mut operators = body.get_operators_reader()?;
    // Even an empty function costs one instruction.
    let mut block = (operators.original_position(), 1, true);
    let close = |points: &mut Vec<(usize, Meter)>, (at, cost, check): (usize, u64, bool)| {
        if cost > 0 || check {
            points.push((at, Meter::Block { cost, check }));
        }
    };
    while !operators.eof() {
        let (operator, at) = operators.read_with_offset()?;
        let next = operators.original_position();
        block.1 += operator_cost(&operator);
        match operator {
            Operator::Loop { .. } => close(&mut points, std::mem::replace(&mut block, (next, 0, true))),
            Operator::If { .. }
            | Operator::Else
            | Operator::End
            | Operator::Br { .. }
            | Operator::BrIf { .. }
            | Operator::BrTable { .. }
            | Operator::Return
            | Operator::Unreachable
            | Operator::ReturnCall { .. }
            | Operator::ReturnCallIndirect { .. } => {
                close(&mut points, std::mem::replace(&mut block, (next, 0, false)));
            }
            Operator::MemoryFill { .. }
            | Operator::MemoryCopy { .. }
            | Operator::MemoryInit { .. }
            | Operator::TableFill { .. }
            | Operator::TableCopy { .. }
            | Operator::TableInit { .. } => points.push((at, Meter::Bulk)),
            _ => {}
        }
    }
    // A block's charge stands at its start, before the bulk operations inside it.
    points.sort_by_key(|(at, meter)| (*at, matches!(meter, Meter::Bulk)));
    Ok(points)
}

/// Writes `body` again with the counter's decrements.
fn meter(wasm: &[u8], body: &FunctionBody<'_>, params: u32, counter: u32) -> Result<Function, ModuleError> {
    let mut locals = Vec::new();
    let mut local_count = params;
    for local in body.get_locals_reader()? {
        let (count, ty) = local?;
        local_count += count;
        locals.push((count, RoundtripReencoder.val_type(ty).map_err(reencode_error)?));
    }
    let points = meter_points(body)?;
    let length = local_count;
    if points.iter().any(|(_, meter)| matches!(meter, Meter::Bulk)) {
        locals.push((1, wasm_encoder::ValType::I32));
    }
    let mut function = Function::new(locals);
    let mut at = body.get_operators_reader()?.original_position();
    for (position, point) in points {
        function.raw(wasm[at..position].iter().copied());
        at = position;
        match point {
            Meter::Block { cost, check } => {
                function
                    .instruction(&Instruction::GlobalGet(counter))
                    .instruction(&Instruction::I64Const(cost as i64))
                    .instruction(&Instruction::I64Sub)
                    .instruction(&Instruction::GlobalSet(counter));
                if check {
                    function
                        .instruction(&Instruction::GlobalGet(counter))
                        .instruction(&Instruction::I64Const(0))
                        .instruction(&Instruction::I64LtS)
                        .instruction(&Instruction::If(wasm_encoder::BlockType::Empty))
                        .instruction(&Instruction::Unreachable)
                        .instruction(&Instruction::End);
                }
            }
            Meter::Bulk => {
                function
                    .instruction(&Instruction::LocalSet(length))
                    .instruction(&Instruction::GlobalGet(counter))
                    .instruction(&Instruction::LocalGet(length))
                    .instruction(&Instruction::I64ExtendI32U)
                    .instruction(&Instruction::I64Sub)
                    .instruction(&Instruction::GlobalSet(counter))
                    .instruction(&Instruction::LocalGet(length));
            }
        }
    }
    function.raw(wasm[at..body.range().end].iter().copied());
    Ok(function)
}
