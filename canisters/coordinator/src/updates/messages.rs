//! Sending messages.

use shared_types::coordinator::{CoordinatorError, Party, SendMessageArgs};

use super::command;
use crate::guards::signed_caller;
use crate::{commands, state};

/// Sends a message as the owner, or as the agent that calls, in its owner's workspace.
///
/// # Errors
/// [`CoordinatorError::Anonymous`], and see [`commands::send_message`].
pub fn send_message(args: SendMessageArgs) -> Result<(), CoordinatorError> {
    let caller = signed_caller()?;
    let agent = state::read(|state| state.store.agent_of(caller));
    let (owner, from) = agent.map_or((caller, Party::Owner), |(owner, name)| (owner, Party::Agent(name)));
    command(owner, |workspace, _| commands::send_message(workspace, from, args))
}
