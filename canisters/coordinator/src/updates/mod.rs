//! Methods that change the state.

pub mod messages;
pub mod projects;
pub mod roles;
pub mod settings;
pub mod tasks;

use std::time::Duration;

use candid::Principal;
use ic_cdk::api::time;
use shared_types::coordinator::{CoordinatorError, LimitKind, Project, ProjectId};

use crate::decide::Next;
use crate::workspace::Workspace;
use crate::{commands, driver, state};

/// Has a command decide on the caller's workspace, and records what it comes to.
fn command(
    owner: Principal,
    decide: impl FnOnce(
        &Workspace,
        &shared_types::coordinator::CoordinatorConfig,
    ) -> Result<Option<Next>, CoordinatorError>,
) -> Result<(), CoordinatorError> {
    state::mutate(|state| {
        admit(state, owner)?;
        let config = state.settings().config.clone();
        if let Some(event) = decide(state.store.load(owner), &config)? {
            state.store.record(owner, event, time());
        }
        Ok(())
    })?;
    driver::wake(owner, Duration::ZERO);
    Ok(())
}

/// Refuses another workspace while there are as many as are kept.
fn admit(state: &state::State, owner: Principal) -> Result<(), CoordinatorError> {
    let (known, most) = (state.store.workspaces(), state.settings().config.max_workspaces);
    if known < most || state.store.has(owner) {
        return Ok(());
    }
    Err(CoordinatorError::TooMany { what: LimitKind::Workspaces, asked: known + 1, most })
}

/// A project of the caller as it is now.
fn project(owner: Principal, id: ProjectId) -> Result<Project, CoordinatorError> {
    state::read(|state| {
        state.store.read(owner, |it| commands::project(it, id).map(crate::workspace::ProjectEntry::view))
    })
}
