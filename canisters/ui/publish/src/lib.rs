//! Publishes a folder with the `ui` canister: what it will serve is computed from the folder alone, so that who commits can
//! compute it, too.

mod folder;
mod upload;

pub use folder::Folder;
pub use upload::{commit, prepare};
