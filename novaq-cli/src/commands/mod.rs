//! One file per subcommand, each with `Args` (what can be typed) and `run`.

pub mod chat;
pub mod completions;
pub mod compress;
pub mod download;
pub mod embed;
pub mod eval;
pub mod expand;
pub mod frontier;
pub mod inspect;
pub mod jobs;
pub mod man;
pub mod models;
pub mod receipt;
pub mod replay;
pub mod report;
pub mod run;
pub mod synth;
pub mod upload;
pub mod verify;
