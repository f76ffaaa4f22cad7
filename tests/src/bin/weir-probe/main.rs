//! Lives: weir-probe, one process of traffic inside a world.
//! Called by: live tests and the demo, through `World::probe`; a person, to try something by hand.
//! May touch: its own namespace and cgroup membership, then sockets.
//! Never: runs without a bound in count and time; starts a thread before it has moved.

mod attempt;
mod crafted;
mod detach;
mod elsewhere;
mod flood;
mod hold;
mod kinds;
mod mptcp;
mod ping;
mod storm;
mod stuck;
mod syn_flood;
mod tcp;
mod udp;
mod uring;
mod ways;
mod work;
mod xsk;

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::{Args, Parser, Subcommand};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use signal_hook::consts::{SIGINT, SIGTERM};

/// Moves into a network namespace and a cgroup, then makes traffic and says in JSON lines what became of it.
#[derive(Parser)]
#[command(version)]
struct Options {
    /// Enter this network namespace first
    #[arg(long, value_name = "PATH")]
    netns: Option<PathBuf>,
    /// Enter this cgroup first
    #[arg(long, value_name = "DIR")]
    cgroup: Option<PathBuf>,
    /// Find this file empty, in a mount namespace of its own
    #[arg(long, value_name = "FILE")]
    without: Option<PathBuf>,
    /// Find a disk of 256 KiB at this directory, in a mount namespace of its own
    #[arg(long, value_name = "DIR")]
    small_disk: Option<PathBuf>,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Become another program
    Exec {
        /// The program and its arguments
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
    /// Accept connections and send back what comes
    TcpServe(tcp::Serve),
    /// Connect once and exchange bytes
    TcpConnect(tcp::Connect),
    /// Connect again and again
    TcpConnectLoop(tcp::Loop),
    /// Open connections and wait for their ends
    TcpHold(hold::Hold),
    /// Connect from many threads and hold what is let through
    TcpPile(hold::Pile),
    /// Accept connections and wait for their ends
    TcpKeep(hold::Keep),
    /// Connect, and never let go of the socket's lock
    TcpStuck(stuck::Stuck),
    /// Try many ends again and again, over TCP and UDP, and count what becomes of it
    Storm(storm::Storm),
    /// Take connections and answer datagrams at many ends, and count them
    StormServe(storm::Serve),
    /// Count datagrams and send them back
    UdpServe(udp::Serve),
    /// Send one datagram and wait for the answer
    UdpExchange(udp::Exchange),
    /// Send datagrams at a rate; what a pause held back follows in a burst
    UdpFlood(flood::Stream),
    /// Send datagrams evenly: never two closer than the rate says
    UdpPaced(flood::Stream),
    /// Send an ICMP or ICMPv6 message and wait for an echo
    Ping(ping::Ping),
    /// Take a pinned BPF link off what it is attached to
    LinkDetach(detach::Detach),
    /// Serve ports and try openings, as told by JSON lines on standard input
    Work,
    /// Reach a peer by a less usual way
    Reach(ways::Reach),
    /// Send bytes as they are: a frame, a packet, a payload
    Send(crafted::Send),
    /// Send SYNs that look as if they came from elsewhere
    SynFlood(syn_flood::SynFlood),
    /// Wait for a frame that holds given bytes
    Sniff(crafted::Sniff),
    /// Let a packet come out of a TUN device
    Tun(crafted::Tun),
    /// Tell this namespace's kernel what further paths MPTCP may take
    MptcpPaths(mptcp::Paths),
    /// Use a socket in another place than it was made in
    Elsewhere(elsewhere::Elsewhere),
    /// Make a socket and hand it to whoever holds the other end of standard input
    HandOut(elsewhere::HandOut),
    /// Open a raw socket
    RawSocket(kinds::Family),
    /// Open an SCTP socket
    SctpSocket(kinds::Family),
    /// Open an MPTCP socket
    MptcpSocket(kinds::Family),
}

/// The bound in time that every server and stream has.
#[derive(Args, Clone)]
struct Bound {
    /// End after this time (a SIGTERM ends it earlier, with its report)
    #[arg(long, default_value_t = 600.0, value_parser = seconds)]
    seconds: f64,
}

/// A day is a bound; forever is not.
fn seconds(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(value) if (0.0..=86_400.0).contains(&value) => Ok(value),
        Ok(_) | Err(_) => Err("seconds from 0 to 86400".to_owned()),
    }
}

/// When to end: by time or by signal.
#[derive(Clone)]
struct End {
    start: Instant,
    deadline: Instant,
    told: Arc<AtomicBool>,
}

impl End {
    fn new(bound: &Bound) -> Result<End> {
        let told = Arc::new(AtomicBool::new(false));
        for signal in [SIGTERM, SIGINT] {
            signal_hook::flag::register(signal, Arc::clone(&told)).context("watching for signals")?;
        }
        let start = Instant::now();
        Ok(End { start, deadline: start + Duration::from_secs_f64(bound.seconds), told })
    }

    fn reached(&self) -> bool {
        self.told.load(Ordering::Relaxed) || Instant::now() >= self.deadline
    }

    /// Milliseconds since the start.
    fn now_ms(&self) -> f64 {
        milliseconds(self.start.elapsed())
    }
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

fn main() -> Result<()> {
    let options = Options::parse();
    if let Some(cgroup) = &options.cgroup {
        enter_cgroup(cgroup)?;
    }
    if let Some(netns) = &options.netns {
        enter_netns(netns)?;
    }
    if let Some(file) = &options.without {
        hide(file)?;
    }
    if let Some(directory) = &options.small_disk {
        shrink(directory)?;
    }
    match options.verb {
        Verb::Exec { command } => exec(&command),
        Verb::TcpServe(serve) => serve.run(),
        Verb::TcpConnect(connect) => connect.run(),
        Verb::TcpConnectLoop(repeat) => repeat.run(),
        Verb::TcpHold(hold) => hold.run(),
        Verb::TcpPile(pile) => pile.run(),
        Verb::TcpKeep(keep) => keep.run(),
        Verb::TcpStuck(stuck) => stuck.run(),
        Verb::Storm(storm) => storm.run(),
        Verb::StormServe(serve) => serve.run(),
        Verb::UdpServe(serve) => serve.run(),
        Verb::UdpExchange(exchange) => exchange.run(),
        Verb::UdpFlood(stream) => stream.run(flood::Pace::CatchUp),
        Verb::UdpPaced(stream) => stream.run(flood::Pace::Even),
        Verb::Ping(ping) => ping.run(),
        Verb::LinkDetach(detach) => detach.run(),
        Verb::Work => work::run(),
        Verb::Reach(reach) => reach.run(),
        Verb::Send(send) => send.run(),
        Verb::SynFlood(flood) => flood.run(),
        Verb::Sniff(sniff) => sniff.run(),
        Verb::Tun(tun) => tun.run(),
        Verb::MptcpPaths(paths) => paths.run(),
        Verb::Elsewhere(elsewhere) => elsewhere.run(),
        Verb::HandOut(hand) => hand.run(),
        Verb::RawSocket(family) => family.open(kinds::Kind::Raw),
        Verb::SctpSocket(family) => family.open(kinds::Kind::Sctp),
        Verb::MptcpSocket(family) => family.open(kinds::Kind::Mptcp),
    }
}

fn enter_cgroup(folder: &Path) -> Result<()> {
    let procs = folder.join("cgroup.procs");
    // 0 stands for the process that writes.
    fs::write(&procs, "0").with_context(|| format!("moving into {}", folder.display()))
}

fn enter_netns(path: &Path) -> Result<()> {
    let namespace = File::open(path).with_context(|| format!("opening {}", path.display()))?;
    setns(namespace, CloneFlags::CLONE_NEWNET).with_context(|| format!("entering {}", path.display()))
}

/// For this process and what it becomes; nobody else sees a difference.
fn own_mounts() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNS).context("making a mount namespace")?;
    let private = MsFlags::MS_PRIVATE | MsFlags::MS_REC;
    mount(None::<&str>, "/", None::<&str>, private, None::<&str>).context("keeping mounts to itself")
}

fn shrink(directory: &Path) -> Result<()> {
    own_mounts()?;
    mount(Some("tmpfs"), directory, Some("tmpfs"), MsFlags::empty(), Some("size=256k"))
        .with_context(|| format!("a small disk at {}", directory.display()))
}

fn hide(file: &Path) -> Result<()> {
    own_mounts()?;
    mount(Some("/dev/null"), file, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .with_context(|| format!("hiding {}", file.display()))
}

fn exec(command: &[String]) -> Result<()> {
    let Some((program, arguments)) = command.split_first() else { bail!("exec needs a program") };
    let error = Command::new(program).args(arguments).exec();
    Err(error).with_context(|| format!("starting {program}"))
}
