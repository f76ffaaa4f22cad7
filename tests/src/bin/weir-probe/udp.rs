//! Lives: weir-probe, its UDP verbs that wait for something.
//! Called by: main, after the move into namespace and cgroup.
//! May touch: UDP sockets.
//! Never: waits longer than its options say.

use std::collections::HashSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Args;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use weir_tests::report::{Attempt, Report, Served, error_name};

use crate::{Bound, End, milliseconds};

/// The largest datagram.
const LARGEST: usize = 65_535;
/// Asked for, so that bursts wait rather than vanish; the system may give less.
const RECEIVE_BUFFER: usize = 4 << 20;

#[derive(Args)]
pub struct Serve {
    /// Listen here; may be given several times
    #[arg(long, required = true, value_name = "ADDRESS:PORT")]
    listen: Vec<SocketAddr>,
    /// Only count, send nothing back
    #[arg(long)]
    silent: bool,
    /// Answer from this port instead of the one asked
    #[arg(long, value_name = "PORT")]
    reply_from: Option<u16>,
    /// Answer this much later
    #[arg(long, default_value_t = 0)]
    delay_ms: u64,
    /// Join this group
    #[arg(long, value_name = "ADDRESS")]
    join: Option<IpAddr>,
    /// UDP-Lite instead of UDP
    #[arg(long)]
    lite: bool,
    #[command(flatten)]
    bound: Bound,
}

/// What is counted while serving: the summary, and which sequence numbers were seen from whom.
#[derive(Default)]
struct Count {
    served: Served,
    seen: HashSet<(SocketAddr, u64)>,
}

impl Serve {
    pub fn run(self) -> Result<()> {
        let end = End::new(&self.bound)?;
        let count = Mutex::new(Count::default());
        let sockets = self.listen.iter().map(|address| self.open(*address)).collect::<Result<Vec<_>>>()?;
        thread::scope(|scope| {
            for (socket, answer) in &sockets {
                scope.spawn(|| self.receive(socket, answer.as_ref(), &end, &count));
            }
        });
        let served = count.lock().unwrap_or_else(PoisonError::into_inner).served.clone();
        Ok(Report::Served(served).print()?)
    }

    /// The socket that listens, and the other one that answers if told so.
    fn open(&self, address: SocketAddr) -> Result<(UdpSocket, Option<UdpSocket>)> {
        let bind = |address| self.bind(address).with_context(|| format!("listening on {address}"));
        let socket = bind(address)?;
        // Less than asked for is fine.
        drop(SockRef::from(&socket).set_recv_buffer_size(RECEIVE_BUFFER));
        socket.set_read_timeout(Some(Duration::from_millis(50)))?;
        let answer = self.reply_from.map(|port| bind(SocketAddr::new(address.ip(), port))).transpose()?;
        Report::Listening { address: socket.local_addr()? }.print()?;
        Ok((socket, answer))
    }

    fn bind(&self, address: SocketAddr) -> io::Result<UdpSocket> {
        let protocol = if self.lite { Protocol::UDPLITE } else { Protocol::UDP };
        let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(protocol))?;
        socket.bind(&address.into())?;
        match self.join {
            Some(IpAddr::V4(group)) => socket.join_multicast_v4(&group, &Ipv4Addr::UNSPECIFIED)?,
            Some(IpAddr::V6(group)) => socket.join_multicast_v6(&group, 0)?,
            None => {}
        }
        Ok(socket.into())
    }

    fn receive(&self, socket: &UdpSocket, answer: Option<&UdpSocket>, end: &End, count: &Mutex<Count>) {
        let mut buffer = vec![0; LARGEST];
        while !end.reached() {
            let Ok((length, peer)) = socket.recv_from(&mut buffer) else { continue };
            let datagram = buffer.get(..length).unwrap_or_default();
            count.lock().unwrap_or_else(PoisonError::into_inner).note(peer, datagram, end.now_ms());
            if !self.silent {
                thread::sleep(Duration::from_millis(self.delay_ms));
                // Whether it arrives is what the client reports.
                drop(answer.unwrap_or(socket).send_to(datagram, peer));
            }
        }
    }
}

impl Count {
    fn note(&mut self, peer: SocketAddr, datagram: &[u8], now_ms: f64) {
        let number = datagram.first_chunk().map(|bytes| u64::from_be_bytes(*bytes));
        let fresh = number.is_none_or(|number| self.seen.insert((peer, number)));
        let client = self.served.clients.entry(peer.ip().to_canonical()).or_default();
        if client.packets == 0 {
            client.first_ms = now_ms;
        }
        client.last_ms = now_ms;
        client.packets += 1;
        client.bytes += datagram.len() as u64;
        client.repeated += u64::from(!fresh);
    }
}

#[derive(Args)]
pub struct Exchange {
    /// Send to this
    #[arg(long, value_name = "ADDRESS:PORT")]
    to: SocketAddr,
    /// Use this address of our own
    #[arg(long, value_name = "ADDRESS")]
    from: Option<IpAddr>,
    /// Use `--from` although it is nobody's here: IP_TRANSPARENT (IPv4, privileged), IPV6_FREEBIND (for everybody)
    #[arg(long, requires = "from")]
    foreign: bool,
    /// Use this port of our own
    #[arg(long, default_value_t = 0)]
    port: u16,
    /// Connect the socket first
    #[arg(long)]
    connected: bool,
    /// To a broadcast address
    #[arg(long)]
    broadcast: bool,
    /// Bytes of the datagram
    #[arg(long, default_value_t = 64)]
    bytes: usize,
    /// Wait this long for the answer
    #[arg(long, default_value_t = 500)]
    timeout_ms: u64,
}

impl Exchange {
    pub fn run(self) -> Result<()> {
        let start = Instant::now();
        let mut attempt = Attempt { pid: std::process::id(), ..Attempt::default() };
        let outcome = self.talk(&mut attempt);
        attempt.elapsed_ms = milliseconds(start.elapsed());
        attempt.result = outcome.map_or_else(|error| error_name(&error), |()| "ok".to_owned());
        Ok(Report::Attempt(attempt).print()?)
    }

    fn bind(&self) -> io::Result<UdpSocket> {
        let address = SocketAddr::new(self.from.unwrap_or(any(self.to)), self.port);
        let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
        match (self.foreign, address) {
            (true, SocketAddr::V4(_)) => socket.set_ip_transparent_v4(true)?,
            (true, SocketAddr::V6(_)) => socket.set_freebind_v6(true)?,
            (false, _) => {}
        }
        socket.bind(&address.into())?;
        Ok(socket.into())
    }

    fn talk(&self, attempt: &mut Attempt) -> io::Result<()> {
        let socket = self.bind()?;
        socket.set_read_timeout(Some(Duration::from_millis(self.timeout_ms)))?;
        socket.set_broadcast(self.broadcast)?;
        attempt.local = socket.local_addr().ok();
        let mut buffer = vec![0; LARGEST];
        let datagram = buffer.get(..self.bytes.min(LARGEST)).unwrap_or_default();
        let sent = if self.connected {
            socket.connect(self.to)?;
            socket.send(datagram)?
        } else {
            socket.send_to(datagram, self.to)?
        };
        attempt.sent = sent as u64;
        // An unconnected socket takes an answer from any port: the filter under test is Weir's, not ours.
        attempt.received = socket.recv(&mut buffer)? as u64;
        Ok(())
    }
}

/// The address that means "any of mine" in the family of `to`.
pub fn any(to: SocketAddr) -> IpAddr {
    match to {
        SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        SocketAddr::V6(_) => IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED),
    }
}
