//! The library behind the `novaq` command: one module per subcommand, and what they share.
//!
//! Results go to standard output, progress and errors to standard error, so that `--json` can be piped.

pub mod artifact_dir;
pub mod certification;
pub mod checkpoint;
pub mod cli;
pub mod commands;
pub mod compress;
pub mod config_file;
pub mod evaluate;
pub mod frontier;
pub mod generation;
pub mod hub;
pub mod job_queue;
pub mod layered;
pub mod network;
pub mod output;
pub mod quantize;
pub mod receipt;
pub mod refine;
pub mod resources;
