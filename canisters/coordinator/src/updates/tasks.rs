//! Single tasks: added, cancelled, replayed, discarded, rated.

use shared_types::coordinator::{AddTasksArgs, CoordinatorError, Project, RateTaskArgs, TaskKey};

use super::{command, project};
use crate::commands;
use crate::guards::signed_caller;

/// Adds work to a running project.
///
/// # Errors
/// [`CoordinatorError::Anonymous`], and see [`commands::add_tasks`].
pub fn add_tasks(args: &AddTasksArgs) -> Result<Project, CoordinatorError> {
    let owner = signed_caller()?;
    command(owner, |workspace, config| commands::add_tasks(workspace, config, args).map(Some))?;
    project(owner, args.project)
}

/// Cancels a task.
///
/// # Errors
/// [`CoordinatorError::Anonymous`], and see [`commands::cancel_task`].
pub fn cancel_task(key: TaskKey) -> Result<(), CoordinatorError> {
    command(signed_caller()?, |workspace, _| commands::cancel_task(workspace, key).map(Some))
}

/// Has a dead letter tried again.
///
/// # Errors
/// [`CoordinatorError::Anonymous`], and see [`commands::replay_task`].
pub fn replay_task(key: TaskKey) -> Result<(), CoordinatorError> {
    command(signed_caller()?, |workspace, _| commands::replay_task(workspace, key).map(Some))
}

/// Gives a dead letter up.
///
/// # Errors
/// [`CoordinatorError::Anonymous`], and see [`commands::discard_task`].
pub fn discard_task(key: TaskKey) -> Result<(), CoordinatorError> {
    command(signed_caller()?, |workspace, _| commands::discard_task(workspace, key).map(Some))
}

/// Rates a completed task.
///
/// # Errors
/// [`CoordinatorError::Anonymous`], and see [`commands::rate_task`].
pub fn rate_task(args: &RateTaskArgs) -> Result<(), CoordinatorError> {
    command(signed_caller()?, |workspace, _| commands::rate_task(workspace, args).map(Some))
}
