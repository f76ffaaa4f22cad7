//! Lives: kernel and host.
//! Called by: `packet`.
//! May touch: packet bytes through [`Bytes`].
//! Never: walks a chain of headers for ever; takes what lies behind a packet for a part of it.

use super::{Bytes, Fault, MALFORMED, MAX_EXTENSIONS, Packet, transport};
use crate::{
    addr::{Addr, Protocol},
    verdict::Reason,
};

/// Bytes of the header itself, and of the shortest extension header.
const HEADER: u32 = 40;
const SHORTEST: u32 = 8;
/// The most that the extension headers looked through can take, in bits that the kernel's verifier sees; with one more they still
/// fit in 16 bits.
const MOST: u32 = 0x3fff;

/// IANA "Protocol Numbers" of the extension headers that are looked through.
mod next {
    pub const HOP_BY_HOP: u8 = 0;
    pub const ROUTING: u8 = 43;
    pub const FRAGMENT: u8 = 44;
    pub const AUTHENTICATION: u8 = 51;
    pub const DESTINATION: u8 = 60;

    /// Whether what follows is one of them.
    #[inline(always)]
    pub const fn is_extension(number: u8) -> bool {
        matches!(number, HOP_BY_HOP | ROUTING | FRAGMENT | AUTHENTICATION | DESTINATION)
    }
}

/// RFC 8200 sections 3 and 4.
#[inline(always)]
pub fn read<B: Bytes, const ALL: bool>(bytes: &B, offset: u32, packet: &mut Packet) -> Result<(), Fault> {
    let [_, _, _, _, len_hi, len_lo, mut next, hop_limit] = bytes.load::<8>(offset).ok_or(MALFORMED)?;
    packet.src = Addr::v6(bytes.load::<16>(offset + 8).ok_or(MALFORMED)?);
    packet.dst = Addr::v6(bytes.load::<16>(offset + 24).ok_or(MALFORMED)?);
    let payload = u16::from_be_bytes([len_hi, len_lo]) as u32;
    packet.length = payload + HEADER;
    packet.hop_limit = hop_limit;
    packet.protocol = Protocol(next);
    if ALL && !bytes.reaches(offset + HEADER + payload) {
        return Err(MALFORMED);
    }
    // Policy knows these as the IPv4 addresses they hold; no such packet travels (RFC 4291 section 2.5.5.2).
    if ALL && (packet.src.as_v4().is_some() || packet.dst.as_v4().is_some()) {
        return Err(Fault::Refused(Reason::Martian));
    }
    let mut used = 0u32;
    for depth in 0..=MAX_EXTENSIONS {
        used = bytes.any(used as u16, &mut packet.header);
        if used > payload || used > MOST {
            return Err(transport::short(packet));
        }
        if next::is_extension(next) {
            if depth == MAX_EXTENSIONS {
                break;
            }
            // What stands behind the packet's end is no header of it.
            if payload - used < SHORTEST {
                return Err(transport::short(packet));
            }
        }
        let at = offset + HEADER + used;
        packet.protocol = Protocol(next);
        packet.header = (HEADER + used) as u16;
        let (following, size) = match next {
            next::HOP_BY_HOP | next::DESTINATION | next::ROUTING => {
                let [following, units, _, left] = bytes.load::<4>(at).ok_or(transport::short(packet))?;
                // What is judged is where the packet goes next, and not where it ends (RFC 5095 forbids the one kind there was).
                if ALL && next == next::ROUTING && left != 0 {
                    return Err(Fault::Refused(Reason::SourceRoute));
                }
                // In 8-octet units after the first.
                (following, 8 + units as u32 * 8)
            }
            next::AUTHENTICATION => {
                let [following, units] = bytes.load::<2>(at).ok_or(transport::short(packet))?;
                // In 4-octet units, minus 2; three of them are in all there are (RFC 4302 section 2).
                if units == 0 {
                    return Err(MALFORMED);
                }
                (following, 8 + units as u32 * 4)
            }
            next::FRAGMENT => {
                let following = fragment::<B, ALL>(bytes, packet, at, payload - used)?;
                if packet.later_fragment == 1 {
                    return Ok(());
                }
                (following, 8)
            }
            _ => return transport::read::<B, ALL>(bytes, packet, at, payload - used),
        };
        next = following;
        used += size;
    }
    Err(Fault::Refused(Reason::ExtDepth))
}

/// RFC 8200 section 4.5: what follows, in a first fragment. A second header, or one of a packet in one piece (RFC 8021 says to send
/// none), only serves to be read in two ways.
#[inline(always)]
fn fragment<B: Bytes, const ALL: bool>(bytes: &B, packet: &mut Packet, at: u32, rest: u32) -> Result<u8, Fault> {
    let [following, _, hi, lo, a, b, c, d] = bytes.load::<8>(at).ok_or(MALFORMED)?;
    let (place, more) = ((u16::from_be_bytes([hi, lo]) & 0xfff8) as u32, lo & 1);
    if packet.first_fragment == 1 || following == next::FRAGMENT || (ALL && place == 0 && more == 0) {
        return Err(Fault::Refused(Reason::FragNested));
    }
    packet.ident = u32::from_be_bytes([a, b, c, d]);
    packet.protocol = Protocol(following);
    if place == 0 {
        packet.first_fragment = more;
        return Ok(following);
    }
    packet.later_fragment = 1;
    if ALL {
        transport::later(packet, place, rest - 8, 0)?;
    }
    Ok(following)
}
