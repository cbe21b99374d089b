//! Methods that change the state.

pub mod character;
pub mod cycles;
pub mod jobs;
pub mod memory;
pub mod model;
pub mod wallet;
