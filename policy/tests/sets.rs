//! Lives: weir-policy, tests.
//! Called by: cargo test.
//! May touch: the images of address sets, in memory.
//! Never: a reference that shares code with what it argues with: it looks at every entry there is.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test's helpers fail by panicking, as its tests do")]

use std::collections::BTreeMap;

use proptest::prelude::*;
use weir_common::{
    addr::{Addr, Protocol},
    sets::{Held, Line, NUMBER, PLAIN, held, scope, v4, v6},
    verdict::Reason,
};
use weir_policy::{
    Prefix,
    sets::{Entries, PortScope, Scope, Source, V4, V6},
};

/// One entry: the set, and when it ends.
type Entry = (u32, Prefix, u64);

/// Sets 0 to 3: two that block plainly, one that blocks some ports, one that allows.
const SETS: u32 = 4;

struct World {
    entries: BTreeMap<u32, Entries>,
    v4: Option<(V4, Vec<Line>)>,
    v6: Option<(V6, Vec<Line>)>,
}

fn sources(entries: &BTreeMap<u32, Entries>) -> Vec<Source<'_>> {
    let sources = entries.iter();
    sources.map(|(set, entries)| Source { set: *set, blocks: *set < 3, plain: *set < 2, shift: 0, entries }).collect()
}

impl World {
    fn of(list: &[Entry]) -> Self {
        let mut entries: BTreeMap<u32, Entries> = (0..SETS).map(|set| (set, Entries::default())).collect();
        for (set, prefix, ends) in list {
            let _ = entries.get_mut(set).unwrap().insert(*prefix, *ends);
        }
        let mut world = Self { entries, v4: None, v6: None };
        world.build();
        world
    }

    fn build(&mut self) {
        self.v4 = V4::build(&sources(&self.entries));
        self.v6 = V6::build(&sources(&self.entries), 0x5eed);
    }

    /// One entry more, or one less; as the agent does it.
    fn change(&mut self, (set, prefix, ends): Entry, add: bool) {
        let entries = self.entries.get_mut(&set).unwrap();
        let _ = if add { entries.insert(prefix, ends) } else { entries.remove(&prefix) };
        let sources = sources(&self.entries);
        let done = match (prefix.is_v4(), &mut self.v4, &mut self.v6) {
            (true, Some((image, lines)), _) => image.change(lines.as_mut_slice(), &sources, prefix).is_ok(),
            (false, _, Some((image, lines))) => image.change(lines.as_mut_slice(), &sources, prefix).is_ok(),
            _ => false,
        };
        if !done {
            self.build();
        }
    }

    fn held(&self, addr: Addr, now: u64) -> (Held, u32) {
        let (leaf, held) = match addr.as_v4().map(u32::from_be_bytes) {
            Some(word) => {
                let Some((_, lines)) = &self.v4 else { return Default::default() };
                let (leaf, quick) = (v4::name(lines.as_slice(), word), v4::find(lines.as_slice(), word));
                assert_eq!(
                    (quick == 0, quick & PLAIN),
                    (leaf == 0, leaf & PLAIN),
                    "{addr:?}: quick {quick:x}, named {leaf:x}"
                );
                assert!(quick & NUMBER == 0 || quick == leaf, "{addr:?}");
                (leaf, held(lines.as_slice(), leaf, || now))
            }
            None => {
                let Some((_, lines)) = &self.v6 else { return Default::default() };
                let (hi, lo) = addr.halves();
                let leaf =
                    v6::find(v6::lengths(lines.as_slice(), hi), |length| v6::probe(lines.as_slice(), hi, lo, length));
                (leaf, held(lines.as_slice(), leaf, || now))
            }
        };
        (held, leaf)
    }

    /// The same by looking at everything.
    fn expected(&self, addr: Addr, now: u64) -> Held {
        let there = |ends: u64| ends == 0 || now < ends;
        let mut expected = Held::default();
        let mut longest = None;
        for (set, entries) in &self.entries {
            for (prefix, ends) in entries.iter().filter(|(prefix, ends)| prefix.contains(&addr) && there(**ends)) {
                let _ = ends;
                expected.sets |= 1 << set;
                if *set < 3 && longest.is_none_or(|(bits, _)| bits < prefix.bits) {
                    longest = Some((prefix.bits, *set));
                }
            }
        }
        expected.longest = longest.map_or(0, |(_, set)| set + 1);
        expected
    }

    fn check(&self, addrs: impl Iterator<Item = Addr>) {
        for addr in addrs {
            for now in [5, 15, 25, 100] {
                let (held, leaf) = self.held(addr, now);
                assert_eq!(held, self.expected(addr, now), "{addr:?} at {now}, leaf {leaf:x}");
                if leaf & PLAIN != 0 {
                    assert!(held.sets & 3 != 0, "{addr:?} is said to be blocked plainly at {now}: {held:?}");
                }
            }
        }
    }
}

/// The ends of a prefix, and the addresses next to them.
fn edges(prefix: &Prefix) -> Vec<Addr> {
    let (first, last) = prefix.range();
    let numbers = [first, last, first.wrapping_sub(1), last.wrapping_add(1), first | 0x55, first.midpoint(last)];
    numbers.map(|number| Addr(number.to_be_bytes())).to_vec()
}

fn prefix(text: &str) -> Prefix {
    let (addr, bits) = text.split_once('/').unwrap();
    let ip: std::net::IpAddr = addr.parse().unwrap();
    Prefix::new(weir_policy::addr(ip), bits.parse::<u8>().unwrap() + if ip.is_ipv4() { 96 } else { 0 })
}

/// Few distinct bits, so that prefixes lie in each other, meet, and share /24s and /48s.
fn prefixes() -> impl Strategy<Value = Prefix> {
    let v4 = (any::<u32>(), 0..=32u8).prop_map(|(bits, length)| {
        let addr = 0x0a00_0000 | bits & 0x0003_13ff;
        Prefix::new(Addr::v4(addr.to_be_bytes()), 96 + length)
    });
    let v6 = (any::<u128>(), 0..=128u8).prop_map(|(bits, length)| {
        let addr = 0x2001_0db8 << 96 | bits & 0x0000_0003_8000_0001_8000_0001_0000_0007;
        Prefix::new(Addr(addr.to_be_bytes()), length)
    });
    prop_oneof![v4, v6]
}

fn entries(most: usize) -> impl Strategy<Value = Vec<Entry>> {
    let ends = prop_oneof![3 => Just(0u64), 1 => Just(10), 1 => Just(20), 1 => Just(30)];
    prop::collection::vec((0..SETS, prefixes(), ends), 0..most)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_looked_up_is_what_every_entry_says(list in entries(60), more in prop::collection::vec(prefixes(), 8)) {
        let world = World::of(&list);
        world.check(list.iter().map(|(_, prefix, _)| prefix).chain(&more).flat_map(edges));
    }

    #[test]
    fn one_entry_more_or_less_is_as_if_it_had_been_so_from_the_start(
        list in entries(30),
        changes in prop::collection::vec((0..SETS, prefixes(), prop_oneof![Just(0u64), Just(10), Just(20)], any::<bool>(), any::<prop::sample::Index>()), 1..30),
    ) {
        let mut world = World::of(&list);
        let mut known: Vec<Entry> = list;
        for (set, prefix, ends, add, which) in changes {
            let entry = if add || known.is_empty() { (set, prefix, ends) } else { known[which.index(known.len())] };
            world.change(entry, add);
            known.push(entry);
        }
        world.check(known.iter().flat_map(|(_, prefix, _)| edges(prefix)));
    }
}

#[test]
fn the_edges_of_the_families_are_where_they_should_be() {
    type Row<'a> = (&'a [&'a str], &'a [(&'a str, bool)]);
    let rows: [Row<'_>; 12] = [
        (
            &["0.0.0.0/0"],
            &[("0.0.0.0/32", true), ("255.255.255.255/32", true), ("::1/128", false), ("2001:db8::/128", false)],
        ),
        (&["::/0"], &[("::/128", true), ("ffff::/128", true), ("8000::/128", true), ("1.2.3.4/32", false)]),
        (
            &["10.0.0.0/8"],
            &[("9.255.255.255/32", false), ("10.0.0.0/32", true), ("10.255.255.255/32", true), ("11.0.0.0/32", false)],
        ),
        (
            &["192.0.2.0/24"],
            &[("192.0.1.255/32", false), ("192.0.2.0/32", true), ("192.0.2.255/32", true), ("192.0.3.0/32", false)],
        ),
        (&["192.0.2.128/25"], &[("192.0.2.127/32", false), ("192.0.2.128/32", true), ("192.0.2.255/32", true)]),
        (&["192.0.2.7/32"], &[("192.0.2.6/32", false), ("192.0.2.7/32", true), ("192.0.2.8/32", false)]),
        (&["255.255.255.255/32"], &[("255.255.255.254/32", false), ("255.255.255.255/32", true)]),
        (
            &["2001:db8::/32"],
            &[
                ("2001:db7:ffff::/128", false),
                ("2001:db8::/128", true),
                ("2001:db8:ffff::1/128", true),
                ("2001:db9::/128", false),
            ],
        ),
        (
            &["2001:db8:1::/48"],
            &[
                ("2001:db8:0:ffff::/128", false),
                ("2001:db8:1::/128", true),
                ("2001:db8:1:ffff::/128", true),
                ("2001:db8:2::/128", false),
            ],
        ),
        (
            &["2001:db8:1:8000::/49"],
            &[("2001:db8:1:7fff::/128", false), ("2001:db8:1:8000::/128", true), ("2001:db8:2::/128", false)],
        ),
        (&["2001:db8::1/128", "2000::/3"], &[("2001:db8::1/128", true), ("3fff::/128", true), ("4000::/128", false)]),
        (
            &["ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/128"],
            &[
                ("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/128", true),
                ("ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffe/128", false),
            ],
        ),
    ];
    for (list, asked) in rows {
        let entries: Vec<Entry> = list.iter().map(|text| (0, prefix(text), 0)).collect();
        let world = World::of(&entries);
        for (addr, expected) in asked {
            assert_eq!(world.held(prefix(addr).addr, 1).0.sets != 0, *expected, "{addr} in {list:?}");
        }
        world.check(entries.iter().flat_map(|(_, prefix, _)| edges(prefix)));
    }
}

#[test]
fn a_half_of_all_of_ipv6_is_longer_than_all_of_it() {
    let world = World::of(&[(1, prefix("::/0"), 0), (2, prefix("::/1"), 0), (0, prefix("8000::/1"), 0)]);
    world.check(["::/0", "::/1", "8000::/1", "2001:db8::/32"].iter().flat_map(|text| edges(&prefix(text))));
}

fn random(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

/// A million prefixes of each family, mixed as public lists mix them: mostly single addresses and /24s, some larger; mostly /48s
/// and /64s, some single addresses, some larger.
fn million(count: usize) -> (Entries, Vec<Prefix>) {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut all = Vec::new();
    while all.len() < count {
        let bits = [32, 32, 32, 32, 24, 24, 24, 28, 22, 20][(random(&mut state) % 10) as usize];
        all.push(Prefix::new(Addr::v4((random(&mut state) as u32).to_be_bytes()), 96 + bits));
    }
    while all.len() < 2 * count {
        let bits = [48, 48, 48, 64, 64, 56, 128, 128, 44, 36][(random(&mut state) % 10) as usize];
        let hi = 0x2000_0000_0000_0000 | random(&mut state) >> 3;
        let addr = u128::from(hi) << 64 | u128::from(random(&mut state));
        all.push(Prefix::new(Addr(addr.to_be_bytes()), bits));
    }
    (all.iter().map(|prefix| (*prefix, 0)).collect(), all)
}

#[test]
fn a_million_prefixes_of_each_family_are_all_found_and_their_neighbours_are_not() {
    let (entries, all) = million(1_000_000);
    let entries = BTreeMap::from([(0, entries)]);
    let sources = sources(&entries);
    let start = std::time::Instant::now();
    let (v4, lines4) = V4::build(&sources).unwrap();
    let built4 = start.elapsed();
    let (v6, lines6) = V6::build(&sources, 1).unwrap();
    let built6 = start.elapsed() - built4;
    println!("IPv4: {} MiB in {built4:?}, IPv6: {} MiB in {built6:?}", lines4.len() >> 14, lines6.len() >> 14);
    let world = World { entries: BTreeMap::new(), v4: Some((v4, lines4)), v6: Some((v6, lines6)) };
    let holds = |addr: Addr| {
        entries[&0].get(&Prefix::host(addr)).is_some() || entries[&0].around(Prefix::host(addr)).next().is_some()
    };
    for addr in all.iter().step_by(7).flat_map(edges) {
        assert_eq!(world.held(addr, 1).0.sets != 0, holds(addr), "{addr:?}");
    }
}

#[test]
fn a_set_that_blocks_beats_those_that_allow_and_where_some_allow_one_must_hold_the_source() {
    let port = |first, last| PortScope { protocol: Protocol::TCP, first, last };
    let scopes = [
        Scope { set: 0, blocks: true, rule: 10, ports: vec![] },
        Scope { set: 2, blocks: true, rule: 12, ports: vec![port(80, 80)] },
        Scope { set: 17, blocks: false, rule: 13, ports: vec![port(443, 444)] },
    ];
    let image = Scope::image(&scopes);
    let held = |sets: u64, longest| Held { sets, longest };
    let going = |protocol, port, any_port| scope::Going { protocol, port, any_port };
    let (tcp, udp) = (Protocol::TCP, Protocol::UDP);
    let rows = [
        ("held by none", held(0, 0), going(tcp, 1, false), None),
        ("blocked everywhere", held(1, 1), going(udp, 1, false), Some((Reason::Blocklist, 0, 10))),
        ("blocked at this port", held(4, 3), going(tcp, 80, false), Some((Reason::Blocklist, 2, 12))),
        ("not blocked at another", held(4, 3), going(tcp, 81, false), None),
        ("nor with another protocol", held(4, 3), going(udp, 80, false), None),
        ("a later fragment could be for the port", held(4, 3), going(tcp, 0, true), Some((Reason::Blocklist, 2, 12))),
        ("by both: the longest is named", held(5, 3), going(tcp, 80, false), Some((Reason::Blocklist, 2, 12))),
        ("by both, one not asked", held(5, 3), going(tcp, 81, false), Some((Reason::Blocklist, 0, 10))),
        ("not listed", held(0, 0), going(tcp, 443, false), Some((Reason::NotListed, 17, 13))),
        ("listed", held(1 << 17, 0), going(tcp, 444, false), None),
        ("a later fragment of one not listed", held(0, 0), going(tcp, 0, true), Some((Reason::NotListed, 17, 13))),
        ("listed and blocked", held(1 << 17 | 1, 1), going(tcp, 444, false), Some((Reason::Blocklist, 0, 10))),
    ];
    for (what, held, going, expected) in rows {
        let answer = scope::judge(image.as_slice(), held, going);
        let expected = expected.map_or(0, |(reason, set, rule)| reason as u64 | set << 8 | rule << 32);
        assert_eq!(answer, expected, "{what}");
    }
}
