//! Lives: kernel and host.
//! Called by: everything that names an address, a prefix or a port.
//! May touch: nothing but its arguments.
//! Never: keeps IPv4 and IPv6 apart by type; an IPv4 address is its v4-mapped IPv6 form (RFC 4291 section 2.5.5.2).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// An IP address in network order; IPv4 as `::ffff:a.b.c.d`.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
    Unaligned,
)]
#[repr(C)]
pub struct Addr(pub [u8; 16]);

impl Addr {
    /// `::`, which stands for "no address" in records.
    pub const UNSPECIFIED: Self = Self([0; 16]);

    /// The v4-mapped form of four network-order bytes.
    #[inline(always)]
    #[must_use]
    pub const fn v4(bytes: [u8; 4]) -> Self {
        Self::from_words([0, 0, MAPPED, u32::from_ne_bytes(bytes)])
    }

    /// The same, in two pieces instead of four: what was stored in four parts and is loaded in two waits until all have left the
    /// processor. For where that matters; the verifier walks more paths through a packet's headers for it.
    #[inline(always)]
    #[must_use]
    pub const fn v4_at_once(bytes: [u8; 4]) -> Self {
        let (mapped, host) = (MAPPED as u64, u32::from_ne_bytes(bytes) as u64);
        let half = if cfg!(target_endian = "little") { host << 32 | mapped } else { mapped << 32 | host };
        Self(zerocopy::transmute!([0, half]))
    }

    /// From four words as they lie in memory, network order within.
    ///
    /// Everything here works on words, not bytes: sixteen bytes that the compiler keeps apart are sixteen slots of a kernel
    /// program's 512-byte stack.
    #[inline(always)]
    #[must_use]
    pub const fn from_words(words: [u32; 4]) -> Self {
        Self(zerocopy::transmute!(words))
    }

    /// Four words as they lie in memory.
    #[inline(always)]
    #[must_use]
    pub const fn words(&self) -> [u32; 4] {
        zerocopy::transmute!(self.0)
    }

    /// The key of one port of a service's address in the table of addresses. It is spelled as an address nobody has: multicast
    /// of scope 0, which nothing may send or deliver (RFC 4291 section 2.7).
    #[inline(always)]
    #[must_use]
    pub const fn of_call(service: u32, protocol: Protocol, port: u16) -> Self {
        let called = (protocol.0 as u32) << 16 | port as u32;
        Self::from_words([0xff00_0000_u32.to_be(), 0, service, called])
    }

    /// The same key for one local workload, by its number, that is behind the port and calls itself by it; never equal to that of
    /// everybody.
    #[inline(always)]
    #[must_use]
    pub const fn called_by(&self, workload: u32) -> Self {
        let [mark, _, service, called] = self.words();
        Self::from_words([mark, !workload, service, called])
    }

    /// The key of everybody, of such a key.
    #[inline(always)]
    #[must_use]
    pub const fn called_by_all(&self) -> Self {
        let [mark, _, service, called] = self.words();
        Self::from_words([mark, 0, service, called])
    }

    /// An IPv6 address from its network-order bytes. A v4-mapped one is an IPv4 address, as the kernel treats it.
    #[inline(always)]
    #[must_use]
    pub const fn v6(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The four bytes of an IPv4 address, if it is one.
    #[inline(always)]
    #[must_use]
    pub const fn as_v4(&self) -> Option<[u8; 4]> {
        let [a, b, c, d] = self.words();
        if a | b | (c ^ MAPPED) != 0 {
            return None;
        }
        Some(d.to_ne_bytes())
    }

    /// Whether it names no host: `0.0.0.0` or `::`.
    #[inline(always)]
    #[must_use]
    pub const fn is_unspecified(&self) -> bool {
        let [a, b, c, d] = self.words();
        a | b | d == 0 && (c == 0 || c == MAPPED)
    }

    /// Whether it is the host itself: 127.0.0.0/8 or `::1`.
    #[inline(always)]
    #[must_use]
    pub const fn is_loopback(&self) -> bool {
        let (high, low) = self.halves();
        high == 0 && (low == 1 || low >> 24 == 0x00ff_ff7f)
    }

    /// Whether no packet on a wire may come from it: the host itself, "this network" (0.0.0.0/8), groups, everybody (RFC 6890).
    #[inline(always)]
    #[must_use]
    pub const fn never_sends(&self) -> bool {
        let (high, low) = self.halves();
        if self.as_v4().is_none() {
            return high >> 56 == 0xff || self.is_loopback() || high | low == 0;
        }
        let first = low as u32 >> 24;
        first == 0 || first == 127 || first >> 4 == 14 || low as u32 == u32::MAX
    }

    /// Whether it is of many hosts: a group's, or everybody's (RFC 5771, RFC 919, RFC 4291 section 2.7).
    #[inline(always)]
    #[must_use]
    pub const fn is_of_many(&self) -> bool {
        let (high, low) = self.halves();
        match self.as_v4() {
            Some(_) => low as u32 >> 28 == 14 || low as u32 == u32::MAX,
            None => high >> 56 == 0xff,
        }
    }

    /// Whether it is an IPv6 address of the link only (`fe80::/10`).
    #[inline(always)]
    #[must_use]
    pub const fn is_link_local(&self) -> bool {
        let (high, _) = self.halves();
        high >> 54 == 0x3fa
    }

    /// The link-local address that an interface forms of its hardware address (RFC 4291 appendix A).
    #[inline(always)]
    #[must_use]
    pub const fn link_local([a, b, c, d, e, f]: [u8; 6]) -> Self {
        let low = u64::from_be_bytes([a ^ 2, b, c, 0xff, 0xfe, d, e, f]);
        Self(zerocopy::transmute!([0xfe80_0000_0000_0000u64.to_be(), low.to_be()]))
    }

    /// The address as two big-endian halves, for masking and hashing.
    #[inline(always)]
    #[must_use]
    pub const fn halves(&self) -> (u64, u64) {
        let [high, low]: [u64; 2] = zerocopy::transmute!(self.0);
        (u64::from_be(high), u64::from_be(low))
    }

    /// The address with all but its first `bits` bits (0 to 128, counted in the 128-bit form) cleared.
    #[inline(always)]
    #[must_use]
    pub const fn masked(&self, bits: u32) -> Self {
        let (high, low) = self.halves();
        let (high, low) = (high & mask64(bits), low & mask64(bits.saturating_sub(64)));
        Self(zerocopy::transmute!([high.to_be(), low.to_be()]))
    }
}

/// The third word of a v4-mapped address.
const MAPPED: u32 = u32::from_ne_bytes([0, 0, 0xff, 0xff]);

/// The top `bits` bits of 64; 64 or more is all of them.
const fn mask64(bits: u32) -> u64 {
    if bits == 0 {
        0
    } else if bits >= 64 {
        u64::MAX
    } else {
        u64::MAX << (64 - bits)
    }
}

/// A transport port in network order, as it stands in packets and records.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
    Unaligned,
)]
#[repr(C)]
pub struct Port(pub [u8; 2]);

impl Port {
    /// From the number people write.
    #[inline(always)]
    #[must_use]
    pub const fn new(number: u16) -> Self {
        Self(number.to_be_bytes())
    }

    /// The number people write.
    #[inline(always)]
    #[must_use]
    pub const fn number(self) -> u16 {
        u16::from_be_bytes(self.0)
    }
}

/// An IP protocol number (IANA "Assigned Internet Protocol Numbers").
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
    Unaligned,
)]
#[repr(C)]
pub struct Protocol(pub u8);

impl Protocol {
    /// ICMP for IPv4.
    pub const ICMP: Self = Self(1);
    /// IGMP.
    pub const IGMP: Self = Self(2);
    /// TCP.
    pub const TCP: Self = Self(6);
    /// UDP.
    pub const UDP: Self = Self(17);
    /// ICMP for IPv6.
    pub const ICMPV6: Self = Self(58);
    /// SCTP.
    pub const SCTP: Self = Self(132);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ipv4_address_keeps_its_bytes_through_the_mapped_form() {
        assert_eq!(Addr::v4([10, 1, 2, 3]).as_v4(), Some([10, 1, 2, 3]));
        assert_eq!(Addr::v6([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]).as_v4(), None);
    }

    #[test]
    fn addresses_that_are_no_peers_are_told_apart() {
        let v6 = |text: &str| Addr::v6(text.parse::<core::net::Ipv6Addr>().unwrap().octets());
        let rows = [
            (Addr::v4([0; 4]), [true, false, false]),
            (v6("::"), [true, false, false]),
            (v6("0:0:0:0:0:0:ffff:0"), [false, false, false]),
            (Addr::v4([127, 0, 0, 1]), [false, true, false]),
            (Addr::v4([127, 255, 255, 255]), [false, true, false]),
            (Addr::v4([128, 0, 0, 1]), [false, false, false]),
            (v6("::1"), [false, true, false]),
            (v6("fe80::1"), [false, false, true]),
            (v6("febf::1"), [false, false, true]),
            (v6("fec0::1"), [false, false, false]),
            (v6("fd77::1"), [false, false, false]),
        ];
        for (addr, expected) in rows {
            assert_eq!([addr.is_unspecified(), addr.is_loopback(), addr.is_link_local()], expected, "{addr:?}");
        }
        assert_eq!(Addr::link_local([0x02, 0x42, 0xac, 0x11, 0, 2]), v6("fe80::42:acff:fe11:2"));
    }

    #[test]
    fn addresses_of_many_hosts_are_told_from_those_of_one() {
        let v6 = |text: &str| Addr::v6(text.parse::<core::net::Ipv6Addr>().unwrap().octets());
        let rows = [
            (Addr::v4([223, 255, 255, 255]), false),
            (Addr::v4([224, 0, 0, 1]), true),
            (Addr::v4([239, 255, 255, 255]), true),
            (Addr::v4([240, 0, 0, 1]), false),
            (Addr::v4([255, 255, 255, 255]), true),
            (v6("ff02::1"), true),
            (v6("fe80::1"), false),
            (v6("::"), false),
        ];
        for (addr, expected) in rows {
            assert_eq!(addr.is_of_many(), expected, "{addr:?}");
        }
    }

    #[test]
    fn masking_keeps_exactly_the_leading_bits() {
        let rows = [(128, [10, 1, 2, 3]), (120, [10, 1, 2, 0]), (113, [10, 1, 0, 0]), (104, [10, 0, 0, 0])];
        for (bits, expected) in rows {
            assert_eq!(Addr::v4([10, 1, 2, 3]).masked(bits), Addr::v4(expected), "/{bits}");
        }
        assert_eq!(Addr([0xff; 16]).masked(64).0[..8], [0xff; 8]);
        assert_eq!(Addr([0xff; 16]).masked(64).0[8..], [0; 8]);
        assert_eq!(Addr([0xff; 16]).masked(0), Addr::UNSPECIFIED);
    }
}
