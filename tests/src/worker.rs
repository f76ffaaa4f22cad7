//! Lives: weir-tests, a process that stays in its place and makes traffic when told to: `weir-probe work`.
//! Called by: weir-conformance, one for each pod, node and outside end; weir-probe, for the words.
//! May touch: the process it started.
//! Never: waits without a deadline.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::{ChildStdin, Command};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::process::{Running, SOON, program};
use crate::world::WorldError;

/// A transport with ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[expect(missing_docs, reason = "their names say it")]
pub enum Transport {
    Tcp,
    Udp,
    Sctp,
}

/// What a worker is told.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub enum Order {
    /// Serve these ports on every address, and no others.
    Serve {
        /// Each with its transport.
        ports: BTreeSet<(Transport, u16)>,
    },
    /// Try these openings, all at once.
    Try {
        /// Each with a number to answer by.
        openings: Vec<Opening>,
    },
}

/// An opening and an answer, from an address of the place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Opening {
    /// Answered by.
    pub id: usize,
    /// How.
    pub transport: Transport,
    /// The address to use.
    pub from: IpAddr,
    /// Whom to call.
    pub to: SocketAddr,
    /// How long to wait for the answer.
    pub patience_ms: u64,
}

/// What a worker answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "said", rename_all = "snake_case")]
pub enum Said {
    /// The ports are served from now on, but for these.
    Serving {
        /// Which not, and why.
        faults: Vec<String>,
    },
    /// How an opening went.
    Tried {
        /// Its number.
        id: usize,
        /// "ok", an error's name such as "EPERM", or what was wrong with the answer.
        result: String,
    },
}

/// A worker that runs.
#[derive(Debug)]
pub struct Worker {
    running: Running,
    orders: ChildStdin,
    said: Receiver<Said>,
    served: BTreeSet<(Transport, u16)>,
}

impl Worker {
    /// Starts one in a namespace and a cgroup; its log goes to `folder`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(name: &str, netns: &Path, cgroup: &Path, folder: &Path) -> Result<Worker, WorldError> {
        let mut command = Command::new(program("weir-probe"));
        command.arg("--netns").arg(netns).arg("--cgroup").arg(cgroup).arg("work");
        let (running, orders, answers) = Running::start_talking(name, command, folder)?;
        let (send, said) = channel();
        thread::spawn(move || {
            let lines = BufReader::new(answers).lines().map_while(Result::ok);
            let mut words = lines.filter_map(|line| serde_json::from_str(&line).ok());
            // It ends with the worker, or when nobody listens any more.
            while words.next().is_some_and(|said| send.send(said).is_ok()) {}
        });
        Ok(Worker { running, orders, said, served: BTreeSet::new() })
    }

    /// Serves these ports and no others.
    ///
    /// # Errors
    /// When one cannot be served, or the worker does not answer.
    pub fn serve(&mut self, ports: BTreeSet<(Transport, u16)>) -> Result<(), WorldError> {
        if ports == self.served {
            return Ok(());
        }
        self.order(&Order::Serve { ports: ports.clone() })?;
        match self.answer(SOON)? {
            Said::Serving { faults } if faults.is_empty() => {
                self.served = ports;
                Ok(())
            }
            Said::Serving { faults } => Err(self.running.fault(format!("cannot serve: {}", faults.join("; ")))),
            said @ Said::Tried { .. } => Err(self.running.fault(format!("answered out of turn: {said:?}"))),
        }
    }

    /// Gives an order; the answers are to be taken afterwards.
    ///
    /// # Errors
    /// When the worker is gone.
    pub fn order(&mut self, order: &Order) -> Result<(), WorldError> {
        let mut line = serde_json::to_string(order).unwrap_or_default();
        line.push('\n');
        let written = self.orders.write_all(line.as_bytes()).and_then(|()| self.orders.flush());
        written.map_err(|error| self.running.fault(format!("takes no orders: {error}")))
    }

    /// The next answer.
    ///
    /// # Errors
    /// When none comes in time.
    pub fn answer(&mut self, within: Duration) -> Result<Said, WorldError> {
        self.said.recv_timeout(within).map_err(|_| self.running.fault(format!("said nothing for {within:?}")))
    }
}
