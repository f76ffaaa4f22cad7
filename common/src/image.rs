//! Lives: kernel and host.
//! Called by: `policy` when it compiles, `agent` when it writes pages into a slot, `decide` and the XDP program when they read.
//! May touch: nothing but the page it is handed.
//! Never: a field read at an offset that is not named here.
//!
//! A generation's dense tables are one *image*: pages of 512 words, written into an inner array of the slot and switched in
//! as a whole. The first page is the header, which says where each section starts. The same bytes serve the kernel, the host's
//! `explain` and the tests. Words are native-endian 64-bit; smaller entries are packed into words from the low end.
//!
//! ```text
//! identity ─ IDENTITIES ─► set, peer class, service class
//! protocol, port ─ PORTS ─► port atom (one for the whole node)
//! set, direction ─ SETS ─► where its cells and its port row start, its default
//!    atom ─ PORT_ROWS ─► port class ;   cells[peer class][port class] ─ CELLS ─► verdict, reason, rule
//! STAGED_SETS, where a policy is staged: the same of what the set would answer were staged policies enforced
//! service class, atom ─ SERVICES ─► up to four limits ─ LIMITS ─► intervals, bursts, client key
//! identity ─ CLIENTS ─► whom limits by workload charge
//! ```

use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

pub use crate::ports::{PORT_ENTRIES, last_port, port_index};
use crate::{
    gcra::Limit,
    verdict::{Reason, Verdict},
};

/// Words in a page: 4 KiB, so that a page is one map element and one system call writes it.
pub const PAGE_WORDS: usize = 512;
/// First word of every image: "WEIR" and the ABI version.
pub const MAGIC: u64 = 0x5745_4952_0000_0000 | crate::ABI_VERSION as u64;

/// One page of an image.
#[derive(Clone, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Page {
    /// The page's words.
    pub words: [u64; PAGE_WORDS],
}

impl Page {
    /// An empty page.
    #[must_use]
    pub fn zeroed() -> Self {
        Self::new_zeroed()
    }

    /// Words that are one, where they lie.
    #[inline(always)]
    #[must_use]
    pub fn of(words: &[u64; PAGE_WORDS]) -> &Self {
        zerocopy::transmute_ref!(words)
    }

    /// Word `index` modulo the page size. The mask is what lets the kernel's verifier see the bound.
    #[inline(always)]
    #[must_use]
    #[expect(
        clippy::indexing_slicing,
        reason = "the mask keeps the index below PAGE_WORDS; `get` costs a branch per lookup"
    )]
    pub const fn word(&self, index: u32) -> u64 {
        self.words[(index & (PAGE_WORDS as u32 - 1)) as usize]
    }
}

/// The header's words.
pub mod header {
    /// [`super::MAGIC`].
    pub const MAGIC: u32 = 0;
    /// Number of the generation.
    pub const GENERATION: u32 = 1;
    /// [`super::FLAG_LIMITS`], [`super::FLAG_SETS`] and so on.
    pub const FLAGS: u32 = 2;
    /// The cell that applies to local workloads nobody described (a [`super::Cell`]).
    pub const UNKNOWN: u32 = 3;
    /// Port atoms of the node: the row length of [`super::Section::Services`].
    pub const ATOMS: u32 = 4;
    /// Client keys of the node: the row length of [`super::Section::Clients`].
    pub const CLIENT_KEYS: u32 = 5;
    /// First of the section words, in the order of [`super::Section`]: first page in the low half, entries in the high half.
    pub const SECTIONS: u32 = 8;
}

/// Header flag: some rate limit exists, so XDP must look for it.
pub const FLAG_LIMITS: u64 = 1;
/// Header flag: some rate limit holds for every destination, whether or not one selects it.
pub const FLAG_LIMITS_ALL: u64 = 1 << 8;
/// Header flag: some service's connections may be opened by SYN cookies, so XDP must look for it.
pub const FLAG_SYN: u64 = 1 << 9;
/// Header flag: some address set is in force, so XDP must look for it.
pub const FLAG_SETS: u64 = 2;
/// Header flag: some cell may be quiet, so an accepted connection's is looked up once more: its close makes no record either.
pub const FLAG_QUIET: u64 = 4;
/// Header flag: some policy in force here is staged, so a decision is compared with what [`Section::StagedSets`] says.
pub const FLAG_STAGED: u64 = 8;
/// Header flag: some cell refuses, so `sk_lookup` must look for it.
pub const FLAG_REFUSE: u64 = 16;
/// Header flag: some address set allows, so XDP must ask about sources that no set holds, too.
pub const FLAG_SETS_ALLOW: u64 = 32;

/// The sections of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Section {
    /// By identity: [`Identity`], one word each.
    Identities = 0,
    /// By [`port_index`]: atom, 16 bits each.
    Ports = 1,
    /// By port row base + atom: port class, 16 bits each.
    PortRows = 2,
    /// By (set x 2 + direction): [`SetEntry`], two words each.
    Sets = 3,
    /// By cell base + peer class x port classes + port class: [`Cell`], 32 bits each.
    Cells = 4,
    /// By service class x atoms + atom: four limit numbers of 16 bits, 0 for none.
    Services = 5,
    /// By limit number: [`LimitEntry`], sixteen words each.
    Limits = 6,
    /// By number of the local workload: its identity and [`ADDRESSED`], 32 bits each. Added by the agent when it installs a compiled image, so
    /// that attach points hold only a number that outlives generations.
    Workloads = 7,
    /// By (set x 2 + direction): [`SetEntry`] of what the set would answer were staged policies enforced, with cells and a port row
    /// of its own. The default of a set without staged policies is absent. Empty where nothing is staged.
    StagedSets = 8,
    /// By identity x client keys + key: what names the client that an identity is; 0 where it is none of that kind and counts by
    /// its address. Empty where no limit counts by workload.
    Clients = 9,
    /// By interface index modulo its length, a power of two: the index in the low half, in the high half a bit for each list of
    /// interfaces that limits name and it is on. Added by the agent, as only it knows the indices.
    Interfaces = 10,
}

impl Section {
    /// Every section, in order of its number.
    pub const ALL: [Self; 11] = [
        Self::Identities,
        Self::Ports,
        Self::PortRows,
        Self::Sets,
        Self::Cells,
        Self::Services,
        Self::Limits,
        Self::Workloads,
        Self::StagedSets,
        Self::Clients,
        Self::Interfaces,
    ];

    /// Bits one entry takes.
    #[inline(always)]
    #[must_use]
    pub const fn entry_bits(self) -> u32 {
        match self {
            Self::Ports | Self::PortRows => 16,
            Self::Cells | Self::Workloads => 32,
            Self::Identities | Self::Services | Self::Clients | Self::Interfaces => 64,
            Self::Sets | Self::StagedSets => 128,
            Self::Limits => LIMIT_WORDS * 64,
        }
    }
}

/// What an identity means in this generation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// Policy set that judges it as the local side; 0 is the set no policy selects.
    pub set: u16,
    /// Class it belongs to as the remote side.
    pub peer_class: u16,
    /// Class it belongs to as a rate-limited service; 0 is "no limit selects it by workload".
    pub service_class: u16,
}

impl Identity {
    /// Packs into the section's word.
    #[must_use]
    pub const fn to_word(self) -> u64 {
        self.set as u64 | (self.peer_class as u64) << 16 | (self.service_class as u64) << 32
    }

    /// Unpacks from the section's word.
    #[inline(always)]
    #[must_use]
    pub const fn from_word(word: u64) -> Self {
        Self { set: word as u16, peer_class: (word >> 16) as u16, service_class: (word >> 32) as u16 }
    }
}

/// Identities with a fixed meaning; workloads and CIDR peers start at [`FIRST_IDENTITY`].
pub mod reserved {
    /// Not known (yet): a zeroed attach-point storage reads as this.
    pub const UNKNOWN: u32 = 0;
    /// Any address that no workload, node or CIDR peer claims.
    pub const WORLD: u32 = 1;
    /// This host's own addresses.
    pub const HOST: u32 = 2;
}

/// The first identity number handed to workloads and CIDR peers.
pub const FIRST_IDENTITY: u32 = 16;
/// One more than the largest identity number.
pub const MAX_IDENTITIES: u32 = 131_072;

/// Bit of an entry in [`Section::Workloads`]: the workload has addresses of its own, and may send from no others.
pub const ADDRESSED: u32 = 1 << 31;
/// Bit of an entry in [`Section::Workloads`]: a limit on packets or bytes may apply to it, so packets of its open connections are
/// charged at its sockets too.
pub const METERED: u32 = 1 << 30;

/// Bit of the active word: some rate limit exists, so sockets must look for it.
pub const ACTIVE_LIMITS: u64 = 1 << 62;
/// Bit of the active word: some local workload is [`METERED`].
pub const ACTIVE_METERED: u64 = 1 << 63;

/// One direction of a policy set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SetEntry {
    /// Index of its first cell.
    pub cells: u32,
    /// Index of its port row's first entry.
    pub port_row: u32,
    /// Port classes it tells apart: the row length of its cells.
    pub port_classes: u16,
    /// Kinds of sockets it allows beside TCP and UDP ([`SOCKET_RAW`] and so on), for the sake of this direction; and whether it
    /// refuses ([`SET_REFUSES`]).
    pub sockets: u16,
    /// What an absent cell means.
    pub default: Cell,
}

/// Set flag: raw sockets may be created.
pub const SOCKET_RAW: u16 = 1;
/// Set flag: SCTP sockets may be created.
pub const SOCKET_SCTP: u16 = 2;
/// Set flag: MPTCP sockets may be created.
pub const SOCKET_MPTCP: u16 = 4;
/// Set flag, of ingress: some of its cells refuse.
pub const SET_REFUSES: u16 = 1 << 15;

impl SetEntry {
    /// Packs into the section's two words.
    #[must_use]
    pub const fn to_words(self) -> [u64; 2] {
        [
            self.cells as u64 | (self.port_row as u64) << 32,
            self.port_classes as u64 | (self.sockets as u64) << 16 | (self.default.0 as u64) << 32,
        ]
    }

    /// Unpacks from the section's two words.
    #[inline(always)]
    #[must_use]
    pub const fn from_words(first: u64, second: u64) -> Self {
        Self {
            cells: first as u32,
            port_row: (first >> 32) as u32,
            port_classes: second as u16,
            sockets: (second >> 16) as u16,
            default: Cell((second >> 32) as u32),
        }
    }
}

/// A verdict with its reason and rule in 32 bits: rule in the low 24, verdict in 2, refuse in 1, quiet in 1, reason in 4. Zero is
/// "absent".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cell(pub u32);

/// One more than the largest rule number a cell can name.
pub const MAX_RULES: u32 = 1 << 24;

/// The bit of a denying cell that has it answered.
const REFUSE: u32 = 1 << 26;
/// The bit of a cell that keeps its decisions out of the records.
const QUIET: u32 = 1 << 27;

impl Cell {
    /// No verdict here: the set's default applies.
    pub const ABSENT: Self = Self(0);

    /// Packs a verdict. `rule` is cut to 24 bits; the compiler refuses policies with more rules.
    #[inline(always)]
    #[must_use]
    pub const fn new(verdict: Verdict, reason: Reason, rule: u32) -> Self {
        Self((rule & (MAX_RULES - 1)) | (verdict as u32) << 24 | (reason as u32) << 28)
    }

    /// The verdict, or `None` for an absent or foreign cell.
    #[inline(always)]
    #[must_use]
    pub const fn verdict(self) -> Option<Verdict> {
        Verdict::from_u8((self.0 >> 24 & 3) as u8)
    }

    /// The reason, or `None` for an absent or foreign cell.
    #[inline(always)]
    #[must_use]
    pub const fn reason(self) -> Option<Reason> {
        Reason::from_u8((self.0 >> 28) as u8)
    }

    /// The same cell, whose decisions are counted but make no record (`log: false`). An absent cell stays absent.
    #[must_use]
    pub const fn quietly(self) -> Self {
        if self.0 == 0 { self } else { Self(self.0 | QUIET) }
    }

    /// Whether its decisions make no record.
    #[inline(always)]
    #[must_use]
    pub const fn is_quiet(self) -> bool {
        self.0 & QUIET != 0
    }

    /// The same cell, whose denials are answered where the kernel can (`action: refuse`). A cell that denies nothing stays as it is.
    #[must_use]
    pub const fn refusing(self) -> Self {
        match self.verdict() {
            Some(Verdict::Deny) => Self(self.0 | REFUSE),
            Some(Verdict::Allow | Verdict::Audit) | None => self,
        }
    }

    /// Whether its denials are answered where the kernel can.
    #[inline(always)]
    #[must_use]
    pub const fn is_refusing(self) -> bool {
        self.0 & REFUSE != 0
    }

    /// The rule's number in this generation; 0 names none.
    #[inline(always)]
    #[must_use]
    pub const fn rule(self) -> u32 {
        self.0 & (MAX_RULES - 1)
    }
}

/// The rates of one limit, by kind. A kind that is not set holds nothing back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LimitRates {
    /// Packets per second.
    pub packets: Option<Limit>,
    /// Bytes of the IP packet per second.
    pub bytes: Option<Limit>,
    /// New TCP connections (SYN without ACK) per second.
    pub connections: Option<Limit>,
}

/// A rate limit as the kernel applies it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LimitEntry {
    /// What one client may send.
    pub client: LimitRates,
    /// What all clients together may send.
    pub aggregate: LimitRates,
    /// New connections a second above which SYNs are answered by cookies, under [`LIMIT_SYN_AUTO`].
    pub syn: Option<Limit>,
    /// Leading bits of an IPv4 client's address that make one client, 0 to 32.
    pub prefix_v4: u8,
    /// Leading bits of an IPv6 client's address that make one client, 0 to 128.
    pub prefix_v6: u8,
    /// [`LIMIT_AUDITS`] and so on.
    pub flags: u8,
    /// 0: clients count by address; else one more than the number of the client key in [`Section::Clients`].
    pub client_key: u8,
    /// Rule number of the limit, for records; that of its aggregate is one higher.
    pub rule: u32,
    /// Names the clients' state across generations, so that editing a limit keeps it.
    pub state: u32,
    /// The lists of interfaces it applies to, by bit; 0: all, and sockets too.
    pub interfaces: u32,
}

/// Limit flag: exceeding traffic passes and is recorded (`audit`).
pub const LIMIT_AUDITS: u8 = 1;
/// Limit flag: the cheap clock (jiffies) is exact enough for this limit's bursts.
pub const LIMIT_COARSE_CLOCK: u8 = 2;
/// Limit flag: SYNs beyond the threshold are answered by cookies.
pub const LIMIT_SYN_AUTO: u8 = 4;
/// Limit flag: all SYNs are.
pub const LIMIT_SYN_ALWAYS: u8 = 8;

/// Words of an entry in [`Section::Limits`]; a divisor of the page size, so that a page has all of an entry.
pub const LIMIT_WORDS: u32 = 16;
/// Where an entry has the rates of all clients together; those of one client come first. Of each, pairs of words: packets, bytes,
/// connections.
pub const LIMIT_AGGREGATE: u32 = 6;
/// Word of an entry that [`LimitEntry::with_key`] reads.
pub const LIMIT_KEY: u32 = 12;
/// Word of an entry with its state and interfaces, for [`LimitEntry::with_key`] too.
pub const LIMIT_STATE: u32 = 13;
/// Where an entry has its threshold of SYNs, a pair of words like a rate.
pub const LIMIT_SYN: u32 = 14;

impl LimitEntry {
    /// Packs into the section's sixteen words.
    #[must_use]
    pub const fn to_words(self) -> [u64; LIMIT_WORDS as usize] {
        let [p, q, b, c, n, m] = rate_words(&self.client);
        let [ap, aq, ab, ac, an, am] = rate_words(&self.aggregate);
        let key = self.prefix_v4 as u64
            | (self.prefix_v6 as u64) << 8
            | (self.flags as u64) << 16
            | (self.client_key as u64) << 24
            | (self.rule as u64) << 32;
        let state = self.state as u64 | (self.interfaces as u64) << 32;
        let (syn, most) = limit_words(self.syn);
        [p, q, b, c, n, m, ap, aq, ab, ac, an, am, key, state, syn, most]
    }

    /// The limit in a pair of its words; `None` when it is not set.
    #[inline(always)]
    #[must_use]
    pub const fn limit(interval_q16: u64, tolerance: u64) -> Option<Limit> {
        if tolerance & LIMIT_SET == 0 {
            None
        } else {
            Some(Limit { interval_q16, tolerance_ns: tolerance & !LIMIT_SET })
        }
    }

    /// Whether none of three limits is set, by the second words of their pairs.
    #[inline(always)]
    #[must_use]
    pub const fn sets_none([packets, bytes, connections]: [u64; 3]) -> bool {
        (packets | bytes | connections) & LIMIT_SET == 0
    }

    /// Everything but the rates, from the words [`LIMIT_KEY`] and [`LIMIT_STATE`]: the kernel fetches rates one by one, for the
    /// sake of the stack.
    #[inline(always)]
    #[must_use]
    pub const fn with_key(key: u64, state: u64) -> Self {
        Self {
            client: LimitRates { packets: None, bytes: None, connections: None },
            aggregate: LimitRates { packets: None, bytes: None, connections: None },
            syn: None,
            prefix_v4: key as u8,
            prefix_v6: (key >> 8) as u8,
            flags: (key >> 16) as u8,
            client_key: (key >> 24) as u8,
            rule: (key >> 32) as u32,
            state: state as u32,
            interfaces: (state >> 32) as u32,
        }
    }

    /// Unpacks from the section's words.
    #[must_use]
    pub const fn from_words(words: [u64; LIMIT_WORDS as usize]) -> Self {
        let [p, q, b, c, n, m, ap, aq, ab, ac, an, am, key, state, syn, most] = words;
        Self {
            client: rates([p, q, b, c, n, m]),
            aggregate: rates([ap, aq, ab, ac, an, am]),
            syn: Self::limit(syn, most),
            ..Self::with_key(key, state)
        }
    }

    /// Whether packets of open connections count: those of a limit on connections alone do not.
    #[must_use]
    pub const fn meters(&self) -> bool {
        let (client, all) = (&self.client, &self.aggregate);
        client.packets.is_some() || client.bytes.is_some() || all.packets.is_some() || all.bytes.is_some()
    }
}

const fn rates(words: [u64; 6]) -> LimitRates {
    let [p, q, b, c, n, m] = words;
    LimitRates {
        packets: LimitEntry::limit(p, q),
        bytes: LimitEntry::limit(b, c),
        connections: LimitEntry::limit(n, m),
    }
}

const fn rate_words(rates: &LimitRates) -> [u64; 6] {
    let ((p, q), (b, c), (n, m)) =
        (limit_words(rates.packets), limit_words(rates.bytes), limit_words(rates.connections));
    [p, q, b, c, n, m]
}

const fn limit_words(limit: Option<Limit>) -> (u64, u64) {
    match limit {
        Some(limit) => (limit.interval_q16, limit.tolerance_ns | LIMIT_SET),
        None => (0, 0),
    }
}

/// Marks a limit's tolerance word as set; tolerances stay far below it (an hour at most).
const LIMIT_SET: u64 = 1 << 63;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_survive_packing() {
        let identity = Identity { set: 7, peer_class: 65_535, service_class: 3 };
        assert_eq!(Identity::from_word(identity.to_word()), identity);
        let default = Cell::new(Verdict::Deny, Reason::Default, 0xab_cdef);
        let set = SetEntry { cells: 1 << 31, port_row: 77, port_classes: 9, sockets: SOCKET_RAW, default };
        let [first, second] = set.to_words();
        assert_eq!(SetEntry::from_words(first, second), set);
        let (some, none) = (Some(Limit::new(1000, 100)), Some(Limit::new(0, 0)));
        let limit = LimitEntry {
            client: LimitRates { packets: some, bytes: None, connections: none },
            aggregate: LimitRates { packets: None, bytes: some, connections: None },
            syn: some,
            prefix_v4: 32,
            prefix_v6: 64,
            flags: LIMIT_AUDITS,
            client_key: 3,
            rule: 99,
            state: 0xdead_beef,
            interfaces: 0x8000_0001,
        };
        assert_eq!(LimitEntry::from_words(limit.to_words()), limit);
    }

    #[test]
    fn a_cell_tells_its_verdict_reason_and_rule() {
        let cell = Cell::new(Verdict::Audit, Reason::Rule, 123_456);
        assert_eq!((cell.verdict(), cell.reason(), cell.rule()), (Some(Verdict::Audit), Some(Reason::Rule), 123_456));
        assert_eq!((Cell::ABSENT.verdict(), Cell::ABSENT.reason()), (None, None));
    }

    #[test]
    fn a_quiet_or_refusing_cell_differs_in_nothing_but_that() {
        for verdict in Verdict::ALL {
            for reason in Reason::ALL.iter().filter(|reason| **reason <= Reason::LAST_OF_CELLS) {
                let loud = Cell::new(*verdict, *reason, MAX_RULES - 1);
                let quiet = loud.quietly();
                assert_eq!((loud.is_quiet(), quiet.is_quiet()), (false, true));
                assert_eq!(
                    (quiet.verdict(), quiet.reason(), quiet.rule()),
                    (Some(*verdict), Some(*reason), MAX_RULES - 1)
                );
                assert_eq!(quiet.quietly(), quiet);
            }
        }
        for verdict in Verdict::ALL {
            let loud = Cell::new(*verdict, Reason::NoTables, MAX_RULES - 1).quietly();
            let refusing = loud.refusing();
            assert_eq!(refusing.is_refusing(), *verdict == Verdict::Deny);
            assert!(!loud.is_refusing() && refusing.is_quiet());
            assert_eq!(
                (refusing.verdict(), refusing.reason(), refusing.rule()),
                (loud.verdict(), loud.reason(), loud.rule())
            );
        }
        assert_eq!(Cell::ABSENT.refusing(), Cell::ABSENT);
        assert!(!Cell::ABSENT.is_quiet());
        assert_eq!(Cell::ABSENT.quietly(), Cell::ABSENT, "absent stays absent: zero is what the kernel looks for");
    }
}
