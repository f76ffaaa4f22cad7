//! Lives: collector.
//! Called by: `run`, which gives it every task of the process.
//! May touch: tasks, signals; the process itself when stopping hangs.
//! Never: leaves a task without a name and an owner.
//!
//! Order of stopping: the stop signal is set; streams end by themselves and the server closes its connections; whatever
//! is left after [`DRAIN`] is aborted; if the runtime itself hangs, a thread outside it ends the process after
//! [`LAST_WORD`].

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::task::{Id, JoinSet};
use tokio::time::{sleep, timeout};

/// Time tasks have to end by themselves.
pub const DRAIN: Duration = Duration::from_secs(2);
/// Time after which the process ends whatever it is doing.
pub const LAST_WORD: Duration = Duration::from_secs(5);
/// Exit code when the last word was needed (EX_SOFTWARE).
const HUNG: i32 = 70;

/// An error of a task.
pub type TaskError = Box<dyn std::error::Error + Send + Sync>;

/// Why the process cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum Ended {
    /// A task that should run for as long as the process ended.
    #[error("task {task} ended early: {source}")]
    Task {
        /// Its name.
        task: &'static str,
        /// Why.
        source: TaskError,
    },
    /// Signals cannot be received.
    #[error("cannot wait for signals: {source}")]
    Signals {
        /// The error underneath.
        source: io::Error,
    },
}

/// Tells everyone to stop. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Stop(watch::Receiver<bool>);

impl Stop {
    /// Ready once the process should stop.
    pub async fn stopped(&mut self) {
        // An error means the supervisor is gone, which is a stop too.
        let _gone = self.0.wait_for(|stop| *stop).await.is_err();
    }
}

/// The signals that ask for a stop. From the moment this exists they no longer kill the process.
#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Takes them over; to be done before anyone could know the process is there.
    ///
    /// # Errors
    /// Signals cannot be received.
    pub fn install() -> Result<Self, Ended> {
        let take = |kind| signal(kind).map_err(|source| Ended::Signals { source });
        Ok(Self { terminate: take(SignalKind::terminate())?, interrupt: take(SignalKind::interrupt())? })
    }
}

/// Owner of all tasks.
#[derive(Debug)]
pub struct Supervisor {
    stop: watch::Sender<bool>,
    tasks: JoinSet<Result<(), TaskError>>,
    names: HashMap<Id, &'static str>,
}

impl Default for Supervisor {
    fn default() -> Self {
        Self { stop: watch::Sender::new(false), tasks: JoinSet::new(), names: HashMap::new() }
    }
}

impl Supervisor {
    /// The stop signal.
    #[must_use]
    pub fn stop(&self) -> Stop {
        Stop(self.stop.subscribe())
    }

    /// Starts a task that should run until the stop signal.
    pub fn spawn(&mut self, name: &'static str, task: impl Future<Output = Result<(), TaskError>> + Send + 'static) {
        let handle = self.tasks.spawn(task);
        self.names.insert(handle.id(), name);
    }

    /// Runs until SIGTERM or SIGINT, or until a task ends early; then stops the others.
    ///
    /// # Errors
    /// A task ended early.
    pub async fn run(mut self, mut signals: Signals) -> Result<(), Ended> {
        let outcome = tokio::select! {
            _ = signals.terminate.recv() => Ok("SIGTERM"),
            _ = signals.interrupt.recv() => Ok("SIGINT"),
            ended = self.first_to_end() => Err(ended),
        };
        let _last_word = LastWord::arm();
        if let Ok(signal) = outcome {
            tracing::info!(signal, "stopping");
        }
        self.drain().await;
        outcome.map(|_| ())
    }

    /// Sets the stop signal and waits for the tasks, at most [`DRAIN`].
    pub async fn drain(&mut self) {
        self.stop.send_replace(true);
        let all = async { while self.tasks.join_next().await.is_some() {} };
        if timeout(DRAIN, all).await.is_err() {
            tracing::warn!(tasks = self.tasks.len(), "tasks did not stop in time and are aborted");
            self.tasks.shutdown().await;
        }
    }

    async fn first_to_end(&mut self) -> Ended {
        let Some(ended) = self.tasks.join_next_with_id().await else {
            // Nothing to supervise: wait for a signal.
            loop {
                sleep(Duration::from_secs(3600)).await;
            }
        };
        let (id, source) = match ended {
            Ok((id, Ok(()))) => (id, "it returned without being told to".into()),
            Ok((id, Err(error))) => (id, error),
            Err(error) => (error.id(), error.into()),
        };
        Ended::Task { task: self.names.get(&id).copied().unwrap_or("unnamed"), source }
    }
}

/// A thread that ends the process unless it is told in time that stopping went well.
struct LastWord(#[expect(dead_code, reason = "dropping the sender is the message")] mpsc::Sender<()>);

impl LastWord {
    fn arm() -> Option<Self> {
        let (sender, receiver) = mpsc::channel::<()>();
        let watch = move || {
            if receiver.recv_timeout(LAST_WORD) == Err(mpsc::RecvTimeoutError::Timeout) {
                tracing::error!("stopping hung; ending the process");
                std::process::exit(HUNG);
            }
        };
        thread::Builder::new().name("last-word".to_owned()).spawn(watch).ok().map(|_| Self(sender))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_task_that_ends_early_ends_the_process_and_is_named() {
        let outcomes: [(&str, Result<(), TaskError>); 2] =
            [("returned without", Ok(())), ("disk on fire", Err("disk on fire".into()))];
        for (cause, outcome) in outcomes {
            let mut supervisor = Supervisor::default();
            let mut stop = supervisor.stop();
            supervisor.spawn("patient", async move {
                stop.stopped().await;
                Ok(())
            });
            supervisor.spawn("hasty", async move { outcome });
            let ended = supervisor.run(Signals::install().unwrap()).await.unwrap_err().to_string();
            assert!(ended.contains("hasty") && ended.contains(cause), "{ended}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_does_not_listen_is_aborted() {
        let mut supervisor = Supervisor::default();
        supervisor.spawn("deaf", async {
            sleep(Duration::from_secs(3600)).await;
            Ok(())
        });
        let begin = tokio::time::Instant::now();
        supervisor.drain().await;
        assert_eq!(begin.elapsed(), DRAIN);
    }
}
