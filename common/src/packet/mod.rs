//! Lives: kernel and host.
//! Called by: the XDP and cgroup_skb programs to read a packet's headers; the tests, against a second parser.
//! May touch: packet bytes through [`Bytes`], which checks every bound.
//! Never: trusts a length from the packet before comparing it with the frame; loops without a bound.

mod frame;
mod ipv4;
mod ipv6;
mod transport;

use crate::{
    addr::{Addr, Port, Protocol},
    icmp,
    verdict::Reason,
};

pub use frame::network;

/// Checked access to a packet's bytes.
pub trait Bytes {
    /// `N` bytes at `offset`, or `None` if they are not all there.
    fn load<const N: usize>(&self, offset: u32) -> Option<[u8; N]>;
    /// Bytes in the packet.
    fn len(&self) -> u32;
    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Whether the packet goes on at least to here.
    #[inline(always)]
    fn reaches(&self, end: u32) -> bool {
        end <= self.len()
    }
    /// The same number, by way of memory that whoever calls has no other use for just then. The kernel's verifier forgets what it
    /// knew of it, so that the rounds of a loop look alike to it.
    #[inline(always)]
    fn any(&self, number: u16, _through: &mut u16) -> u32 {
        number as u32
    }
}

/// Why a packet has no headers to judge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Neither IP nor ARP (LLDP, LACP, ...): policy speaks of IP only. What becomes of it is said per interface.
    NotIp,
    /// ARP, without which IPv4 does not work.
    Arp,
    /// Fails closed, for this reason.
    Refused(Reason),
}

/// Cut short, or its lengths contradict each other.
pub const MALFORMED: Fault = Fault::Refused(Reason::Malformed);

/// What verdicts and limits need of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Packet {
    /// Source address.
    pub src: Addr,
    /// Destination address.
    pub dst: Addr,
    /// Bytes of the IP packet, header included, as it says itself.
    pub length: u32,
    /// Of a fragment, what tells it from those of other packets; of an ICMP message, its identifier; else nothing to rely on.
    pub ident: u32,
    /// Transport protocol.
    pub protocol: Protocol,
    /// Source port; 0 where there is none.
    pub src_port: Port,
    /// Destination port; the type of an ICMP or ICMPv6 message, which stands in its place everywhere; 0 where there is neither.
    pub dst_port: Port,
    /// TCP flags, or 0.
    pub tcp_flags: u8,
    /// Type of the first chunk of an SCTP packet, or 0.
    pub sctp_chunk: u8,
    /// Time to live, or hop limit.
    pub hop_limit: u8,
    /// 1 for a fragment after the first, which carries no ports.
    pub later_fragment: u8,
    /// 1 for the first of several fragments.
    pub first_fragment: u8,
    /// Bytes of the IP header, options and extension headers included.
    pub header: u16,
    /// Number of the [`Reason`] to refuse it for, where a kernel program keeps it here; else 0.
    pub refused: u8,
}

/// TCP flag bits (RFC 9293 section 3.1).
pub mod tcp {
    /// Finish.
    pub const FIN: u8 = 1;
    /// Synchronise.
    pub const SYN: u8 = 2;
    /// Reset.
    pub const RST: u8 = 4;
    /// Acknowledge.
    pub const ACK: u8 = 16;

    /// Whether no TCP sends these together: what opens and ends at once, or does nothing at all (RFC 9293 section 3.10.7: a segment
    /// with none of the three is discarded in every state).
    #[inline(always)]
    #[must_use]
    pub const fn contradict(flags: u8) -> bool {
        flags & (SYN | RST | ACK) == 0 || (flags & SYN != 0 && flags & (FIN | RST) != 0)
    }
}

/// VLAN tags (802.1Q, 802.1ad) that are looked through; the kernel looks through any number of tags for VLAN 0.
pub const MAX_TAGS: u32 = 2;
/// IPv6 extension headers that are looked through.
pub const MAX_EXTENSIONS: u32 = 6;

/// The packet is all there.
pub const WHOLE: bool = true;
/// Only its beginning is there: an ICMP error quotes it.
pub const QUOTED: bool = false;

/// Reads an Ethernet frame, VLAN tags included.
///
/// # Errors
/// The fault for which there is nothing to judge.
#[inline(always)]
pub fn parse_frame<B: Bytes>(bytes: &B) -> Result<Packet, Fault> {
    let mut packet = Packet::EMPTY;
    let place = frame::network(bytes)?;
    read_ip::<B, WHOLE>(bytes, place, &mut packet)?;
    Ok(packet)
}

/// Reads an IP packet that starts at `offset`; the second value says whether it is IPv4.
///
/// # Errors
/// As [`parse_frame`].
#[inline(always)]
pub fn parse_ip<B: Bytes, const ALL: bool>(bytes: &B, offset: u32) -> Result<(Packet, bool), Fault> {
    let mut packet = Packet::EMPTY;
    let [first] = bytes.load::<1>(offset).ok_or(MALFORMED)?;
    read_ip::<B, ALL>(bytes, Place { offset, version: first >> 4 }, &mut packet)?;
    Ok((packet, first >> 4 == 4))
}

/// Where an IP packet starts, and the version that it is said to have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Bytes before it.
    pub offset: u32,
    /// 4 or 6, as the ethertype says.
    pub version: u8,
}

/// Reads an IP packet into `packet`. What was read before a fault stays there: a record of the refusal says whose packet it was.
///
/// # Errors
/// As [`parse_frame`].
#[inline(always)]
pub fn read_ip<B: Bytes, const ALL: bool>(bytes: &B, place: Place, packet: &mut Packet) -> Result<(), Fault> {
    let [first] = bytes.load::<1>(place.offset).ok_or(MALFORMED)?;
    if first >> 4 != place.version {
        return Err(MALFORMED);
    }
    match place.version {
        4 => ipv4::read::<B, ALL>(bytes, place.offset, packet),
        6 => ipv6::read::<B, ALL>(bytes, place.offset, packet),
        _ => Err(MALFORMED),
    }
}

impl Packet {
    /// A packet of which nothing is known, to be filled in.
    pub const EMPTY: Self = Self::bare(Addr::UNSPECIFIED, Addr::UNSPECIFIED, 0, Protocol(0));

    /// A packet without ports.
    #[inline(always)]
    const fn bare(src: Addr, dst: Addr, length: u32, protocol: Protocol) -> Self {
        Self {
            src,
            dst,
            length,
            ident: 0,
            protocol,
            src_port: Port([0; 2]),
            dst_port: Port([0; 2]),
            tcp_flags: 0,
            sctp_chunk: 0,
            hop_limit: 0,
            later_fragment: 0,
            first_fragment: 0,
            header: 0,
            refused: 0,
        }
    }

    /// Whether the packet is neighbour discovery (RFC 4861 sections 4 and 7.1: types 133 to 137, only valid with hop limit 255,
    /// which no router lets through). Without it IPv6 does not work at all.
    #[inline(always)]
    #[must_use]
    pub const fn discovers_neighbours(&self) -> bool {
        let kind = self.dst_port.number();
        let message = kind >= 133 && kind <= 137;
        self.protocol.0 == Protocol::ICMPV6.0 && self.hop_limit == 255 && message
    }

    /// Whether the packet is an ICMP error, which quotes the packet it is about from its ninth byte on.
    #[inline(always)]
    #[must_use]
    pub const fn is_error(&self) -> bool {
        icmp::is_error(self.protocol, self.dst_port) && self.later_fragment == 0
    }

    /// Whether the packet reports which groups its sender listens to (RFC 2710, RFC 3810): sent from link-local addresses.
    #[inline(always)]
    #[must_use]
    pub const fn reports_groups(&self) -> bool {
        self.protocol.0 == Protocol::ICMPV6.0 && matches!(self.dst_port.number(), 131 | 132 | 143)
    }

    /// Whether the packet tells others where to send (redirects, and what routers say of themselves): no workload's business.
    #[inline(always)]
    #[must_use]
    pub const fn gives_directions(&self) -> bool {
        let kind = self.dst_port.number();
        match self.protocol {
            Protocol::ICMP => kind == 5 || kind == 9,
            Protocol::ICMPV6 => kind == 134 || kind == 137,
            _ => false,
        }
    }

    /// Whether the packet tells others what is on the link or where it leads: neighbour discovery and what gives directions, valid or
    /// not.
    #[inline(always)]
    #[must_use]
    pub const fn tells_the_link(&self) -> bool {
        let kind = self.dst_port.number();
        self.gives_directions() || (self.protocol.0 == Protocol::ICMPV6.0 && kind >= 133 && kind <= 137)
    }

    /// Whether the source is none that a packet on a wire can come from (RFC 6890, RFC 1122 section 3.2.1.3): the host itself, a
    /// group, the destination, nobody. A host that has no address yet asks for one, asks whether another has it, and joins groups.
    #[inline(always)]
    #[must_use]
    pub const fn is_martian(&self) -> bool {
        if self.src.is_unspecified() {
            return !self.may_come_from_nobody();
        }
        let ((high, low), (dst_high, dst_low)) = (self.src.halves(), self.dst.halves());
        self.src.never_sends() || (high == dst_high && low == dst_low)
    }

    /// DHCP (RFC 2131 section 4.1), IGMP (RFC 3376 section 4.2.13), neighbour discovery, reports of groups (RFC 3590).
    #[inline(always)]
    const fn may_come_from_nobody(&self) -> bool {
        let asks_for_address =
            self.protocol.0 == Protocol::UDP.0 && self.src_port.number() == 68 && self.dst_port.number() == 67;
        asks_for_address || self.protocol.0 == Protocol::IGMP.0 || self.discovers_neighbours() || self.reports_groups()
    }

    /// Whether a message like this asks for an answer that a kernel gives by itself, without any socket: an echo request.
    #[inline(always)]
    #[must_use]
    pub const fn asks_the_kernel(&self) -> bool {
        match icmp::echo_request(self.protocol) {
            Some(kind) => self.dst_port.number() == kind,
            None => false,
        }
    }

    /// Whether the packet opens a TCP connection.
    #[inline(always)]
    #[must_use]
    pub const fn opens_tcp(&self) -> bool {
        self.protocol.0 == Protocol::TCP.0 && self.tcp_flags & (tcp::SYN | tcp::ACK) == tcp::SYN
    }

    /// The port (or type) a question must have gone to for this packet to be its answer; `None` if it answers nothing.
    ///
    /// An SCTP packet that opens an association is no answer, whatever port it comes from.
    #[inline(always)]
    #[must_use]
    pub const fn answers(&self) -> Option<Port> {
        match self.protocol {
            Protocol::ICMP | Protocol::ICMPV6 => icmp::question(self.protocol, self.dst_port),
            Protocol::SCTP if self.sctp_chunk == SCTP_INIT => None,
            _ => Some(self.src_port),
        }
    }
}

/// The chunk that opens an association (RFC 9260 section 3.3.2).
const SCTP_INIT: u8 = 1;

#[cfg(test)]
mod tests;
