//! Lives: weir-tests, the benchmark of XDP: what a bulk transfer through a veth takes where a program looks at every packet.
//! Called by: plan.
//! May touch: a wire of the benchmark's own world.
//! Never: compares transfers of different rounds.
//!
//! One TCP connection, as much as goes in a while; the receiving end is the one with the program. The wire is as it is made: no GRO, no queues.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use nix::time::{ClockId, clock_gettime};
use weir_agent::kernel::XdpMode;
use weir_policy::Compiled;
use weir_tests::measured::{Report, Samples};

use crate::site::{RECEIVER, Site, Wire};
use crate::weir::{self, Weir};

/// What looks at the packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Way {
    Nothing,
    Generic,
    Native,
}

impl Way {
    const ALL: [Way; 3] = [Way::Nothing, Way::Generic, Way::Native];

    const fn name(self) -> &'static str {
        match self {
            Way::Nothing => "no program",
            Way::Generic => "Weir, generic mode",
            Way::Native => "Weir, native mode",
        }
    }
}

/// One transfer.
const LASTS: Duration = Duration::from_millis(700);
const CHUNK: usize = 256 << 10;

/// Nanoseconds for a MiB: by the wall's clock, and of both threads' CPU time.
struct Took {
    wall: f64,
    cpu: f64,
}

/// Transfers in turn.
pub fn measure(site: &Site, rounds: usize, report: &mut Report) -> Result<()> {
    let wire = site.plain_wire("bulk")?;
    // No limit and no list: the program parses, and passes.
    let compiled = weir::compiled("", 1)?;
    let mut native = Weir::load(&site.cgroup(), XdpMode::Native)?;
    let mut generic = Weir::load(&site.cgroup(), XdpMode::Generic)?;
    let (mut wall, mut cpu) = (Samples::default(), Samples::default());
    for round in 0..rounds {
        for way in Way::ALL.into_iter().cycle().skip(round % 3).take(3) {
            let took = match way {
                Way::Nothing => transfer(&wire)?,
                Way::Generic => under(&mut generic, &wire, &compiled)?,
                Way::Native => under(&mut native, &wire, &compiled)?,
            };
            wall.add(way, 0, round, took.wall);
            cpu.add(way, 0, round, took.cpu);
        }
    }
    report.times("a MiB of bulk TCP through a veth, by the wall's clock", &wall, |way: Way| way.name().to_owned());
    report.times("a MiB of bulk TCP through a veth, CPU time of both ends", &cpu, |way: Way| way.name().to_owned());
    for way in [Way::Generic, Way::Native] {
        let what = format!("bulk TCP through a veth, {}", way.name());
        report.row(&what, "no program, by the wall's clock", None, wall.ratio(way, Way::Nothing));
        report.row(&what, "no program, CPU time", None, cpu.ratio(way, Way::Nothing));
    }
    Ok(())
}

fn under(weir: &mut Weir, wire: &Wire, compiled: &Compiled) -> Result<Took> {
    weir.attach(wire, compiled)?;
    let took = transfer(wire);
    weir.detach()?;
    took
}

fn transfer(wire: &Wire) -> Result<Took> {
    let listener = wire.at_receiver(|| Ok(TcpListener::bind((RECEIVER, 0))?))?;
    let to = listener.local_addr()?;
    let sender = wire.at_sender(|| TcpStream::connect(to).context("connecting"))?;
    let (receiver, _) = listener.accept()?;
    let begin = Instant::now();
    let (sent, received) = thread::scope(|scope| {
        let receiving = scope.spawn(move || timed(|| drain(receiver)));
        let sent = timed(|| fill(sender));
        (sent, receiving.join())
    });
    let wall = begin.elapsed().as_secs_f64() * 1e9;
    let ((_, sending), (bytes, receiving)) = (sent?, received.map_err(|_| anyhow!("a thread panicked"))??);
    let mebibytes = bytes as f64 / f64::from(1 << 20);
    Ok(Took { wall: wall / mebibytes, cpu: (sending + receiving) / mebibytes })
}

fn fill(mut to: TcpStream) -> Result<u64> {
    let (chunk, begin, mut bytes) = (vec![0; CHUNK], Instant::now(), 0);
    while begin.elapsed() < LASTS {
        to.write_all(&chunk)?;
        bytes += chunk.len() as u64;
    }
    Ok(bytes)
}

fn drain(mut from: TcpStream) -> Result<u64> {
    let (mut chunk, mut bytes) = (vec![0; CHUNK], 0);
    loop {
        match from.read(&mut chunk) {
            Ok(0) => return Ok(bytes),
            Ok(read) => bytes += read as u64,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error).context("receiving"),
        }
    }
}

/// What it answers, and nanoseconds of this thread's CPU time.
fn timed(work: impl FnOnce() -> Result<u64>) -> Result<(u64, f64)> {
    let now = || clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID);
    let before = now()?;
    let answer = work()?;
    Ok((answer, Duration::from(now()? - before).as_secs_f64() * 1e9))
}
