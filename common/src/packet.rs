//! Lives: kernel and host.
//! Called by: the XDP and cgroup_skb programs to read a packet's headers; the tests, against a second parser.
//! May touch: packet bytes through [`Bytes`], which checks every bound.
//! Never: trusts a length from the packet before comparing it with the frame; loops without a bound.

use crate::{
    addr::{Addr, Port, Protocol},
    icmp,
};

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
}

/// Why a packet has no headers to judge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Not IPv4 or IPv6 (ARP, LLDP, ...). Fails open: policy speaks of IP only.
    NotIp,
    /// Cut short, or its lengths contradict each other. Fails closed, with its own reason.
    Malformed,
}

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
}

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;
/// 802.1Q and 802.1ad tags; at most two are looked through.
const ETHERTYPES_VLAN: [u16; 2] = [0x8100, 0x88a8];
const MAX_TAGS: u32 = 2;
/// IPv6 extension headers that are looked through before the packet counts as malformed.
pub const MAX_EXTENSIONS: u32 = 6;

/// Reads an Ethernet frame, VLAN tags included.
#[inline(always)]
pub fn parse_frame<B: Bytes>(bytes: &B) -> Result<Packet, Fault> {
    let mut offset = 12;
    let mut tags = 0;
    loop {
        let ethertype = u16::from_be_bytes(bytes.load::<2>(offset).ok_or(Fault::Malformed)?);
        if ethertype == ETHERTYPE_IPV4 || ethertype == ETHERTYPE_IPV6 {
            let packet = parse_ip::<B, WHOLE>(bytes, offset + 2)?;
            let version_fits = (ethertype == ETHERTYPE_IPV4) == packet.1;
            return if version_fits { Ok(packet.0) } else { Err(Fault::Malformed) };
        }
        let tagged = ethertype == ETHERTYPES_VLAN[0] || ethertype == ETHERTYPES_VLAN[1];
        if !tagged || tags == MAX_TAGS {
            return Err(Fault::NotIp);
        }
        offset += 4;
        tags += 1;
    }
}

/// The packet is all there.
pub const WHOLE: bool = true;
/// Only its beginning is there: an ICMP error quotes it.
pub const QUOTED: bool = false;

/// Reads an IP packet that starts at `offset`; the second value says whether it is IPv4.
#[inline(always)]
pub fn parse_ip<B: Bytes, const ALL: bool>(bytes: &B, offset: u32) -> Result<(Packet, bool), Fault> {
    let [first] = bytes.load::<1>(offset).ok_or(Fault::Malformed)?;
    match first >> 4 {
        4 => parse_ipv4::<B, ALL>(bytes, offset).map(|packet| (packet, true)),
        6 => parse_ipv6::<B, ALL>(bytes, offset).map(|packet| (packet, false)),
        _ => Err(Fault::Malformed),
    }
}

/// RFC 791 section 3.1.
#[inline(always)]
fn parse_ipv4<B: Bytes, const ALL: bool>(bytes: &B, offset: u32) -> Result<Packet, Fault> {
    let [vihl, _, len_hi, len_lo, id_hi, id_lo, frag_hi, frag_lo] = bytes.load::<8>(offset).ok_or(Fault::Malformed)?;
    let [hop_limit, protocol] = bytes.load::<2>(offset + 8).ok_or(Fault::Malformed)?;
    let src = Addr::v4(bytes.load::<4>(offset + 12).ok_or(Fault::Malformed)?);
    let dst = Addr::v4(bytes.load::<4>(offset + 16).ok_or(Fault::Malformed)?);
    let header = ((vihl & 15) as u32) * 4;
    let length = u16::from_be_bytes([len_hi, len_lo]) as u32;
    if header < 20 || length < header || (ALL && offset + length > bytes.len()) {
        return Err(Fault::Malformed);
    }
    // The offset in 13 bits, and before them whether more follow.
    let fragment_offset = u16::from_be_bytes([frag_hi, frag_lo]) & 0x1fff;
    let ident = u16::from_be_bytes([id_hi, id_lo]) as u32;
    let packet = Packet { hop_limit, ident, ..Packet::bare(src, dst, length, Protocol(protocol)) };
    let packet = Packet { header: header as u16, first_fragment: frag_hi >> 5 & 1, ..packet };
    if fragment_offset != 0 {
        return Ok(Packet { later_fragment: 1, first_fragment: 0, ..packet });
    }
    transport::<B, ALL>(bytes, packet, offset + header, length - header)
}

/// RFC 8200 sections 3 and 4.
#[inline(always)]
fn parse_ipv6<B: Bytes, const ALL: bool>(bytes: &B, offset: u32) -> Result<Packet, Fault> {
    let [_, _, _, _, len_hi, len_lo, mut next, hop_limit] = bytes.load::<8>(offset).ok_or(Fault::Malformed)?;
    let src = Addr::v6(bytes.load::<16>(offset + 8).ok_or(Fault::Malformed)?);
    let dst = Addr::v6(bytes.load::<16>(offset + 24).ok_or(Fault::Malformed)?);
    let payload = u16::from_be_bytes([len_hi, len_lo]) as u32;
    if ALL && offset + 40 + payload > bytes.len() {
        return Err(Fault::Malformed);
    }
    let mut used = 0u32;
    let (mut first_fragment, mut ident) = (0, 0);
    for _ in 0..=MAX_EXTENSIONS {
        let packet = Packet { hop_limit, ident, ..Packet::bare(src, dst, payload + 40, Protocol(next)) };
        let packet = Packet { first_fragment, header: (40 + used) as u16, ..packet };
        let at = offset + 40 + used;
        match next {
            // Hop-by-hop options, routing, destination options: length in 8-octet units after the first.
            0 | 43 | 60 => {
                let [following, units] = bytes.load::<2>(at).ok_or(Fault::Malformed)?;
                (next, used) = (following, used + 8 + units as u32 * 8);
            }
            // Authentication header: length in 4-octet units, minus 2.
            51 => {
                let [following, units] = bytes.load::<2>(at).ok_or(Fault::Malformed)?;
                (next, used) = (following, used + 8 + units as u32 * 4);
            }
            44 => {
                let [following, _, hi, lo, a, b, c, d] = bytes.load::<8>(at).ok_or(Fault::Malformed)?;
                ident = u32::from_be_bytes([a, b, c, d]);
                if u16::from_be_bytes([hi, lo]) & 0xfff8 != 0 {
                    return Ok(Packet { later_fragment: 1, protocol: Protocol(following), ident, ..packet });
                }
                // One that is alone (RFC 6946) has nothing to be told apart from.
                first_fragment = lo & 1;
                (next, used) = (following, used + 8);
            }
            _ if used > payload => return Err(Fault::Malformed),
            _ => return transport::<B, ALL>(bytes, packet, at, payload - used),
        }
    }
    Err(Fault::Malformed)
}

/// Adds the ports. `rest` is what the IP header says is left from `offset` on.
#[inline(always)]
fn transport<B: Bytes, const ALL: bool>(bytes: &B, packet: Packet, offset: u32, rest: u32) -> Result<Packet, Fault> {
    match packet.protocol {
        // Eight bytes are all that a quote must hold (RFC 792); what says how long the rest was is not believed, nor needed.
        Protocol::TCP | Protocol::UDP | Protocol::SCTP if !ALL => {
            let [s0, s1, d0, d1] = bytes.load::<4>(offset).ok_or(Fault::Malformed)?;
            Ok(Packet { src_port: Port([s0, s1]), dst_port: Port([d0, d1]), ..packet })
        }
        // RFC 9293 section 3.1: the data offset counts 32-bit words.
        Protocol::TCP => {
            let [s0, s1, d0, d1] = bytes.load::<4>(offset).ok_or(Fault::Malformed)?;
            let [words, tcp_flags] = bytes.load::<2>(offset + 12).ok_or(Fault::Malformed)?;
            let header = (words >> 4) as u32 * 4;
            if header < 20 || header > rest {
                return Err(Fault::Malformed);
            }
            Ok(Packet { src_port: Port([s0, s1]), dst_port: Port([d0, d1]), tcp_flags, ..packet })
        }
        Protocol::UDP => {
            let [s0, s1, d0, d1, l0, l1] = bytes.load::<6>(offset).ok_or(Fault::Malformed)?;
            let length = u16::from_be_bytes([l0, l1]) as u32;
            // A first fragment's UDP length is that of the whole datagram, so only the lower bound holds.
            if length < 8 || rest < 8 {
                return Err(Fault::Malformed);
            }
            Ok(Packet { src_port: Port([s0, s1]), dst_port: Port([d0, d1]), ..packet })
        }
        // RFC 9260 section 3: a header of 12 bytes, then chunks; a chunk's length counts its own header of 4. The other chunks are
        // not looked at: an INIT must stand alone (section 6.10), and receivers discard one that does not.
        Protocol::SCTP => {
            let [s0, s1, d0, d1] = bytes.load::<4>(offset).ok_or(Fault::Malformed)?;
            let [sctp_chunk, _, l0, l1] = bytes.load::<4>(offset + 12).ok_or(Fault::Malformed)?;
            // As with UDP, a first fragment's chunk may be longer than what is here.
            if rest < 16 || u16::from_be_bytes([l0, l1]) < 4 {
                return Err(Fault::Malformed);
            }
            Ok(Packet { src_port: Port([s0, s1]), dst_port: Port([d0, d1]), sctp_chunk, ..packet })
        }
        // RFC 792 and RFC 4443 section 2.1: type, code and checksum come first in every message; four bytes more are in all there are,
        // and the kernel drops what is shorter.
        Protocol::ICMP | Protocol::ICMPV6 => {
            let [kind, _, _, _, i0, i1, _, _] = bytes.load::<8>(offset).ok_or(Fault::Malformed)?;
            if rest < 8 {
                return Err(Fault::Malformed);
            }
            // Without a branch, which the verifier would follow to the end of every program.
            let fragment = 0u32.wrapping_sub(packet.first_fragment as u32);
            let ident = packet.ident & fragment | u16::from_be_bytes([i0, i1]) as u32 & !fragment;
            Ok(Packet { dst_port: Port::new(kind as u16), ident, ..packet })
        }
        _ => Ok(packet),
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
mod tests {
    use super::*;

    struct Frame<'a>(&'a [u8]);

    impl Bytes for Frame<'_> {
        fn load<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
            self.0.get(offset as usize..offset as usize + N)?.try_into().ok()
        }
        fn len(&self) -> u32 {
            self.0.len() as u32
        }
    }

    /// 10.0.0.1:4000 -> 10.0.0.2:80, SYN, built by hand from the RFCs.
    const SYN_V4: &[u8] = &[
        1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 8, 0, 0x45, 0, 0, 40, 0, 1, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2,
        0x0f, 0xa0, 0, 80, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 0xff, 0xff, 0, 0, 0, 0,
    ];

    fn changed(edits: &[(usize, u8)]) -> Vec<u8> {
        let mut frame = SYN_V4.to_vec();
        for (at, byte) in edits {
            frame[*at] = *byte;
        }
        frame
    }

    extern crate std;
    use std::vec::Vec;

    #[test]
    fn a_syn_is_read() {
        let packet = parse_frame(&Frame(SYN_V4)).unwrap();
        assert_eq!((packet.src, packet.dst), (Addr::v4([10, 0, 0, 1]), Addr::v4([10, 0, 0, 2])));
        assert_eq!((packet.src_port.number(), packet.dst_port.number(), packet.length), (4000, 80, 40));
        assert!(packet.opens_tcp());
    }

    /// The frame above as another protocol's packet: what follows the IP header is `payload`.
    fn carrying(protocol: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = changed(&[(17, 20 + payload.len() as u8), (23, protocol)])[..34].to_vec();
        frame.extend(payload);
        frame
    }

    const SCTP_INIT: [u8; 16] = [0x0f, 0xa0, 0, 80, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 20];

    #[test]
    fn sctp_ports_are_read_and_a_header_that_cannot_be_is_malformed() {
        let packet = parse_frame(&Frame(&carrying(132, &SCTP_INIT))).unwrap();
        assert_eq!((packet.src_port.number(), packet.dst_port.number(), packet.sctp_chunk), (4000, 80, 1));
        assert_eq!(packet.answers(), None, "an opening answers nothing");
        let mut data = SCTP_INIT;
        data[12] = 0;
        let packet = parse_frame(&Frame(&carrying(132, &data))).unwrap();
        assert_eq!(packet.answers(), Some(Port::new(4000)));
        for length in 0..SCTP_INIT.len() {
            let mut frame = carrying(132, &SCTP_INIT[..length]);
            assert_eq!(parse_frame(&Frame(&frame)), Err(Fault::Malformed), "{length} bytes");
            // Bytes behind the packet's own end are not the packet's.
            frame.extend(&SCTP_INIT[length..]);
            assert_eq!(parse_frame(&Frame(&frame)), Err(Fault::Malformed), "{length} bytes and a trailer");
        }
        let mut short = SCTP_INIT;
        short[15] = 3;
        assert_eq!(parse_frame(&Frame(&carrying(132, &short))), Err(Fault::Malformed), "chunk below its header");
    }

    #[test]
    fn the_type_of_an_icmp_message_stands_in_the_place_of_the_port() {
        let packet = parse_frame(&Frame(&carrying(1, &[0; 8]))).unwrap();
        assert_eq!((packet.dst_port.number(), packet.answers()), (0, Some(Port::new(8))));
        let packet = parse_frame(&Frame(&carrying(1, &[8, 0, 0, 0, 0, 0, 0, 0]))).unwrap();
        assert_eq!((packet.dst_port.number(), packet.src_port.number(), packet.answers()), (8, 0, None));
        assert_eq!((packet.ident, packet.asks_the_kernel(), packet.is_error()), (0, true, false));
        let packet = parse_frame(&Frame(&carrying(1, &[3, 4, 0, 0, 0x12, 0x34, 0, 1]))).unwrap();
        assert_eq!((packet.ident, packet.header, packet.is_error()), (0x1234, 20, true));
        for length in 0..8 {
            let cut = carrying(1, &[8, 0, 0, 0, 0, 0, 0, 0][..length]);
            assert_eq!(parse_frame(&Frame(&cut)), Err(Fault::Malformed), "{length} bytes");
        }
    }

    #[test]
    fn every_truncation_is_malformed_and_reads_nothing_past_the_end() {
        for end in 0..SYN_V4.len() {
            assert_eq!(parse_frame(&Frame(&SYN_V4[..end])), Err(Fault::Malformed), "cut at {end}");
        }
    }

    #[test]
    fn contradictions_are_malformed() {
        let rows: [(&str, &[(usize, u8)]); 6] = [
            ("IHL below 5", &[(14, 0x44)]),
            ("total length below the header", &[(17, 19)]),
            ("total length beyond the frame", &[(17, 41)]),
            ("version against ethertype", &[(14, 0x65)]),
            ("TCP data offset below 5", &[(46, 0x40)]),
            ("TCP data offset past the end", &[(46, 0x60)]),
        ];
        for (name, edits) in rows {
            assert_eq!(parse_frame(&Frame(&changed(edits))), Err(Fault::Malformed), "{name}");
        }
        assert_eq!(parse_frame(&Frame(&changed(&[(13, 6)]))), Err(Fault::NotIp), "ARP is not ours");
    }

    #[test]
    fn tags_do_not_hide_a_packet() {
        for tags in 1..=2 {
            let mut frame = SYN_V4[..12].to_vec();
            for _ in 0..tags {
                frame.extend([0x81, 0, 0, 5]);
            }
            frame.extend(&SYN_V4[12..]);
            assert_eq!(parse_frame(&Frame(&frame)).unwrap().dst_port.number(), 80, "{tags} tags");
        }
    }

    #[test]
    fn a_later_fragment_has_no_ports() {
        let packet = parse_frame(&Frame(&changed(&[(21, 1)]))).unwrap();
        assert_eq!((packet.later_fragment, packet.dst_port.number(), packet.tcp_flags), (1, 0, 0));
        assert_eq!((packet.first_fragment, packet.ident), (0, 1));
        let first = parse_frame(&Frame(&changed(&[(20, 0x20)]))).unwrap();
        assert_eq!((first.later_fragment, first.first_fragment, first.ident), (0, 1, 1));
        assert_eq!(first.dst_port.number(), 80);
    }

    #[test]
    fn a_quote_is_read_as_far_as_its_ports_and_no_further() {
        let read = |bytes: &[u8]| parse_ip::<_, QUOTED>(&Frame(bytes), 0).map(|(packet, _)| packet);
        let quote = &SYN_V4[14..];
        for length in 28..quote.len() {
            let packet = read(&quote[..length]).unwrap();
            assert_eq!((packet.src_port.number(), packet.dst_port.number()), (4000, 80), "{length} bytes");
        }
        assert_eq!(parse_ip::<_, WHOLE>(&Frame(&quote[..28]), 0), Err(Fault::Malformed));
        for length in 0..24 {
            assert_eq!(read(&quote[..length]), Err(Fault::Malformed), "{length} bytes");
        }
    }

    #[test]
    fn ipv6_extension_headers_are_walked_to_the_ports_and_not_forever() {
        let chain = |headers: usize| {
            let mut frame = [0u8; 12].to_vec();
            frame.extend([
                0x86,
                0xdd,
                0x60,
                0,
                0,
                0,
                0,
                (headers * 8 + 8) as u8,
                if headers == 0 { 17 } else { 60 },
                64,
            ]);
            frame.extend([0xfd; 16]);
            frame.extend([0xfe; 16]);
            for n in 0..headers {
                frame.extend([if n + 1 == headers { 17 } else { 60 }, 0, 1, 4, 0, 0, 0, 0]);
            }
            frame.extend([0, 53, 0x10, 0, 0, 8, 0, 0]);
            frame
        };
        for headers in 0..=MAX_EXTENSIONS as usize {
            let packet = parse_frame(&Frame(&chain(headers))).unwrap();
            assert_eq!((packet.src_port.number(), packet.dst_port.number()), (53, 4096), "{headers} headers");
        }
        assert_eq!(parse_frame(&Frame(&chain(MAX_EXTENSIONS as usize + 1))), Err(Fault::Malformed));
    }
}
