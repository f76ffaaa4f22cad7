//! Lives: host.
//! Called by: the model's IP blocks and address sets; the compiler's prefix tables.
//! May touch: nothing.
//! Never: lets an IPv6 prefix speak for IPv4 addresses, though those are kept in mapped form: `::/0` is about IPv6 only.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use serde::{Serialize, Serializer};
use weir_common::addr::Addr;

/// Leading bits of a v4-mapped address that say "IPv4".
pub const V4_BITS: u8 = 96;

/// An address prefix in the 128-bit form: an IPv4 /n has 96 + n bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Prefix {
    /// The address; bits past the prefix are 0.
    pub addr: Addr,
    /// Bits that count, 0 to 128.
    pub bits: u8,
}

impl Prefix {
    /// The range of all IPv4 addresses.
    pub const V4: Self = Self { addr: Addr::v4([0; 4]), bits: V4_BITS };

    /// The prefix of `bits` bits that holds `addr`.
    #[must_use]
    pub const fn new(addr: Addr, bits: u8) -> Self {
        Self { addr: addr.masked(bits as u32), bits }
    }

    /// Exactly one address.
    #[must_use]
    pub const fn host(addr: Addr) -> Self {
        Self { addr, bits: 128 }
    }

    /// Whether it is about IPv4.
    #[must_use]
    pub const fn is_v4(&self) -> bool {
        self.bits >= V4_BITS && self.addr.as_v4().is_some()
    }

    /// Whether the address is in it, which takes the same family.
    #[must_use]
    pub fn contains(&self, addr: &Addr) -> bool {
        self.is_v4() == addr.as_v4().is_some() && addr.masked(self.bits.into()) == self.addr
    }

    /// Whether every address of `other` is in it, families aside: as a longest-prefix table sees it.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        self.bits <= other.bits && other.addr.masked(self.bits.into()) == self.addr
    }

    /// Whether `other` is a smaller prefix inside it, of the same family.
    #[must_use]
    pub fn is_larger_than(&self, other: &Self) -> bool {
        self.bits < other.bits && self.is_v4() == other.is_v4() && self.covers(other)
    }

    /// First and last address, as numbers.
    #[must_use]
    pub const fn range(&self) -> (u128, u128) {
        let first = u128::from_be_bytes(self.addr.0);
        let rest = if self.bits >= 128 { 0 } else { u128::MAX >> self.bits };
        (first, first | rest)
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bits = if self.is_v4() { self.bits - V4_BITS } else { self.bits };
        write!(f, "{}/{bits}", ip(self.addr))
    }
}

impl Serialize for Prefix {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// The address in the standard library's form, for showing it.
#[must_use]
pub fn ip(addr: Addr) -> IpAddr {
    match addr.as_v4() {
        Some(bytes) => IpAddr::V4(Ipv4Addr::from(bytes)),
        None => IpAddr::V6(Ipv6Addr::from(addr.0)),
    }
}

/// The address from the standard library's form; a v4-mapped one is IPv4.
#[must_use]
pub const fn addr(ip: IpAddr) -> Addr {
    match ip {
        IpAddr::V4(v4) => Addr::v4(v4.octets()),
        IpAddr::V6(v6) => Addr::v6(v6.octets()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(text: &str) -> Prefix {
        let (address, bits) = text.split_once('/').unwrap();
        let address: IpAddr = address.parse().unwrap();
        Prefix::new(addr(address), bits.parse::<u8>().unwrap() + if address.is_ipv4() { V4_BITS } else { 0 })
    }

    #[test]
    fn a_prefix_holds_addresses_of_its_own_family_only() {
        let rows = [
            ("10.0.0.0/8", "10.255.0.1", true),
            ("10.0.0.0/8", "11.0.0.0", false),
            ("0.0.0.0/0", "1.2.3.4", true),
            ("0.0.0.0/0", "fd00::1", false),
            ("::/0", "fd00::1", true),
            ("::/0", "1.2.3.4", false),
            ("::/64", "::1", true),
            ("::/64", "1.2.3.4", false),
        ];
        for (cidr, address, expected) in rows {
            assert_eq!(prefix(cidr).contains(&addr(address.parse().unwrap())), expected, "{address} in {cidr}");
            assert_eq!(prefix(cidr).to_string(), cidr);
        }
    }

    #[test]
    fn a_range_runs_from_the_first_to_the_last_address() {
        let (first, last) = prefix("10.1.0.0/16").range();
        assert_eq!(ip(Addr(first.to_be_bytes())).to_string(), "10.1.0.0");
        assert_eq!(ip(Addr(last.to_be_bytes())).to_string(), "10.1.255.255");
        assert_eq!(prefix("::/0").range(), (0, u128::MAX));
    }
}
