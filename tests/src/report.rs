//! Lives: weir-tests, what weir-probe says: one JSON object a line.
//! Called by: weir-probe to write, process and tests to read.
//! May touch: standard output.
//! Never: says more than what was seen from outside: results of system calls, counts, times.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr};

use nix::errno::Errno;
use serde::{Deserialize, Serialize};

/// One line of weir-probe.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Report {
    /// A server accepts traffic from now on.
    Listening {
        /// Where.
        address: SocketAddr,
    },
    /// A server took a connection.
    Accepted {
        /// From whom.
        peer: SocketAddr,
        /// How many so far.
        total: u64,
    },
    /// A client tried once.
    Attempt(Attempt),
    /// A sender is done.
    Sent(Sent),
    /// A server is done.
    Served(Served),
    /// Connections are open, and held.
    Holding {
        /// How many.
        connections: u64,
    },
    /// Whoever held connections is done.
    Withdrawn(Withdrawn),
    /// Whoever tried many ends, or served them, is done.
    Stormed(Stormed),
}

/// The outcome of one try.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Attempt {
    /// "ok" or the error's name, such as "EPERM".
    pub result: String,
    /// When it began, milliseconds after the program's start.
    pub at_ms: f64,
    /// How long it took.
    pub elapsed_ms: f64,
    /// Payload bytes sent.
    pub sent: u64,
    /// Payload bytes received.
    pub received: u64,
    /// The socket's own address.
    pub local: Option<SocketAddr>,
    /// Who tried.
    pub pid: u32,
}

/// What a sender did.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Sent {
    /// Packets (or connections) that the kernel took.
    pub ok: u64,
    /// The others, by error name.
    pub refused: BTreeMap<String, u64>,
    /// From the start to the last try.
    pub elapsed_ms: f64,
}

/// What a server saw.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Served {
    /// Connections accepted.
    pub accepted: u64,
    /// By client address.
    pub clients: BTreeMap<IpAddr, Client>,
}

/// What became of connections that were held open.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Withdrawn {
    /// How many there were.
    pub held: u64,
    /// How those ended that did: error names, or "closed".
    pub ended: BTreeMap<String, u64>,
    /// How many still lived.
    pub living: u64,
    /// The first and the last end, wall clock.
    pub first_unix_ms: f64,
    /// See `first_unix_ms`.
    pub last_unix_ms: f64,
}

/// What a server saw of one client.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Client {
    /// Connections or datagrams.
    pub packets: u64,
    /// Payload bytes.
    pub bytes: u64,
    /// Datagrams whose sequence number was there before.
    pub repeated: u64,
    /// First and last arrival, milliseconds after the program's start.
    pub first_ms: f64,
    /// See `first_ms`.
    pub last_ms: f64,
}

/// Result of a try that had its answer, but not at the first datagram.
pub const AT_LAST: &str = "ok at last";

/// What became of many tries, or which came.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Stormed {
    /// By end, as "tcp 10.77.0.10:80", and by result.
    pub ends: BTreeMap<String, BTreeMap<String, u64>>,
}

impl Stormed {
    /// Counts one try.
    pub fn count(&mut self, protocol: &str, end: SocketAddr, result: &str) {
        let results = self.ends.entry(format!("{protocol} {end}")).or_default();
        *results.entry(result.to_owned()).or_default() += 1;
    }

    /// Counts those of another.
    pub fn add(&mut self, other: &Self) {
        for (end, results) in &other.ends {
            let own = self.ends.entry(end.clone()).or_default();
            for (result, count) in results {
                *own.entry(result.clone()).or_default() += count;
            }
        }
    }

    /// What became of the tries of one end.
    #[must_use]
    pub fn of(&self, protocol: &str, end: SocketAddr) -> BTreeMap<String, u64> {
        self.ends.get(&format!("{protocol} {end}")).cloned().unwrap_or_default()
    }
}

impl Served {
    /// What came from one address, whichever family the listener used.
    #[must_use]
    pub fn from(&self, client: IpAddr) -> Client {
        self.clients.get(&client.to_canonical()).cloned().unwrap_or_default()
    }
}

impl Report {
    /// Prints the line at once: others wait for it.
    ///
    /// # Errors
    /// When nobody reads any more.
    pub fn print(&self) -> io::Result<()> {
        let mut out = io::stdout().lock();
        serde_json::to_writer(&mut out, self)?;
        out.write_all(b"\n")?;
        out.flush()
    }
}

/// The name by which an error is known: "EPERM". A time limit of our own counts as ETIMEDOUT.
#[must_use]
pub fn error_name(error: &io::Error) -> String {
    match error.raw_os_error().map(Errno::from_raw) {
        // A read or write with a time limit ends so.
        Some(Errno::EAGAIN) => "ETIMEDOUT".to_owned(),
        Some(errno) => format!("{errno:?}"),
        None if error.kind() == io::ErrorKind::TimedOut => "ETIMEDOUT".to_owned(),
        None => format!("{:?}", error.kind()),
    }
}
