//! Lives: weir-tests, the benchmark of XDP: where it happens.
//! Called by: the benchmark, once.
//! May touch: namespaces of a world of its own.
//! Never: an interface or a firewall of the host's.
//!
//! ```text
//!   open-a ==== open-b      nft-drop-a ==== nft-drop-b     ...     a pair of namespaces for each set of rules, so that all keep
//!     generator   judges                                           their state while others have their turn
//! ```

#![expect(unsafe_code, reason = "no crate here switches an interface's offloads")]

use std::ffi::c_char;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsRawFd;
use std::path::PathBuf;

use anyhow::{Context, Result};
use nix::ifaddrs::getifaddrs;
use nix::libc;
use nix::net::if_::if_nametoindex;
use weir_tests::world::links::INSIDE;
use weir_tests::world::{World, links, netns};

/// The generator's end of every wire.
pub const SENDER: Ipv4Addr = Ipv4Addr::new(10, 79, 0, 1);
/// The judging end.
pub const RECEIVER: Ipv4Addr = Ipv4Addr::new(10, 79, 0, 2);

/// Two namespaces and what lies between them.
#[derive(Clone, Debug)]
pub struct Wire {
    /// Where the generator is.
    pub sender: PathBuf,
    /// Where packets are judged.
    pub receiver: PathBuf,
    /// The generator's interface.
    pub sends: u32,
    /// The judging interface.
    pub receives: u32,
    /// The judging interface's own address.
    pub mac: [u8; 6],
}

impl Wire {
    /// Does something in the judging namespace.
    pub fn at_receiver<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        netns::inside(&self.receiver, || Ok(work()))?
    }

    /// Does something where the generator is.
    pub fn at_sender<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        netns::inside(&self.sender, || Ok(work()))?
    }

    /// Lets so many CPUs take packets in at the same time.
    pub fn queues(&self, number: u32) -> Result<()> {
        let mut channels = Channels { command: ETHTOOL_SCHANNELS, most: [0; 4], counts: [number, 1, 0, 0] };
        self.at_receiver(move || ethtool(&mut channels).with_context(|| format!("{number} queues")))
    }

    /// A counter of the judging namespace's stack (`/proc/net/snmp`).
    pub fn counter(&self, protocol: &str, name: &str) -> Result<u64> {
        let text = self.at_receiver(|| std::fs::read_to_string("/proc/thread-self/net/snmp").context("snmp"))?;
        let lines = text.lines().filter_map(|line| line.split_once(": ")).filter(|(first, _)| *first == protocol);
        let mut lines = lines.map(|(_, rest)| rest.split_whitespace());
        let (names, numbers) = lines.next().zip(lines.next()).with_context(|| format!("no counters of {protocol}"))?;
        let number = names.zip(numbers).find(|(other, _)| *other == name);
        Ok(number.with_context(|| format!("no counter {name} of {protocol}"))?.1.parse()?)
    }
}

/// A world with wires for the benchmark.
pub struct Site {
    world: World,
}

impl Site {
    /// Builds it; dropping it removes it.
    pub fn new() -> Result<Site> {
        Ok(Site { world: World::new("bench-xdp").context("building a world; needs root")? })
    }

    /// A folder for what programs want to write.
    pub fn folder(&self) -> &std::path::Path {
        self.world.folder()
    }

    /// A cgroup of the world's, below which nobody lives.
    pub fn cgroup(&self) -> PathBuf {
        self.world.managed()
    }

    /// A new wire, whose judging end takes frames in as drivers of network cards do. A veth does so of its own only for an XDP
    /// program, and firewalls have none.
    pub fn wire(&self, name: &str) -> Result<Wire> {
        let wire = self.plain_wire(name)?;
        wire.at_receiver(take_frames)?;
        Ok(wire)
    }

    /// A new wire, as it is made.
    pub fn plain_wire(&self, name: &str) -> Result<Wire> {
        let create = |end| netns::create(&format!("{}-{name}-{end}", self.world.name()));
        let (sender, receiver) = (create("a")?, create("b")?);
        links::pair(&sender, &receiver, [IpAddr::V4(SENDER), IpAddr::V4(RECEIVER)])?;
        let sends = netns::inside(&sender, || Ok(if_nametoindex(INSIDE)))??;
        let (receives, mac) = netns::inside(&receiver, || Ok(receiving()))??;
        Ok(Wire { sender, receiver, sends, receives, mac })
    }
}

/// Index and address of the judging interface.
fn receiving() -> Result<(u32, [u8; 6])> {
    let all = getifaddrs().context("listing interfaces")?;
    let own = all.filter(|one| one.interface_name == INSIDE).find_map(|one| one.address?.as_link_addr()?.addr());
    Ok((if_nametoindex(INSIDE)?, own.context("an interface without an address")?))
}

/// `struct ethtool_value` (include/uapi/linux/ethtool.h).
#[repr(C)]
struct Switch {
    command: u32,
    value: u32,
}

/// `struct ethtool_channels`: what can be, then what is to be, of queues that receive, send, do something else, and do both.
#[repr(C)]
struct Channels {
    command: u32,
    most: [u32; 4],
    counts: [u32; 4],
}

const SIOCETHTOOL: libc::Ioctl = 0x8946;
const ETHTOOL_SGRO: u32 = 0x2c;
const ETHTOOL_SCHANNELS: u32 = 0x3d;

/// Switches GRO on, with which a veth polls.
fn take_frames() -> Result<()> {
    ethtool(&mut Switch { command: ETHTOOL_SGRO, value: 1 }).context("switching GRO on")
}

/// Says something to the interface; `T` is the structure of its command.
fn ethtool<T>(say: &mut T) -> Result<()> {
    let socket = std::net::UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    // SAFETY: all of its fields are numbers and arrays of numbers.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name.iter_mut().zip(INSIDE.bytes()).for_each(|(to, byte)| *to = byte as c_char);
    request.ifr_ifru.ifru_data = (&raw mut *say).cast();
    // SAFETY: the request names an interface and points to the whole structure of its command; both outlive the call.
    let done = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL, &raw mut request) };
    Ok(nix::errno::Errno::result(done).map(drop)?)
}
