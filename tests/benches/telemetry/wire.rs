//! Lives: weir-tests, the benchmark of telemetry: what goes to the collector's socket.
//! Called by: agent.
//! May touch: two sockets in the folder of the benchmark's own world.
//! Never: changes a byte, or holds one back.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle, sleep};
use std::time::Duration;

use anyhow::{Context, Result};

const LOOK: Duration = Duration::from_millis(20);
const PIECE: usize = 64 * 1024;

/// Stands before the collector's socket and counts what the agent sends there. The agent has one connection at a time.
pub struct Wire {
    sent: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Wire {
    /// Takes connections at `here` and passes them on to `collector`.
    pub fn start(here: &Path, collector: PathBuf) -> Result<Wire> {
        let listener = UnixListener::bind(here).with_context(|| here.display().to_string())?;
        listener.set_nonblocking(true)?;
        let (sent, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (count, told) = (Arc::clone(&sent), Arc::clone(&stop));
        let thread = thread::spawn(move || {
            while !told.load(Ordering::Relaxed) {
                match listener.accept() {
                    // A connection that breaks is for its ends to see.
                    Ok((agent, _)) => drop(join(&agent, &collector, &count)),
                    Err(_) => sleep(LOOK),
                }
            }
        });
        Ok(Wire { sent, stop, thread: Some(thread) })
    }

    /// Bytes that the agent has sent: batches, and what HTTP/2 puts around them.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            eprintln!("bench: the thread between agent and collector panicked");
        }
    }
}

/// Both directions, until both ends are done.
fn join(agent: &UnixStream, collector: &Path, sent: &AtomicU64) -> io::Result<()> {
    agent.set_nonblocking(false)?;
    let collector = UnixStream::connect(collector)?;
    thread::scope(|scope| {
        scope.spawn(|| pump(&collector, agent, &AtomicU64::new(0)));
        pump(agent, &collector, sent);
    });
    Ok(())
}

fn pump(mut from: &UnixStream, mut to: &UnixStream, count: &AtomicU64) {
    let mut piece = vec![0; PIECE];
    while let Ok(length @ 1..) = from.read(&mut piece) {
        count.fetch_add(length as u64, Ordering::Relaxed);
        if to.write_all(piece.get(..length).unwrap_or_default()).is_err() {
            break;
        }
    }
    // It may be shut already, and then there is nothing to do.
    let _ = (from.shutdown(Shutdown::Read), to.shutdown(Shutdown::Write));
}
