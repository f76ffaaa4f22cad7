//! Lives: weir-tests, the benchmark of XDP: frames by the million, made in the kernel.
//! Called by: rounds, plan, prefixes, honesty, smoke.
//! May touch: interfaces of the benchmark's own world.
//! Never: counts time that is not the CPU's.
//!
//! `BPF_PROG_TEST_RUN` in live-frame mode runs a program on frames of its own, and what the program sends leaves by a veth as from a driver
//! (no socket, no packet built); the other end takes it in as a driver does, in the softirq that follows each batch, in the same thread. So
//! one thread's CPU time is all there is, from making a frame to its end. Plain test runs are not used: they would run the program on one
//! frame that never changes, without driver and cache misses, and firewalls could not be measured at all.

use anyhow::{Context, Result};
use aya::Ebpf;
use aya::maps::{Array, MapData};
use aya::programs::{TestRun as _, TestRunOptions, Xdp, xdp::XdpMode};
use nix::time::{ClockId, clock_gettime};

use crate::frame::{self, FIRST};
use crate::programs;
use crate::site::Wire;

/// Frames that one softirq takes in; below what the kernel hands to one poll (64), so that all are at their end when it returns.
const BATCH: u32 = 32;

/// Who sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Clients {
    /// One, by its number.
    One(u32),
    /// So many in turn (a power of two), none twice before all have been.
    Many(u32),
    /// Each packet another one, that has not been before.
    New,
    /// The same with two packets each, one after the other.
    NewTwice,
    /// So many /24s (a power of two), every other one from the first or the second on; all addresses of each, or only its first.
    Spread {
        /// How many.
        networks: u32,
        /// Whether they begin with the second, and it is the first address of each.
        odd: bool,
    },
}

/// Addresses before one comes again: 16.0.0.0 to 31.255.255.255.
const ALL: u32 = 1 << 28;

/// Words of the program's orders: what comes next, mask, first address, sum of the header, what becomes of a frame, and how many bits of
/// what comes next say the same client.
type Orders = [u64; 6];

/// Makes and sends frames.
pub struct Generator {
    ebpf: Ebpf,
    orders: Array<MapData, Orders>,
    /// How many new clients there were.
    new: u64,
}

impl Generator {
    /// Takes the generator's part of the loaded programs.
    pub fn of(mut ebpf: Ebpf) -> Result<Generator> {
        let orders = Array::try_from(ebpf.take_map(programs::ORDERS).context("no orders")?)?;
        Ok(Generator { ebpf, orders, new: 0 })
    }

    /// Lets new clients begin half-way round: for a second generator beside the first.
    pub fn other_half(&mut self) {
        self.new = u64::from(ALL / 2);
    }

    /// Whatever else was loaded with it.
    pub fn programs(&mut self) -> &mut Ebpf {
        &mut self.ebpf
    }

    /// Sends `count` frames along `wire`; nanoseconds of CPU time for each.
    pub fn send(&mut self, wire: &Wire, frame: &[u8], clients: Clients, count: u32) -> Result<f64> {
        self.run(wire, frame, clients, count, programs::XDP_TX)
    }

    /// Makes them, and drops them before they leave: what the generator itself takes.
    pub fn make(&mut self, wire: &Wire, frame: &[u8], clients: Clients, count: u32) -> Result<f64> {
        self.run(wire, frame, clients, count, programs::XDP_DROP)
    }

    fn run(&mut self, wire: &Wire, frame: &[u8], clients: Clients, count: u32, action: i32) -> Result<f64> {
        let first = u64::from(u32::from(FIRST));
        let again = u64::from(clients == Clients::NewTwice);
        let (next, mask, first) = match clients {
            Clients::One(number) => (0, 0, first + u64::from(number)),
            Clients::Many(many) => (0, u64::from(many) - 1, first),
            Clients::New | Clients::NewTwice => (self.new << again, u64::from(ALL) - 1, first),
            Clients::Spread { networks, odd } => {
                let (addresses, offset) = if odd { (0, 0x100) } else { (0xff, 0) };
                (0, (u64::from(networks) - 1) << 9 | addresses, first + offset)
            }
        };
        let orders = [next, mask, first, frame::header_sum(frame), u64::try_from(action)?, again];
        self.orders.set(0, orders, 0)?;
        if matches!(clients, Clients::New | Clients::NewTwice) {
            self.new += u64::from(count) >> again;
        }
        let program: &Xdp = self.ebpf.program(programs::GENERATE).context("no generator")?.try_into()?;
        wire.at_sender(|| run(program, wire.sends, frame, count))
    }
}

fn run(program: &Xdp, interface: u32, frame: &[u8], count: u32) -> Result<f64> {
    // `struct xdp_md`: begin, end, metadata, then the interface the frame comes in by, its queue, and none it leaves by.
    let context = [0, u32::try_from(frame.len())?, 0, interface, 0, 0].map(u32::to_ne_bytes).concat();
    let mut options =
        TestRunOptions { data_in: Some(frame), ctx_in: Some(&context), repeat: count, ..Default::default() };
    options.attrs = options.attrs.xdp_live_frames(BATCH);
    let before = cpu_time()?;
    let _ = program.test_run(options).context("making live frames")?;
    Ok((cpu_time()? - before) / f64::from(count))
}

/// Attaches one of the loaded programs to the judging end; answers what detaches it when dropped.
pub fn attach(ebpf: &mut Ebpf, name: &str, wire: &Wire) -> Result<aya::programs::xdp::XdpLink> {
    let program: &mut Xdp = ebpf.program_mut(name).with_context(|| format!("no program {name}"))?.try_into()?;
    wire.at_receiver(|| {
        let link = program.attach_to_if_index(wire.receives, XdpMode::Driver)?;
        Ok(program.take_link(link)?)
    })
}

/// Nanoseconds of this thread's CPU time, softirqs included.
fn cpu_time() -> Result<f64> {
    let time = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?;
    Ok(time.tv_sec() as f64 * 1e9 + time.tv_nsec() as f64)
}
