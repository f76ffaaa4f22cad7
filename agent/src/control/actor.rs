//! Lives: weir-agent, the control thread.
//! Called by: `rpc`, through a [`Handle`]; `runtime`, which starts and stops the thread.
//! May touch: the one `Control` there is.
//! Never: runs two commands at a time; makes a caller wait in line longer than [`QUEUE`] commands.

use std::{
    sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel},
    time::{Duration, Instant},
};

use tokio::sync::oneshot;
use weir_policy::{Kind, Prefix, ResourceId};

use super::{
    Applied, Apply, Control, ControlError,
    explain::{Ask, Explained},
    node::NodeOnly,
    sets::{SetChange, SetChanged, SetEntry, SetView},
    view::{Listing, ResourceView, Status, Watch},
};
use crate::{datapath::Datapath, runtime::Stop};

/// Commands that may wait; beyond it callers are told to try again.
const QUEUE: usize = 64;
/// Time between two ticks.
const TICK: Duration = Duration::from_secs(1);
/// Longest time until a stop is noticed.
const TURN: Duration = Duration::from_millis(50);

type Reply<T> = oneshot::Sender<Result<T, ControlError>>;

enum Command {
    Apply(Apply, Reply<Applied>),
    Delete(Vec<ResourceId>, bool, Reply<Applied>),
    Get(ResourceId, Reply<ResourceView>),
    List(Option<Kind>, Option<String>, Reply<Listing>),
    Watch(Option<Kind>, Reply<Watch>),
    Explain(Ask, Reply<Explained>),
    Status(Reply<Status>),
    Look(Reply<()>),
    NodeOnly(Reply<Vec<NodeOnly>>),
    LoadSet(String, Vec<Prefix>, u64, Reply<SetChanged>),
    ChangeSet(SetChange, Reply<SetChanged>),
    ListSets(Reply<(Vec<SetView>, usize)>),
    ShowSet(String, Option<Prefix>, Reply<Vec<SetEntry>>),
}

/// Sends commands to the control thread.
#[derive(Clone, Debug)]
pub struct Handle {
    commands: SyncSender<Command>,
}

/// The commands of every handle.
pub struct Mailbox(Receiver<Command>);

/// A handle and what it sends to.
#[must_use]
pub fn channel() -> (Handle, Mailbox) {
    let (commands, mailbox) = sync_channel(QUEUE);
    (Handle { commands }, Mailbox(mailbox))
}

impl Handle {
    /// See [`Control::apply`].
    ///
    /// # Errors
    /// As there, and when control is busy or stopping.
    pub async fn apply(&self, request: Apply) -> Result<Applied, ControlError> {
        self.ask(|reply| Command::Apply(request, reply)).await
    }

    /// See [`Control::delete`].
    ///
    /// # Errors
    /// As there, and when control is busy or stopping.
    pub async fn delete(&self, ids: Vec<ResourceId>, dry_run: bool) -> Result<Applied, ControlError> {
        self.ask(|reply| Command::Delete(ids, dry_run, reply)).await
    }

    /// See [`Control::get`].
    ///
    /// # Errors
    /// As there, and when control is busy or stopping.
    pub async fn get(&self, id: ResourceId) -> Result<ResourceView, ControlError> {
        self.ask(|reply| Command::Get(id, reply)).await
    }

    /// See [`Control::list`].
    ///
    /// # Errors
    /// Control is busy or stopping.
    pub async fn list(&self, kind: Option<Kind>, namespace: Option<String>) -> Result<Listing, ControlError> {
        self.ask(|reply| Command::List(kind, namespace, reply)).await
    }

    /// See [`Control::watch`].
    ///
    /// # Errors
    /// Control is busy or stopping.
    pub async fn watch(&self, kind: Option<Kind>) -> Result<Watch, ControlError> {
        self.ask(|reply| Command::Watch(kind, reply)).await
    }

    /// See [`Control::explain`].
    ///
    /// # Errors
    /// As there, and when control is busy or stopping.
    pub async fn explain(&self, ask: Ask) -> Result<Explained, ControlError> {
        self.ask(|reply| Command::Explain(ask, reply)).await
    }

    /// See [`Control::status`].
    ///
    /// # Errors
    /// As there, and when control is busy or stopping.
    pub async fn status(&self) -> Result<Status, ControlError> {
        self.ask(Command::Status).await
    }

    /// See [`Control::look`]; returns once that is done. Not for a thread of a runtime. A control that is busy or stopping has no need of it.
    pub fn look(&self) {
        let (reply, done) = oneshot::channel();
        if self.commands.try_send(Command::Look(reply)).is_ok() {
            let _ = done.blocking_recv();
        }
    }

    /// What has only what holds for the whole node. A walk through the managed tree: for people who ask, not for probes.
    ///
    /// # Errors
    /// Control is busy or stopping.
    pub async fn node_only(&self) -> Result<Vec<NodeOnly>, ControlError> {
        self.ask(Command::NodeOnly).await
    }

    /// See [`Control::load_set`].
    ///
    /// # Errors
    /// As there, and when control is busy or stopping.
    pub async fn load_set(
        &self,
        name: String,
        prefixes: Vec<Prefix>,
        expires_in: u64,
    ) -> Result<SetChanged, ControlError> {
        self.ask(|reply| Command::LoadSet(name, prefixes, expires_in, reply)).await
    }

    /// See [`Control::change_set`].
    ///
    /// # Errors
    /// As there, and when control is busy or stopping.
    pub async fn change_set(&self, change: SetChange) -> Result<SetChanged, ControlError> {
        self.ask(|reply| Command::ChangeSet(change, reply)).await
    }

    /// See [`Control::list_sets`].
    ///
    /// # Errors
    /// As there, and when control is busy or stopping.
    pub async fn list_sets(&self) -> Result<(Vec<SetView>, usize), ControlError> {
        self.ask(Command::ListSets).await
    }

    /// See [`Control::show_set`].
    ///
    /// # Errors
    /// As there, and when control is busy or stopping.
    pub async fn show_set(&self, name: String, address: Option<Prefix>) -> Result<Vec<SetEntry>, ControlError> {
        self.ask(|reply| Command::ShowSet(name, address, reply)).await
    }

    async fn ask<T>(&self, command: impl FnOnce(Reply<T>) -> Command) -> Result<T, ControlError> {
        let (reply, answer) = oneshot::channel();
        match self.commands.try_send(command(reply)) {
            Ok(()) => answer.await.unwrap_or(Err(ControlError::Stopping)),
            Err(TrySendError::Full(_)) => Err(ControlError::Busy),
            Err(TrySendError::Disconnected(_)) => Err(ControlError::Stopping),
        }
    }
}

/// Runs commands and ticks until stopped. What is attached then stays so, unless the configuration says `pin: false`.
///
/// `enforcing` is called once, when programs are attached for the first time.
pub fn run<D: Datapath>(mut control: Control<D>, mailbox: &Mailbox, stop: &Stop, enforcing: impl FnOnce()) {
    let mut enforcing = Some(enforcing);
    let mut next_tick = Instant::now();
    while !stop.is_set() {
        let wait = next_tick.saturating_duration_since(Instant::now()).min(TURN);
        match mailbox.0.recv_timeout(wait) {
            Ok(command) => control.execute(command),
            Err(RecvTimeoutError::Timeout) => {}
            // Every handle is gone: nobody can ask, but attachments still have to be kept.
            Err(RecvTimeoutError::Disconnected) => std::thread::sleep(wait),
        }
        if Instant::now() >= next_tick {
            control.tick();
            next_tick = Instant::now() + TICK;
            if control.enforcing()
                && let Some(enforcing) = enforcing.take()
            {
                enforcing();
            }
        }
    }
    control.report_losses();
}

impl<D: Datapath> Control<D> {
    /// Runs one command. A caller that no longer waits for the answer is no error.
    fn execute(&mut self, command: Command) {
        match command {
            Command::Apply(request, reply) => drop(reply.send(self.apply(&request))),
            Command::Delete(ids, dry_run, reply) => drop(reply.send(self.delete(&ids, dry_run))),
            Command::Get(id, reply) => drop(reply.send(self.get(&id))),
            Command::List(kind, namespace, reply) => drop(reply.send(Ok(self.list(kind, namespace.as_deref())))),
            Command::Watch(kind, reply) => drop(reply.send(Ok(self.watch(kind)))),
            Command::Explain(ask, reply) => drop(reply.send(self.explain(&ask))),
            Command::Status(reply) => drop(reply.send(self.status())),
            Command::Look(reply) => {
                self.look();
                drop(reply.send(Ok(())));
            }
            Command::NodeOnly(reply) => drop(reply.send(Ok(self.node_only()))),
            Command::LoadSet(name, prefixes, expires_in, reply) => {
                drop(reply.send(self.load_set(&name, prefixes, expires_in)));
            }
            Command::ChangeSet(change, reply) => drop(reply.send(self.change_set(&change))),
            Command::ListSets(reply) => drop(reply.send(self.list_sets())),
            Command::ShowSet(name, address, reply) => drop(reply.send(self.show_set(&name, address))),
        }
    }
}
