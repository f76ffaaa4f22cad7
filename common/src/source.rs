//! Lives: kernel and host.
//! Called by: the programs that verify where a workload's packets come from; the tests.
//! May touch: packet bytes through [`Bytes`], the [`Tables`] it is handed.
//! Never: takes a workload's word for an address; what it may speak for stands in the tables, or follows from its interface.

use crate::{
    addr::Addr,
    decide::{Image, Tables},
    packet::{Bytes, Packet},
};

const ETHERTYPE_ARP: u16 = 0x0806;
/// Where the source of a frame stands, its type, and what it carries.
const SOURCE: u32 = 6;
const ETHERTYPE: u32 = 12;
const PAYLOAD: u32 = 14;

/// ICMPv6 types of neighbour discovery (RFC 4861 section 4).
mod nd {
    pub const ROUTER_SOLICITATION: u16 = 133;
    pub const NEIGHBOUR_SOLICITATION: u16 = 135;
    pub const NEIGHBOUR_ADVERTISEMENT: u16 = 136;
}

/// What a frame that is no IP packet is, as far as a workload's interface is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Other {
    /// ARP for IPv4, from an address the workload may speak for.
    Vouched,
    /// ARP for IPv4 that speaks for somebody else.
    Spoofed,
    /// Anything else, and ARP that contradicts itself.
    Unknown,
}

/// Judges a frame from a workload that is no IP packet.
#[inline(always)]
pub fn other<B: Bytes, T: Tables>(frame: &B, image: &Image<'_, T>, workload: u32) -> Other {
    let Some(sender) = arp_sender(frame) else { return Other::Unknown };
    // The unspecified address asks whether another is in use (RFC 5227 section 1.1), and claims nothing.
    if sender.is_unspecified() || image.owns(workload, &sender) { Other::Vouched } else { Other::Spoofed }
}

/// Whether the frame is ARP as it must be: for IPv4 over Ethernet.
#[inline(always)]
pub fn is_arp<B: Bytes>(frame: &B) -> bool {
    arp_sender(frame).is_some()
}

/// RFC 826: hardware 1, protocol IPv4, their lengths 6 and 4, operation, the sender's hardware and protocol address.
#[inline(always)]
fn arp_sender<B: Bytes>(frame: &B) -> Option<Addr> {
    let ethertype = u16::from_be_bytes(frame.load::<2>(ETHERTYPE)?);
    let header = u64::from_be_bytes(frame.load::<8>(PAYLOAD)?) >> 16;
    let sender = frame.load::<4>(PAYLOAD + 14)?;
    // The target's two addresses must be there too.
    frame.load::<10>(PAYLOAD + 18)?;
    (ethertype == ETHERTYPE_ARP && header == 0x0001_0800_0604).then_some(Addr::v4(sender))
}

/// Whether a workload may send this IP packet as far as its source goes: from an address of its own; neighbour discovery and
/// reports of groups also from the link-local address of the interface or from none, and only for what is its own.
#[inline(always)]
pub fn vouched<B: Bytes, T: Tables>(frame: &B, packet: &Packet, image: &Image<'_, T>, workload: u32) -> bool {
    let Some(hardware) = frame.load::<6>(SOURCE) else { return false };
    let own = |addr: &Addr| image.owns(workload, addr) || *addr == Addr::link_local(hardware);
    if packet.discovers_neighbours() {
        let speaks = match claimed(frame, packet) {
            Some(claim) => own(&claim),
            None => packet.dst_port.number() == nd::ROUTER_SOLICITATION,
        };
        return speaks && (packet.src.is_unspecified() || own(&packet.src));
    }
    if packet.reports_groups() && (packet.src.is_unspecified() || own(&packet.src)) {
        return true;
    }
    image.owns(workload, &packet.src) && !packet.src.is_unspecified() && !packet.gives_directions()
}

/// The address that a message of neighbour discovery speaks for; `None` for one that speaks as a router, or for nobody.
#[inline(always)]
fn claimed<B: Bytes>(frame: &B, packet: &Packet) -> Option<Addr> {
    // The mask is what lets the kernel's verifier see the bound; a header of 512 bytes would not have been read.
    let header = packet.header as u32 & 511;
    let target = || Some(Addr::v6(frame.load::<16>(PAYLOAD + header + 8)?));
    match packet.dst_port.number() {
        nd::NEIGHBOUR_ADVERTISEMENT => target(),
        nd::NEIGHBOUR_SOLICITATION if packet.src.is_unspecified() => target(),
        nd::NEIGHBOUR_SOLICITATION => Some(packet.src),
        _ => None,
    }
}

/// Whether a packet that passed another hook may have come from the workload: from one of its addresses, or one that is nobody's
/// in particular.
#[inline(always)]
pub fn plausible<T: Tables>(packet: &Packet, image: &Image<'_, T>, workload: u32) -> bool {
    let src = &packet.src;
    image.owns(workload, src)
        || src.is_link_local()
        || src.is_unspecified()
        || (src.is_loopback() && packet.dst.is_loopback())
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::vec::Vec;

    use super::*;
    use crate::{
        event::{Endpoint, NATIVE},
        image::{ADDRESSED, FIRST_IDENTITY, MAGIC, Page, Section, header},
        packet::parse_frame,
    };

    const WORKLOAD: u32 = 1;
    const HARDWARE: [u8; 6] = [0x02, 0x42, 10, 0, 0, 1];

    /// Workload 1 owns 10.0.0.1 and fd00::1.
    struct World([Page; 2]);

    impl World {
        fn new() -> Self {
            let (mut front, mut workloads) = (Page::zeroed(), Page::zeroed());
            front.words[header::MAGIC as usize] = MAGIC;
            front.words[header::SECTIONS as usize + Section::Workloads as usize] = 1 | 2 << 32;
            workloads.words[0] = u64::from(FIRST_IDENTITY | ADDRESSED) << 32;
            Self([front, workloads])
        }
    }

    impl Tables for World {
        fn page(&self, index: u32) -> Option<&Page> {
            self.0.get(index as usize)
        }

        fn endpoint(&self, addr: &Addr) -> Option<Endpoint> {
            let owner = if *addr == v4(1) || *addr == v6("fd00::1") { WORKLOAD | NATIVE } else { 2 };
            Some(Endpoint { identity: FIRST_IDENTITY, owner })
        }

        fn cidr(&self, _: &Addr) -> Option<u32> {
            None
        }
    }

    struct Frame(Vec<u8>);

    impl Bytes for Frame {
        fn load<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
            self.0.get(offset as usize..offset as usize + N)?.try_into().ok()
        }
        fn len(&self) -> u32 {
            self.0.len() as u32
        }
    }

    fn v4(last: u8) -> Addr {
        Addr::v4([10, 0, 0, last])
    }

    fn v6(text: &str) -> Addr {
        Addr::v6(text.parse::<core::net::Ipv6Addr>().unwrap().octets())
    }

    fn ethernet(ethertype: u16, payload: &[u8]) -> Frame {
        let mut frame = std::vec![0xff; 6];
        frame.extend(HARDWARE);
        frame.extend(ethertype.to_be_bytes());
        frame.extend(payload);
        Frame(frame)
    }

    fn arp(sender: [u8; 4]) -> Vec<u8> {
        let mut arp = std::vec![0, 1, 8, 0, 6, 4, 0, 2];
        arp.extend(HARDWARE);
        arp.extend(sender);
        arp.extend([0; 10]);
        arp
    }

    fn icmpv6(src: &str, kind: u8, hops: u8, target: &str) -> Frame {
        let mut packet = std::vec![0x60, 0, 0, 0, 0, 24, 58, hops];
        packet.extend(v6(src).0);
        packet.extend(v6("ff02::1").0);
        packet.extend([kind, 0, 0, 0, 0, 0, 0, 0]);
        packet.extend(v6(target).0);
        ethernet(0x86dd, &packet)
    }

    #[test]
    fn arp_speaks_for_the_workloads_own_addresses_only() {
        let world = World::new();
        let image = Image::open(&world).unwrap();
        let mut odd = arp([10, 0, 0, 1]);
        odd[4] = 8;
        let rows = [
            ("its own", ethernet(0x0806, &arp([10, 0, 0, 1])), Other::Vouched),
            ("a probe", ethernet(0x0806, &arp([0; 4])), Other::Vouched),
            ("the gateway's", ethernet(0x0806, &arp([10, 0, 0, 254])), Other::Spoofed),
            ("of another kind", ethernet(0x0806, &odd), Other::Unknown),
            ("cut short", ethernet(0x0806, &arp([10, 0, 0, 1])[..27]), Other::Unknown),
            ("another ethertype", ethernet(0x88cc, &arp([10, 0, 0, 1])), Other::Unknown),
        ];
        for (name, frame, expected) in rows {
            assert_eq!(other(&frame, &image, WORKLOAD), expected, "{name}");
        }
    }

    #[test]
    fn neighbour_discovery_speaks_for_the_workloads_own_addresses_only() {
        let world = World::new();
        let image = Image::open(&world).unwrap();
        let own = "fe80::42:aff:fe00:1";
        let rows = [
            ("solicits from its own address", icmpv6("fd00::1", 135, 255, "fd00::9"), true),
            ("solicits from its link-local address", icmpv6(own, 135, 255, "fd00::9"), true),
            ("solicits from another's", icmpv6("fd00::9", 135, 255, "fd00::1"), false),
            ("solicits from the gateway's link-local address", icmpv6("fe80::1", 135, 255, "fd00::1"), false),
            ("probes its own address", icmpv6("::", 135, 255, "fd00::1"), true),
            ("probes another's", icmpv6("::", 135, 255, "fd00::9"), false),
            ("advertises its own address", icmpv6("fd00::1", 136, 255, "fd00::1"), true),
            ("advertises the gateway's", icmpv6("fd00::1", 136, 255, "fd00::9"), false),
            ("asks for routers", icmpv6("::", 133, 255, "::"), true),
            ("asks for routers as another", icmpv6("fe80::1", 133, 255, "::"), false),
            ("speaks as a router", icmpv6(own, 134, 255, "::"), false),
            ("redirects", icmpv6(own, 137, 255, "fd00::9"), false),
            ("speaks as a router from afar", icmpv6("fd00::1", 134, 64, "::"), false),
            ("reports groups", icmpv6(own, 143, 1, "::"), true),
            ("reports groups before it has an address", icmpv6("::", 143, 1, "::"), true),
            ("reports groups as another", icmpv6("fe80::1", 143, 1, "::"), false),
            ("asks another from its own address", icmpv6("fd00::1", 128, 64, "::"), true),
            ("asks another from its link-local address", icmpv6(own, 128, 64, "::"), false),
            ("asks another from nowhere", icmpv6("::", 128, 64, "::"), false),
        ];
        for (name, frame, expected) in rows {
            let packet = parse_frame(&frame).unwrap();
            assert_eq!(vouched(&frame, &packet, &image, WORKLOAD), expected, "{name}");
        }
    }
}
