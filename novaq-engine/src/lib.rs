//! The inference engine of OHMS: artifact format, codecs, kernels, transformer, tokenizer and sampler.
//!
//! The same code runs natively and inside a canister, and gives the same bits in both. It never reads a clock,
//! a file or a random source, and starts no thread: its callers own those.

pub mod artifact;
pub mod chat;
pub mod codec;
pub mod constraint;
pub mod generate;
pub mod kernel;
pub mod model;
pub mod sampler;
pub mod synth;
pub mod text;
pub mod tokenizer;

/// Version of the engine's numbers, as receipts name it. It is another one as soon as tokens can be others, which
/// `the_version_names_these_numbers` in `tests/generation.rs` watches over.
pub const VERSION: &str = "0.2.0";
