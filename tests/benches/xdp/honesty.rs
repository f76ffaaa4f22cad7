//! Lives: weir-tests, the benchmark of XDP: what limiters let through while a flood of new clients fills their tables.
//! Called by: plan, smoke.
//! May touch: wires of the benchmark's own world.
//! Never: counts what was not delivered to a socket.
//!
//! ```text
//!   flood     |xxxx xxxx xxxx xxxx ...   ten times as many clients as the table holds, one packet each, to another host on the wire
//!   over          |oooooooooo oooooooooo     ten times its limit, in even steps
//!   bursts        |oooooooooo           oo   3.3 times its limit, 200 packets every 3 s: a limiter that forgets it lets it begin anew
//!   within        |.    .    .    .          half its limit: loses nothing
//! ```
//! The three come when a tenth of the flood has been, and the table is full.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::socket::{setsockopt, sockopt::RcvBufForce};
use nix::unistd::Pid;
use serde::Serialize;
use weir_agent::kernel::{XdpMode, tick_ns};
use weir_common::gcra::Limit;

use crate::frame::{self, FROM, For, PORT};
use crate::generator::Clients::{New, NewTwice};
use crate::generator::{self, Generator};
use crate::programs::{self, CLIENTS};
use crate::rivals::{Rival, Rules};
use crate::site::{RECEIVER, Site, Wire};
use crate::weir::{self, Weir};

/// The limit: packets a second, and at once.
pub const LIMIT: (u32, u32) = (20, 200);

/// New clients of the flood.
const FLOOD: u32 = 10 * CLIENTS;
/// How often everybody looks what is to be done.
const STEP: Duration = Duration::from_millis(1);
/// Packets of the flood at once.
const CHUNK: u32 = 1 << 16;
/// Room for what arrives between two looks, in bytes.
const ROOM: usize = 32 << 20;

/// Whose design.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Design {
    /// Weir.
    Weir,
    /// The limiter with an LRU hash.
    Lru,
    /// nftables' meters.
    Nftables,
}

/// One flood.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Attack {
    /// Whom it meets.
    pub design: Design,
    /// How many CPUs take packets in at once.
    pub cpus: usize,
    /// Whether each of its clients sends two packets, one after the other, instead of one.
    pub twice: bool,
}

/// What one client sent and got through.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Client {
    /// Packets sent.
    pub sent: u64,
    /// Packets that its socket at the service received.
    pub passed: u64,
}

/// What a design let through.
#[derive(Clone, Debug, Serialize)]
pub struct Honesty {
    /// In which flood.
    #[serde(flatten)]
    pub attack: Attack,
    /// Seconds for which the clients sent.
    pub seconds: f64,
    /// Clients of the flood.
    pub flood: u64,
    /// What the limit allows one client in this time: its burst, and so much a second.
    pub allowed: f64,
    /// Ten times the limit, in even steps.
    pub over: Client,
    /// 3.3 times the limit, in bursts.
    pub bursts: Client,
    /// Half the limit.
    pub within: Client,
}

/// Who sends how.
#[derive(Clone, Copy)]
struct Sender {
    /// The last byte of its address: 32.0.0.x, where the flood (16.0.0.0 to 31.255.255.255) never comes.
    host: u8,
    /// Packets at once, and how often.
    packets: u32,
    every: Duration,
    /// Whether it comes by all CPUs.
    everywhere: bool,
}

impl Sender {
    fn address(self) -> Ipv4Addr {
        Ipv4Addr::new(32, 0, 0, self.host)
    }
}

const OVER: Sender = Sender { host: 1, packets: 10, every: Duration::from_millis(50), everywhere: true };
const BURSTS: Sender = Sender { host: 2, packets: 200, every: Duration::from_secs(3), everywhere: false };
const WITHIN: Sender = Sender { host: 3, packets: 1, every: Duration::from_millis(100), everywhere: false };

/// Lets the flood loose on one design.
pub fn run(site: &Site, attack: Attack) -> Result<Honesty> {
    let Attack { design, cpus, twice } = attack;
    let wire = site.wire(&format!("honest-{design:?}-{cpus}{}", if twice { "-twice" } else { "" }).to_lowercase())?;
    wire.queues(u32::try_from(cpus)?)?;
    let limit = Limit::new(LIMIT.0.into(), LIMIT.1.into());
    let generator = || Generator::of(programs::load(tick_ns(), limit)?);
    let mut generators: Vec<Generator> = (0..cpus).map(|_| generator()).collect::<Result<_>>()?;
    generators.iter_mut().skip(1).for_each(Generator::other_half);
    match design {
        Design::Weir => {
            let limit = format!("packets: {{perSecond: {}, burst: {}}}", LIMIT.0, LIMIT.1);
            let compiled = weir::compiled(&weir::limited(&limit), 1)?;
            let mut weir = Weir::load(&site.cgroup(), XdpMode::Native)?;
            weir.attach(&wire, &compiled)?;
            flood(&wire, attack, &mut generators)
        }
        Design::Lru => {
            let first = generators.first_mut().context("no generator")?;
            let _link = generator::attach(first.programs(), programs::HONEST, &wire)?;
            flood(&wire, attack, &mut generators)
        }
        Design::Nftables => {
            Rival::Nftables.rule(&wire, Rules::Honest, LIMIT, Path::new(site.folder()))?;
            flood(&wire, attack, &mut generators)
        }
    }
}

fn flood(wire: &Wire, attack: Attack, generators: &mut [Generator]) -> Result<Honesty> {
    let cpus = generators.len();
    let (kind, packets) = if attack.twice { (NewTwice, 2 * FLOOD) } else { (New, FLOOD) };
    let share = packets / u32::try_from(cpus)?;
    let away = frame::datagram(For::Others, RECEIVER)?;
    let sockets = Sockets::open(wire)?;
    let clients: Vec<Clients> = (0..cpus).map(|cpu| Clients::open(wire, cpu, cpus)).collect::<Result<_>>()?;
    // Until the table is full; nobody is looked at meanwhile.
    let before = share / 10;
    generators.iter_mut().try_for_each(|one| one.send(wire, &away, kind, before).map(drop))?;
    let begin = Instant::now();
    let floods = AtomicUsize::new(cpus);
    let sent = thread::scope(|scope| -> Result<Vec<[u64; 3]>> {
        let (floods, away) = (&floods, &away);
        let run = |(cpu, generator): (usize, &'_ mut Generator)| {
            let done = pinned(cpu).and_then(|()| rest(generator, wire, (away, kind), share - before));
            floods.fetch_sub(1, Ordering::Relaxed);
            done
        };
        let floods_run: Vec<_> = generators.iter_mut().enumerate().map(|one| scope.spawn(move || run(one))).collect();
        let clients_run: Vec<_> = clients.into_iter().map(|one| scope.spawn(move || one.send_until(floods))).collect();
        while floods.load(Ordering::Relaxed) > 0 {
            let _ = sockets.count()?;
            thread::sleep(STEP);
        }
        floods_run.into_iter().try_for_each(|flood| flood.join().map_err(panicked)?)?;
        clients_run.into_iter().map(|client| client.join().map_err(panicked)?).collect()
    })?;
    let seconds = begin.elapsed().as_secs_f64();
    let passed = sockets.finish()?;
    let of = |n: usize| Client {
        sent: sent.iter().filter_map(|one| one.get(n)).sum(),
        passed: passed.get(n).copied().unwrap_or(0),
    };
    let allowed = f64::from(LIMIT.1) + f64::from(LIMIT.0) * seconds;
    Ok(Honesty { attack, seconds, flood: FLOOD.into(), allowed, over: of(0), bursts: of(1), within: of(2) })
}

fn rest(
    generator: &mut Generator,
    wire: &Wire,
    (away, kind): (&[u8], generator::Clients),
    mut count: u32,
) -> Result<()> {
    while count > 0 {
        let chunk = CHUNK.min(count);
        let _ = generator.send(wire, away, kind, chunk)?;
        count -= chunk;
    }
    Ok(())
}

fn panicked(_: Box<dyn std::any::Any + Send>) -> anyhow::Error {
    anyhow::anyhow!("a thread panicked")
}

/// Keeps this thread on a CPU.
fn pinned(cpu: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu)?;
    Ok(sched_setaffinity(Pid::from_raw(0), &set)?)
}

/// What is sent from one CPU: by ordinary sockets, because each run of the generator begins with a wait for all CPUs.
struct Clients {
    cpu: usize,
    each: Vec<(Sender, UdpSocket)>,
}

impl Clients {
    fn open(wire: &Wire, cpu: usize, cpus: usize) -> Result<Clients> {
        let here = [OVER, BURSTS, WITHIN].into_iter().filter(|sender| cpu == 0 || sender.everywhere);
        let open = |sender: Sender| {
            let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None)?;
            // An address that no interface has; and the same one on each CPU.
            socket.set_ip_transparent_v4(true)?;
            socket.set_reuse_address(true)?;
            socket.bind(&SocketAddr::from((sender.address(), FROM)).into())?;
            socket.connect(&SocketAddr::from((RECEIVER, PORT)).into())?;
            let share = if sender.everywhere { sender.packets / u32::try_from(cpus)? } else { sender.packets };
            Ok((Sender { packets: share, ..sender }, UdpSocket::from(socket)))
        };
        let each = wire.at_sender(|| here.map(open).collect::<Result<_>>())?;
        Ok(Clients { cpu, each })
    }

    /// Sends what is due until no flood runs; how much each of them sent.
    fn send_until(&self, floods: &AtomicUsize) -> Result<[u64; 3]> {
        pinned(self.cpu)?;
        let mut sent = [0; 3];
        let mut due = [Instant::now(); 3];
        while floods.load(Ordering::Relaxed) > 0 {
            for (((sender, socket), due), sent) in self.each.iter().zip(&mut due).zip(&mut sent) {
                let now = Instant::now();
                if now < *due {
                    continue;
                }
                // A turn that comes late is not made up for: who is within its limit stays so.
                *due = now + sender.every;
                for _ in 0..sender.packets {
                    let _ = socket.send(&[0; 18]).context("sending")?;
                }
                *sent += u64::from(sender.packets);
            }
            thread::sleep(STEP);
        }
        Ok(sent)
    }
}

/// The service: a socket for each client, connected to it, so that it receives nobody else's.
struct Sockets<'w> {
    wire: &'w Wire,
    each: Vec<(UdpSocket, AtomicU64)>,
}

impl<'w> Sockets<'w> {
    fn open(wire: &'w Wire) -> Result<Sockets<'w>> {
        let open = |sender: &Sender| {
            // Several sockets on one port, each connected to its client before the next is bound.
            let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None)?;
            socket.set_reuse_address(true)?;
            socket.bind(&SocketAddr::from((RECEIVER, PORT)).into())?;
            socket.connect(&SocketAddr::from((sender.address(), FROM)).into())?;
            socket.set_nonblocking(true)?;
            setsockopt(&socket, RcvBufForce, &ROOM)?;
            Ok((UdpSocket::from(socket), AtomicU64::new(0)))
        };
        let each = wire.at_receiver(|| [OVER, BURSTS, WITHIN].iter().map(open).collect::<Result<_>>())?;
        Ok(Sockets { wire, each })
    }

    /// Takes in what has arrived; how much did until now, by client.
    fn count(&self) -> Result<Vec<u64>> {
        let mut buffer = [0; 64];
        for (socket, count) in &self.each {
            loop {
                match socket.recv(&mut buffer) {
                    Ok(_) => count.fetch_add(1, Ordering::Relaxed),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) => return Err(error).context("receiving"),
                };
            }
        }
        Ok(self.each.iter().map(|(_, count)| count.load(Ordering::Relaxed)).collect())
    }

    /// The same at the end; an error if a socket had no room, which would be counted as a limiter's doing.
    fn finish(&self) -> Result<Vec<u64>> {
        let full = self.wire.counter("Udp", "RcvbufErrors")?;
        ensure!(full == 0, "{full} packets found a socket without room");
        self.count()
    }
}

impl Honesty {
    /// For people.
    pub fn line(&self) -> String {
        let percent = |client: Client| 100.0 * client.passed as f64 / client.sent.max(1) as f64;
        format!(
            "  {:<44} {:>8.1} {:>9.0} {:>15} {:>8.3}x {:>14} {:>8.3}x {:>13} {:>7.2} %",
            self.who(),
            self.seconds,
            self.allowed,
            format!("{} of {}", self.over.passed, self.over.sent),
            self.over.passed as f64 / self.allowed,
            format!("{} of {}", self.bursts.passed, self.bursts.sent),
            self.bursts.passed as f64 / self.allowed,
            format!("{} of {}", self.within.passed, self.within.sent),
            percent(self.within),
        )
    }

    /// Whom it met, and how.
    pub fn who(&self) -> String {
        let Attack { design, cpus, twice } = self.attack;
        let design = match design {
            Design::Weir => "Weir",
            Design::Lru => "an LRU_HASH limiter",
            Design::Nftables => "nftables meter",
        };
        let cpus = if cpus == 1 { String::new() } else { format!(", {cpus} CPUs") };
        format!("{design}{cpus}{}", if twice { ", two packets each" } else { "" })
    }

    /// What the columns of [`Self::line`] are.
    pub fn heading() -> String {
        format!(
            "  {:<44} {:>8} {:>9} {:>25} {:>24} {:>23}",
            "", "seconds", "allowed", "over the limit: passed", "in bursts: passed", "within: passed"
        )
    }
}
