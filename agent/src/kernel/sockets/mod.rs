//! Lives: agent, user space.
//! Called by: `revoke`, which lists the sockets of a network namespace and cuts some (`cuts`).
//! May touch: one sock_diag netlink socket per door; the sockets it is told to cut.
//! Never: asks for extended information, which waits for each socket's lock, but in [`Door::totals`], for who can wait; cuts a socket that is not the very one it was shown.
//!
//! Formats: `include/uapi/linux/inet_diag.h`. A v4-mapped connection of an IPv6 socket appears among the IPv6 ones. `SOCK_DESTROY`
//! waits for the socket's lock, so whoever calls [`Door::cut`] must be able to wait (`revoke::hands`). Before kernel 6.9 every
//! sock_diag call waits behind one that waits.

mod cuts;

pub use cuts::Cut;

use std::{io, net::IpAddr, os::fd::AsFd as _, time::Duration};

use netlink_packet_core::{
    DefaultNla, NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload, NetlinkSerializable, Nla as _,
};
use netlink_packet_sock_diag::{
    SockDiagMessage,
    inet::{ExtensionFlags, InetRequest, InetResponse, SocketId, StateFlags, nlas::Nla},
};
use netlink_sys::Socket;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::MsgFlags;
use weir_common::{
    addr::{Addr, Protocol},
    event::Totals,
};

use super::namespaces::Namespace;

/// `AF_INET` and `AF_INET6` (include/linux/socket.h).
const FAMILIES: [u8; 2] = [2, 10];
/// `INET_DIAG_CGROUP_ID`, sent with every full socket since kernel 5.8.
const CGROUP_ID: u16 = 21;
/// Longest wait for the next part of a list: the kernel makes it while it is read.
const PATIENCE: Duration = Duration::from_secs(2);
/// The kernel fills up to 32 KiB at once if there is room.
const BUFFER: usize = 64 * 1024;
/// `recv` that does not wait.
const AT_ONCE: i32 = MsgFlags::MSG_DONTWAIT.bits();

/// The cookie that stands for whichever socket has these ends (`INET_DIAG_NOCOOKIE`).
const ANY: [u8; 8] = [0xff; 8];

/// TCP states (`include/net/tcp_states.h`) that matter here.
pub mod state {
    /// A connection that is open.
    pub const ESTABLISHED: u8 = 1;
    /// A handshake that a client has not sent the last word of. Has no cgroup of its own.
    pub const SYN_RECV: u8 = 3;
    /// The peer has said its last word, this side not.
    pub const CLOSE_WAIT: u8 = 8;
    /// A listener.
    pub const LISTEN: u8 = 10;
}

/// One socket, as the kernel shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Living {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// [`state`]; a UDP socket that is connected is ESTABLISHED.
    pub state: u8,
    /// This side.
    pub local: (Addr, u16),
    /// The other side.
    pub remote: (Addr, u16),
    /// Id of its cgroup; 0 where the kernel does not say.
    pub cgroup: u64,
    /// What names it to the kernel.
    name: Name,
}

/// What names a socket to the kernel: the very one it has shown, or whichever has these ends.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Name {
    family: u8,
    id: SocketId,
}

impl Living {
    /// The connection with these ends, whether or not there is one; `cookie` is its socket's, if that is known.
    #[must_use]
    pub fn known(protocol: Protocol, local: (Addr, u16), remote: (Addr, u16), cookie: Option<u64>) -> Self {
        let family = if local.0.as_v4().is_some() && remote.0.as_v4().is_some() { FAMILIES[0] } else { FAMILIES[1] };
        let id = SocketId {
            source_port: local.1,
            destination_port: remote.1,
            source_address: ip(local.0),
            destination_address: ip(remote.0),
            interface_id: 0,
            cookie: cookie.map_or(ANY, u64::to_ne_bytes),
        };
        Self { protocol, state: state::ESTABLISHED, local, remote, cgroup: 0, name: Name { family, id } }
    }

    /// Whether it stands for whichever socket has these ends.
    #[must_use]
    pub fn is_any(&self) -> bool {
        self.name.id.cookie == ANY
    }

    /// The socket's cookie, as events have it; all ones when it is not known.
    #[must_use]
    pub const fn cookie(&self) -> u64 {
        u64::from_ne_bytes(self.name.id.cookie)
    }
}

/// The way into one network namespace's sockets.
pub struct Door {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Door {
    /// Opens a door into `namespace`; it stays open when the namespace's processes are gone.
    ///
    /// # Errors
    /// The namespace cannot be entered, or there is no sock_diag.
    pub fn open(namespace: &Namespace) -> io::Result<Self> {
        let socket = namespace.door()?;
        Ok(Self { socket, sequence: 0, buffer: Vec::with_capacity(BUFFER) })
    }

    /// Hands over every socket of both families in one of `states` (bit 1 << state).
    ///
    /// # Errors
    /// The kernel refuses, or says something that cannot be read.
    pub fn list(&mut self, protocol: Protocol, states: u32, found: &mut dyn FnMut(Living)) -> io::Result<()> {
        for family in FAMILIES {
            let request = request(family, protocol, states, unspecified(family));
            self.send(SockDiagMessage::InetRequest(request), NLM_F_REQUEST | NLM_F_DUMP)?;
            self.receive(&mut |answer| {
                if let SockDiagMessage::InetResponse(response) = answer {
                    found(living(protocol, *response));
                }
            })?;
        }
        Ok(())
    }

    /// Hands over every TCP connection of both families that is open, or that the peer has closed, with the kernel's counters. The
    /// kernel takes each socket's lock to read them: a process that holds one keeps this call waiting.
    ///
    /// # Errors
    /// As [`Self::list`].
    pub fn totals(&mut self, found: &mut dyn FnMut(Living, Totals)) -> io::Result<()> {
        for family in FAMILIES {
            let states = 1 << state::ESTABLISHED | 1 << state::CLOSE_WAIT;
            let mut request = request(family, Protocol::TCP, states, unspecified(family));
            request.extensions = ExtensionFlags::INFO;
            self.send(SockDiagMessage::InetRequest(request), NLM_F_REQUEST | NLM_F_DUMP)?;
            self.receive(&mut |answer| {
                if let SockDiagMessage::InetResponse(response) = answer
                    && let Some(totals) = info(&response)
                {
                    found(living(Protocol::TCP, *response), totals);
                }
            })?;
        }
        Ok(())
    }

    fn send<T>(&mut self, message: T, flags: u16) -> io::Result<()>
    where
        T: NetlinkSerializable + std::fmt::Debug,
        NetlinkPayload<T>: From<T>,
    {
        let mut request = Vec::new();
        self.add(message, flags, &mut request);
        self.socket.send(&request, 0).map(drop)
    }

    /// Writes a message behind those that are to be sent with it.
    fn add<T>(&mut self, message: T, flags: u16, request: &mut Vec<u8>)
    where
        T: NetlinkSerializable + std::fmt::Debug,
        NetlinkPayload<T>: From<T>,
    {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        (header.flags, header.sequence_number) = (flags, self.sequence);
        let mut packet = NetlinkMessage::new(header, NetlinkPayload::from(message));
        packet.finalize();
        let start = request.len();
        request.resize(start + packet.buffer_len(), 0);
        packet.serialize(request.get_mut(start..).unwrap_or_default());
    }

    /// Reads answers up to the end of the list, or to the acknowledgement.
    fn receive(&mut self, take: &mut dyn FnMut(SockDiagMessage)) -> io::Result<()> {
        loop {
            self.fill()?;
            if self.read(take)? {
                return Ok(());
            }
        }
    }

    /// Receives the next part of an answer.
    fn fill(&mut self) -> io::Result<()> {
        self.buffer.clear();
        // Mostly it is there already: the kernel answers while it is asked.
        match self.socket.recv(&mut self.buffer, AT_ONCE) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.wait()?;
                self.socket.recv(&mut self.buffer, 0).map(drop)
            }
            other => other.map(drop),
        }
    }

    /// Reads what was received; whether that was the end.
    fn read(&self, take: &mut dyn FnMut(SockDiagMessage)) -> io::Result<bool> {
        for message in Messages(&self.buffer) {
            let message = message?;
            if message.header.sequence_number != self.sequence {
                // The rest of an answer that somebody stopped reading.
                continue;
            }
            #[expect(
                clippy::wildcard_enum_match_arm,
                reason = "the kernel may say more in future; nothing else is asked here"
            )]
            match message.payload {
                NetlinkPayload::InnerMessage(inner) => take(inner),
                NetlinkPayload::Done(_) => return Ok(true),
                NetlinkPayload::Error(error) if error.code.is_none() => return Ok(true),
                NetlinkPayload::Error(error) => return Err(error.to_io()),
                NetlinkPayload::Overrun(_) => return Err(io::Error::other("the list of sockets was overrun")),
                _ => {}
            }
        }
        Ok(false)
    }

    /// The answer to a request that waits for a lock comes before `send` returns, so an answer is never far away.
    fn wait(&self) -> io::Result<()> {
        let mut watched = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
        let timeout = PollTimeout::try_from(PATIENCE).unwrap_or(PollTimeout::MAX);
        match poll(&mut watched, timeout)? {
            0 => Err(io::Error::new(io::ErrorKind::TimedOut, "no answer from sock_diag")),
            _ => Ok(()),
        }
    }
}

/// The messages of what was received.
struct Messages<'a>(&'a [u8]);

impl Iterator for Messages<'_> {
    type Item = io::Result<NetlinkMessage<SockDiagMessage>>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let read = NetlinkMessage::<SockDiagMessage>::deserialize(self.0).map_err(unreadable);
        let length =
            read.as_ref().map_or(usize::MAX, |message| usize::try_from(message.header.length).unwrap_or(usize::MAX));
        self.0 = length.checked_next_multiple_of(4).and_then(|length| self.0.get(length..)).unwrap_or_default();
        Some(read)
    }
}

/// `None`: there is no such socket.
fn unless_gone(answered: io::Result<()>) -> io::Result<Option<()>> {
    match answered {
        Ok(()) => Ok(Some(())),
        Err(error) if error.raw_os_error() == Some(nix::errno::Errno::ENOENT as i32) => Ok(None),
        Err(error) => Err(error),
    }
}

fn request(family: u8, protocol: Protocol, states: u32, socket_id: SocketId) -> InetRequest {
    InetRequest {
        family,
        protocol: protocol.0,
        extensions: ExtensionFlags::empty(),
        states: StateFlags::from_bits_retain(states),
        socket_id,
    }
}

fn unspecified(family: u8) -> SocketId {
    if family == FAMILIES[0] { SocketId::new_v4() } else { SocketId::new_v6() }
}

fn living(protocol: Protocol, response: InetResponse) -> Living {
    let InetResponse { header, nlas } = response;
    let cgroup = nlas.iter().find_map(|nla| {
        let Nla::Other(other) = nla else { return None };
        if other.kind() == CGROUP_ID { word(other) } else { None }
    });
    let id = header.socket_id;
    Living {
        protocol,
        state: header.state,
        local: (addr(id.source_address), id.source_port),
        remote: (addr(id.destination_address), id.destination_port),
        cgroup: cgroup.unwrap_or(0),
        name: Name { family: header.family, id },
    }
}

/// The counters in `INET_DIAG_INFO` (`struct tcp_info`, include/uapi/linux/tcp.h).
fn info(response: &InetResponse) -> Option<Totals> {
    let bytes = response.nlas.iter().find_map(|nla| if let Nla::TcpInfo(bytes) = nla { Some(bytes) } else { None })?;
    let word = |at: usize| Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?));
    let long = |at: usize| Some(u64::from_ne_bytes(*bytes.get(at..)?.first_chunk()?));
    Some(Totals {
        rtt_us: word(68)?,
        retransmits: word(100)?,
        bytes_acked: long(120)?,
        bytes_received: long(128)?,
        segments_out: word(136)?,
        segments_in: word(140)?,
    })
}

fn word(nla: &DefaultNla) -> Option<u64> {
    let mut bytes = [0; 8];
    if nla.value_len() != bytes.len() {
        return None;
    }
    nla.emit_value(&mut bytes);
    Some(u64::from_ne_bytes(bytes))
}

fn addr(ip: IpAddr) -> Addr {
    match ip {
        IpAddr::V4(v4) => Addr::v4(v4.octets()),
        IpAddr::V6(v6) => Addr::v6(v6.octets()),
    }
}

fn ip(addr: Addr) -> IpAddr {
    weir_policy::ip(addr)
}

fn unreadable(error: netlink_packet_core::DecodeError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

/// On loopback sockets of the test's own; cutting needs root, as all tests of the kernel side do.
#[cfg(test)]
mod tests {
    use std::{
        io::{ErrorKind, Read as _},
        net::{SocketAddr as Ends, TcpListener, TcpStream, UdpSocket},
    };

    use super::*;
    use crate::kernel::namespaces::Namespaces;

    const OPEN: u32 = 1 << state::ESTABLISHED;

    fn door() -> Door {
        let root = tempfile::tempdir().unwrap();
        let found = Namespaces::default().find(root.path(), &[]).unwrap();
        Door::open(&found.namespaces[0].namespace).unwrap()
    }

    fn cut(door: &mut Door, living: &Living) -> io::Result<Cut> {
        door.cut([living]).pop().unwrap()
    }

    fn ends(ends: Ends) -> (Addr, u16) {
        (super::addr(ends.ip()), ends.port())
    }

    fn find(door: &mut Door, protocol: Protocol, local: Ends, remote: Ends) -> Option<Living> {
        let mut found = None;
        let wanted = (ends(local), ends(remote));
        let mut look = |living: Living| {
            if (living.local, living.remote) == wanted {
                found = Some(living);
            }
        };
        door.list(protocol, OPEN, &mut look).unwrap();
        found
    }

    #[test]
    fn a_connection_is_listed_with_its_cgroup_and_both_ends_learn_that_it_is_cut() {
        // Mapped: an IPv6 socket that speaks IPv4.
        for listen in ["127.0.0.1:0", "[::1]:0", "[::ffff:127.0.0.1]:0"] {
            let listener = TcpListener::bind(listen).unwrap();
            let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (mut server, _) = listener.accept().unwrap();
            let mut door = door();
            let (local, remote) = (client.local_addr().unwrap(), client.peer_addr().unwrap());
            let found = find(&mut door, Protocol::TCP, local, remote).unwrap();
            assert_eq!(found.state, state::ESTABLISHED, "{listen}");
            assert_ne!(found.cgroup, 0, "{listen}");
            assert_eq!(cut(&mut door, &found).unwrap(), Cut::Done, "{listen}");
            assert_eq!(client.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionAborted, "{listen}");
            assert_eq!(server.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset, "{listen}");
            assert_eq!(cut(&mut door, &found).unwrap(), Cut::Gone, "{listen}");
        }
    }

    #[test]
    fn a_connection_is_cut_by_its_ends_alone_but_not_if_the_cookie_is_anothers() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let mut door = door();
        let (local, remote) = (ends(client.local_addr().unwrap()), ends(client.peer_addr().unwrap()));
        let known = |cookie| Living::known(Protocol::TCP, local, remote, cookie);
        // Names a socket that has had the same ends.
        assert!(cut(&mut door, &known(Some(1))).map_or(true, |cut| cut == Cut::Gone));
        assert_eq!(cut(&mut door, &known(None)).unwrap(), Cut::Done);
        assert_eq!(client.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionAborted);
    }

    fn wanted_of(sockets: &[Living]) -> Vec<Living> {
        sockets.iter().map(|socket| Living::known(socket.protocol, socket.local, socket.remote, None)).collect()
    }

    /// Requests that travel together: each is answered for itself, those before and behind one that fails too.
    #[test]
    fn many_are_cut_at_once_and_what_became_of_each_is_told() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let connect = |_| (TcpStream::connect(listener.local_addr().unwrap()).unwrap(), listener.accept().unwrap().0);
        let pairs: Vec<(TcpStream, TcpStream)> = (0..300).map(connect).collect();
        let mut door = door();
        let client = |(client, _): &(TcpStream, TcpStream)| {
            Living::known(Protocol::TCP, ends(client.local_addr().unwrap()), ends(client.peer_addr().unwrap()), None)
        };
        let wanted: Vec<Living> = pairs.iter().map(client).collect();
        let mut named = Vec::new();
        door.list(Protocol::TCP, OPEN, &mut |living| named.push(living)).unwrap();
        named.retain(|living| {
            wanted.iter().any(|wanted| (wanted.local, wanted.remote) == (living.local, living.remote))
        });
        assert_eq!(named.len(), 300);
        assert_eq!(cut(&mut door, &named[0]).unwrap(), Cut::Done);
        assert_eq!(cut(&mut door, &named[299]).unwrap(), Cut::Done);
        let mut asked = named.clone();
        // The same by its ends alone, which is looked for first; one that was never there.
        asked.insert(7, Living::known(Protocol::TCP, named[0].local, named[0].remote, None));
        // Ten by their ends alone.
        let nameless = wanted_of(&asked[20..30]);
        asked[20..30].clone_from_slice(&nameless);
        let became: Vec<Cut> = asked.chunks(64).flat_map(|some| door.cut(some)).map(Result::unwrap).collect();
        let gone: Vec<usize> = (0..asked.len()).filter(|place| became[*place] == Cut::Gone).collect();
        assert_eq!(gone, [0, 7, 300]);
        for (mut client, _server) in pairs {
            assert_eq!(client.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionAborted);
        }
        assert!(door.cut([]).is_empty());
    }

    /// The kernel looks on among those that serve, where it finds no connection with these ends.
    #[test]
    fn a_server_is_never_taken_for_a_connection_that_is_gone() {
        for address in ["127.0.0.1:0", "[::1]:0", "[::]:0"] {
            let (listener, server) = (TcpListener::bind(address).unwrap(), UdpSocket::bind(address).unwrap());
            let mut door = door();
            let (at, served) = (listener.local_addr().unwrap(), server.local_addr().unwrap());
            let us: std::net::IpAddr =
                if at.is_ipv4() { [127, 0, 0, 1].into() } else { std::net::Ipv6Addr::LOCALHOST.into() };
            let gone = (super::addr(us), 9);
            for (protocol, port) in [(Protocol::TCP, at.port()), (Protocol::UDP, served.port())] {
                let known = Living::known(protocol, (super::addr(us), port), gone, None);
                assert_eq!(cut(&mut door, &known).unwrap(), Cut::Gone, "{address}");
            }
            drop(TcpStream::connect((us, at.port())).expect("still listens"));
            let client = UdpSocket::bind((us, 0)).unwrap();
            client.send_to(b"x", (us, served.port())).unwrap();
            assert_eq!(server.recv(&mut [0]).expect("still serves"), 1);
        }
    }

    #[test]
    fn a_connected_datagram_socket_is_cut_too() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let (one, other) = (UdpSocket::bind(address).unwrap(), UdpSocket::bind(address).unwrap());
            one.connect(other.local_addr().unwrap()).unwrap();
            let mut door = door();
            let (local, remote) = (one.local_addr().unwrap(), other.local_addr().unwrap());
            let found = find(&mut door, Protocol::UDP, local, remote).unwrap();
            assert_eq!(cut(&mut door, &found).unwrap(), Cut::Done);
            assert_eq!(one.recv(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionAborted);
            assert!(find(&mut door, Protocol::UDP, local, remote).is_none());
        }
    }
}
