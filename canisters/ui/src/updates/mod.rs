//! Methods that change the state.

pub mod administration;
pub mod publishing;
