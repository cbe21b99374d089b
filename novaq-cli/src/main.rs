//! The `novaq` command.
fn main() {}
