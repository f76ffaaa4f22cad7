//! Lives: host. The image that says which sets are asked about a packet (`weir_common::sets::scope` draws it).
//! Called by: the agent, for each generation.
//! May touch: nothing.
//! Never: names a set that blocks and allows.

use weir_common::{
    addr::Protocol,
    sets::{
        Line,
        scope::{PORT_LINES, PORTS, RULES, header},
    },
};

use super::memory::{Memory as _, set_half};

/// Ports of one protocol, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PortScope {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// The first port.
    pub first: u16,
    /// The last port.
    pub last: u16,
}

/// What a set is asked about, and what it says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope {
    /// Its number.
    pub set: u32,
    /// Whether it blocks what it holds; else it allows nothing but what it holds.
    pub blocks: bool,
    /// Its rule.
    pub rule: u32,
    /// What it is asked about; empty: everything.
    pub ports: Vec<PortScope>,
}

impl Scope {
    /// The image of all scopes.
    #[must_use]
    pub fn image(scopes: &[Self]) -> Vec<Line> {
        let tables = if scopes.iter().all(|scope| scope.ports.is_empty()) { 0 } else { 2 * PORT_LINES };
        let mut lines = vec![[0; 8]; (PORTS + tables) as usize];
        for scope in scopes {
            let bit = 1 << (scope.set & 63);
            let kind = if scope.blocks { header::BLOCKS } else { header::ALLOWS };
            add(&mut lines, 0, kind, bit);
            set_half(lines.as_mut_slice(), RULES + (scope.set >> 4), scope.set, scope.rule);
            if scope.ports.is_empty() {
                add(&mut lines, 0, header::ALWAYS, bit);
            }
            for ports in &scope.ports {
                let udp = ports.protocol == Protocol::UDP;
                add(&mut lines, 0, if udp { header::UDP } else { header::TCP }, bit);
                let table = PORTS + if udp { PORT_LINES } else { 0 };
                for port in u32::from(ports.first)..=u32::from(ports.last) {
                    add(&mut lines, table + (port >> 3), port, bit);
                }
            }
        }
        if tables != 0 {
            add(&mut lines, 0, header::TABLES, u64::from(PORTS) | u64::from(PORTS + PORT_LINES) << 32);
        }
        lines
    }
}

fn add(lines: &mut [Line], line: u32, word: u32, bits: u64) {
    let before = super::memory::word(lines, line, word);
    lines.set(line, word, before | bits);
}
