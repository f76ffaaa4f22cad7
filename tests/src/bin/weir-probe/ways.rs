//! Lives: weir-probe, the less usual ways by which a process reaches a peer.
//! Called by: main, after the move into namespace and cgroup.
//! May touch: one socket, or one ring of io_uring and its socket.
//! Never: calls `connect()` where the way is another; sends more than a few packets; waits longer than its options say.

use std::io::{self, IoSlice, Read, Write};
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::time::Duration;

use anyhow::Result;
use clap::{Args, ValueEnum};
use nix::libc;
use nix::sys::socket::sockopt::{TcpFastOpenConnect, UdpGsoSegment};
use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrStorage, sendmmsg, sendto, setsockopt};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::attempt::{WORDS, report};
use crate::uring::{self, Ring};

/// A way to reach a peer.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum How {
    /// TCP Fast Open: `sendto()` with `MSG_FASTOPEN` instead of `connect()`
    FastOpen,
    /// TCP Fast Open: `connect()` that only remembers, then the first write
    FastOpenConnect,
    /// io_uring's connect
    Uring,
    /// The same, submitted by the kernel's own thread
    UringSqpoll,
    /// The same with a registered file
    UringFixed,
    /// MPTCP
    Mptcp,
    /// Several datagrams by one `sendmmsg()`
    Sendmmsg,
    /// One buffer that the kernel cuts into datagrams
    Gso,
    /// UDP-Lite
    Udplite,
}

#[derive(Args)]
pub struct Reach {
    /// The way
    #[arg(long, value_enum)]
    how: How,
    /// The peer
    #[arg(long, value_name = "ADDRESS:PORT")]
    to: SocketAddr,
    /// Connect a datagram socket first
    #[arg(long)]
    connected: bool,
    /// Keep the connection, exchanging a few bytes every 50 ms, for this long
    #[arg(long, default_value_t = 0)]
    hold_ms: u64,
    /// Wait this long for the answer
    #[arg(long, default_value_t = 700)]
    timeout_ms: u64,
}

/// Again after an interruption: the kernel takes a ring of io_uring down by a signal of its own, and a socket with a time limit does
/// not go on waiting by itself.
fn read(socket: &mut Socket, buffer: &mut [u8]) -> io::Result<u64> {
    loop {
        match socket.read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return Ok(result? as u64),
        }
    }
}

impl Reach {
    pub fn run(self) -> Result<()> {
        report(|attempt| {
            let mut socket = self.open()?;
            socket.set_read_timeout(Some(Duration::from_millis(self.timeout_ms)))?;
            socket.set_write_timeout(Some(Duration::from_millis(self.timeout_ms)))?;
            attempt.sent = self.start(&socket)?;
            let mut buffer = [0; 2048];
            attempt.received = read(&mut socket, &mut buffer)?;
            for _ in 0..self.hold_ms / 50 {
                std::thread::sleep(Duration::from_millis(50));
                socket.write_all(WORDS)?;
                attempt.received += read(&mut socket, &mut buffer)?;
            }
            attempt.sent = attempt.received.max(attempt.sent);
            Ok(())
        })
    }

    fn open(&self) -> io::Result<Socket> {
        let domain = Domain::for_address(self.to);
        match self.how {
            How::FastOpen | How::FastOpenConnect | How::Uring | How::UringSqpoll | How::UringFixed => {
                Socket::new(domain, Type::STREAM, Some(Protocol::TCP))
            }
            How::Mptcp => Socket::new(domain, Type::STREAM, Some(Protocol::MPTCP)),
            How::Sendmmsg | How::Gso => Socket::new(domain, Type::DGRAM, Some(Protocol::UDP)),
            How::Udplite => Socket::new(domain, Type::DGRAM, Some(Protocol::UDPLITE)),
        }
    }

    /// Sends the first bytes, by the way asked for.
    fn start(&self, socket: &Socket) -> io::Result<u64> {
        let to = SockAddr::from(self.to);
        let timeout = Duration::from_millis(self.timeout_ms);
        match self.how {
            How::FastOpen => {
                let flags = MsgFlags::from_bits_retain(libc::MSG_FASTOPEN);
                Ok(sendto(socket.as_raw_fd(), WORDS, &SockaddrStorage::from(self.to), flags)? as u64)
            }
            How::FastOpenConnect => {
                setsockopt(socket, TcpFastOpenConnect, &true)?;
                socket.connect(&to)?;
                Ok(socket.send(WORDS)? as u64)
            }
            How::Uring => self.ring(Ring::Plain, socket),
            How::UringSqpoll => self.ring(Ring::Polled, socket),
            How::UringFixed => self.ring(Ring::Fixed, socket),
            How::Mptcp => {
                socket.connect_timeout(&to, timeout)?;
                Ok(socket.send(WORDS)? as u64)
            }
            How::Sendmmsg => self.several(socket, &to),
            How::Gso => {
                setsockopt(socket, UdpGsoSegment, &i32::try_from(WORDS.len()).unwrap_or(1))?;
                self.send(socket, &to, &WORDS.repeat(3))
            }
            How::Udplite => self.send(socket, &to, WORDS),
        }
    }

    fn ring(&self, ring: Ring, socket: &Socket) -> io::Result<u64> {
        uring::connect(ring, socket, &self.to.into(), Duration::from_millis(self.timeout_ms))?;
        Ok(socket.send(WORDS)? as u64)
    }

    fn send(&self, socket: &Socket, to: &SockAddr, bytes: &[u8]) -> io::Result<u64> {
        if !self.connected {
            return Ok(socket.send_to(bytes, to)? as u64);
        }
        socket.connect(to)?;
        Ok(socket.send(bytes)? as u64)
    }

    /// Three datagrams in one call; that fewer were taken is an error, as the call itself only says how many.
    fn several(&self, socket: &Socket, to: &SockAddr) -> io::Result<u64> {
        if self.connected {
            socket.connect(to)?;
        }
        let target = (!self.connected).then(|| SockaddrStorage::from(self.to));
        let messages = [[IoSlice::new(WORDS)], [IoSlice::new(WORDS)], [IoSlice::new(WORDS)]];
        let mut headers = MultiHeaders::preallocate(messages.len(), None);
        let targets = [target; 3];
        let sent = sendmmsg(socket.as_raw_fd(), &mut headers, &messages, targets, [], MsgFlags::empty())?;
        let total: usize = sent.map(|result| result.bytes).sum();
        if total == WORDS.len() * messages.len() { Ok(total as u64) } else { Err(io::ErrorKind::WriteZero.into()) }
    }
}
