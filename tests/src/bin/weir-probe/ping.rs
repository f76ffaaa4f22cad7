//! Lives: weir-probe, its ICMP verb.
//! Called by: main, after the move into namespace and cgroup.
//! May touch: one ping or raw socket; who may open ping sockets in its own network namespace.
//! Never: waits longer than its options say; takes another's answer for its own.

use std::fs;
use std::io::{self, Read};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Args;
use socket2::{Domain, Protocol, Socket, Type};
use weir_tests::report::{Attempt, Report, error_name};

use crate::milliseconds;
use crate::udp::any;

/// Who may open ping sockets: nobody, unless the namespace says so. One setting for both families.
const PING_GROUPS: &str = "/proc/sys/net/ipv4/ping_group_range";
/// What a message carries after its header, to know it again.
const PAYLOAD: &[u8] = b"weir-probe";
const HEADER: usize = 8;

#[derive(Args)]
pub struct Ping {
    /// Ask this address
    #[arg(long, value_name = "ADDRESS")]
    to: IpAddr,
    /// Send from a raw socket instead of a ping socket
    #[arg(long)]
    raw: bool,
    /// Connect the socket first
    #[arg(long)]
    connected: bool,
    /// Type of the message; unless given, an echo request
    #[arg(long = "type", value_name = "NUMBER")]
    kind: Option<u8>,
    /// Identifier of the message; unless given, the process's or one that the kernel chooses
    #[arg(long, value_name = "NUMBER")]
    ident: Option<u16>,
    /// Wait this long for the echo
    #[arg(long, default_value_t = 500)]
    timeout_ms: u64,
}

impl Ping {
    pub fn run(self) -> Result<()> {
        if !self.raw {
            fs::write(PING_GROUPS, "0 2147483647").with_context(|| format!("writing {PING_GROUPS}"))?;
        }
        let start = Instant::now();
        let mut attempt = Attempt { pid: std::process::id(), ..Attempt::default() };
        let outcome = self.ask(&mut attempt, start);
        attempt.elapsed_ms = milliseconds(start.elapsed());
        attempt.result = outcome.map_or_else(|error| error_name(&error), |()| "ok".to_owned());
        Ok(Report::Attempt(attempt).print()?)
    }

    fn ask(&self, attempt: &mut Attempt, start: Instant) -> io::Result<()> {
        let (domain, protocol) = match self.to {
            IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4),
            IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6),
        };
        let mut socket = Socket::new(domain, if self.raw { Type::RAW } else { Type::DGRAM }, Some(protocol))?;
        if let (Some(ident), false) = (self.ident, self.raw) {
            // A ping socket's port is its identifier.
            socket.bind(&SocketAddr::new(any(SocketAddr::new(self.to, 0)), ident).into())?;
        }
        let to = SocketAddr::new(self.to, 0).into();
        let message = self.message();
        let sent = if self.connected {
            socket.connect(&to)?;
            socket.send(&message)?
        } else {
            socket.send_to(&message, &to)?
        };
        attempt.sent = sent as u64;
        let deadline = start + Duration::from_millis(self.timeout_ms);
        let mut buffer = [0; 2048];
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            // No time at all would mean no limit.
            socket.set_read_timeout(Some(left.max(Duration::from_millis(1))))?;
            let length = socket.read(&mut buffer)?;
            if self.is_echo(buffer.get(..length).unwrap_or_default()) {
                attempt.received = length as u64;
                return Ok(());
            }
        }
    }

    /// Type, code, checksum, identifier (the process; a ping socket puts its own there), sequence number, payload.
    fn message(&self) -> Vec<u8> {
        let request = if self.to.is_ipv4() { 8 } else { 128 };
        let mut message = vec![self.kind.unwrap_or(request), 0, 0, 0];
        message.extend(self.ident.unwrap_or(std::process::id() as u16).to_be_bytes());
        message.extend(1u16.to_be_bytes());
        message.extend(PAYLOAD);
        // Over ICMPv6 the kernel fills the checksum in.
        let sum = if self.to.is_ipv4() { checksum(&message) } else { 0 };
        if let Some(place) = message.get_mut(2..4) {
            place.copy_from_slice(&sum.to_be_bytes());
        }
        message
    }

    /// A raw IPv4 socket delivers the IP header too.
    fn is_echo(&self, packet: &[u8]) -> bool {
        let header = match (self.raw, self.to) {
            (true, IpAddr::V4(_)) => packet.first().map_or(0, |first| usize::from(first & 15) * 4),
            (true, IpAddr::V6(_)) | (false, _) => 0,
        };
        let reply = if self.to.is_ipv4() { 0 } else { 129 };
        let message = packet.get(header..).unwrap_or_default();
        message.first() == Some(&reply) && message.get(HEADER..) == Some(PAYLOAD)
    }
}

/// RFC 1071.
fn checksum(message: &[u8]) -> u16 {
    let words = message
        .chunks(2)
        .map(|pair| u32::from(pair.first().copied().unwrap_or(0)) << 8 | u32::from(pair.get(1).copied().unwrap_or(0)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}
