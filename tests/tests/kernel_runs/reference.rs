//! Lives: weir-tests, in-kernel test runs: a second opinion on every frame, by etherparse's views of single headers.
//! Called by: `differential`.
//! May touch: nothing.
//! Never: a line shared with `weir_common::packet`, nor its order of doing things; plain, and slow.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use etherparse::{
    IpAuthHeaderSlice, Ipv4HeaderSlice, Ipv6FragmentHeaderSlice, Ipv6HeaderSlice, Ipv6RawExtHeaderSlice,
    SingleVlanSlice, TcpHeaderSlice, UdpHeaderSlice,
};
use weir_common::verdict::Reason;

/// What a frame is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    Refused(Reason),
    NotIp,
    Arp,
    Ip(Read),
}

/// An IP packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Read {
    pub src: IpAddr,
    pub dst: IpAddr,
    pub protocol: u8,
    pub ports: (u16, u16),
    pub hops: u8,
    pub ident: u32,
    pub fragment: Fragment,
    pub length: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fragment {
    Whole,
    First,
    Later,
}

/// What is refused, and why; a packet whose end is missing is malformed, unless it is a first fragment, which is too small then.
type Checked<T> = Result<T, Reason>;

pub fn see(frame: &[u8]) -> Seen {
    let mut rest = frame.get(12..).unwrap_or_default();
    for tags in 0.. {
        let Some((ethertype, body)) = rest.split_at_checked(2) else { return Seen::Refused(Reason::Malformed) };
        let ethertype = u16::from_be_bytes([ethertype[0], ethertype[1]]);
        let seen = match ethertype {
            0x0800 => four(body),
            0x86dd => six(body),
            0x0806 => return Seen::Arp,
            0x8100 | 0x88a8 if tags == 2 => return Seen::Refused(Reason::ExtDepth),
            0x8100 | 0x88a8 => {
                let Ok(_tag) = SingleVlanSlice::from_slice(body) else { return Seen::Refused(Reason::Malformed) };
                rest = &body[2..];
                continue;
            }
            ..0x0600 => return length_field(usize::from(ethertype), body),
            _ => return Seen::NotIp,
        };
        return seen.map_or_else(Seen::Refused, Seen::Ip);
    }
    unreachable!()
}

/// IEEE 802.3: a length, then LLC, which may hide an ethertype.
fn length_field(length: usize, body: &[u8]) -> Seen {
    if body.len() < 3 || body.len() < length {
        return Seen::Refused(Reason::Malformed);
    }
    let snap = body.starts_with(&[0xaa, 0xaa]);
    let encapsulated =
        body.get(3..6).is_none_or(|organisation| organisation == [0, 0, 0] || organisation == [0, 0, 0xf8]);
    let ip = body[0] == 6 || body[1] == 6;
    if (snap && encapsulated) || ip { Seen::Refused(Reason::Ethertype) } else { Seen::NotIp }
}

fn four(body: &[u8]) -> Checked<Read> {
    let header = Ipv4HeaderSlice::from_slice(body).map_err(|_| Reason::Malformed)?;
    let (start, length) = (header.slice().len(), usize::from(header.total_len()));
    if length < start || length > body.len() {
        return Err(Reason::Malformed);
    }
    options(header.options())?;
    let payload = &body[start..length];
    let place = usize::from(header.fragments_offset().value()) * 8;
    let mut read = Read {
        src: IpAddr::V4(Ipv4Addr::from(header.source())),
        dst: IpAddr::V4(Ipv4Addr::from(header.destination())),
        protocol: header.protocol().0,
        ports: (0, 0),
        hops: header.ttl(),
        ident: u32::from(header.identification()),
        fragment: kind(place, header.more_fragments()),
        length,
    };
    transport(&mut read, payload, place, start)?;
    Ok(read)
}

const fn kind(place: usize, more: bool) -> Fragment {
    match (place, more) {
        (0, false) => Fragment::Whole,
        (0, true) => Fragment::First,
        _ => Fragment::Later,
    }
}

/// RFC 791: one byte, or one byte, a length and more.
fn options(mut options: &[u8]) -> Checked<()> {
    while let [kind, rest @ ..] = options {
        match kind {
            0 => return Ok(()),
            1 => options = rest,
            131 | 137 => return Err(Reason::SourceRoute),
            _ => {
                let length = rest.first().map_or(0, |length| usize::from(*length));
                options = options.get(length..).filter(|_| length >= 2).ok_or(Reason::Malformed)?;
            }
        }
    }
    Ok(())
}

fn six(body: &[u8]) -> Checked<Read> {
    let header = Ipv6HeaderSlice::from_slice(body).map_err(|_| Reason::Malformed)?;
    let mut payload = body[40..].get(..usize::from(header.payload_length())).ok_or(Reason::Malformed)?;
    let (src, dst) = (Ipv6Addr::from(header.source()), Ipv6Addr::from(header.destination()));
    if src.to_ipv4_mapped().is_some() || dst.to_ipv4_mapped().is_some() {
        return Err(Reason::Martian);
    }
    let mut read = Read {
        src: IpAddr::V6(src),
        dst: IpAddr::V6(dst),
        protocol: header.next_header().0,
        ports: (0, 0),
        hops: header.hop_limit(),
        ident: 0,
        fragment: Fragment::Whole,
        length: 40 + payload.len(),
    };
    for depth in 0.. {
        let short = if read.fragment == Fragment::First { Reason::TinyFragment } else { Reason::Malformed };
        let (next, size) = match read.protocol {
            0 | 43 | 60 | 44 | 51 if depth == 6 => return Err(Reason::ExtDepth),
            0 | 43 | 60 | 44 | 51 if payload.len() < 8 => return Err(short),
            44 => {
                let fragment = Ipv6FragmentHeaderSlice::from_slice(payload).map_err(|_| Reason::Malformed)?;
                let place = usize::from(fragment.fragment_offset().value()) * 8;
                let (more, next) = (fragment.more_fragments(), fragment.next_header().0);
                if read.fragment == Fragment::First || next == 44 || (place == 0 && !more) {
                    return Err(Reason::FragNested);
                }
                (read.ident, read.fragment) = (fragment.identification(), kind(place, more));
                if place != 0 {
                    read.protocol = next;
                    transport(&mut read, &payload[8..], place, 0)?;
                    return Ok(read);
                }
                (next, 8)
            }
            0 | 60 | 43 => {
                // A route is refused before it is asked where it ends; the first eight bytes are in every such header.
                let whole = Ipv6RawExtHeaderSlice::from_slice(payload);
                if read.protocol == 43 && payload.get(3).is_some_and(|left| *left != 0) {
                    return Err(Reason::SourceRoute);
                }
                let header = whole.map_err(|_| short)?;
                (header.next_header().0, header.slice().len())
            }
            51 => {
                if payload.get(1) == Some(&0) {
                    return Err(Reason::Malformed);
                }
                let header = IpAuthHeaderSlice::from_slice(payload).map_err(|_| short)?;
                (header.next_header().0, header.slice().len())
            }
            _ => break,
        };
        read.protocol = next;
        payload = &payload[size..];
    }
    transport(&mut read, payload, 0, 0)?;
    Ok(read)
}

/// Ports, or the type of an ICMP message as the second of them.
fn transport(read: &mut Read, payload: &[u8], place: usize, header: usize) -> Checked<()> {
    if place != 0 {
        let headers = match read.protocol {
            6 => 20,
            132 => 16,
            _ => 8,
        };
        return match () {
            () if place < headers => Err(Reason::TinyFragment),
            () if payload.is_empty() || place + payload.len() + header > 65_535 => Err(Reason::Malformed),
            () => Ok(()),
        };
    }
    let first = read.fragment == Fragment::First;
    let short = if first { Reason::TinyFragment } else { Reason::Malformed };
    let word = |at: usize| payload.get(at..at + 2).map(|two| u16::from_be_bytes([two[0], two[1]])).ok_or(short);
    match read.protocol {
        6 => {
            if payload.len() >= 20 && payload[12] >> 4 < 5 {
                return Err(Reason::Malformed);
            }
            let tcp = TcpHeaderSlice::from_slice(payload).map_err(|_| short)?;
            read.ports = (tcp.source_port(), tcp.destination_port());
            let does_something = tcp.syn() || tcp.ack() || tcp.rst();
            if !does_something || (tcp.syn() && (tcp.fin() || tcp.rst())) {
                return Err(Reason::TcpFlags);
            }
        }
        17 => {
            let udp = UdpHeaderSlice::from_slice(payload).map_err(|_| short)?;
            read.ports = (udp.source_port(), udp.destination_port());
            let length = usize::from(udp.length());
            if length < 8 || (!first && length > payload.len()) {
                return Err(Reason::Malformed);
            }
        }
        132 => {
            read.ports = (word(0)?, word(2)?);
            if payload.len() < 16 {
                return Err(short);
            }
            if word(14)? < 4 {
                return Err(Reason::Malformed);
            }
        }
        1 | 58 => {
            let (kind, ident) = (word(0)? >> 8, word(4)?);
            word(6)?;
            read.ports = (0, kind);
            if !first {
                read.ident = u32::from(ident);
            }
        }
        _ => {}
    }
    Ok(())
}
