//! The canister's state: all of it in stable memory, opened once per life of the heap, and the responses made from it.

use std::cell::RefCell;

use ic_stable_structures::DefaultMemoryImpl;
use shared_types::ui::{CHUNK_BYTES, SiteVariable};

use crate::memory::Memories;
use crate::rules::PUBLIC_PREFIX;
use crate::serving::{Environment, Responses};
use crate::site::Site;

thread_local! {
    static SITE: RefCell<Site> =
        RefCell::new(Site::open(Memories::of(DefaultMemoryImpl::default()), CHUNK_BYTES));
    /// A cache: gone with the heap, made again by [`certify`].
    static RESPONSES: RefCell<Option<Responses>> = const { RefCell::new(None) };
}

/// Reads the state.
pub fn read<R>(f: impl FnOnce(&Site) -> R) -> R {
    SITE.with_borrow(f)
}

/// Changes the state.
pub fn mutate<R>(f: impl FnOnce(&mut Site) -> R) -> R {
    SITE.with_borrow_mut(f)
}

/// Reads the responses; absent only before [`certify`] was called, which installation and upgrade do.
pub fn responses<R>(f: impl FnOnce(Option<&Responses>) -> R) -> R {
    RESPONSES.with_borrow(|responses| f(responses.as_ref()))
}

/// Makes the responses from the state and certifies them.
pub fn certify() {
    let responses = read(|site| {
        let environment = Environment::new(ic_cdk::api::root_key(), settings(), site.config());
        Responses::certify(site.files(), &site.published_contents(), &environment)
    });
    ic_cdk::api::certified_data_set(responses.root_hash());
    RESPONSES.set(Some(responses));
}

/// The public variables of the canister's settings. Those that would break the cookie are left out.
fn settings() -> Vec<SiteVariable> {
    let names = (0..ic_cdk::api::env_var_count()).map(ic_cdk::api::env_var_name);
    let public = names.filter(|name| name.starts_with(PUBLIC_PREFIX) && !name.contains(['&', '=']));
    let variables = public.map(|name| {
        let value = ic_cdk::api::env_var_value(&name);
        SiteVariable { name, value }
    });
    variables.filter(|variable| !variable.value.contains('&')).collect()
}
