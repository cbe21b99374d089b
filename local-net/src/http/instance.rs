//! A network on its own thread.
//!
//! Requests reach it as commands, one after the other. In live mode the thread sets the network's clock to the machine's and executes
//! waiting messages between commands, one at a time, so that a query need not wait for more than one message.

use crate::{
    network::Network,
    state_dir::{StateDir, StateError},
};
use pocket_ic::common::rest::Topology;
use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};
use tokio::sync::{oneshot, watch};

/// Time between rounds in live mode.
const ROUND: Duration = Duration::from_millis(50);
/// Commands that are run, at most, between two messages of a live network.
const COMMANDS_PER_MESSAGE: u32 = 16;
/// Time between checkpoints of a live network with a state directory.
const CHECKPOINT: Duration = Duration::from_secs(10);
/// Stack of a network's thread: canisters run on it.
const STACK_BYTES: usize = 32 << 20;

/// Whether the network makes HTTP outcalls by itself, and the number that the next one will have.
pub type OutcallState = (bool, u64);

type Command = Box<dyn FnOnce(&mut Network) + Send>;

/// The network's thread has ended, which only happens when it panicked.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the network's thread has stopped")]
pub struct Stopped;

/// A running network.
pub struct Instance {
    commands: Sender<Command>,
    live: Arc<AtomicBool>,
    state: Arc<Mutex<Option<StateDir>>>,
    /// Number of finished requests.
    progress: watch::Receiver<u64>,
    outcalls: watch::Receiver<OutcallState>,
    /// The DER-encoded root key.
    pub root_key: Arc<[u8]>,
    /// The subnets.
    pub topology: Topology,
    /// Whether signatures and expiry of requests are checked.
    pub checks_signatures: bool,
}

/// The machine's clock in nanoseconds since 1970.
pub fn system_time() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos() as u64)
}

impl Instance {
    /// Starts `network` on a new thread. With a state directory, a checkpoint is written now and then while the network is
    /// live, and by [`Self::save`].
    ///
    /// # Errors
    /// When the system cannot start a thread.
    pub fn start(
        network: Network,
        checks_signatures: bool,
        state: Option<StateDir>,
    ) -> std::io::Result<Arc<Self>> {
        let state = Arc::new(Mutex::new(state));
        let (commands, receiver) = channel();
        let (progress_sender, progress) = watch::channel(0);
        let (outcall_sender, outcalls) = watch::channel((false, 0));
        let live = Arc::new(AtomicBool::new(false));
        let instance = Self {
            commands,
            live: live.clone(),
            state: state.clone(),
            progress,
            outcalls,
            root_key: network.root_key().clone(),
            topology: super::pocket_ic::topology(&network),
            checks_signatures,
        };
        std::thread::Builder::new()
            .name("network".into())
            .stack_size(STACK_BYTES)
            .spawn(move || work(network, &receiver, &live, &progress_sender, &outcall_sender, &state))?;
        Ok(Arc::new(instance))
    }

    /// Writes a checkpoint to the state directory, if there is one.
    ///
    /// # Errors
    /// When the thread has ended, or the checkpoint cannot be written.
    pub async fn save(&self) -> Result<Result<(), StateError>, Stopped> {
        let state = self.state.clone();
        self.run(move |network| save(network, &state)).await
    }

    /// Runs `command` on the network's thread.
    ///
    /// # Errors
    /// When the thread has ended.
    pub async fn run<T: Send + 'static>(
        &self,
        command: impl FnOnce(&mut Network) -> T + Send + 'static,
    ) -> Result<T, Stopped> {
        let (sender, receiver) = oneshot::channel();
        let command: Command = Box::new(move |network| {
            // The caller may have gone away; the command has run nevertheless.
            let _ = sender.send(command(network));
        });
        self.commands.send(command).map_err(|_| Stopped)?;
        receiver.await.map_err(|_| Stopped)
    }

    /// Whether the network executes messages by itself.
    pub fn is_live(&self) -> bool {
        self.live.load(Ordering::Relaxed)
    }

    /// Changes when canisters make HTTP outcalls, and when live mode is switched.
    pub fn outcalls(&self) -> watch::Receiver<OutcallState> {
        self.outcalls.clone()
    }

    /// Switches live mode; returns when the network's clock is right.
    ///
    /// # Errors
    /// When the thread has ended.
    pub async fn set_live(&self, live: bool) -> Result<(), Stopped> {
        self.live.store(live, Ordering::Relaxed);
        // The command also wakes the thread.
        self.run(move |network| {
            if live {
                network.set_time(network.time().max(system_time()));
            }
        })
        .await
    }

    /// Runs `check` whenever a request was finished, until it gives a value or `limit` has passed.
    ///
    /// # Errors
    /// When the thread has ended.
    pub async fn wait_for<T: Send + 'static>(
        &self,
        limit: Duration,
        check: impl Fn(&mut Network) -> Option<T> + Clone + Send + 'static,
    ) -> Result<Option<T>, Stopped> {
        let deadline = tokio::time::Instant::now() + limit;
        let mut progress = self.progress.clone();
        loop {
            progress.mark_unchanged();
            if let Some(value) = self.run(check.clone()).await? {
                return Ok(Some(value));
            }
            match tokio::time::timeout_at(deadline, progress.changed()).await {
                Ok(changed) => changed.map_err(|_| Stopped)?,
                Err(_) => return Ok(None),
            }
        }
    }
}

fn save(network: &Network, state: &Mutex<Option<StateDir>>) -> Result<(), StateError> {
    match &mut *state.lock().unwrap_or_else(PoisonError::into_inner) {
        Some(state) => state.save(network),
        None => Ok(()),
    }
}

fn work(
    mut network: Network,
    commands: &Receiver<Command>,
    live: &AtomicBool,
    progress: &watch::Sender<u64>,
    outcalls: &watch::Sender<OutcallState>,
    state: &Mutex<Option<StateDir>>,
) {
    let mut next_checkpoint = Instant::now() + CHECKPOINT;
    let mut saved_messages = network.executed_messages();
    let mut next_round = Instant::now();
    let mut commands_in_a_row = 0;
    loop {
        let is_live = live.load(Ordering::Relaxed);
        let command = if !is_live {
            commands.recv().map_err(|_| RecvTimeoutError::Disconnected)
        } else if !network.is_busy() {
            commands.recv_timeout(next_round.saturating_duration_since(Instant::now()))
        } else if commands_in_a_row < COMMANDS_PER_MESSAGE {
            commands.recv_timeout(Duration::ZERO)
        } else {
            Err(RecvTimeoutError::Timeout)
        };
        match command {
            Ok(command) => {
                command(&mut network);
                commands_in_a_row += 1;
            }
            Err(RecvTimeoutError::Disconnected) => return,
            Err(RecvTimeoutError::Timeout) => {
                commands_in_a_row = 0;
                network.set_time((network.time() + 1).max(system_time()));
                if Instant::now() >= next_round {
                    network.start_round();
                    next_round = Instant::now() + ROUND;
                }
                network.execute_messages();
            }
        }
        if is_live && Instant::now() >= next_checkpoint {
            if network.executed_messages() != saved_messages {
                if let Err(error) = save(&network, state) {
                    tracing::error!("no checkpoint: {error}");
                }
                saved_messages = network.executed_messages();
            }
            next_checkpoint = Instant::now() + CHECKPOINT;
        }
        progress.send_if_modified(|finished| {
            let before = std::mem::replace(finished, network.finished_requests());
            *finished != before
        });
        let state = (live.load(Ordering::Relaxed), network.next_outcall());
        outcalls.send_if_modified(|before| std::mem::replace(before, state) != state);
    }
}
