//! Lives: kernel and host.
//! Called by: `packet`.
//! May touch: packet bytes through [`Bytes`].
//! Never: reads a port that the packet does not hold; believes a fragment that rewrites what was judged.

use super::{Bytes, Fault, MALFORMED, Packet, tcp};
use crate::{
    addr::{Port, Protocol},
    verdict::Reason,
};

/// A TCP header without options, an SCTP header with that of its first chunk, a UDP header or the beginning of an ICMP message.
const TCP_HEADER: u32 = 20;
const SCTP_HEADER: u32 = 16;
const SHORT_HEADER: u32 = 8;
/// The most that any packet holds, put together.
const MOST: u32 = 65_535;

/// Why a packet that ends within its headers is refused: a first fragment must hold them all (RFC 1858, RFC 7112).
#[inline(always)]
pub const fn short(packet: &Packet) -> Fault {
    if packet.first_fragment == 1 { Fault::Refused(Reason::TinyFragment) } else { MALFORMED }
}

/// A later fragment: one that begins where a first one's headers are would write over them (RFC 3128).
#[inline(always)]
pub const fn later(packet: &Packet, place: u32, rest: u32, header: u32) -> Result<(), Fault> {
    let headers = match packet.protocol {
        Protocol::TCP => TCP_HEADER,
        Protocol::SCTP => SCTP_HEADER,
        _ => SHORT_HEADER,
    };
    if place < headers {
        return Err(Fault::Refused(Reason::TinyFragment));
    }
    if rest == 0 || place + rest + header > MOST { Err(MALFORMED) } else { Ok(()) }
}

/// Adds the ports. `rest` is what the IP header says is left from `offset` on.
#[inline(always)]
pub fn read<B: Bytes, const ALL: bool>(bytes: &B, packet: &mut Packet, offset: u32, rest: u32) -> Result<(), Fault> {
    match packet.protocol {
        // Eight bytes are all that a quote must hold (RFC 792); what says how long the rest was is not believed, nor needed.
        Protocol::TCP | Protocol::UDP | Protocol::SCTP if !ALL => ports(bytes, packet, offset),
        Protocol::TCP => segment(bytes, packet, offset, rest),
        Protocol::UDP => datagram(bytes, packet, offset, rest),
        Protocol::SCTP => chunk(bytes, packet, offset, rest),
        Protocol::ICMP | Protocol::ICMPV6 => message(bytes, packet, offset, rest),
        _ => Ok(()),
    }
}

#[inline(always)]
fn ports<B: Bytes>(bytes: &B, packet: &mut Packet, offset: u32) -> Result<(), Fault> {
    let [s0, s1, d0, d1] = bytes.load::<4>(offset).ok_or(short(packet))?;
    (packet.src_port, packet.dst_port) = (Port([s0, s1]), Port([d0, d1]));
    Ok(())
}

/// RFC 9293 section 3.1: the data offset counts 32-bit words.
#[inline(always)]
fn segment<B: Bytes>(bytes: &B, packet: &mut Packet, offset: u32, rest: u32) -> Result<(), Fault> {
    if rest < TCP_HEADER {
        return Err(short(packet));
    }
    ports(bytes, packet, offset)?;
    let [words, flags] = bytes.load::<2>(offset + 12).ok_or(short(packet))?;
    packet.tcp_flags = flags;
    let header = (words >> 4) as u32 * 4;
    if header < TCP_HEADER {
        return Err(MALFORMED);
    }
    if header > rest {
        return Err(short(packet));
    }
    if tcp::contradict(flags) { Err(Fault::Refused(Reason::TcpFlags)) } else { Ok(()) }
}

/// RFC 768.
#[inline(always)]
fn datagram<B: Bytes>(bytes: &B, packet: &mut Packet, offset: u32, rest: u32) -> Result<(), Fault> {
    if rest < SHORT_HEADER {
        return Err(short(packet));
    }
    ports(bytes, packet, offset)?;
    let length = u16::from_be_bytes(bytes.load::<2>(offset + 4).ok_or(short(packet))?) as u32;
    // A first fragment's length is that of the whole datagram.
    if length < SHORT_HEADER || (length > rest && packet.first_fragment == 0) { Err(MALFORMED) } else { Ok(()) }
}

/// RFC 9260 section 3: a header of 12 bytes, then chunks; a chunk's length counts its own header of 4. The other chunks are not
/// looked at: an INIT must stand alone (section 6.10), and receivers discard one that does not.
#[inline(always)]
fn chunk<B: Bytes>(bytes: &B, packet: &mut Packet, offset: u32, rest: u32) -> Result<(), Fault> {
    if rest < SCTP_HEADER {
        return Err(short(packet));
    }
    ports(bytes, packet, offset)?;
    let [kind, _, l0, l1] = bytes.load::<4>(offset + 12).ok_or(short(packet))?;
    packet.sctp_chunk = kind;
    // As with UDP, a first fragment's chunk may be longer than what is here.
    if u16::from_be_bytes([l0, l1]) < 4 { Err(MALFORMED) } else { Ok(()) }
}

/// RFC 792 and RFC 4443 section 2.1: type, code and checksum come first in every message; four bytes more are in all there are, and
/// the kernel drops what is shorter.
#[inline(always)]
fn message<B: Bytes>(bytes: &B, packet: &mut Packet, offset: u32, rest: u32) -> Result<(), Fault> {
    if rest < SHORT_HEADER {
        return Err(short(packet));
    }
    let [kind, _, _, _, i0, i1, _, _] = bytes.load::<8>(offset).ok_or(short(packet))?;
    // Without a branch, which the verifier would follow to the end of every program.
    let fragment = 0u32.wrapping_sub(packet.first_fragment as u32);
    packet.ident = packet.ident & fragment | u16::from_be_bytes([i0, i1]) as u32 & !fragment;
    packet.dst_port = Port::new(kind as u16);
    Ok(())
}
