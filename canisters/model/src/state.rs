//! The canister's state: all of it in stable memory, opened once per life of the heap.

use std::cell::RefCell;

use ic_stable_structures::DefaultMemoryImpl;

use crate::memory::Memories;
use crate::repository::Repository;

thread_local! {
    static REPOSITORY: RefCell<Repository> =
        RefCell::new(Repository::open(Memories::of(DefaultMemoryImpl::default())));
}

/// Reads the state.
pub fn read<R>(f: impl FnOnce(&Repository) -> R) -> R {
    REPOSITORY.with_borrow(f)
}

/// Changes the state, and certifies what changed.
pub fn mutate<R>(f: impl FnOnce(&mut Repository) -> R) -> R {
    REPOSITORY.with_borrow_mut(|repository| {
        let result = f(repository);
        if let Some(root) = repository.take_changed_root() {
            ic_cdk::api::certified_data_set(root);
        }
        result
    })
}
