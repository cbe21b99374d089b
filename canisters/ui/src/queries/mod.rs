//! Methods that read.

pub mod pages;
pub mod publishing;
