//! Canister modules: decompression, validation, metering and compilation.
//!
//! The module is rewritten as the replica does it: a counter is decremented at the start of every block by the block's
//! cost, and compared with zero at the entry of functions and loops. Also, table 0 and all globals that are mutable or
//! exported get an export name, because callbacks are called by table index, globals must be restored when a message is
//! undone, and snapshots contain them. The start function becomes an export, so that it runs when the counter is set. Active
//! data segments are emptied and written by the host once, so that a module can be instantiated again on a heap with contents.

use crate::{
    costs::operator_cost,
    limits,
    memory::HeapCreator,
    reject::{ErrorCode, Reject},
};
use sha2::{Digest, Sha256};
use std::{
    collections::{BTreeMap, BTreeSet},
    io::Read,
    sync::{Arc, LazyLock, Mutex},
};
use wasm_encoder::{
    CodeSection, DataSection, ExportKind, ExportSection, Function, GlobalSection, Instruction, RawSection,
    reencode::{Reencode, RoundtripReencoder},
};
use wasmparser::{
    BinaryReaderError, ConstExpr, DataKind, DataSectionReader, ExportSectionReader, ExternalKind,
    FunctionBody, Operator, Parser, Payload, TypeRef, WasmFeatures,
};
use wasmtime::{Cache, Config, Engine, Module};

/// Export name of the instruction counter, which counts down from the message's limit.
pub const COUNTER_EXPORT: &str = "__local_net_instructions";
/// Export name of the largest number of bytes that one bulk operation may move; after a violation, of the number it
/// was asked to move.
pub const OPERATION_EXPORT: &str = "__local_net_operation";
/// Value of the instruction counter after a bulk operation that moves too many bytes.
pub const OPERATION_TOO_LARGE: i64 = i64::MIN;
/// Export name of table 0.
pub const TABLE_EXPORT: &str = "__local_net_table";
/// Export name of the module's start function.
pub const START_EXPORT: &str = "__local_net_start";
/// Prefix of the export names of globals that are mutable or exported.
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
    /// The bytes that were installed.
    pub wasm: Vec<u8>,
    /// The bytes that instantiation writes to the heap, with their addresses.
    pub data: Vec<(usize, Vec<u8>)>,
    /// Whether the code can change tables or drop segments. Such changes end with the message that makes them.
    pub changes_instance: bool,
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

    /// Bytes of the sections that [`CompiledModule::metadata`] lists, names included.
    pub fn metadata_bytes(&self) -> u64 {
        self.metadata.iter().map(|(name, section)| (name.len() + section.content.len()) as u64).sum()
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
    /// The module has more of something than a canister may have.
    #[error("the module has {count} {what}, more than the limit of {limit}")]
    Limit {
        /// What there is too much of.
        what: &'static str,
        /// How much there is.
        count: usize,
        /// How much there may be.
        limit: usize,
    },
    /// A function is exported under a name that is reserved for entry points, or an entry point has parameters or results.
    #[error("the module exports `{0}`, which is no entry point of type () -> ()")]
    EntryPoint(String),
    /// Two exported methods have this name.
    #[error("the module exports more than one method with the name `{0}`")]
    DuplicateMethod(String),
    /// The name of a custom section begins with `icp:`, but is not that of public or private metadata, or used twice.
    #[error("the custom section `{0}` is not public or private metadata, or exists twice")]
    CustomSection(String),
    /// A global holds a reference, which cannot outlive a message.
    #[error("global {0} holds a reference")]
    ReferenceGlobal(usize),
    /// The offset of a data segment is not a constant that this network can compute.
    #[error("the offset of data segment {0} is not constant")]
    DataOffset(usize),
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

/// Wasmtime's cache directory, which receives compiled code, so that a second process need not compile the same module again.
static CACHE: LazyLock<Option<Cache>> = LazyLock::new(|| match Cache::from_file(None) {
    Ok(cache) => Some(cache),
    Err(error) => {
        tracing::warn!("compiled modules are not cached on disk: {error:#}");
        None
    }
});

/// The engine that all networks of this process share.
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
    config.cache(CACHE.clone());
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
    if let Some(cache) = &*CACHE {
        tracing::debug!(
            "modules so far: {} from the cache, {} compiled",
            cache.cache_hits(),
            cache.cache_misses()
        );
    }
    let mut exports: Vec<String> =
        module.exports().filter(|e| e.ty().func().is_some()).map(|e| e.name().to_owned()).collect();
    exports.sort_unstable();
    let compiled = CompiledModule {
        module,
        hash,
        wasm: bytes.to_vec(),
        data: instrumented.data,
        changes_instance: instrumented.changes_instance,
        metadata: instrumented.metadata,
        exports,
    };
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
    data: Vec<(usize, Vec<u8>)>,
    changes_instance: bool,
    metadata: BTreeMap<String, Metadata>,
}

/// What the rewriting needs to know about the module before it writes the first section.
#[derive(Default)]
struct Survey<'a> {
    sections: Vec<(u8, std::ops::Range<usize>)>,
    bodies: Vec<FunctionBody<'a>>,
    exports: ExportSection,
    exported_globals: BTreeSet<u32>,
    globals: GlobalSection,
    mutable_globals: BTreeSet<u32>,
    global_count: u32,
    data_section: DataSection,
    data: Vec<(usize, Vec<u8>)>,
    names: Option<&'a [u8]>,
    has_table: bool,
    start: Option<u32>,
    metadata: BTreeMap<String, Metadata>,
    /// Parameters and results of each type that is a function type.
    types: Vec<(u32, u32)>,
    /// Type of each imported function.
    import_types: Vec<u32>,
    /// Type of each defined function.
    function_types: Vec<u32>,
}

fn instrument(wasm: &[u8]) -> Result<Instrumented, ModuleError> {
    wasmparser::Validator::new_with_features(features()).validate_all(wasm)?;
    let survey = survey(wasm)?;
    let added = Added { counter: survey.global_count, operation: survey.global_count + 1 };
    let mut globals = survey.globals;
    let i64_global =
        wasm_encoder::GlobalType { val_type: wasm_encoder::ValType::I64, mutable: true, shared: false };
    globals.global(i64_global, &wasm_encoder::ConstExpr::i64_const(0));
    globals.global(i64_global, &wasm_encoder::ConstExpr::i64_const(i64::MAX));
    let mut exports = survey.exports;
    exports.export(COUNTER_EXPORT, ExportKind::Global, added.counter);
    exports.export(OPERATION_EXPORT, ExportKind::Global, added.operation);
    for index in survey.mutable_globals.union(&survey.exported_globals) {
        exports.export(&format!("{GLOBAL_EXPORT_PREFIX}{index}"), ExportKind::Global, *index);
    }
    if survey.has_table {
        exports.export(TABLE_EXPORT, ExportKind::Table, 0);
    }
    if let Some(start) = survey.start {
        exports.export(START_EXPORT, ExportKind::Func, start);
    }
    let mut code = CodeSection::new();
    let mut changes_instance = false;
    for (body, type_index) in survey.bodies.iter().zip(&survey.function_types) {
        let (params, _) = survey.types.get(*type_index as usize).copied().unwrap_or_default();
        let points = meter_points(body)?;
        changes_instance |= points.changes_instance;
        code.function(&meter(wasm, body, params, points, added)?);
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
    if !survey.data_section.is_empty() {
        out.section(&survey.data_section);
    }
    if let Some(data) = survey.names {
        out.section(&wasm_encoder::CustomSection { name: "name".into(), data: data.into() });
    }
    Ok(Instrumented { wasm: out.finish(), data: survey.data, changes_instance, metadata: survey.metadata })
}

/// Indices of the globals that instrumentation adds.
#[derive(Clone, Copy)]
struct Added {
    counter: u32,
    operation: u32,
}

const GLOBAL: u8 = 6;
const EXPORT: u8 = 7;
const START: u8 = 8;
const CODE: u8 = 10;
const DATA: u8 = 11;

/// Position of a section in a module; the data count section (12) stands before the code section.
fn order(id: u8) -> u8 {
    match id {
        12 => 19,
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
                        s.types.push(match &ty.composite_type.inner {
                            wasmparser::CompositeInnerType::Func(f) => {
                                (f.params().len() as u32, f.results().len() as u32)
                            }
                            _ => (0, 0),
                        });
                    }
                }
            }
            Payload::ImportSection(imports) => {
                for import in imports.clone().into_imports() {
                    let import = import?;
                    match import.ty {
                        TypeRef::Func(ty) if import.module == "ic0" => s.import_types.push(ty),
                        _ => {
                            return Err(ModuleError::Import {
                                module: import.module.to_owned(),
                                name: import.name.to_owned(),
                            });
                        }
                    }
                }
            }
            Payload::FunctionSection(functions) => {
                check_limit("functions", functions.count() as usize, limits::FUNCTIONS)?;
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
                check_limit("globals", globals.count() as usize, limits::GLOBALS)?;
                for (index, global) in globals.clone().into_iter().enumerate() {
                    let ty = global?.ty;
                    if ty.content_type.is_reference_type() {
                        return Err(ModuleError::ReferenceGlobal(index));
                    }
                    if ty.mutable {
                        s.mutable_globals.insert(index as u32);
                    }
                }
                s.global_count = globals.count();
                RoundtripReencoder
                    .parse_global_section(&mut s.globals, globals.clone())
                    .map_err(reencode_error)?;
                continue;
            }
            Payload::ExportSection(exports) => {
                s.check_exports(exports)?;
                RoundtripReencoder
                    .parse_export_section(&mut s.exports, exports.clone())
                    .map_err(reencode_error)?;
                continue;
            }
            Payload::StartSection { func, .. } => s.start = Some(*func),
            Payload::CodeSectionStart { size, .. } => {
                check_limit("bytes of code", *size as usize, limits::CODE_BYTES)?;
            }
            Payload::CodeSectionEntry(body) => s.bodies.push(body.clone()),
            Payload::DataSection(data) => {
                s.take_data(data)?;
                continue;
            }
            Payload::CustomSection(section) => {
                if section.name() == "name" {
                    s.names = Some(section.data());
                }
                s.take_metadata(section.name(), section.data())?;
                continue;
            }
            _ => {}
        }
        if let Some((id, range)) = payload.as_section()
            && ![CODE, START, DATA].contains(&id)
        {
            s.sections.push((id, range));
        }
    }
    Ok(s)
}

fn check_limit(what: &'static str, count: usize, limit: usize) -> Result<(), ModuleError> {
    if count > limit { Err(ModuleError::Limit { what, count, limit }) } else { Ok(()) }
}

/// Entry points besides the methods.
const ENTRY_POINTS: &[&str] = &[
    "canister_init",
    "canister_inspect_message",
    "canister_pre_upgrade",
    "canister_post_upgrade",
    "canister_heartbeat",
    "canister_global_timer",
    "canister_on_low_wasm_memory",
];

/// What the names of exported methods begin with.
const METHOD_PREFIXES: &[&str] = &["canister_update ", "canister_query ", "canister_composite_query "];

impl<'a> Survey<'a> {
    /// Checks the exported names (interface specification, "WebAssembly module requirements").
    fn check_exports(&mut self, exports: &ExportSectionReader<'_>) -> Result<(), ModuleError> {
        let mut methods = BTreeSet::new();
        for export in exports.clone() {
            let export = export?;
            match export.kind {
                ExternalKind::Global => {
                    self.exported_globals.insert(export.index);
                    continue;
                }
                ExternalKind::Func if export.name.starts_with("canister_") => {}
                _ => continue,
            }
            let functions = self.import_types.iter().chain(&self.function_types);
            let ty = functions.copied().nth(export.index as usize).unwrap_or(u32::MAX);
            let method = METHOD_PREFIXES.iter().find_map(|prefix| export.name.strip_prefix(prefix));
            let known = method.is_some() || ENTRY_POINTS.contains(&export.name);
            if !known || self.types.get(ty as usize) != Some(&(0, 0)) {
                return Err(ModuleError::EntryPoint(export.name.to_owned()));
            }
            if let Some(method) = method
                && !methods.insert(method)
            {
                return Err(ModuleError::DuplicateMethod(method.to_owned()));
            }
        }
        check_limit("exported methods", methods.len(), limits::METHODS)?;
        let name_bytes = methods.iter().map(|name| name.len()).sum();
        check_limit("bytes of method names", name_bytes, limits::METHOD_NAME_BYTES)
    }

    /// Moves the bytes of active data segments out of the module. The emptied segments keep their indices.
    fn take_data(&mut self, data: &DataSectionReader<'a>) -> Result<(), ModuleError> {
        for (index, segment) in data.clone().into_iter().enumerate() {
            let segment = segment?;
            match segment.kind {
                DataKind::Active { memory_index, offset_expr } => {
                    let at = constant(&offset_expr)?.ok_or(ModuleError::DataOffset(index))?;
                    self.data.push((at as usize, segment.data.to_vec()));
                    let offset = RoundtripReencoder.const_expr(offset_expr).map_err(reencode_error)?;
                    self.data_section.active(memory_index, &offset, []);
                }
                DataKind::Passive => {
                    self.data_section.passive(segment.data.iter().copied());
                }
            }
        }
        Ok(())
    }

    fn take_metadata(&mut self, section: &str, content: &[u8]) -> Result<(), ModuleError> {
        let Some(name) = section.strip_prefix("icp:") else { return Ok(()) };
        let invalid = || ModuleError::CustomSection(section.to_owned());
        let (name, public) = match name.split_once(' ') {
            Some(("public", name)) => (name, true),
            Some(("private", name)) => (name, false),
            _ => return Err(invalid()),
        };
        let metadata = Metadata { public, content: content.to_vec() };
        if self.metadata.insert(name.to_owned(), metadata).is_some() {
            return Err(invalid());
        }
        check_limit("metadata sections", self.metadata.len(), limits::METADATA_SECTIONS)?;
        let bytes = self.metadata.iter().map(|(name, m)| name.len() + m.content.len()).sum();
        check_limit("bytes of metadata", bytes, limits::METADATA_BYTES)
    }
}

/// The value of a constant expression of type `i32`; `None` when it refers to a global.
fn constant(expression: &ConstExpr<'_>) -> Result<Option<u32>, BinaryReaderError> {
    let mut stack: Vec<u32> = Vec::new();
    for operator in expression.get_operators_reader() {
        let binary: fn(u32, u32) -> u32 = match operator? {
            Operator::I32Const { value } => {
                stack.push(value as u32);
                continue;
            }
            Operator::I32Add => u32::wrapping_add,
            Operator::I32Sub => u32::wrapping_sub,
            Operator::I32Mul => u32::wrapping_mul,
            Operator::End => break,
            _ => return Ok(None),
        };
        let (Some(b), Some(a)) = (stack.pop(), stack.pop()) else { return Ok(None) };
        stack.push(binary(a, b));
    }
    Ok(stack.pop())
}

/// A place in a function where the counter is decremented.
enum Meter {
    /// By the cost of the block that starts here; functions and loops also check that instructions are left.
    Block { cost: u64, check: bool },
    /// By the operand on top of the stack, the length of a bulk operation.
    Bulk,
}

/// What metering needs to know of a function.
struct MeterPoints {
    /// Byte offset in the module, and what happens there, in ascending order.
    points: Vec<(usize, Meter)>,
    /// Whether the function changes a table or drops a segment.
    changes_instance: bool,
}

/// Finds the places of `body` where the counter is decremented.
/// The rules are those of the replica's `instrumentation.rs`: every branch starts a new block, calls do not.
fn meter_points(body: &FunctionBody<'_>) -> Result<MeterPoints, ModuleError> {
    let mut points = Vec::new();
    let mut changes_instance = false;
    let mut count = 0;
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
        count += 1;
        changes_instance |= matches!(
            operator,
            Operator::TableSet { .. }
                | Operator::TableGrow { .. }
                | Operator::TableFill { .. }
                | Operator::TableCopy { .. }
                | Operator::TableInit { .. }
                | Operator::DataDrop { .. }
                | Operator::ElemDrop { .. }
        );
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
    check_limit("instructions in a function", count, limits::FUNCTION_INSTRUCTIONS)?;
    Ok(MeterPoints { points, changes_instance })
}

/// Writes `body` again with the counter's decrements.
fn meter(
    wasm: &[u8],
    body: &FunctionBody<'_>,
    params: u32,
    MeterPoints { points, .. }: MeterPoints,
    Added { counter, operation }: Added,
) -> Result<Function, ModuleError> {
    let mut locals = Vec::new();
    let mut local_count = params;
    for local in body.get_locals_reader()? {
        let (count, ty) = local?;
        local_count += count;
        locals.push((count, RoundtripReencoder.val_type(ty).map_err(reencode_error)?));
    }
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
                    .instruction(&Instruction::LocalGet(length))
                    .instruction(&Instruction::I64ExtendI32U)
                    .instruction(&Instruction::GlobalGet(operation))
                    .instruction(&Instruction::I64GtU)
                    .instruction(&Instruction::If(wasm_encoder::BlockType::Empty))
                    .instruction(&Instruction::LocalGet(length))
                    .instruction(&Instruction::I64ExtendI32U)
                    .instruction(&Instruction::GlobalSet(operation))
                    .instruction(&Instruction::I64Const(OPERATION_TOO_LARGE))
                    .instruction(&Instruction::GlobalSet(counter))
                    .instruction(&Instruction::Unreachable)
                    .instruction(&Instruction::End)
                    .instruction(&Instruction::LocalGet(length));
            }
        }
    }
    function.raw(wasm[at..body.range().end].iter().copied());
    Ok(function)
}
