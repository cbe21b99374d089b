//! Who calls, and when.

use candid::Principal;
use shared_types::ui::UiError;

/// The circumstances of a call that a rule may depend on.
#[derive(Debug, Clone, Copy)]
pub struct CallContext {
    /// Who calls.
    pub caller: Principal,
    /// Nanoseconds since 1970.
    pub now_ns: u64,
}

impl CallContext {
    /// The context of the message being executed.
    pub fn of_message() -> Self {
        Self { caller: ic_cdk::api::msg_caller(), now_ns: ic_cdk::api::time() }
    }
}

/// The context of an update; the anonymous principal is refused before anything else is looked at.
///
/// # Errors
/// [`UiError::Anonymous`].
pub fn update_context() -> Result<CallContext, UiError> {
    let context = CallContext::of_message();
    if context.caller == Principal::anonymous() { Err(UiError::Anonymous) } else { Ok(context) }
}
