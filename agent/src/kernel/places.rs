//! Lives: agent, user space.
//! Called by: `Kernel::load` and `preflight`, once each.
//! May touch: `/sys/kernel/btf/vmlinux`, the running kernel's account of its own types; read only.
//! Never: a guess. What is missing or not of the kind that is expected makes all of it unknown, and the programs ask by helpers.
//!
//! aya reads the same file, and keeps members to itself. The format: Documentation/bpf/btf.rst.

use std::collections::BTreeMap;

use weir_common::places::{DropPlaces, SocketPlaces, TaskPlaces};

const BTF: &str = "/sys/kernel/btf/vmlinux";
const MAGIC: u16 = 0xeb9f;
/// Kinds of types (include/uapi/linux/btf.h), as far as they are looked at or followed by more than their own words.
mod kind {
    pub const INT: u32 = 1;
    pub const ARRAY: u32 = 3;
    pub const STRUCT: u32 = 4;
    pub const UNION: u32 = 5;
    pub const ENUM: u32 = 6;
    pub const TYPEDEF: u32 = 8;
    pub const FUNC_PROTO: u32 = 13;
    pub const VAR: u32 = 14;
    pub const DATASEC: u32 = 15;
    pub const DECL_TAG: u32 = 17;
    pub const ENUM64: u32 = 19;
}
/// Members within members: the kernel has two levels of them where structures are laid out at random.
const DEPTH: u32 = 4;

/// What a kernel says of itself.
#[derive(Default)]
pub(super) struct Places {
    /// Of a task; unknown where it says nothing.
    pub tasks: TaskPlaces,
    /// Of a socket, for programs at tracepoints.
    pub sockets: Option<SocketPlaces>,
    /// Of packets that it drops, which are told with their sockets; `None` where it does not tell of them, or not how.
    pub drops: Option<Drops>,
}

impl Places {
    /// What the running kernel says.
    pub fn of_running_kernel() -> Self {
        let bytes = std::fs::read(BTF).unwrap_or_default();
        let Some(types) = Types::read(&bytes) else { return Self::default() };
        let sockets = types.sockets();
        let drops = if sockets.is_some() { types.drops() } else { None };
        Self { tasks: types.tasks().unwrap_or(TaskPlaces::UNKNOWN), sockets, drops }
    }
}

/// What a kernel tells of packets that it drops.
pub(super) struct Drops {
    /// Where what is told lies.
    pub places: DropPlaces,
    /// Its reasons by their numbers, as it calls them: `NO_SOCKET`, `SOCKET_RCVBUFF`.
    pub reasons: BTreeMap<u32, String>,
}

/// What every reason's name begins with.
const REASON: &str = "SKB_DROP_REASON_";
/// Reasons that are not told: programs like Weir's own cause these, which have told why; what was used up as it should; and a frame for
/// somebody else, of which a bridge that does not know where to sends everybody a copy.
const UNTOLD: [&str; 9] = [
    "SKB_NOT_DROPPED_YET",
    "SKB_CONSUMED",
    "SOCKET_FILTER",
    "BPF_CGROUP_EGRESS",
    "TC_INGRESS",
    "TC_EGRESS",
    "XDP",
    "OTHERHOST",
    "SUBSYS_MASK",
];

/// A type's own words.
#[derive(Clone, Copy)]
struct Type {
    name: u32,
    info: u32,
    /// Where its members start.
    members: usize,
}

impl Type {
    const fn kind(self) -> u32 {
        self.info >> 24 & 0x1f
    }

    const fn count(self) -> usize {
        (self.info & 0xffff) as usize
    }

    /// Whether members' places share their word with the size of a bit field.
    const fn has_bits(self) -> bool {
        self.info >> 31 == 1
    }

    /// Bytes that follow the type's own words.
    const fn more(self) -> Option<usize> {
        Some(match self.kind() {
            kind::INT | kind::VAR | kind::DECL_TAG => 4,
            kind::ARRAY => 12,
            kind::STRUCT | kind::UNION | kind::DATASEC | kind::ENUM64 => self.count() * 12,
            kind::ENUM | kind::FUNC_PROTO => self.count() * 8,
            0 | 20.. => return None,
            _ => 0,
        })
    }
}

/// All types of a kernel.
struct Types<'a> {
    bytes: &'a [u8],
    types: Vec<Type>,
    names: &'a [u8],
}

impl<'a> Types<'a> {
    fn read(bytes: &'a [u8]) -> Option<Self> {
        if u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?) != MAGIC {
            return None;
        }
        let header = |at| word(bytes, at).map(|word| word as usize);
        let (header_length, first, length) = (header(4)?, header(8)?, header(12)?);
        let names = header_length.checked_add(header(16)?)?;
        let names = bytes.get(names..names.checked_add(header(20)?)?)?;
        let bytes = bytes.get(header_length.checked_add(first)?..)?.get(..length)?;
        // Number 0 is `void`, of which nothing is written.
        let mut types = vec![Type { name: 0, info: 0, members: 0 }];
        let mut at = 0;
        while at < bytes.len() {
            let kind = Type { name: word(bytes, at)?, info: word(bytes, at + 4)?, members: at + 12 };
            types.push(kind);
            at = kind.members.checked_add(kind.more()?)?;
        }
        Some(Self { bytes, types, names })
    }

    /// What `kfree_skb` tells, and by which numbers.
    fn drops(&self) -> Option<Drops> {
        let reasons = self.values("skb_drop_reason")?;
        let number = |of: &str| reasons.iter().find(|(name, _)| name == of).map(|(_, number)| u64::from(*number));
        let mut told = [u64::MAX; 4];
        for (name, number) in &reasons {
            let word = usize::try_from(*number / 64).ok().and_then(|word| told.get_mut(word));
            if let Some(word) = word.filter(|_| UNTOLD.contains(&name.as_str())) {
                *word &= !(1 << (*number % 64));
            }
        }
        // The tracepoint's own arguments follow one of the kernel's.
        let names_receiver = u64::from(self.parameters("btf_trace_kfree_skb")? > 4);
        let places = DropPlaces {
            names_receiver,
            skb_sk: self.place("sk_buff", "sk")?,
            skb_head: self.place("sk_buff", "head")?,
            skb_network_header: self.place("sk_buff", "network_header")?,
            skb_protocol: self.place("sk_buff", "protocol")?,
            skb_len: self.place("sk_buff", "len")?,
            no_socket: number("NO_SOCKET")?,
            not_specified: number("NOT_SPECIFIED")?,
            told,
        };
        Some(Drops { places, reasons: reasons.into_iter().map(|(name, number)| (number, name)).collect() })
    }

    /// Names, without what all have before them, and numbers of an enumeration.
    fn values(&self, of: &str) -> Option<Vec<(String, u32)>> {
        let named = |kind: &&Type| kind.kind() == kind::ENUM && self.is_named(kind.name, of);
        let of = self.types.iter().find(named)?;
        let value = |number| {
            let at = of.members + number * 8;
            let name = self.text(word(self.bytes, at)?)?;
            Some((name.strip_prefix(REASON).unwrap_or(name).to_owned(), word(self.bytes, at + 4)?))
        };
        (0..of.count()).map(value).collect()
    }

    /// How many parameters functions of a type have, which is a pointer to such.
    fn parameters(&self, of: &str) -> Option<usize> {
        let named = |kind: &&Type| kind.kind() == kind::TYPEDEF && self.is_named(kind.name, of);
        let pointer = self.target(*self.types.iter().find(named)?)?;
        let function = self.target(pointer)?;
        (function.kind() == kind::FUNC_PROTO).then_some(function.count())
    }

    /// The type that another is made of: its third word.
    fn target(&self, of: Type) -> Option<Type> {
        self.types.get(word(self.bytes, of.members.checked_sub(4)?)? as usize).copied()
    }

    fn text(&self, name: u32) -> Option<&str> {
        let rest = self.names.get(name as usize..)?;
        std::str::from_utf8(rest.split(|byte| *byte == 0).next()?).ok()
    }

    fn sockets(&self) -> Option<SocketPlaces> {
        let of_tcp = |member| self.place("tcp_sock", member);
        Some(SocketPlaces {
            sock_state: self.place("sock_common", "skc_state")?,
            sock_cookie: self.place("sock_common", "skc_cookie")?,
            sock_cgroup: self.place("sock", "sk_cgrp_data")?,
            cgroup_kn: self.place("cgroup", "kn")?,
            kernfs_node_id: self.place("kernfs_node", "id")?,
            cgroup_self: self.place("cgroup", "self")?,
            css_parent: self.place("cgroup_subsys_state", "parent")?,
            tcp_callbacks: of_tcp("bpf_sock_ops_cb_flags")?,
            tcp_bytes_acked: of_tcp("bytes_acked")?,
            tcp_bytes_received: of_tcp("bytes_received")?,
            tcp_segs_out: of_tcp("segs_out")?,
            tcp_segs_in: of_tcp("segs_in")?,
            tcp_srtt_us: of_tcp("srtt_us")?,
            tcp_retransmits: of_tcp("total_retrans")?,
        })
    }

    fn tasks(&self) -> Option<TaskPlaces> {
        Some(TaskPlaces {
            known: 1,
            task_cgroups: self.place("task_struct", "cgroups")?,
            css_set_dfl_cgrp: self.place("css_set", "dfl_cgrp")?,
            cgroup_kn: self.place("cgroup", "kn")?,
            kernfs_node_id: self.place("kernfs_node", "id")?,
            task_tgid: self.place("task_struct", "tgid")?,
            task_comm: self.place("task_struct", "comm")?,
            task_cred: self.place("task_struct", "cred")?,
            cred_uid: self.place("cred", "uid")?,
        })
    }

    /// Bytes from the start of a structure to a member.
    fn place(&self, structure: &str, member: &str) -> Option<u64> {
        let named = |kind: &&Type| kind.kind() == kind::STRUCT && self.is_named(kind.name, structure);
        let bits = self.bits(*self.types.iter().find(named)?, member, DEPTH)?;
        (bits % 8 == 0).then_some(u64::from(bits / 8))
    }

    /// Bits from the start of a structure to a member, or to a member of one that has no name.
    fn bits(&self, of: Type, wanted: &str, depth: u32) -> Option<u32> {
        for member in 0..of.count() {
            let at = of.members + member * 12;
            let (name, kind, place) = (word(self.bytes, at)?, word(self.bytes, at + 4)?, word(self.bytes, at + 8)?);
            let (bits, size) = if of.has_bits() { (place & 0xff_ffff, place >> 24) } else { (place, 0) };
            if self.is_named(name, wanted) {
                return (size == 0).then_some(bits);
            }
            let inner = self
                .types
                .get(kind as usize)
                .filter(|inner| name == 0 && depth > 0 && matches!(inner.kind(), kind::STRUCT | kind::UNION));
            if let Some(found) = inner.and_then(|inner| self.bits(*inner, wanted, depth - 1)) {
                return bits.checked_add(found);
            }
        }
        None
    }

    fn is_named(&self, name: u32, wanted: &str) -> bool {
        let text = self.names.get(name as usize..).unwrap_or_default();
        text.strip_prefix(wanted.as_bytes()).is_some_and(|rest| rest.first() == Some(&0))
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Types 1 to 4: `int`, `struct inner { int a; int b; }` without a name, `struct task { int flags:3; inner; int last; }`.
    fn sample() -> Vec<u8> {
        let names = b"\0int\0a\0b\0task\0flags\0last\0";
        let (int, a, b, task, flags, last) = (1, 5, 7, 9, 14, 20);
        let (int, inner) = ([int, kind::INT << 24, 4, 32], [0, kind::STRUCT << 24 | 2, 8, a, 1, 0, b, 1, 32]);
        let task = [task, 1 << 31 | kind::STRUCT << 24 | 3, 16, flags, 1, 3 << 24, 0, 2, 32, last, 1, 96];
        // After a typedef nothing follows.
        let types = [&int[..], &inner, &task, &[1, 8 << 24, 0]].concat();
        let length = (types.len() * 4) as u32;
        let header = [1 << 16 | u32::from(MAGIC), 24, 0, length, length, names.len() as u32];
        let words = header.iter().chain(&types).flat_map(|word| word.to_ne_bytes());
        words.chain(names.iter().copied()).collect()
    }

    #[test]
    fn members_are_found_where_they_lie() {
        let bytes = sample();
        let types = Types::read(&bytes).unwrap();
        assert_eq!(types.types.len(), 5);
        let rows =
            [("last", Some(12)), ("b", Some(8)), ("a", Some(4)), ("flags", None), ("las", None), ("absent", None)];
        for (member, place) in rows {
            assert_eq!(types.place("task", member), place, "{member}");
        }
        assert_eq!(types.place("int", "a"), None, "a type, but no structure");
    }

    #[test]
    fn what_is_cut_off_or_something_else_is_unknown() {
        let bytes = sample();
        for length in 0..bytes.len() {
            assert!(Types::read(&bytes[..length]).is_none(), "cut off after {length} bytes");
        }
        for (at, value, what) in [(0, 0xff, "magic"), (16, 0xff, "length"), (24 + 7, 31, "a kind of the future")] {
            let mut other = bytes.clone();
            other[at] = value;
            assert!(Types::read(&other).is_none(), "{what}");
        }
    }

    /// Every kernel that Weir supports has this file; without it the programs must ask by helpers, which costs.
    #[test]
    fn the_running_kernel_says_where_everything_lies() {
        let places = Places::of_running_kernel().tasks;
        assert_eq!(places.known, 1);
        let mut of_task = [places.task_cgroups, places.task_tgid, places.task_comm, places.task_cred];
        of_task.sort_unstable();
        assert!(of_task.windows(2).all(|two| two[0] + 4 <= two[1]), "{places:?}");
    }

    #[test]
    fn the_running_kernel_says_why_it_drops_packets() {
        let places = Places::of_running_kernel();
        let (drops, sockets) = (places.drops.unwrap(), places.sockets.unwrap());
        let number = |name: &str| drops.reasons.iter().find(|(_, known)| *known == name).map(|(number, _)| *number);
        let is_told = |name| number(name).map(|number| drops.places.told[(number / 64) as usize] >> (number % 64) & 1);
        for name in ["NO_SOCKET", "SOCKET_RCVBUFF", "NETFILTER_DROP", "UDP_CSUM"] {
            assert_eq!(is_told(name), Some(1), "{name}");
        }
        for name in ["SOCKET_FILTER", "BPF_CGROUP_EGRESS", "XDP"] {
            assert_eq!(is_told(name), Some(0), "{name}");
        }
        assert!(drops.places.skb_head > 0, "{:?}", drops.places);
        let [acked, received] = [sockets.tcp_bytes_acked, sockets.tcp_bytes_received];
        assert!(sockets.sock_cgroup > 0 && acked.abs_diff(received) >= 8, "{sockets:?}");
    }
}
