//! One file per subcommand, each with `Args` (what can be typed) and `run`.

pub mod audit;
pub mod chat;
pub mod completions;
pub mod compress;
pub mod download;
pub mod embed;
pub mod eval;
pub mod expand;
pub mod frontier;
pub mod governance;
pub mod inspect;
pub mod jobs;
pub mod keys;
pub mod man;
pub mod models;
pub mod receipt;
pub mod replay;
pub mod report;
pub mod roles;
pub mod run;
pub mod sign;
pub mod synth;
pub mod upload;
pub mod verify;
