//! Lives: weir-agent, runtime.
//! Called by: `runtime`, for each thread and task there is.
//! May touch: threads.
//! Never: starts something without a name, a stop signal and somebody who learns of its end.

use std::{
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use tokio::{
    runtime::Runtime,
    sync::{mpsc, watch},
};

use super::RunError;

/// Tells a subsystem to stop.
#[derive(Debug)]
pub struct StopSwitch(watch::Sender<bool>);

/// Learns that it is time to stop.
#[derive(Clone, Debug)]
pub struct Stop(watch::Receiver<bool>);

impl StopSwitch {
    /// A switch and what it switches.
    #[must_use]
    pub fn new() -> (Self, Stop) {
        let (sender, receiver) = watch::channel(false);
        (Self(sender), Stop(receiver))
    }

    /// Tells everybody.
    pub fn set(&self) {
        self.0.send_replace(true);
    }
}

impl Stop {
    /// Whether it is time. A switch that is gone counts.
    #[must_use]
    pub fn is_set(&self) -> bool {
        *self.0.borrow() || self.0.has_changed().is_err()
    }

    /// Waits until it is time.
    pub async fn wait(&self) {
        let mut receiver = self.0.clone();
        // An error means that the switch is gone, which counts as well.
        let _ = receiver.wait_for(|set| *set).await;
    }
}

/// Where subsystems report that they ended.
#[derive(Clone)]
pub struct Exits(mpsc::UnboundedSender<(&'static str, Result<(), String>)>);

/// Learns of subsystems that ended.
pub struct Exited(mpsc::UnboundedReceiver<(&'static str, Result<(), String>)>);

impl Exits {
    /// One message per subsystem, so the channel needs no bound.
    pub fn channel() -> (Self, Exited) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (Self(sender), Exited(receiver))
    }

    fn report(&self, name: &'static str, result: Result<(), String>) {
        // During the stop nobody listens any more.
        let _ = self.0.send((name, result));
    }
}

impl Exited {
    /// The next subsystem that ends.
    pub async fn next(&mut self) -> RunError {
        match self.0.recv().await {
            Some((name, Err(reason))) => RunError::Ended { name, reason },
            Some((name, Ok(()))) => RunError::Ended { name, reason: "nobody told it to".to_owned() },
            None => RunError::Ended { name: "every subsystem", reason: "nobody told them to".to_owned() },
        }
    }
}

/// A thread or task with its stop signal.
pub struct Subsystem {
    name: &'static str,
    switch: StopSwitch,
    work: Work,
}

enum Work {
    Thread(JoinHandle<()>),
    Task(tokio::task::JoinHandle<()>),
}

impl Subsystem {
    /// Starts a thread named `weir-NAME`.
    pub fn thread(
        name: &'static str,
        exits: &Exits,
        work: impl FnOnce(Stop) -> Result<(), String> + Send + 'static,
    ) -> Result<Self, RunError> {
        let (switch, stop) = StopSwitch::new();
        let exits = exits.clone();
        let body = move || {
            let result = catch_unwind(AssertUnwindSafe(|| work(stop)));
            exits.report(name, result.unwrap_or_else(|_| Err("it panicked".to_owned())));
        };
        let spawned = thread::Builder::new().name(format!("weir-{name}")).spawn(body);
        let thread = spawned.map_err(|source| RunError::System { what: "a thread", source })?;
        Ok(Self { name, switch, work: Work::Thread(thread) })
    }

    /// Starts a task on `runtime`.
    pub fn task<F>(name: &'static str, exits: &Exits, runtime: &Runtime, work: impl FnOnce(Stop) -> F) -> Self
    where
        F: Future<Output = Result<(), String>> + Send + 'static,
    {
        let (switch, stop) = StopSwitch::new();
        let (work, exits) = (work(stop), exits.clone());
        let inner = runtime.spawn(work);
        let task = runtime.spawn(async move {
            let result = inner.await.unwrap_or_else(|error| Err(format!("it panicked: {error}")));
            exits.report(name, result);
        });
        Self { name, switch, work: Work::Task(task) }
    }

    /// Tells it to stop and waits until `deadline`.
    pub fn stop(self, deadline: Duration) {
        self.switch.set();
        self.finish(deadline);
    }

    /// Waits until `deadline` for one that ends by itself.
    pub fn finish(self, deadline: Duration) {
        let end = Instant::now() + deadline;
        while !self.work.is_finished() {
            if Instant::now() >= end {
                let deadline_ms = deadline.as_millis();
                tracing::warn!(subsystem = self.name, deadline_ms, "did not stop in time and is left behind");
                return;
            }
            thread::sleep(Duration::from_millis(5));
        }
        tracing::debug!(subsystem = self.name, "stopped");
    }
}

impl Work {
    fn is_finished(&self) -> bool {
        match self {
            Self::Thread(thread) => thread.is_finished(),
            Self::Task(task) => task.is_finished(),
        }
    }
}
