//! One file per subcommand, each with `Args` (what can be typed) and `run`.

pub mod completions;
pub mod compress;
pub mod eval;
pub mod expand;
pub mod inspect;
pub mod man;
pub mod models;
pub mod run;
pub mod upload;
pub mod verify;
