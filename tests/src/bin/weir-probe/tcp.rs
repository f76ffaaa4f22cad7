//! Lives: weir-probe, its TCP verbs.
//! Called by: main, after the move into namespace and cgroup.
//! May touch: TCP sockets.
//! Never: holds more than 256 connections; waits longer than its options say.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Args;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use weir_tests::report::{Attempt, Report, Sent, Served, error_name};

use crate::{Bound, End, enter_cgroup, milliseconds};

const MOST_CONNECTIONS: usize = 256;
const CHUNK: usize = 16 * 1024;

#[derive(Args)]
pub struct Serve {
    /// Listen here; may be given several times
    #[arg(long, required = true, value_name = "ADDRESS:PORT")]
    listen: Vec<SocketAddr>,
    /// Move into this cgroup once it listens, and accept there
    #[arg(long, value_name = "DIR")]
    then: Option<PathBuf>,
    /// Take MPTCP, and data that comes with the SYN
    #[arg(long)]
    modern: bool,
    #[command(flatten)]
    bound: Bound,
}

impl Serve {
    pub fn run(self) -> Result<()> {
        let end = End::new(&self.bound)?;
        let served = Arc::new(Mutex::new(Served::default()));
        let listeners = self.listen.iter().map(|address| self.open(*address)).collect::<Result<Vec<_>>>()?;
        if let Some(cgroup) = &self.then {
            enter_cgroup(cgroup)?;
        }
        let open = &AtomicUsize::new(0);
        thread::scope(|scope| {
            for listener in &listeners {
                let (end, served) = (&end, &served);
                scope.spawn(move || accept(scope, listener, end, served, open));
            }
        });
        let served = served.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Ok(Report::Served(served).print()?)
    }
}

impl Serve {
    fn open(&self, address: SocketAddr) -> Result<TcpListener> {
        let listening = if self.modern { modern(address) } else { TcpListener::bind(address) };
        let listener = listening.with_context(|| format!("listening on {address}"))?;
        listener.set_nonblocking(true)?;
        Report::Listening { address: listener.local_addr()? }.print()?;
        Ok(listener)
    }
}

/// As the standard library's, but with MPTCP.
fn modern(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::MPTCP))?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(128)?;
    Ok(socket.into())
}

fn accept<'scope>(
    scope: &'scope thread::Scope<'scope, '_>,
    listener: &TcpListener,
    end: &'scope End,
    served: &'scope Mutex<Served>,
    open: &'scope AtomicUsize,
) {
    while !end.reached() {
        let Ok((stream, peer)) = listener.accept() else {
            // Nothing there yet; looking is cheap and keeps us listening for the end as well.
            thread::sleep(Duration::from_millis(2));
            continue;
        };
        let total = count(served, peer, end.now_ms());
        drop(Report::Accepted { peer, total }.print());
        if open.fetch_add(1, Ordering::Relaxed) < MOST_CONNECTIONS {
            scope.spawn(move || {
                echo(stream, end, served, peer);
                open.fetch_sub(1, Ordering::Relaxed);
            });
        } else {
            open.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

fn count(served: &Mutex<Served>, peer: SocketAddr, now_ms: f64) -> u64 {
    let mut served = served.lock().unwrap_or_else(PoisonError::into_inner);
    served.accepted += 1;
    let total = served.accepted;
    let client = served.clients.entry(peer.ip().to_canonical()).or_default();
    if client.packets == 0 {
        client.first_ms = now_ms;
    }
    client.last_ms = now_ms;
    client.packets += 1;
    total
}

/// Sends back what comes, until the client is done or silent for long.
fn echo(mut stream: TcpStream, end: &End, served: &Mutex<Served>, peer: SocketAddr) {
    let mut buffer = vec![0; CHUNK];
    // An accepted socket does not inherit the listener's non-blocking mode on Linux. Short waits keep the end in sight.
    drop(stream.set_read_timeout(Some(Duration::from_millis(100))));
    while !end.reached() {
        match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(length) => {
                let mut served = served.lock().unwrap_or_else(PoisonError::into_inner);
                served.clients.entry(peer.ip().to_canonical()).or_default().bytes += length as u64;
                drop(served);
                if stream.write_all(buffer.get(..length).unwrap_or_default()).is_err() {
                    break;
                }
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(_) => break,
        }
    }
}

/// How one connection is made.
#[derive(Args, Clone)]
pub struct Target {
    /// Connect to this; an IPv4-mapped IPv6 address uses an IPv6 socket
    #[arg(long, value_name = "ADDRESS:PORT")]
    to: SocketAddr,
    /// Use this address of our own
    #[arg(long, value_name = "ADDRESS")]
    from: Option<IpAddr>,
    /// Use this port of our own
    #[arg(long, default_value_t = 0, requires = "from")]
    port: u16,
    /// Bytes to send, which must come back
    #[arg(long, default_value_t = 0)]
    bytes: u64,
    /// Give up after this long
    #[arg(long, default_value_t = 1000)]
    timeout_ms: u64,
    /// Wait so long after every 16 KiB
    #[arg(long, default_value_t = 0)]
    pace_ms: u64,
    /// End it by a reset: its port is free again at once
    #[arg(long)]
    reset: bool,
    /// Send everything and say that it is all before reading what comes back
    #[arg(long, conflicts_with = "reset")]
    half_close: bool,
}

impl Target {
    fn attempt(&self, at_ms: f64) -> Attempt {
        let start = Instant::now();
        let mut attempt = Attempt { at_ms, pid: std::process::id(), ..Attempt::default() };
        let outcome = self.talk(&mut attempt);
        attempt.elapsed_ms = milliseconds(start.elapsed());
        attempt.result = outcome.map_or_else(|error| error_name(&error), |()| "ok".to_owned());
        attempt
    }

    fn talk(&self, attempt: &mut Attempt) -> io::Result<()> {
        let timeout = Duration::from_millis(self.timeout_ms);
        let socket = Socket::new(Domain::for_address(self.to), Type::STREAM, Some(Protocol::TCP))?;
        if let Some(from) = self.from {
            socket.set_reuse_address(true)?;
            socket.bind(&SocketAddr::new(from, self.port).into())?;
        }
        socket.connect_timeout(&self.to.into(), timeout)?;
        let mut stream = TcpStream::from(socket);
        attempt.local = stream.local_addr().ok();
        stream.set_read_timeout(Some(timeout))?;
        stream.set_write_timeout(Some(timeout))?;
        let mut buffer = vec![7; CHUNK];
        while attempt.sent < self.bytes {
            let length = usize::try_from(self.bytes - attempt.sent).unwrap_or(CHUNK).min(CHUNK);
            let Some(chunk) = buffer.get_mut(..length) else { break };
            stream.write_all(chunk)?;
            attempt.sent += length as u64;
            if !self.half_close {
                stream.read_exact(chunk)?;
                attempt.received += length as u64;
            }
            thread::sleep(Duration::from_millis(self.pace_ms));
        }
        if self.reset {
            return SockRef::from(&stream).set_linger(Some(Duration::ZERO));
        }
        stream.shutdown(Shutdown::Write)?;
        // The other side's end makes the close an orderly one, whose byte counts are final.
        loop {
            match stream.read(&mut buffer)? {
                0 => return Ok(()),
                length => attempt.received += length as u64,
            }
        }
    }
}

#[derive(Args)]
pub struct Connect {
    #[command(flatten)]
    target: Target,
}

impl Connect {
    pub fn run(self) -> Result<()> {
        Ok(Report::Attempt(self.target.attempt(0.0)).print()?)
    }
}

#[derive(Args)]
pub struct Loop {
    #[command(flatten)]
    target: Target,
    /// Connections a second, all workers together
    #[arg(long, default_value_t = 20.0)]
    rate: f64,
    /// How many may wait for an answer at the same time
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    workers: u32,
    #[command(flatten)]
    bound: Bound,
}

impl Loop {
    pub fn run(self) -> Result<()> {
        let end = End::new(&self.bound)?;
        let sent = Mutex::new(Sent::default());
        let interval = Duration::from_secs_f64(f64::from(self.workers) / self.rate.clamp(0.01, 10_000.0));
        thread::scope(|scope| {
            for number in 0..self.workers {
                let (this, end, sent) = (&self, &end, &sent);
                // One after the other, so that tries are spread over the time rather than bunched.
                scope.spawn(move || this.worker(end, interval * number / this.workers, interval, sent));
            }
        });
        let sent = sent.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Ok(Report::Sent(sent).print()?)
    }

    fn worker(&self, end: &End, wait: Duration, interval: Duration, sent: &Mutex<Sent>) {
        thread::sleep(wait);
        while !end.reached() {
            let start = Instant::now();
            let attempt = self.target.attempt(end.now_ms());
            drop(Report::Attempt(attempt.clone()).print());
            let mut sent = sent.lock().unwrap_or_else(PoisonError::into_inner);
            sent.elapsed_ms = sent.elapsed_ms.max(attempt.at_ms);
            tally(&mut sent, attempt.result);
            drop(sent);
            thread::sleep(interval.saturating_sub(start.elapsed()));
        }
    }
}

/// Counts one outcome.
pub fn tally(sent: &mut Sent, result: String) {
    if result == "ok" {
        sent.ok += 1;
    } else {
        let refused: &mut BTreeMap<String, u64> = &mut sent.refused;
        *refused.entry(result).or_default() += 1;
    }
}
