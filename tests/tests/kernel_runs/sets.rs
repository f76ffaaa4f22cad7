//! Lives: weir-tests, in-kernel test runs of address sets at XDP.
//! Called by: cargo test.
//! May touch: the bench.
//! Never: believes the answer alone; the sets' counts must say the same.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread::{self, sleep},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use weir_agent::kernel::{PacketHook, SetCount};
use weir_common::verdict::{Hook, Reason, Verdict};
use weir_policy::{
    Prefix,
    sets::{Entries, Loaded, NEVER},
};

use crate::{
    bench::{Bench, compiled},
    frames::{syn, tagged, udp, udp6},
};

const XDP_DROP: u32 = 1;
const XDP_PASS: u32 = 2;
const HERE: [u8; 4] = [10, 0, 0, 2];

fn set(name: &str, spec: &str) -> String {
    format!("apiVersion: weir.dev/v1alpha1\nkind: AddressSet\nmetadata: {{name: {name}}}\nspec: {spec}\n---\n")
}

fn prefix(text: &str) -> Prefix {
    let (addr, bits) = text.split_once('/').unwrap();
    let ip: std::net::IpAddr = addr.parse().unwrap();
    Prefix::new(weir_policy::addr(ip), bits.parse::<u8>().unwrap() + if ip.is_ipv4() { 96 } else { 0 })
}

/// A datagram from this address.
fn from(source: &str) -> Vec<u8> {
    match source.parse().unwrap() {
        std::net::IpAddr::V4(addr) => udp(addr.octets(), HERE, 1, 8),
        std::net::IpAddr::V6(_) => udp6(source, "fd00::2", 1),
    }
}

fn check(bench: &Bench, what: &str, rows: &[(&str, bool)]) {
    for (source, dropped) in rows {
        let expected = if *dropped { XDP_DROP } else { XDP_PASS };
        assert_eq!(bench.run(PacketHook::Xdp, &from(source)), expected, "{what}: from {source}");
    }
}

fn wall() -> u64 {
    u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos()).unwrap()
}

#[test]
fn a_prefix_of_any_length_holds_what_lies_in_it_and_nothing_beside_it() {
    type Row<'a> = (&'a str, &'a [(&'a str, bool)]);
    let rows: [Row<'_>; 15] = [
        ("0.0.0.0/0", &[("1.2.3.4", true), ("223.255.255.255", true), ("2001:db8::1", false)]),
        ("::/0", &[("2001:db8::1", true), ("fe80::1", true), ("1.2.3.4", false)]),
        ("10.0.0.0/8", &[("9.255.255.255", false), ("10.0.0.0", true), ("10.255.255.255", true), ("11.0.0.0", false)]),
        (
            "172.16.0.0/12",
            &[("172.15.255.255", false), ("172.16.0.0", true), ("172.31.255.255", true), ("172.32.0.0", false)],
        ),
        ("192.0.2.0/24", &[("192.0.1.255", false), ("192.0.2.0", true), ("192.0.2.255", true), ("192.0.3.0", false)]),
        (
            "192.0.2.128/25",
            &[("192.0.2.127", false), ("192.0.2.128", true), ("192.0.2.255", true), ("192.0.3.128", false)],
        ),
        ("192.0.2.64/31", &[("192.0.2.63", false), ("192.0.2.64", true), ("192.0.2.65", true), ("192.0.2.66", false)]),
        ("192.0.2.7/32", &[("192.0.2.6", false), ("192.0.2.7", true), ("192.0.2.8", false), ("192.0.3.7", false)]),
        ("2000::/3", &[("1fff::1", false), ("2000::", true), ("3fff:ffff::1", true), ("4000::", false)]),
        (
            "2001:db8::/32",
            &[("2001:db7:ffff::1", false), ("2001:db8::", true), ("2001:db8:ffff::1", true), ("2001:db9::", false)],
        ),
        (
            "2001:db8:1::/48",
            &[
                ("2001:db8:0:ffff::1", false),
                ("2001:db8:1::", true),
                ("2001:db8:1:ffff::", true),
                ("2001:db8:2::", false),
            ],
        ),
        (
            "2001:db8:1:8000::/49",
            &[("2001:db8:1:7fff::1", false), ("2001:db8:1:8000::", true), ("2001:db8:2::", false)],
        ),
        ("2001:db8:1:2::/64", &[("2001:db8:1:1:ffff::", false), ("2001:db8:1:2::", true), ("2001:db8:1:3::", false)]),
        (
            "2001:db8::8/127",
            &[("2001:db8::7", false), ("2001:db8::8", true), ("2001:db8::9", true), ("2001:db8::a", false)],
        ),
        ("2001:db8::8/128", &[("2001:db8::7", false), ("2001:db8::8", true), ("2001:db8::9", false)]),
    ];
    let mut bench = Bench::new("set-edges", "", Verdict::Allow);
    for (list, asked) in rows {
        let document = set("bad", &format!("{{action: block, addresses: [\"{list}\"]}}"));
        let _ = bench.kernel.install(&compiled(&document, Verdict::Allow)).unwrap();
        check(&bench, list, asked);
    }
}

#[test]
fn the_longest_prefix_names_the_set_and_each_set_counts_what_it_refused() {
    let documents = set("a", "{action: block, addresses: [203.0.113.0/24, \"2001:db8::/32\"]}")
        + &set("b", "{action: block, addresses: [203.0.113.8/29, \"2001:db8:1::/48\"]}");
    let mut bench = Bench::new("set-names", &documents, Verdict::Allow);
    let rows = [
        ("203.0.113.7", "a"),
        ("203.0.113.8", "b"),
        ("203.0.113.15", "b"),
        ("203.0.113.16", "a"),
        ("2001:db8::1", "a"),
        ("2001:db8:1::1", "b"),
    ];
    for (source, name) in rows {
        let frame = from(source);
        let before = bench.kernel.set_counts().unwrap();
        assert_eq!(bench.run(PacketHook::Xdp, &tagged(&frame, 1)), XDP_DROP, "{source}");
        let after = bench.kernel.set_counts().unwrap();
        let more: Vec<_> = after.iter().filter(|(name, count)| before[*name] != **count).collect();
        let bytes = before[name].bytes + frame.len() as u64 - 14;
        let expected = SetCount { packets: before[name].packets + 1, bytes };
        assert_eq!(more, [(&name.to_owned(), &expected)], "{source}");
    }
    let merged = bench.merged();
    let by_set = |name: &str| {
        let rules = &bench.compiled.rules;
        let own = merged.iter().filter(|(key, _)| rules[key.rule as usize].policy == format!("AddressSet/{name}"));
        own.map(|(_, value)| value.count).sum::<u64>()
    };
    assert_eq!((by_set("a"), by_set("b")), (3, 3));
}

#[test]
fn where_a_set_allows_only_what_it_holds_passes_and_what_blocks_comes_first() {
    let documents =
        set("friends", "{action: allow, ports: [{protocol: TCP, port: 443}], addresses: [192.0.2.0/24, \"fd00::/8\"]}")
            + &set("bad", "{action: block, addresses: [192.0.2.13]}");
    let bench = Bench::new("set-allow", &documents, Verdict::Allow);
    let rows = [
        ("listed", syn([192, 0, 2, 1], HERE, 443, 1), XDP_PASS),
        ("not listed", syn([192, 0, 3, 1], HERE, 443, 1), XDP_DROP),
        ("not listed, another port", syn([192, 0, 3, 1], HERE, 80, 1), XDP_PASS),
        ("not listed, another protocol", udp([192, 0, 3, 1], HERE, 443, 8), XDP_PASS),
        ("listed and blocked", syn([192, 0, 2, 13], HERE, 443, 1), XDP_DROP),
        ("blocked, whatever the port", syn([192, 0, 2, 13], HERE, 80, 1), XDP_DROP),
    ];
    for (what, frame, expected) in &rows {
        assert_eq!(bench.run(PacketHook::Xdp, frame), *expected, "{what}");
    }
    let reasons = [Reason::NotListed, Reason::Blocklist].map(|reason| bench.decided(Hook::Xdp, Verdict::Deny, reason));
    assert_eq!(reasons, [1, 2]);
}

#[test]
fn an_entry_ends_by_the_kernels_clock_and_what_is_around_it_goes_on() {
    let documents = set("bad", "{action: block, addresses: [198.51.100.0/24, \"2001:db8:1::/48\"]}")
        + &set("guests", "{action: block}");
    let mut bench = Bench::new("set-expiry", &documents, Verdict::Allow);
    let compiled = bench.compiled.clone();
    let mut loaded = Loaded::default();
    // Time enough for what comes before the end, as this machine is: loading is most of it.
    let start = Instant::now();
    bench.kernel.reload_sets(&compiled, &loaded).unwrap();
    let lead = Duration::from_secs(2) + 20 * start.elapsed();
    let start = Instant::now();
    let soon = wall() + u64::try_from(lead.as_nanos()).unwrap();
    let list = [
        ("192.0.2.1/32", soon),
        ("192.0.2.2/32", NEVER),
        ("198.51.100.1/32", soon),
        ("203.0.113.0/24", soon),
        ("2001:db8::1/128", soon),
        ("2001:db8:1::1/128", soon),
        ("192.0.2.9/32", wall() - 1),
    ];
    loaded.put("guests", list.iter().map(|(text, ends)| (prefix(text), *ends)).collect());
    bench.kernel.reload_sets(&compiled, &loaded).unwrap();
    let held = ["192.0.2.1", "198.51.100.1", "203.0.113.0", "203.0.113.255", "2001:db8::1", "2001:db8:1::1"];
    check(&bench, "before, if this machine is not too slow", &held.map(|source| (source, true)));
    check(&bench, "before", &[("192.0.2.2", true), ("192.0.2.9", false)]);
    assert!(start.elapsed() < lead, "this machine was too slow for the test: nothing was shown");
    // The agent does nothing meanwhile.
    sleep((lead + Duration::from_millis(100)).saturating_sub(start.elapsed()));
    check(
        &bench,
        "after",
        &[("192.0.2.1", false), ("203.0.113.0", false), ("203.0.113.255", false), ("2001:db8::1", false)],
    );
    check(&bench, "around", &[("192.0.2.2", true), ("198.51.100.1", true), ("2001:db8:1::1", true)]);
}

#[test]
fn single_entries_come_and_go_in_the_tables_in_force() {
    let mut bench = Bench::new("set-single", &set("bad", "{action: block}"), Verdict::Allow);
    let compiled = bench.compiled.clone();
    let mut loaded = Loaded::default();
    let first = ["198.18.0.0/15", "198.51.100.4/30", "2001:db8:ffff::/48"];
    loaded.put("bad", first.iter().map(|text| (prefix(text), NEVER)).collect());
    bench.kernel.reload_sets(&compiled, &loaded).unwrap();
    let rows: [(&str, &[&str], &[&str]); 6] = [
        ("192.0.2.1/32", &["192.0.2.1"], &["192.0.2.0", "192.0.2.2"]),
        ("192.0.2.0/24", &["192.0.2.0", "192.0.2.255"], &["192.0.1.255", "192.0.3.0"]),
        ("198.51.0.0/16", &["198.51.0.0", "198.51.255.255"], &["198.50.255.255", "198.52.0.0"]),
        ("2001:db8:1::/48", &["2001:db8:1::1"], &["2001:db8:2::1"]),
        ("2001:db8::1/128", &["2001:db8::1"], &["2001:db8::2"]),
        ("2001::/20", &["2001::1", "2001:fff::1"], &["2001:1000::1"]),
    ];
    for (text, inside, outside) in rows {
        let both = |held| {
            inside.iter().map(move |source| (*source, held)).chain(outside.iter().map(|source| (*source, false)))
        };
        check(&bench, text, &both(false).collect::<Vec<_>>());
        assert!(loaded.get_mut("bad").unwrap().insert(prefix(text), NEVER).is_none());
        assert!(bench.kernel.change_sets(&loaded, prefix(text)), "no room for {text}");
        check(&bench, text, &both(true).collect::<Vec<_>>());
        assert!(loaded.get_mut("bad").unwrap().remove(&prefix(text)).is_some());
        assert!(bench.kernel.change_sets(&loaded, prefix(text)), "no room to remove {text}");
        check(&bench, text, &both(false).collect::<Vec<_>>());
        check(&bench, "what was there", &[("198.51.100.4", true), ("198.51.100.8", false), ("2001:db8:ffff::1", true)]);
    }
}

#[test]
fn while_whole_sets_are_swapped_what_is_in_all_of_them_is_dropped_and_what_is_in_none_passes() {
    const SWAPS: u32 = 60;
    let mut bench = Bench::new("set-swap", &set("bad", "{action: block}"), Verdict::Allow);
    let compiled = bench.compiled.clone();
    let lists =
        ["192.0.2.0/24 2001:db8:1::/48 198.51.100.1/32", "192.0.2.7/32 2001:db8:1::1/128 203.0.113.0/24 2000::/3"];
    let lists = lists.map(|list| -> Vec<_> { list.split(' ').map(|text| (prefix(text), NEVER)).collect() });
    let mut loaded = Loaded::default();
    loaded.put("bad", lists[0].iter().copied().collect());
    bench.kernel.reload_sets(&compiled, &loaded).unwrap();
    let (runner, done) = (bench.kernel.runner().unwrap(), AtomicBool::new(false));
    let frames = [("192.0.2.7", XDP_DROP), ("2001:db8:1::1", XDP_DROP), ("192.0.3.7", XDP_PASS), ("fd00::9", XDP_PASS)];
    let frames = frames.map(|(source, expected)| (source, from(source), expected));
    let runs = thread::scope(|scope| {
        let runs = scope.spawn(|| {
            let mut runs = 0u64;
            while !done.load(Ordering::Relaxed) {
                for (source, frame, expected) in &frames {
                    assert_eq!(runner.run(frame).unwrap(), *expected, "from {source}, after {runs} runs");
                    runs += 1;
                }
            }
            runs
        });
        for swap in 0..SWAPS {
            loaded.put("bad", lists[swap as usize % 2].iter().copied().collect());
            // By turns with a generation of its own, and without one.
            if swap % 4 < 2 {
                bench.kernel.reload_sets(&compiled, &loaded).unwrap();
            } else {
                let _ = bench.kernel.install_with(&compiled, &loaded).unwrap();
            }
            let held = if swap % 2 == 0 { "198.51.100.1" } else { "203.0.113.1" };
            assert_eq!(bench.run(PacketHook::Xdp, &from(held)), XDP_DROP, "what was loaded is in force on return");
        }
        done.store(true, Ordering::Relaxed);
        runs.join().unwrap()
    });
    assert!(runs > u64::from(SWAPS), "{runs} runs in {SWAPS} swaps show nothing");
}

#[test]
fn a_set_that_was_not_touched_keeps_its_tables_and_its_counts_over_generations() {
    let bad = set("bad", "{action: block, addresses: [192.0.2.0/24]}");
    let mut bench = Bench::new("set-kept", &bad, Verdict::Allow);
    check(&bench, "first", &[("192.0.2.1", true)]);
    for (more, made) in [(set("zzz", "{action: block, addresses: [203.0.113.1]}"), 1), (String::new(), 1)] {
        for again in 0..3 {
            let next = compiled(&(bad.clone() + &more), Verdict::Allow);
            let written = bench.kernel.install(&next).unwrap();
            assert_eq!(written.sets, if again == 0 { made } else { 0 }, "{more}, {again}");
            check(&bench, "then", &[("192.0.2.1", true), ("203.0.113.1", !more.is_empty())]);
        }
    }
    assert_eq!(bench.kernel.set_counts().unwrap()["bad"].packets, 7);
}

/// Not a test of anything: a measurement. By name, with --ignored and --nocapture.
#[test]
#[ignore = "measures; cargo test --release -p weir-tests --test kernel_runs -- --ignored --nocapture single_entries_among"]
fn single_entries_among_a_million() {
    let mut bench = Bench::new("set-measured", &set("bad", "{action: block}"), Verdict::Allow);
    let compiled = bench.compiled.clone();
    let mut random = 0x5eed_u64;
    let mut next = || {
        random = random.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        random >> 16
    };
    let mut entries = Entries::default();
    while entries.len() < 1_000_000 {
        let _ = entries.insert(Prefix::new(weir_common::addr::Addr::v4((next() as u32).to_be_bytes()), 128), NEVER);
    }
    while entries.len() < 2_000_000 {
        let addr = 0x2001_u128 << 112 | u128::from(next()) << 64;
        let _ = entries.insert(Prefix::new(weir_common::addr::Addr(addr.to_be_bytes()), 64), NEVER);
    }
    let mut loaded = Loaded::default();
    loaded.put("bad", entries);
    let start = Instant::now();
    bench.kernel.reload_sets(&compiled, &loaded).unwrap();
    println!("a million of each family: {} MiB, in force after {:?}", bench.kernel.set_bytes() >> 20, start.elapsed());
    for family in ["192.0.2.1/32", "2001:db8::1/128", "192.0.0.0/16"] {
        let prefix = prefix(family);
        let mut times = Vec::new();
        for _ in 0..101 {
            let _ = loaded.get_mut("bad").unwrap().insert(prefix, NEVER);
            let start = Instant::now();
            assert!(bench.kernel.change_sets(&loaded, prefix));
            times.push(start.elapsed());
            let _ = loaded.get_mut("bad").unwrap().remove(&prefix);
            assert!(bench.kernel.change_sets(&loaded, prefix));
        }
        times.sort();
        println!("{family} added in {:?} (median of {})", times[50], times.len());
    }
}
