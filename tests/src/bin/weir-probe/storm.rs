//! Lives: weir-probe, its verbs that try many ends again and again and only count.
//! Called by: main, after the move into namespace and cgroup.
//! May touch: TCP and UDP sockets.
//! Never: leaves a connection open; prints a line for each try.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::AsFd;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Args;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use weir_tests::report::{AT_LAST, Report, Stormed, error_name};

use crate::{Bound, End};

/// How often the end is looked for while nothing happens.
const LOOK: u16 = 20;

/// Tries ends in turn, from several threads, over TCP and UDP.
#[derive(Args)]
pub struct Storm {
    /// Try this; may be given several times
    #[arg(long, required = true, value_name = "ADDRESS:PORT")]
    to: Vec<SocketAddr>,
    /// Use this address of our own for its family
    #[arg(long, value_name = "ADDRESS")]
    from: Vec<IpAddr>,
    /// How many threads, each for itself
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=32))]
    threads: u32,
    /// Give a try up after this long
    #[arg(long, default_value_t = 200)]
    timeout_ms: u64,
    /// Send a datagram again that has had no answer for so long, within the same try; else once only
    #[arg(long)]
    again_ms: Option<u64>,
    /// Rest between two tries of a thread
    #[arg(long, default_value_t = 5)]
    pause_ms: u64,
    #[command(flatten)]
    bound: Bound,
}

impl Storm {
    pub fn run(self) -> Result<()> {
        let end = End::new(&self.bound)?;
        let seen = Mutex::new(Stormed::default());
        thread::scope(|scope| {
            for number in 0..self.threads {
                let (this, end, seen) = (&self, &end, &seen);
                scope.spawn(move || this.worker(number as usize, end, seen));
            }
        });
        let seen = seen.into_inner().unwrap_or_else(PoisonError::into_inner);
        Ok(Report::Stormed(seen).print()?)
    }

    /// Every thread begins elsewhere, so that at any time all ends are tried.
    fn worker(&self, number: usize, end: &End, seen: &Mutex<Stormed>) {
        let mut own = Stormed::default();
        let skipped = number * self.to.len() / self.threads.max(1) as usize;
        for to in self.to.iter().cycle().skip(skipped) {
            if end.reached() {
                break;
            }
            for protocol in ["tcp", "udp"] {
                let outcome = if protocol == "tcp" { self.connect(*to).map(|()| false) } else { self.exchange(*to) };
                let said = outcome.map(|again| if again { AT_LAST } else { "ok" }.to_owned());
                own.count(protocol, *to, &said.unwrap_or_else(|error| error_name(&error)));
            }
            thread::sleep(Duration::from_millis(self.pause_ms));
        }
        let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.add(&own);
    }

    fn socket(&self, to: SocketAddr, kind: Type, protocol: Protocol) -> io::Result<Socket> {
        let socket = Socket::new(Domain::for_address(to), kind, Some(protocol))?;
        if let Some(from) = self.from.iter().find(|from| from.is_ipv4() == to.is_ipv4()) {
            socket.bind(&SocketAddr::new(*from, 0).into())?;
        }
        Ok(socket)
    }

    fn connect(&self, to: SocketAddr) -> io::Result<()> {
        let socket = self.socket(to, Type::STREAM, Protocol::TCP)?;
        // Reset at close: no port waits, however many tries there are.
        socket.set_linger(Some(Duration::ZERO))?;
        socket.connect_timeout(&to.into(), Duration::from_millis(self.timeout_ms))
    }

    /// Whether it took more than one datagram.
    fn exchange(&self, to: SocketAddr) -> io::Result<bool> {
        let socket = self.socket(to, Type::DGRAM, Protocol::UDP)?;
        let timeout = Duration::from_millis(self.timeout_ms);
        let again_after = self.again_ms.map_or(timeout, Duration::from_millis);
        socket.set_read_timeout(Some(again_after.min(timeout)))?;
        let socket = UdpSocket::from(socket);
        let (began, mut again) = (Instant::now(), false);
        loop {
            socket.send_to(b"storm", to)?;
            match socket.recv(&mut [0; 16]) {
                Err(error) if error.kind() == ErrorKind::WouldBlock && began.elapsed() < timeout => again = true,
                outcome => return outcome.map(|_| again),
            }
        }
    }
}

/// Takes every connection and answers every datagram, and counts them.
#[derive(Args)]
pub struct Serve {
    /// Listen here, over TCP and UDP; may be given several times
    #[arg(long, required = true, value_name = "ADDRESS:PORT")]
    listen: Vec<SocketAddr>,
    #[command(flatten)]
    bound: Bound,
}

impl Serve {
    pub fn run(self) -> Result<()> {
        let end = End::new(&self.bound)?;
        let open = |address: &SocketAddr| -> Result<(TcpListener, UdpSocket, SocketAddr)> {
            let tcp = TcpListener::bind(address).with_context(|| format!("listening on {address}"))?;
            // std asks for a short queue, and a lost SYN costs its client a second.
            SockRef::from(&tcp).listen(4096)?;
            tcp.set_nonblocking(true)?;
            let udp = UdpSocket::bind(address).with_context(|| format!("listening on {address}"))?;
            udp.set_nonblocking(true)?;
            Report::Listening { address: *address }.print()?;
            Ok((tcp, udp, *address))
        };
        let sockets = self.listen.iter().map(open).collect::<Result<Vec<_>>>()?;
        let mut seen = Stormed::default();
        while !end.reached() {
            let mut watched: Vec<PollFd<'_>> = (sockets.iter())
                .flat_map(|(tcp, udp, _)| [tcp.as_fd(), udp.as_fd()])
                .map(|socket| PollFd::new(socket, PollFlags::POLLIN))
                .collect();
            if poll(&mut watched, PollTimeout::from(LOOK)).unwrap_or(0) == 0 {
                continue;
            }
            for (tcp, udp, address) in &sockets {
                serve_tcp(tcp, *address, &mut seen);
                serve_udp(udp, *address, &mut seen);
            }
        }
        Ok(Report::Stormed(seen).print()?)
    }
}

fn serve_tcp(listener: &TcpListener, address: SocketAddr, seen: &mut Stormed) {
    loop {
        match listener.accept() {
            Ok(_) => seen.count("tcp", address, "ok"),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return,
            // The client was gone before it was taken.
            Err(_) => {}
        }
    }
}

fn serve_udp(socket: &UdpSocket, address: SocketAddr, seen: &mut Stormed) {
    let mut buffer = [0; 64];
    while let Ok((length, peer)) = socket.recv_from(&mut buffer) {
        seen.count("udp", address, "ok");
        if let Err(error) = socket.send_to(buffer.get(..length).unwrap_or_default(), peer) {
            seen.count("udp", address, &format!("answering: {}", error_name(&error)));
        }
    }
}
