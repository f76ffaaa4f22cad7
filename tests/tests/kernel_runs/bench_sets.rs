//! Lives: weir-tests, a measurement of the address sets beside the kernel's own trie.
//! Called by: a person, by name: `cargo test --release -p weir-tests --test kernel_runs -- --ignored --nocapture address_sets_beside`.
//! May touch: an object of its own (ebpf/src/bench.rs), which is attached nowhere.
//! Never: compares figures of two runs; each ratio is taken within a round, then the median over the rounds.

use aya::{
    Ebpf,
    maps::{Array, ArrayOfMaps, LpmTrie, MapData, lpm_trie::Key},
    programs::{TestRun as _, TestRunOptions, Xdp},
};
use weir_common::{
    addr::Addr,
    maps::{SET_V4, SET_V6},
    sets::{Line, v4, v6},
};
use weir_policy::{
    Prefix,
    sets::{Entries, NEVER, Source, V4, V6},
};

/// Addresses that are looked up, over and over.
const ADDRS: u32 = 65_536;
/// Addresses of one run of a program.
const EACH: f64 = 64.0;
const ROUNDS: usize = 15;
/// `BPF_F_MMAPABLE` and `BPF_F_INNER_MAP`, as the object's templates have them.
const MMAPABLE: u32 = 1 << 10;
const INNER_MAP: u32 = 1 << 12;

type Lines = Array<MapData, Line>;

fn random(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    state.wrapping_mul(0x2545_f491_4f6c_dd1d)
}

/// Prefixes in the mix of public lists: of ten, five single addresses and three /24s; of ten, three /48s and two /64s.
fn prefixes(v4: bool, count: usize) -> Vec<Prefix> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut one = || match v4 {
        true => {
            let bits = [32, 32, 32, 32, 32, 24, 24, 24, 28, 22][(random(&mut state) % 10) as usize];
            Prefix::new(Addr::v4((random(&mut state) as u32).to_be_bytes()), 96 + bits)
        }
        false => {
            let bits = [48, 48, 48, 64, 64, 56, 128, 128, 44, 36][(random(&mut state) % 10) as usize];
            Prefix::new(address_v6(&mut state), bits)
        }
    };
    (0..count).map(|_| one()).collect()
}

/// A global unicast address.
fn address_v6(state: &mut u64) -> Addr {
    let hi = 0x2000_0000_0000_0000 | random(state) >> 3;
    Addr((u128::from(hi) << 64 | u128::from(random(state))).to_be_bytes())
}

/// Addresses that lie in one of the prefixes, or in none.
fn addresses(prefixes: &[Prefix], entries: &Entries, listed: bool) -> Vec<Addr> {
    let mut state = 0x1234_5678_9abc_def1_u64;
    let v4 = prefixes[0].is_v4();
    let mut found = Vec::new();
    while found.len() < ADDRS as usize {
        let addr = if listed {
            let (first, last) = prefixes[random(&mut state) as usize % prefixes.len()].range();
            let part = u128::from(random(&mut state)) << 64 | u128::from(random(&mut state));
            Addr((first + part % (last - first).saturating_add(1)).to_be_bytes())
        } else if v4 {
            Addr::v4((random(&mut state) as u32).to_be_bytes())
        } else {
            address_v6(&mut state)
        };
        if entries.longest(&addr).is_some() == listed {
            found.push(addr);
        }
    }
    found
}

/// Makes an entry of a map of maps lead to an array of these lines.
fn put(ebpf: &mut Ebpf, name: &str, entry: u32, lines: &[Line], flags: u32) {
    let mut inner = Lines::create(lines.len() as u32, flags).unwrap();
    for (index, line) in (0..).zip(lines).filter(|(_, line)| **line != [0; 8]) {
        inner.set(index, line, 0).unwrap();
    }
    let mut outer: ArrayOfMaps<_, Lines> = ebpf.map_mut(name).unwrap().try_into().unwrap();
    outer.set(entry, &inner, 0).unwrap();
}

/// The object with one family's prefixes in images and trie.
struct Measured {
    ebpf: Ebpf,
    prefixes: Vec<Prefix>,
    entries: Entries,
    sets: &'static str,
}

impl Measured {
    fn new(v4: bool, count: usize) -> Self {
        let mut ebpf = Ebpf::load(weir_agent::kernel::bench_object()).unwrap();
        for name in ["empty", "sets_v4", "sets_v6", "trie"] {
            let program: &mut Xdp = ebpf.program_mut(name).unwrap().try_into().unwrap();
            program.load().unwrap_or_else(|error| panic!("{name}: {error:?}"));
        }
        let prefixes = prefixes(v4, count);
        let entries: Entries = prefixes.iter().map(|prefix| (*prefix, NEVER)).collect();
        let source = [Source { set: 0, blocks: true, plain: true, shift: 0, entries: &entries }];
        let lines = if v4 { V4::build(&source).unwrap().1 } else { V6::build(&source, random(&mut 7)).unwrap().1 };
        let (name, which, heap) =
            if v4 { ("SET_TABLES_V4", SET_V4, v4::HEAP) } else { ("SET_TABLES_V6", SET_V6, v6::HEAP) };
        let (tables, rest) = lines.split_at(heap as usize);
        put(&mut ebpf, name, 0, tables, MMAPABLE);
        put(&mut ebpf, "SETS", which, rest, MMAPABLE | INNER_MAP);
        let mut trie: LpmTrie<_, [u8; 16], u32> = ebpf.map_mut("TRIE").unwrap().try_into().unwrap();
        for prefix in &prefixes {
            trie.insert(&Key::new(prefix.bits.into(), prefix.addr.0), 1, 0).unwrap();
        }
        println!("  {count} prefixes: {:.1} MiB", lines.len() as f64 / 16384.0);
        Self { ebpf, prefixes, entries, sets: if v4 { "sets_v4" } else { "sets_v6" } }
    }

    /// Nanoseconds of one look-up in the images and in the trie, and how many of the former fit into the latter.
    fn measure(&mut self, listed: bool) -> [f64; 3] {
        let addresses = addresses(&self.prefixes, &self.entries, listed);
        let mut map: Array<_, [u8; 16]> = self.ebpf.map_mut("ADDRS").unwrap().try_into().unwrap();
        (0..).zip(&addresses).for_each(|(index, addr)| map.set(index, addr.0, 0).unwrap());
        let mut rounds = Vec::new();
        for _ in 0..ROUNDS {
            let empty = self.run("empty", 20_000, None);
            let sets = self.run(self.sets, 20_000, Some(listed)) - empty;
            let trie = self.run("trie", 2_000, Some(listed)) - empty;
            rounds.push([sets, trie, trie / sets]);
        }
        std::array::from_fn(|which| {
            let mut all: Vec<f64> = rounds.iter().map(|round| round[which]).collect();
            all.sort_by(f64::total_cmp);
            all[all.len() / 2]
        })
    }

    fn run(&mut self, name: &str, repeat: u32, listed: Option<bool>) -> f64 {
        let mut state: Array<_, [u64; 2]> = self.ebpf.map_mut("STATE").unwrap().try_into().unwrap();
        state.set(0, [0, 0], 0).unwrap();
        let program: &Xdp = self.ebpf.program(name).unwrap().try_into().unwrap();
        let frame = [0u8; 64];
        let options = TestRunOptions { data_in: Some(&frame), repeat, ..TestRunOptions::default() };
        let result = program.test_run(options).unwrap();
        let state: Array<_, [u64; 2]> = self.ebpf.map("STATE").unwrap().try_into().unwrap();
        let [looked, found] = state.get(&0, 0).unwrap();
        let looked = looked as u32 as u64;
        if let Some(listed) = listed {
            assert_eq!(found, if listed { looked } else { 0 }, "{name}: a wrong answer is no figure");
        }
        result.duration.as_nanos() as f64 / EACH
    }
}

#[test]
#[ignore = "measures; cargo test --release -p weir-tests --test kernel_runs -- --ignored --nocapture address_sets_beside"]
fn address_sets_beside_the_kernels_trie() {
    let goals = [
        ("IPv4", true, 100_000, [40, 20]),
        ("IPv4", true, 1_000_000, [50, 20]),
        ("IPv6", false, 100_000, [12, 5]),
        ("IPv6", false, 1_000_000, [12, 5]),
    ];
    for (family, v4, count, goals) in goals {
        println!("{family}");
        let mut measured = Measured::new(v4, count);
        for (what, listed, goal) in [("in none", false, goals[0]), ("listed", true, goals[1])] {
            let [sets, trie, ratio] = measured.measure(listed);
            println!("    {what:8} {sets:7.1} ns, trie {trie:7.1} ns: 1/{ratio:.1} (goal 1/{goal})");
        }
    }
}
