//! Lives: kernel and host. The one decision function of DESIGN.md D1.
//! Called by: the kernel programs, `weirctl explain`, the policy crate's tests, the in-kernel test runs.
//! May touch: the [`Tables`] it is handed.
//! Never: decides anything about the kernel; passes traffic when a table cannot be read.

use crate::{
    addr::{Addr, Protocol},
    event::{Endpoint, NATIVE, SHARED},
    image::{self, Cell, FLAG_STAGED, Identity, LimitEntry, Page, Section, SetEntry, header, reserved},
    verdict::{Direction, Reason, Verdict},
};

/// Read access to one generation. The kernel implements it over maps, the host over a compiled policy.
pub trait Tables {
    /// Page `index` of the generation's image.
    fn page(&self, index: u32) -> Option<&Page>;
    /// Who has exactly this address.
    fn endpoint(&self, addr: &Addr) -> Option<Endpoint>;
    /// The identity of the longest CIDR peer that holds the address.
    fn cidr(&self, addr: &Addr) -> Option<u32>;
}

/// What is asked: may this workload and that address talk, on this port, opened from this side?
#[derive(Clone, Copy, Debug)]
pub struct Query {
    /// Identity of the local workload.
    pub local: u32,
    /// Which side opened.
    pub direction: Direction,
    /// The peer's address.
    pub remote: Addr,
    /// Transport protocol.
    pub protocol: Protocol,
    /// Port of the side that was called: the peer's for egress, the local one for ingress. The message's type for ICMP and
    /// ICMPv6, 0 for the other protocols without ports.
    pub port: u16,
}

/// The answer, with everything a record needs to explain it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct Decision {
    /// Allow, deny or audit.
    pub verdict: Verdict,
    /// Why.
    pub reason: Reason,
    /// Rule number in this generation; 0 names none.
    pub rule: u32,
    /// The peer's identity.
    pub remote_identity: u32,
    /// Counted, but no record is made of it (`log: false`).
    pub quiet: bool,
    /// The address is a service's, and judged is what is behind it: packets may go to another address than the socket called.
    pub translated: bool,
    /// A denial that is answered where the kernel can (`action: refuse`).
    pub refuse: bool,
    /// What would be decided were staged policies enforced too; absent where that is the same verdict.
    pub staged: Cell,
}

impl Decision {
    /// A decision that no rule makes.
    #[inline(always)]
    pub const fn plain(verdict: Verdict, reason: Reason, remote_identity: u32) -> Self {
        Self {
            verdict,
            reason,
            rule: 0,
            remote_identity,
            quiet: false,
            refuse: false,
            translated: false,
            staged: Cell::ABSENT,
        }
    }

    /// Whether staged policies would deny what passes.
    #[inline(always)]
    #[must_use]
    pub fn staged_denies(&self) -> bool {
        matches!(self.staged.verdict(), Some(Verdict::Deny))
    }
}

/// Where the sections of an image start; read once per run from its header.
pub struct Image<'a, T> {
    tables: &'a T,
    header: &'a Page,
}

impl<'a, T: Tables> Image<'a, T> {
    /// Opens the image, refusing one of another layout.
    #[inline(always)]
    pub fn open(tables: &'a T) -> Option<Self> {
        let header = tables.page(0)?;
        (header.word(header::MAGIC) == image::MAGIC).then_some(Self { tables, header })
    }

    /// The generation's number.
    #[inline(always)]
    pub fn generation(&self) -> u64 {
        self.header.word(header::GENERATION)
    }

    /// [`image::FLAG_LIMITS`], [`image::FLAG_SETS`] and so on.
    #[inline(always)]
    pub fn flags(&self) -> u64 {
        self.header.word(header::FLAGS)
    }

    /// Word `word` of entry `entry` of `section`, or `None` past the section's end.
    #[inline(always)]
    fn word(&self, section: Section, entry: u32, word: u32) -> Option<u64> {
        let place = self.header.word(header::SECTIONS + section as u32);
        let (first_page, entries) = (place as u32, (place >> 32) as u32);
        if entry >= entries {
            return None;
        }
        let index = if section.entry_bits() >= 64 {
            entry.wrapping_mul(section.entry_bits() / 64).wrapping_add(word)
        } else {
            entry / (64 / section.entry_bits())
        };
        let page = self.tables.page(first_page.wrapping_add(index / image::PAGE_WORDS as u32))?;
        Some(page.word(index))
    }

    /// A 16- or 32-bit entry of `section`.
    #[inline(always)]
    fn packed(&self, section: Section, entry: u32) -> Option<u32> {
        let per_word = 64 / section.entry_bits();
        let shift = (entry & (per_word - 1)) * section.entry_bits();
        let mask = if section.entry_bits() == 16 { 0xffff } else { 0xffff_ffff };
        Some((self.word(section, entry, 0)? >> shift & mask) as u32)
    }

    /// What `identity` means here; an unknown number means set 0 and class 0.
    #[inline(always)]
    pub fn identity(&self, identity: u32) -> Identity {
        Identity::from_word(self.word(Section::Identities, identity, 0).unwrap_or(0))
    }

    /// The identity of a local workload by its number on this node; unknown numbers are unknown workloads.
    #[inline(always)]
    pub fn local(&self, workload: u32) -> u32 {
        self.packed(Section::Workloads, workload).unwrap_or(reserved::UNKNOWN) & (image::MAX_IDENTITIES - 1)
    }

    /// Whether `addr` is an address of the local workload's own. One that has none may have any.
    #[inline(always)]
    pub fn owns(&self, workload: u32, addr: &Addr) -> bool {
        let entry = self.packed(Section::Workloads, workload).unwrap_or(0);
        if entry & image::ADDRESSED == 0 {
            return true;
        }
        let Some(Endpoint { identity, owner }) = self.tables.endpoint(addr) else { return false };
        if owner == SHARED { identity == self.local(workload) } else { owner & !NATIVE == workload }
    }

    /// Whether `addr` is this node's own or a workload's on it: nobody else may send from it.
    #[inline(always)]
    pub fn is_of_this_node(&self, addr: &Addr) -> bool {
        let Some(end) = self.tables.endpoint(addr) else { return false };
        let owned = end.owner != 0 && !end.is_service() && !end.is_behind();
        owned || end.identity == reserved::HOST
    }

    /// One direction of a policy set.
    #[inline(always)]
    pub fn set(&self, set: u16, direction: Direction) -> Option<SetEntry> {
        self.set_of(Section::Sets, set, direction)
    }

    #[inline(always)]
    fn set_of(&self, section: Section, set: u16, direction: Direction) -> Option<SetEntry> {
        let entry = set as u32 * 2 + direction.index();
        Some(SetEntry::from_words(self.word(section, entry, 0)?, self.word(section, entry, 1)?))
    }

    /// The node-wide atom of a protocol and port.
    #[inline(always)]
    pub fn atom(&self, protocol: Protocol, port: u16) -> Option<u32> {
        self.packed(Section::Ports, image::port_index(protocol, port))
    }

    /// The limits (up to four numbers, 0 for none) on a service class and port atom. `atoms` is the row length.
    #[inline(always)]
    pub fn limits_of(&self, service_class: u16, atoms: u32, atom: u32) -> u64 {
        self.word(Section::Services, (service_class as u32).wrapping_mul(atoms).wrapping_add(atom), 0).unwrap_or(0)
    }

    /// One rate limit.
    pub fn limit(&self, number: u16) -> Option<LimitEntry> {
        let (page, first) = self.limit_page(number)?;
        Some(LimitEntry::from_words(core::array::from_fn(|word| page.word(first + word as u32))))
    }

    /// The page that has a rate limit, and the place of its first word there, for a caller that cannot afford the whole entry on
    /// its stack.
    #[inline(always)]
    pub fn limit_page(&self, number: u16) -> Option<(&'a Page, u32)> {
        let place = self.header.word(header::SECTIONS + Section::Limits as u32);
        let (first_page, entries) = (place as u32, (place >> 32) as u32);
        if number as u32 >= entries {
            return None;
        }
        let index = number as u32 * image::LIMIT_WORDS;
        let page = self.tables.page(first_page.wrapping_add(index / image::PAGE_WORDS as u32))?;
        Some((page, index))
    }

    /// What names the client that an identity is to limits with this key; 0: it counts by its address.
    #[inline(always)]
    pub fn client(&self, identity: u32, key: u32) -> u64 {
        let keys = self.header.word(header::CLIENT_KEYS) as u32;
        self.word(Section::Clients, identity.wrapping_mul(keys).wrapping_add(key), 0).unwrap_or(0)
    }

    /// The lists of interfaces, by bit, that an interface is on.
    #[inline(always)]
    pub fn interface_lists(&self, ifindex: u32) -> u32 {
        let entries = (self.header.word(header::SECTIONS + Section::Interfaces as u32) >> 32) as u32;
        let entry = self.word(Section::Interfaces, ifindex & entries.wrapping_sub(1), 0).unwrap_or(0);
        if entry as u32 == ifindex { (entry >> 32) as u32 } else { 0 }
    }

    /// Whether packets of this local workload's open connections are charged against limits.
    #[inline(always)]
    pub fn metered(&self, workload: u32) -> bool {
        self.packed(Section::Workloads, workload).unwrap_or(0) & image::METERED != 0
    }

    /// Port atoms of the node: the row length of [`Section::Services`].
    #[inline(always)]
    pub fn atoms(&self) -> u32 {
        self.header.word(header::ATOMS) as u32
    }

    /// The identity behind an address: exact first, then the longest CIDR peer, else the world.
    #[inline(always)]
    pub fn identify(&self, addr: &Addr) -> u32 {
        self.end(addr).identity
    }

    /// The same, with the local workload that owns the address.
    #[inline(always)]
    fn end(&self, addr: &Addr) -> Endpoint {
        // No `Option` past this line: what it holds when it holds nothing is a register that the verifier has never seen written.
        let end = self.tables.endpoint(addr).unwrap_or(Endpoint { identity: 0, owner: Endpoint::behind(0) });
        if !end.is_behind() {
            return end;
        }
        Endpoint { identity: self.tables.cidr(addr).unwrap_or(reserved::WORLD), owner: 0 }
    }

    /// What is behind the called port of a service's address, and what a workload is answered there that calls itself; each is
    /// [`NOTHING`] where there is no such thing.
    #[inline(always)]
    fn behind(&self, workload: u32, end: Endpoint, query: &Query) -> (Endpoint, Endpoint) {
        if !end.is_service() || query.direction as u8 != Direction::Egress as u8 {
            return (NOTHING, NOTHING);
        }
        let call = Addr::of_call(end.number(), query.protocol, query.port);
        let behind = self.tables.endpoint(&call).unwrap_or(NOTHING);
        if !behind.has_itself() {
            return (behind, NOTHING);
        }
        (behind, self.tables.endpoint(&call.called_by(workload)).unwrap_or(NOTHING))
    }

    /// Judges one opening by what the tables say of identities; which local workload asks is not known.
    #[inline(always)]
    pub fn decide(&self, query: &Query) -> Decision {
        self.decide_for(0, query)
    }

    /// Judges one opening of the local workload with this number, 0 for none. It reaches an address that is its own, whatever the
    /// policies say.
    #[inline(always)]
    pub fn decide_for(&self, workload: u32, query: &Query) -> Decision {
        self.decide_as(query.local, workload, query)
    }

    /// The same with the local identity apart from the query, whose own is not read: the kernel has no room for a copy.
    #[inline(always)]
    pub fn decide_as(&self, local: u32, workload: u32, query: &Query) -> Decision {
        let end = self.end(&query.remote);
        if workload != 0 && end.owner == workload {
            return Decision::plain(Verdict::Allow, Reason::NoPolicy, end.identity);
        }
        let (behind, itself) = self.behind(workload, end, query);
        let translated = behind.is_behind();
        let (remote_identity, port) =
            if translated { (behind.identity, behind.number() as u16) } else { (end.identity, query.port) };
        if local == reserved::UNKNOWN {
            return from_cell(Cell(self.header.word(header::UNKNOWN) as u32), remote_identity);
        }
        // One path from here on, whichever cell it is: the verifier follows every other.
        let (cell, staged) = if itself.is_behind() {
            itself.cells()
        } else {
            let asked = (remote_identity, port);
            let waiting = self.flags() & FLAG_STAGED != 0;
            let staged = if waiting { self.cell(Section::StagedSets, local, query, asked) } else { Cell::ABSENT };
            (self.cell(Section::Sets, local, query, asked), staged)
        };
        let mut decision = Decision { translated, ..from_cell(cell, remote_identity) };
        if staged.verdict() != Some(decision.verdict) {
            decision.staged = staged;
        }
        decision
    }

    /// The cell that answers `query` about this identity and port, the set's default included; absent where the tables cannot be
    /// read.
    #[inline(always)]
    fn cell(&self, sets: Section, local: u32, query: &Query, asked: (u32, u16)) -> Cell {
        self.find_cell(sets, local, query, asked).unwrap_or(Cell::ABSENT)
    }

    #[inline(always)]
    fn find_cell(&self, sets: Section, local: u32, query: &Query, (remote_identity, port): (u32, u16)) -> Option<Cell> {
        let set = self.set_of(sets, self.identity(local).set, query.direction)?;
        if set.port_classes == 0 {
            return Some(set.default);
        }
        let class = self.identity(remote_identity).peer_class as u32;
        let atom = self.atom(query.protocol, port)?;
        let port_class = self.packed(Section::PortRows, set.port_row.wrapping_add(atom))?;
        let row = set.cells.wrapping_add(class.wrapping_mul(set.port_classes as u32));
        let cell = self.packed(Section::Cells, row.wrapping_add(port_class))?;
        Some(if cell == 0 { set.default } else { Cell(cell) })
    }
}

/// No entry. Not an `Option`: what that holds when it holds nothing is a register that the verifier has never seen written.
const NOTHING: Endpoint = Endpoint { identity: 0, owner: 0 };

/// A decision from a cell; one that names no verdict is a table we do not understand.
#[inline(always)]
fn from_cell(cell: Cell, remote_identity: u32) -> Decision {
    match (cell.verdict(), cell.reason()) {
        (Some(verdict), Some(reason)) => Decision {
            rule: cell.rule(),
            quiet: cell.is_quiet(),
            refuse: cell.is_refusing(),
            ..Decision::plain(verdict, reason, remote_identity)
        },
        _ => no_tables(remote_identity),
    }
}

/// Fails closed, and says so.
#[inline(always)]
pub const fn no_tables(remote_identity: u32) -> Decision {
    Decision::plain(Verdict::Deny, Reason::NoTables, remote_identity)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::{FIRST_IDENTITY, MAGIC};

    /// One policy set that denies everything, for identity 16; nobody else has a set.
    struct Closed([Page; 3]);

    const CLOSED: u32 = FIRST_IDENTITY;

    impl Closed {
        fn new() -> Self {
            let (deny, open) =
                (Cell::new(Verdict::Deny, Reason::Default, 3), Cell::new(Verdict::Allow, Reason::NoPolicy, 0));
            let unknown = Cell::new(Verdict::Audit, Reason::UnknownWorkload, 0);
            let mut pages = [Page::zeroed(), Page::zeroed(), Page::zeroed()];
            let [front, identities, sets] = &mut pages;
            front.words[header::MAGIC as usize] = MAGIC;
            front.words[header::UNKNOWN as usize] = u64::from(unknown.0);
            front.words[header::SECTIONS as usize + Section::Identities as usize] = 1 | 64 << 32;
            front.words[header::SECTIONS as usize + Section::Sets as usize] = 2 | 4 << 32;
            identities.words[CLOSED as usize] = Identity { set: 1, ..Identity::default() }.to_word();
            for (entry, cell) in [open, open, deny, deny].into_iter().enumerate() {
                let [first, second] = SetEntry { default: cell, ..SetEntry::default() }.to_words();
                (sets.words[2 * entry], sets.words[2 * entry + 1]) = (first, second);
            }
            Self(pages)
        }
    }

    fn host(last: u8) -> Addr {
        Addr::v4([10, 0, 0, last])
    }

    impl Tables for Closed {
        fn page(&self, index: u32) -> Option<&Page> {
            self.0.get(index as usize)
        }

        /// 10.0.0.N belongs to workload N and has identity 16; 10.0.0.100 has it too, and belongs to no local workload.
        fn endpoint(&self, addr: &Addr) -> Option<Endpoint> {
            let [10, 0, 0, last] = addr.as_v4()? else { return None };
            let number = if last == 100 { 0 } else { u32::from(last) };
            Some(Endpoint { identity: CLOSED, owner: number })
        }

        fn cidr(&self, _: &Addr) -> Option<u32> {
            None
        }
    }

    #[test]
    fn a_workload_reaches_its_own_address_and_nobody_elses() {
        let rows = [
            ("its own", CLOSED, 5, host(5), (Verdict::Allow, Reason::NoPolicy, 0)),
            ("its neighbour's, of the same identity", CLOSED, 5, host(6), (Verdict::Deny, Reason::Default, 3)),
            ("one of its identity elsewhere", CLOSED, 5, host(100), (Verdict::Deny, Reason::Default, 3)),
            ("an address that is nobody's", CLOSED, 5, Addr::v4([192, 0, 2, 1]), (Verdict::Deny, Reason::Default, 3)),
            ("no number asks for what nobody owns", CLOSED, 0, host(100), (Verdict::Deny, Reason::Default, 3)),
            ("unknown to this generation", reserved::UNKNOWN, 5, host(6), (Verdict::Audit, Reason::UnknownWorkload, 0)),
            ("without a set", reserved::WORLD, 5, host(6), (Verdict::Allow, Reason::NoPolicy, 0)),
        ];
        let tables = Closed::new();
        let image = Image::open(&tables).unwrap();
        for direction in [Direction::Ingress, Direction::Egress] {
            for (name, local, workload, remote, expected) in rows {
                let query = Query { local, direction, remote, protocol: Protocol::TCP, port: 80 };
                let said = image.decide_for(workload, &query);
                assert_eq!((said.verdict, said.reason, said.rule), expected, "{name}, {direction:?}");
            }
        }
    }
}
