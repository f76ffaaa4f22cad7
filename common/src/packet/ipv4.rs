//! Lives: kernel and host.
//! Called by: `packet`.
//! May touch: packet bytes through [`Bytes`].
//! Never: reads ports from where the shortest header would end.

use super::{Bytes, Fault, MALFORMED, Packet, transport};
use crate::{
    addr::{Addr, Protocol},
    verdict::Reason,
};

/// A header without options; one with as many as fit has 60.
const SHORTEST: u32 = 20;
const MOST_OPTIONS: u32 = 40;
/// The bits that the length of any header fits in.
const LONGEST: u32 = 63;

/// RFC 791 section 3.1.
#[inline(always)]
pub fn read<B: Bytes, const ALL: bool>(bytes: &B, offset: u32, packet: &mut Packet) -> Result<(), Fault> {
    let [vihl, _, len_hi, len_lo, id_hi, id_lo, frag_hi, frag_lo] = bytes.load::<8>(offset).ok_or(MALFORMED)?;
    let [hop_limit, protocol] = bytes.load::<2>(offset + 8).ok_or(MALFORMED)?;
    packet.src = Addr::v4(bytes.load::<4>(offset + 12).ok_or(MALFORMED)?);
    packet.dst = Addr::v4(bytes.load::<4>(offset + 16).ok_or(MALFORMED)?);
    let header = ((vihl & 15) as u32) * 4;
    let length = u16::from_be_bytes([len_hi, len_lo]) as u32;
    packet.length = length;
    packet.ident = u16::from_be_bytes([id_hi, id_lo]) as u32;
    packet.protocol = Protocol(protocol);
    packet.hop_limit = hop_limit;
    packet.header = header as u16;
    if header < SHORTEST || length < header || (ALL && !bytes.reaches(offset + length)) {
        return Err(MALFORMED);
    }
    if ALL && header > SHORTEST {
        let looked = options(bytes, offset, header, &mut packet.header);
        packet.header = header as u16;
        looked?;
    }
    // The place in units of eight bytes, in 13 bits; before them whether more follow.
    let place = (u16::from_be_bytes([frag_hi, frag_lo]) & 0x1fff) as u32 * 8;
    if place != 0 {
        packet.later_fragment = 1;
        return if ALL { transport::later(packet, place, length - header, header) } else { Ok(()) };
    }
    packet.first_fragment = frag_hi >> 5 & 1;
    transport::read::<B, ALL>(bytes, packet, offset + header, length - header)
}

/// Looks for a route that the sender chose: what is judged is where the packet goes next, and not where it ends. `place` is the
/// loop's own meanwhile.
#[inline(always)]
fn options<B: Bytes>(bytes: &B, offset: u32, header: u32, place: &mut u16) -> Result<(), Fault> {
    const END: u8 = 0;
    const NOTHING: u8 = 1;
    const LOOSE_ROUTE: u8 = 131;
    const STRICT_ROUTE: u8 = 137;
    let mut read = SHORTEST;
    for _ in 0..MOST_OPTIONS {
        // By its bits, because comparing it with another register tells the verifier of Linux 6.1 nothing.
        read = bytes.any(read as u16, place) & LONGEST;
        if read >= header {
            return Ok(());
        }
        let at = offset + read;
        let [kind] = bytes.load::<1>(at).ok_or(MALFORMED)?;
        if kind == END {
            return Ok(());
        }
        if kind == NOTHING {
            read += 1;
            continue;
        }
        if kind == LOOSE_ROUTE || kind == STRICT_ROUTE {
            return Err(Fault::Refused(Reason::SourceRoute));
        }
        let [length] = bytes.load::<1>(at + 1).ok_or(MALFORMED)?;
        if length < 2 || read + length as u32 > header {
            return Err(MALFORMED);
        }
        read += length as u32;
    }
    Ok(())
}
