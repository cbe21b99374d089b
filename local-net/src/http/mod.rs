//! The HTTP interfaces: the Internet Computer's own, and PocketIC's.

pub mod faults;
pub mod gateway;
pub mod ic;
pub mod instance;
pub mod outcalls;
pub mod pocket_ic;
