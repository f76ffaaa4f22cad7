//! Lives: weir-probe, its verbs for connections that are held open.
//! Called by: main, after the move into namespace and cgroup.
//! May touch: TCP and connected UDP sockets; one page of its own memory.
//! Never: holds more than [`MOST`] connections; waits longer than its options say.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Read};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, RawFd};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use clap::Args;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use socket2::{Domain, Protocol, Socket, Type};
use weir_tests::report::{Report, Withdrawn, error_name};

use crate::{Bound, End, milliseconds};

const MOST: usize = 20_000;
/// How often the end is looked for while nothing happens.
const LOOK: Duration = Duration::from_millis(20);

/// Opens connections, says so, and waits for their ends.
#[derive(Args)]
pub struct Hold {
    /// Connect to this; an IPv4-mapped IPv6 address uses an IPv6 socket
    #[arg(long, value_name = "ADDRESS:PORT")]
    to: SocketAddr,
    /// How many
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=MOST as i64))]
    connections: u32,
    /// Connected UDP sockets instead, which send one datagram each
    #[arg(long)]
    udp: bool,
    #[command(flatten)]
    bound: Bound,
}

/// Accepts connections and waits for their ends.
#[derive(Args)]
pub struct Keep {
    /// Listen here; may be given several times
    #[arg(long, required = true, value_name = "ADDRESS:PORT")]
    listen: Vec<SocketAddr>,
    #[command(flatten)]
    bound: Bound,
}

/// Connects again and again from several threads, and holds what is let through.
#[derive(Args)]
pub struct Pile {
    /// Connect to this
    #[arg(long, value_name = "ADDRESS:PORT")]
    to: SocketAddr,
    /// How many threads connect at the same time
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=64))]
    threads: u32,
    /// How many connections each thread holds at most
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=300))]
    each: u32,
    #[command(flatten)]
    bound: Bound,
}

/// A connection that is held, and whether its end has been seen.
enum Held {
    Tcp(TcpStream),
    Udp(UdpSocket),
}

impl Held {
    fn open(hold: &Hold) -> io::Result<Held> {
        if hold.udp {
            let any = if hold.to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
            let socket = UdpSocket::bind(any)?;
            socket.connect(hold.to)?;
            socket.set_nonblocking(true)?;
            socket.send(b"held")?;
            return Ok(Held::Udp(socket));
        }
        let socket = Socket::new(Domain::for_address(hold.to), Type::STREAM, Some(Protocol::TCP))?;
        socket.connect_timeout(&hold.to.into(), Duration::from_secs(5))?;
        socket.set_nonblocking(true)?;
        Ok(Held::Tcp(socket.into()))
    }

    /// How it ended; `None` while it has not. Reads all that has come: one is told of it only once.
    fn ended(&mut self) -> Option<String> {
        let mut buffer = [0; 512];
        loop {
            let read = match self {
                Held::Tcp(stream) => stream.read(&mut buffer),
                Held::Udp(socket) => socket.recv(&mut buffer).map(|length| length.max(1)),
            };
            match read {
                Ok(0) => return Some("closed".to_owned()),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return None,
                Err(error) => return Some(error_name(&error)),
            }
        }
    }

    fn descriptor(&self) -> RawFd {
        match self {
            Held::Tcp(stream) => stream.as_raw_fd(),
            Held::Udp(socket) => socket.as_raw_fd(),
        }
    }
}

impl Hold {
    pub fn run(self) -> Result<()> {
        let end = End::new(&self.bound)?;
        let mut held = Vec::new();
        for number in 1..=self.connections {
            held.push(Held::open(&self).with_context(|| format!("opening connection {number}"))?);
        }
        Report::Holding { connections: held.len() as u64 }.print()?;
        watch(&end, &[], held)
    }
}

impl Pile {
    pub fn run(self) -> Result<()> {
        let end = End::new(&self.bound)?;
        let seen = Mutex::new(Withdrawn::default());
        Report::Holding { connections: 0 }.print()?;
        thread::scope(|scope| {
            for _ in 0..self.threads {
                scope.spawn(|| self.worker(&end, &seen));
            }
        });
        let seen = seen.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Ok(Report::Withdrawn(seen).print()?)
    }

    fn worker(&self, end: &End, seen: &Mutex<Withdrawn>) {
        let hold = Hold { to: self.to, connections: 1, udp: false, bound: self.bound.clone() };
        let mut held: Vec<Held> = Vec::new();
        let mut own = Withdrawn::default();
        while !end.reached() {
            held.retain_mut(|one| {
                one.ended().is_none_or(|result| {
                    note(&mut own, result);
                    false
                })
            });
            if held.len() >= self.each as usize {
                thread::sleep(Duration::from_millis(1));
                continue;
            }
            match Held::open(&hold) {
                Ok(one) => {
                    own.held += 1;
                    held.push(one);
                }
                Err(error) => {
                    note(&mut own, format!("connect {}", error_name(&error)));
                    // A refusal costs nothing, and a million of them prove no more than a thousand.
                    thread::sleep(Duration::from_millis(2));
                }
            }
        }
        held.retain_mut(|one| {
            one.ended().is_none_or(|result| {
                note(&mut own, result);
                false
            })
        });
        let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.held += own.held;
        seen.living += held.len() as u64;
        for (result, count) in own.ended {
            *seen.ended.entry(result).or_default() += count;
        }
    }
}

impl Keep {
    pub fn run(self) -> Result<()> {
        let end = End::new(&self.bound)?;
        let mut listeners = Vec::new();
        for address in &self.listen {
            let socket = Socket::new(Domain::for_address(*address), Type::STREAM, Some(Protocol::TCP))?;
            socket.set_reuse_address(true)?;
            socket.bind(&(*address).into()).with_context(|| format!("binding {address}"))?;
            // A burst of connections must not wait for a second try.
            socket.listen(4096)?;
            let listener = TcpListener::from(socket);
            listener.set_nonblocking(true)?;
            Report::Listening { address: listener.local_addr()? }.print()?;
            listeners.push(listener);
        }
        watch(&end, &listeners, Vec::new())
    }
}

/// Waits until every connection has ended, or the end; with listeners only until the end.
fn watch(end: &End, listeners: &[TcpListener], held: Vec<Held>) -> Result<()> {
    let mut room = Room::new(listeners)?;
    for one in held {
        room.hold(one)?;
    }
    let mut events = Events::with_capacity(1024);
    while !(end.reached() || room.living == 0 && listeners.is_empty()) {
        match room.poll.poll(&mut events, Some(LOOK)) {
            // A signal: the end is looked for at the top.
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            other => other?,
        }
        for event in &events {
            match listeners.get(event.token().0) {
                Some(listener) => room.accept(listener)?,
                None => room.look(event.token()),
            }
        }
    }
    room.seen.living = room.living as u64;
    Ok(Report::Withdrawn(room.seen).print()?)
}

/// Connections that are held. The listeners have the first tokens, then comes each place of `held`.
struct Room {
    poll: Poll,
    listeners: usize,
    held: Vec<Option<Held>>,
    /// Places whose connection has ended.
    free: Vec<usize>,
    living: usize,
    seen: Withdrawn,
}

impl Room {
    fn new(listeners: &[TcpListener]) -> Result<Self> {
        let poll = Poll::new()?;
        for (index, listener) in listeners.iter().enumerate() {
            poll.registry().register(&mut SourceFd(&listener.as_raw_fd()), Token(index), Interest::READABLE)?;
        }
        let (held, free) = (Vec::new(), Vec::new());
        Ok(Self { poll, listeners: listeners.len(), held, free, living: 0, seen: Withdrawn::default() })
    }

    fn hold(&mut self, one: Held) -> Result<()> {
        let place = self.free.pop().unwrap_or(self.held.len());
        let token = Token(self.listeners + place);
        self.poll.registry().register(&mut SourceFd(&one.descriptor()), token, Interest::READABLE)?;
        match self.held.get_mut(place) {
            Some(free) => *free = Some(one),
            None => self.held.push(Some(one)),
        }
        self.living += 1;
        self.seen.held += 1;
        Ok(())
    }

    /// Is told of a connection once for all that has come, so everybody who waits is let in.
    fn accept(&mut self, listener: &TcpListener) -> Result<()> {
        while self.living < MOST
            && let Ok((stream, _)) = listener.accept()
        {
            stream.set_nonblocking(true)?;
            self.hold(Held::Tcp(stream))?;
        }
        Ok(())
    }

    fn look(&mut self, token: Token) {
        let Some(place) = token.0.checked_sub(self.listeners) else { return };
        let Some(one) = self.held.get_mut(place) else { return };
        if let Some(result) = one.as_mut().and_then(Held::ended) {
            note(&mut self.seen, result);
            *one = None;
            self.free.push(place);
            self.living -= 1;
        }
    }
}

fn note(seen: &mut Withdrawn, result: String) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map(milliseconds).unwrap_or_default();
    if seen.ended.is_empty() {
        seen.first_unix_ms = now;
    }
    seen.last_unix_ms = now;
    let ended: &mut BTreeMap<String, u64> = &mut seen.ended;
    *ended.entry(result).or_default() += 1;
}
