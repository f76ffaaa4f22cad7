//! Lives: weir-probe, packets and frames that a process writes itself.
//! Called by: main and syn_flood, after the move into namespace and cgroup.
//! May touch: one raw or packet socket, or one TUN device, in its own network namespace.
//! Never: sends more than it is told to; knows what the bytes mean: whoever calls has made them.
#![expect(
    unsafe_code,
    reason = "socket2 takes a packet socket's address, and the kernel a TUN device's name, as raw memory only"
)]

use std::fs::OpenOptions;
use std::io::{self, ErrorKind, Write};
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use nix::libc;
use nix::net::if_::if_nametoindex;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::attempt::report;
use crate::xsk;

/// Where bytes are put in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Layer {
    /// A frame, by a packet socket
    Frame,
    /// A frame, by an XDP socket
    Xdp,
    /// An IP packet with its header, by a raw socket
    Packet,
    /// What follows the IP header, by a raw socket of the protocol
    Payload,
}

#[derive(Args)]
pub struct Send {
    /// What the bytes are
    #[arg(long, value_enum)]
    layer: Layer,
    /// The bytes, as hexadecimal digits
    #[arg(long, value_name = "HEX")]
    bytes: String,
    /// Where a packet or payload goes
    #[arg(long, value_name = "ADDRESS:0")]
    to: Option<SocketAddr>,
    /// IP protocol of a payload
    #[arg(long, default_value_t = 17)]
    protocol: i32,
    /// By which interface a frame leaves
    #[arg(long, default_value = "eth0")]
    interface: String,
    /// How often
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    count: u32,
}

impl Send {
    pub fn run(self) -> Result<()> {
        let bytes = unhex(&self.bytes)?;
        report(|attempt| {
            if let Layer::Xdp = self.layer {
                for _ in 0..self.count {
                    attempt.sent += xsk::send(&self.interface, &bytes)? as u64;
                }
                return Ok(());
            }
            let (socket, to) = match (self.layer, self.to) {
                (Layer::Frame, _) => (packet_socket()?, link(&self.interface)?),
                (Layer::Packet, Some(to)) => (raw(to, libc::IPPROTO_RAW, true)?, to.into()),
                (Layer::Payload, Some(to)) => (raw(to, self.protocol, false)?, to.into()),
                (Layer::Xdp | Layer::Packet | Layer::Payload, _) => return Err(ErrorKind::InvalidInput.into()),
            };
            for _ in 0..self.count {
                attempt.sent += socket.send_to(&bytes, &to)? as u64;
            }
            Ok(())
        })
    }
}

fn raw(to: SocketAddr, protocol: i32, header: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(to), Type::RAW, Some(Protocol::from(protocol)))?;
    match (header, to) {
        (true, SocketAddr::V4(_)) => socket.set_header_included_v4(true)?,
        (true, SocketAddr::V6(_)) => socket.set_header_included_v6(true)?,
        (false, _) => {}
    }
    Ok(socket)
}

/// Takes every frame.
pub fn packet_socket() -> io::Result<Socket> {
    Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(i32::from(every_protocol()))))
}

/// `ETH_P_ALL`, in network order.
const fn every_protocol() -> u16 {
    (libc::ETH_P_ALL as u16).to_be()
}

/// The interface as a packet socket's address.
pub fn link(interface: &str) -> io::Result<SockAddr> {
    let index = if_nametoindex(interface)?;
    // SAFETY: the storage is larger than a sockaddr_ll and aligned for any address; the length says how much of it is filled in.
    let ((), address) = unsafe {
        SockAddr::try_init(|storage, length| {
            let link = storage.cast::<libc::sockaddr_ll>();
            (*link).sll_family = libc::AF_PACKET as u16;
            (*link).sll_ifindex = i32::try_from(index).unwrap_or(0);
            (*link).sll_protocol = every_protocol();
            *length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
            Ok(())
        })
    }?;
    Ok(address)
}

#[derive(Args)]
pub struct Sniff {
    /// Look for frames that hold these bytes, as hexadecimal digits
    #[arg(long, value_name = "HEX")]
    holds: String,
    /// Look for so long
    #[arg(long, default_value_t = 1000)]
    timeout_ms: u64,
}

impl Sniff {
    /// ok with the number of bytes, or ETIMEDOUT.
    pub fn run(self) -> Result<()> {
        let wanted = unhex(&self.holds)?;
        let socket = packet_socket()?;
        weir_tests::report::Report::Listening { address: SocketAddr::from(([0, 0, 0, 0], 0)) }.print()?;
        report(|attempt| {
            let deadline = Instant::now() + Duration::from_millis(self.timeout_ms);
            let mut buffer = vec![0; 70_000];
            loop {
                let left = deadline.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    return Err(ErrorKind::TimedOut.into());
                }
                socket.set_read_timeout(Some(left))?;
                let length = io::Read::read(&mut &socket, &mut buffer)?;
                let frame = buffer.get(..length).unwrap_or_default();
                if frame.windows(wanted.len().max(1)).any(|part| part == wanted) {
                    attempt.received = length as u64;
                    return Ok(());
                }
            }
        })
    }
}

#[derive(Args)]
pub struct Tun {
    /// An IP packet that comes out of the device, as hexadecimal digits
    #[arg(long, value_name = "HEX")]
    bytes: String,
}

impl Tun {
    /// Makes a TUN device, raises it, and lets one packet come out of it: the namespace's kernel forwards it.
    pub fn run(self) -> Result<()> {
        let bytes = unhex(&self.bytes)?;
        std::fs::write("/proc/sys/net/ipv4/ip_forward", "1")?;
        report(|attempt| {
            let mut device = OpenOptions::new().read(true).write(true).open("/dev/net/tun")?;
            create(&device)?;
            attempt.sent = device.write(&bytes)? as u64;
            // The packet is on its way when the write returns; the device goes with its descriptor.
            Ok(())
        })
    }
}

/// `TUNSETIFF`, then `SIOCSIFFLAGS` with IFF_UP (linux/if_tun.h, netdevice(7)).
fn create(device: &std::fs::File) -> io::Result<()> {
    const TUNSETIFF: libc::Ioctl = 0x4004_54ca;
    // SAFETY: an ifreq of zeros is a valid one.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"weirtun0") {
        *to = (*from).cast_signed();
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI) as libc::c_short;
    // SAFETY: both calls take a pointer to an ifreq, which lives here.
    if unsafe { libc::ioctl(device.as_raw_fd(), TUNSETIFF, &raw mut request) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
    request.ifr_ifru.ifru_flags = libc::IFF_UP as libc::c_short;
    // SAFETY: as above.
    if unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// The bytes of hexadecimal digits.
pub fn unhex(text: &str) -> Result<Vec<u8>> {
    if !text.len().is_multiple_of(2) || !text.is_ascii() {
        bail!("an odd number of hexadecimal digits");
    }
    (0..text.len()).step_by(2).map(|at| Ok(u8::from_str_radix(text.get(at..at + 2).unwrap_or_default(), 16)?)).collect()
}
