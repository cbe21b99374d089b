//! The model repository.

mod catalogue;
mod fuzz;
mod governance;
mod index;
mod operation;
mod resume;
mod upgrades;
mod uploads;
