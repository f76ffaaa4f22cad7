//! Lives: kernel and host.
//! Called by: `sets`' users, once it is known which sets hold a packet's source.
//! May touch: the lines of the scope image.
//! Never: knows an address.
//!
//! ```text
//! line 0        word 0 the sets that block, 1 those that allow, 2 those that are asked about every packet,
//!               3 the first lines of the tables of TCP's and UDP's ports, a half each; 0: no set names a port,
//!               4, 5 the sets that name any port of TCP, of UDP
//! lines 1 to 4  the rule of each set, 32 bits each
//! further       tables of ports: a word for each of 65,536, the sets that name it
//! ```

use super::{Held, Lines, Words as _, half, word};
use crate::{addr::Protocol, verdict::Reason};

/// First line of the rules.
pub const RULES: u32 = 1;
/// First line of the first table of ports.
pub const PORTS: u32 = 5;
/// Lines of a table of ports.
pub const PORT_LINES: u32 = 1 << 13;

/// Header words.
pub mod header {
    /// The sets that block.
    pub const BLOCKS: u32 = 0;
    /// The sets that allow.
    pub const ALLOWS: u32 = 1;
    /// The sets that are asked about every packet.
    pub const ALWAYS: u32 = 2;
    /// First lines of the tables of ports.
    pub const TABLES: u32 = 3;
    /// The sets that name a port of TCP.
    pub const TCP: u32 = 4;
    /// The sets that name a port of UDP.
    pub const UDP: u32 = 5;
}

/// Where a packet goes, as far as sets ask.
#[derive(Clone, Copy, Debug)]
pub struct Going {
    /// Its protocol.
    pub protocol: Protocol,
    /// Its destination port.
    pub port: u16,
    /// Whether it is a fragment after the first, which could be going to any port.
    pub any_port: bool,
}

/// What the sets say of a packet whose source is held by `held`: 0 if they let it pass; else the reason in the low byte, the set's
/// number in the next, its rule in the high half.
///
/// A set that blocks beats every set that allows. Where some allow, one of them must hold the source.
#[inline(always)]
pub fn judge<L: Lines + ?Sized>(scope: &L, held: Held, going: Going) -> u64 {
    let Some(head) = scope.table(0) else { return 0 };
    let mut asked = head.word(header::ALWAYS);
    let tables = head.word(header::TABLES);
    if tables != 0 {
        asked |= of_ports(scope, tables, head.word(header::TCP), head.word(header::UDP), going);
    }
    let blocking = held.sets & asked & head.word(header::BLOCKS);
    if blocking != 0 {
        let longest = held.longest.wrapping_sub(1) & 63;
        let set = if blocking >> longest & 1 != 0 { longest } else { first(blocking) };
        return answer(scope, Reason::Blocklist, set);
    }
    let allowing = asked & head.word(header::ALLOWS);
    if allowing != 0 && held.sets & allowing == 0 {
        return answer(scope, Reason::NotListed, first(allowing));
    }
    0
}

#[inline(always)]
fn of_ports<L: Lines + ?Sized>(scope: &L, tables: u64, tcp: u64, udp: u64, going: Going) -> u64 {
    let (table, any) = match going.protocol {
        Protocol::TCP => (tables as u32, tcp),
        Protocol::UDP => ((tables >> 32) as u32, udp),
        _ => return 0,
    };
    if going.any_port {
        return any;
    }
    word(scope.line(table + (u32::from(going.port) >> 3)), u32::from(going.port))
}

#[inline(always)]
fn answer<L: Lines + ?Sized>(scope: &L, reason: Reason, set: u32) -> u64 {
    let rule = half(scope.line(RULES + (set >> 4)), set);
    reason as u64 | (set as u64) << 8 | (rule as u64) << 32
}

/// The number of the lowest set.
#[inline(always)]
const fn first(sets: u64) -> u32 {
    super::v6::lowest(sets)
}
