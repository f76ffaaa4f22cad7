//! Lives: weir-probe, the verb that does as it is told.
//! Called by: main, after the move into namespace and cgroup.
//! May touch: sockets of its namespace; standard input and output.
//! Never: holds more than [`AT_ONCE`] openings at a time; outlives its standard input.
//!
//! Servers answer with the address they saw the client by, so that a client knows whether its own arrived.

use std::collections::BTreeMap;
use std::io::{self, BufRead, Write};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::Result;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::AbortHandle;
use tokio::time::timeout;
use weir_tests::report::error_name;
use weir_tests::worker::{Opening, Order, Said, Transport};

/// Openings under way; more of them wait their turn.
const AT_ONCE: usize = 300;
/// Connections that may wait to be accepted.
const BACKLOG: i32 = 1024;
/// How long a server waits for a client's question.
const SERVER_PATIENCE: Duration = Duration::from_secs(10);
const QUESTION: &[u8] = b"who am I?\n";

pub fn run() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (give, mut orders) = mpsc::unbounded_channel();
    thread::spawn(move || {
        let lines = io::stdin().lock().lines().map_while(Result::ok);
        let mut orders = lines.filter_map(|line| serde_json::from_str::<Order>(&line).ok());
        while orders.next().is_some_and(|order| give.send(order).is_ok()) {}
    });
    runtime.block_on(async {
        let turns = Arc::new(Semaphore::new(AT_ONCE));
        let mut served = BTreeMap::new();
        while let Some(order) = orders.recv().await {
            match order {
                Order::Serve { ports } => {
                    stop(&mut served, |port| !ports.contains(port));
                    // What was told to stop lets go of its port at the runtime's next turn.
                    tokio::task::yield_now().await;
                    let new: Vec<_> = ports.into_iter().filter(|port| !served.contains_key(port)).collect();
                    say(&Said::Serving {
                        faults: new.into_iter().filter_map(|port| serve(port, &mut served)).collect(),
                    })?;
                }
                Order::Try { openings } => openings.into_iter().for_each(|opening| {
                    let turns = Arc::clone(&turns);
                    tokio::spawn(async move {
                        let _turn = turns.acquire().await;
                        let patience = Duration::from_millis(opening.patience_ms);
                        let done = timeout(patience, open(&opening)).await;
                        let result = match done {
                            Ok(Ok(())) => "ok".to_owned(),
                            Ok(Err(error)) if error.kind() == io::ErrorKind::InvalidData => error.to_string(),
                            Ok(Err(error)) => error_name(&error),
                            Err(_) => "ETIMEDOUT".to_owned(),
                        };
                        // Nobody listens any more: then this process is about to end too.
                        drop(say(&Said::Tried { id: opening.id, result }));
                    });
                }),
            }
        }
        Ok(())
    })
}

fn say(said: &Said) -> io::Result<()> {
    let mut out = io::stdout().lock();
    serde_json::to_writer(&mut out, said)?;
    out.write_all(b"\n")?;
    out.flush()
}

fn stop(served: &mut BTreeMap<(Transport, u16), AbortHandle>, gone: impl Fn(&(Transport, u16)) -> bool) {
    served.retain(|port, task| {
        let keep = !gone(port);
        if !keep {
            task.abort();
        }
        keep
    });
}

/// Serves a port on every address of both families. The fault, if there is one.
fn serve((transport, port): (Transport, u16), served: &mut BTreeMap<(Transport, u16), AbortHandle>) -> Option<String> {
    let task = match transport {
        Transport::Udp => datagrams(port).map(|socket| tokio::spawn(answer(socket))),
        Transport::Tcp | Transport::Sctp => listener(transport, port).map(|listener| tokio::spawn(accept(listener))),
    };
    match task {
        Ok(task) => drop(served.insert((transport, port), task.abort_handle())),
        Err(error) => return Some(format!("{transport:?} {port}: {error}")),
    }
    None
}

fn listener(transport: Transport, port: u16) -> io::Result<TcpListener> {
    let socket = socket(transport, IpAddr::V6(Ipv6Addr::UNSPECIFIED))?;
    socket.set_only_v6(false)?;
    socket.set_reuse_address(true)?;
    socket.bind(&SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)).into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

fn datagrams(port: u16) -> io::Result<UdpSocket> {
    let socket = socket(Transport::Udp, IpAddr::V6(Ipv6Addr::UNSPECIFIED))?;
    socket.set_only_v6(false)?;
    socket.bind(&SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)).into())?;
    UdpSocket::from_std(socket.into())
}

fn socket(transport: Transport, ip: IpAddr) -> io::Result<Socket> {
    let (kind, protocol) = match transport {
        Transport::Tcp => (Type::STREAM, Protocol::TCP),
        Transport::Udp => (Type::DGRAM, Protocol::UDP),
        Transport::Sctp => (Type::STREAM, Protocol::SCTP),
    };
    let socket = Socket::new(if ip.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 }, kind, Some(protocol))?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

async fn accept(listener: TcpListener) {
    loop {
        let Ok((mut stream, peer)) = listener.accept().await else { continue };
        tokio::spawn(timeout(SERVER_PATIENCE, async move {
            let mut question = [0; QUESTION.len()];
            if stream.read_exact(&mut question).await.is_ok() {
                // Whether it arrives is what the client tells.
                drop(stream.write_all(seen(peer).as_bytes()).await);
                // The client closes first: it is the end with ports to spare.
                drop(stream.read(&mut question).await);
            }
        }));
    }
}

async fn answer(socket: UdpSocket) {
    let mut question = [0; 512];
    loop {
        let Ok((_, peer)) = socket.recv_from(&mut question).await else { continue };
        drop(socket.send_to(seen(peer).as_bytes(), peer).await);
    }
}

/// A client as its server sees it.
fn seen(peer: SocketAddr) -> String {
    SocketAddr::new(peer.ip().to_canonical(), peer.port()).to_string()
}

/// Opens, asks and hears the answer.
async fn open(opening: &Opening) -> io::Result<()> {
    let socket = socket(opening.transport, opening.from)?;
    socket.bind(&SocketAddr::new(opening.from, 0).into())?;
    let mut answer = [0; 128];
    let (local, length) = match opening.transport {
        Transport::Udp => {
            let socket = UdpSocket::from_std(socket.into())?;
            socket.send_to(QUESTION, opening.to).await?;
            (socket.local_addr()?, socket.recv(&mut answer).await?)
        }
        Transport::Tcp | Transport::Sctp => {
            let mut stream = connect(socket, opening.to).await?;
            stream.write_all(QUESTION).await?;
            (stream.local_addr()?, stream.read(&mut answer).await?)
        }
    };
    let (ours, theirs) = (seen(local), String::from_utf8_lossy(answer.get(..length).unwrap_or_default()).into_owned());
    let wrong = || io::Error::new(io::ErrorKind::InvalidData, format!("came from {ours}, seen as {theirs:?}"));
    if ours == theirs { Ok(()) } else { Err(wrong()) }
}

/// As `TcpSocket::connect`, for any socket of connections.
async fn connect(socket: Socket, to: SocketAddr) -> io::Result<TcpStream> {
    match socket.connect(&to.into()) {
        Ok(()) => {}
        Err(error) if error.raw_os_error() == Some(nix::libc::EINPROGRESS) => {}
        Err(error) => return Err(error),
    }
    let stream = TcpStream::from_std(socket.into())?;
    stream.writable().await?;
    match stream.take_error()? {
        Some(error) => Err(error),
        None => Ok(stream),
    }
}
