//! Lives: weir-tests, the benchmark of XDP: what is sent.
//! Called by: the generator and everybody who must know the service that is limited.
//! May touch: nothing.
//! Never: a frame that any contestant would refuse for its form.

use std::net::Ipv4Addr;

use anyhow::{Context, Result};
use etherparse::PacketBuilder;

/// The service's port.
pub const PORT: u16 = 9000;
/// The clients'.
pub const FROM: u16 = 40_000;
/// The service, which is not on this host: what passes goes no further than it must.
pub const ELSEWHERE: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 2);
/// The first client; the others follow.
pub const FIRST: Ipv4Addr = Ipv4Addr::new(16, 0, 0, 0);

/// Whom a frame is for.
#[derive(Clone, Copy, Debug)]
pub enum For {
    /// Another host on the wire: the stack drops it where IP begins, with the least work.
    Others,
    /// This host, by its Ethernet address.
    Us([u8; 6]),
}

/// A datagram in the smallest Ethernet frame, from address 0.0.0.0.
pub fn datagram(host: For, service: Ipv4Addr) -> Result<Vec<u8>> {
    let mac = match host {
        For::Others => [2, 0, 0, 0, 0, 9],
        For::Us(mac) => mac,
    };
    let mut frame = Vec::new();
    let builder = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], mac).ipv4([0; 4], service.octets(), 64);
    builder.udp(FROM, PORT).write(&mut frame, &[0; 18])?;
    // The generator changes the source; a datagram may go without checksum (RFC 768).
    frame.get_mut(40..42).context("no UDP header")?.fill(0);
    Ok(frame)
}

/// The sum of the IPv4 header's halves, without checksum and source.
pub fn header_sum(frame: &[u8]) -> u64 {
    let header = frame.get(14..34).unwrap_or_default();
    let halves = header.chunks_exact(2).enumerate().filter(|(n, _)| !matches!(n, 5..=7));
    halves.map(|(_, half)| half.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte))).sum()
}
