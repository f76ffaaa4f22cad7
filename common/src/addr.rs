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
