//! Lives: weir-probe, sockets of kinds that Weir refuses to isolated workloads unless told otherwise.
//! Called by: main, after the move into namespace and cgroup.
//! May touch: one socket, which is closed at once.
//! Never: sends anything.

use std::time::Instant;

use anyhow::Result;
use clap::Args;
use socket2::{Domain, Protocol, Socket, Type};
use weir_tests::report::{Attempt, Report, error_name};

use crate::milliseconds;

/// Which kind to open.
#[derive(Clone, Copy)]
pub enum Kind {
    Raw,
    Sctp,
    Mptcp,
}

#[derive(Args)]
pub struct Family {
    /// IPv6 instead of IPv4
    #[arg(long)]
    ipv6: bool,
}

impl Family {
    pub fn open(self, kind: Kind) -> Result<()> {
        let domain = if self.ipv6 { Domain::IPV6 } else { Domain::IPV4 };
        let (style, protocol) = match kind {
            // UDP in the raw header's protocol field: harmless, and not ICMP, which has sockets of its own.
            Kind::Raw => (Type::RAW, Protocol::UDP),
            Kind::Sctp => (Type::STREAM, Protocol::SCTP),
            Kind::Mptcp => (Type::STREAM, Protocol::MPTCP),
        };
        let start = Instant::now();
        let opened = Socket::new(domain, style, Some(protocol));
        let attempt = Attempt {
            result: opened.map_or_else(|error| error_name(&error), |_| "ok".to_owned()),
            elapsed_ms: milliseconds(start.elapsed()),
            pid: std::process::id(),
            ..Attempt::default()
        };
        Ok(Report::Attempt(attempt).print()?)
    }
}
