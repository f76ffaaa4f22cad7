//! Lives: kernel and host.
//! Called by: `packet`.
//! May touch: packet bytes through [`Bytes`].
//! Never: lets a frame pass for something else because of tags or lengths in front of its packet.

use super::{Bytes, Fault, MALFORMED, MAX_TAGS, Place};
use crate::verdict::Reason;

const IPV4: u16 = 0x0800;
const ARP: u16 = 0x0806;
const IPV6: u16 = 0x86dd;
/// 802.1Q and 802.1ad, the tags that Linux looks behind.
const TAGS: [u16; 2] = [0x8100, 0x88a8];
/// A smaller number is no type but a length (IEEE 802.3 clause 3.2.6).
const FIRST_TYPE: u16 = 0x0600;

/// Where the IP packet of an Ethernet frame starts.
///
/// # Errors
/// The fault for which there is none.
#[inline(always)]
pub fn network<B: Bytes>(bytes: &B) -> Result<Place, Fault> {
    let mut offset = 12;
    for _ in 0..=MAX_TAGS {
        let ethertype = u16::from_be_bytes(bytes.load::<2>(offset).ok_or(MALFORMED)?);
        if ethertype == IPV4 {
            return Ok(Place { offset: offset + 2, version: 4 });
        }
        if ethertype == IPV6 {
            return Ok(Place { offset: offset + 2, version: 6 });
        }
        if ethertype != TAGS[0] && ethertype != TAGS[1] {
            return Err(other(bytes, ethertype, offset + 2));
        }
        offset += 4;
    }
    // The kernel may look behind more: it drops tags of VLAN 0 as long as there are any.
    Err(Fault::Refused(Reason::ExtDepth))
}

/// What a frame that holds no IP packet is.
#[inline(always)]
fn other<B: Bytes>(bytes: &B, ethertype: u16, offset: u32) -> Fault {
    if ethertype == ARP {
        return Fault::Arp;
    }
    if ethertype >= FIRST_TYPE {
        return Fault::NotIp;
    }
    let Some([destination, source, _]) = bytes.load::<3>(offset) else { return MALFORMED };
    if !bytes.reaches(offset + ethertype as u32) {
        return MALFORMED;
    }
    let hides = match (destination, source) {
        // SNAP: the organisations under which an ethertype follows (RFC 1042, IEEE 802.1H).
        (0xaa, 0xaa) => matches!(bytes.load::<3>(offset + 3), None | Some([0, 0, 0 | 0xf8])),
        // IP by its own number (IEEE 802.2).
        (6, _) | (_, 6) => true,
        _ => false,
    };
    if hides { Fault::Refused(Reason::Ethertype) } else { Fault::NotIp }
}
