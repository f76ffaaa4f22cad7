//! Lives: weir-tests, a translator of our own: it gives calls and datagrams another destination inside the system call.
//! Called by: live tests of Services that are translated at the socket.
//! May touch: cgroups of the test's own world.
//! Never: part of anything that ships: the programs are written here, instruction by instruction, so that no second build is needed.
//!
//! What socket load balancers do (Cilium's, kube-proxy's replacements) in its smallest form: one rule for each family and way of
//! writing it, looked up in an array at `connect` and `sendmsg`, destination replaced. Which programs it runs before or after
//! depends on where and when it is attached.

use std::fs::File;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use aya::maps::Array;
use aya::programs::links::FdLink;
use aya::programs::{CgroupAttachMode, CgroupSockAddr};
use aya::{Ebpf, EbpfLoader};
use weir_tests::assembled::Assembled;

/// Each program with the rules it looks at. IPv4 through an IPv6 socket is the business of `connect6`, but of `sendmsg4`.
const PROGRAMS: [(&str, &str, &[u8]); 4] = [
    ("connect4", "cgroup/connect4", &[V4]),
    ("connect6", "cgroup/connect6", &[V6, MAPPED]),
    ("sendmsg4", "cgroup/sendmsg4", &[V4]),
    ("sendmsg6", "cgroup/sendmsg6", &[V6, MAPPED]),
];
const V4: u8 = 0;
const V6: u8 = 1;
const MAPPED: u8 = 2;
const RULES: &str = "RULES";

/// From, its port, to, its port; addresses as four words of network order, IPv4 in the first. All zero: fits nothing that is called.
type Rule = [u32; 10];

/// The loaded programs. Dropping it detaches them.
pub struct Translator {
    ebpf: Ebpf,
    links: Vec<FdLink>,
}

impl Translator {
    /// Loads the programs and attaches them to `cgroup`, behind what is there already. They translate nothing yet.
    pub fn attach(cgroup: &Path) -> Result<Translator> {
        let mut ebpf = EbpfLoader::new().load(&object()?).context("loading the translator")?;
        let directory = File::open(cgroup).with_context(|| format!("opening {}", cgroup.display()))?;
        let mut links = Vec::new();
        for (name, _, _) in PROGRAMS {
            let program: &mut CgroupSockAddr = ebpf.program_mut(name).context("a program is missing")?.try_into()?;
            program.load().with_context(|| format!("loading the translator's {name}"))?;
            let id = program.attach(&directory, CgroupAttachMode::Single)?;
            links.push(program.take_link(id)?.try_into()?);
        }
        Ok(Translator { ebpf, links })
    }

    /// From now on whoever calls `from` reaches `to`; both of one family. The mapped form goes with IPv4.
    pub fn translate(&mut self, from: SocketAddr, to: SocketAddr) -> Result<()> {
        ensure!(self.links.len() == PROGRAMS.len(), "not attached");
        let map = self.ebpf.map_mut(RULES).context("the map is missing")?;
        let mut rules: Array<_, Rule> = Array::try_from(map)?;
        match (from.ip(), to.ip()) {
            (IpAddr::V4(_), IpAddr::V4(_)) => {
                rules.set(u32::from(V4), rule(from, to), 0)?;
                rules.set(u32::from(MAPPED), rule(mapped(from), mapped(to)), 0)?;
            }
            (IpAddr::V6(_), IpAddr::V6(_)) => rules.set(u32::from(V6), rule(from, to), 0)?,
            _ => bail!("{from} and {to} are of two families"),
        }
        Ok(())
    }
}

fn mapped(end: SocketAddr) -> SocketAddr {
    let IpAddr::V4(v4) = end.ip() else { return end };
    SocketAddr::new(IpAddr::V6(v4.to_ipv6_mapped()), end.port())
}

fn rule(from: SocketAddr, to: SocketAddr) -> Rule {
    let mut rule = [0; 10];
    let halves =
        [from, to].into_iter().flat_map(|end| words(end.ip()).into_iter().chain([u32::from(end.port().to_be())]));
    rule.iter_mut().zip(halves).for_each(|(place, word)| *place = word);
    rule
}

fn words(address: IpAddr) -> [u32; 4] {
    match address {
        IpAddr::V4(v4) => [u32::from_ne_bytes(v4.octets()), 0, 0, 0],
        IpAddr::V6(v6) => {
            let (bytes, mut words) = (v6.octets(), [0; 4]);
            let (chunks, _) = bytes.as_chunks::<4>();
            words.iter_mut().zip(chunks).for_each(|(word, chunk)| *word = u32::from_ne_bytes(*chunk));
            words
        }
    }
}

/// Offsets in `struct bpf_sock_addr` (include/uapi/linux/bpf.h) and in a [`Rule`].
const USER_IP4: i16 = 4;
const USER_IP6: i16 = 8;
const USER_PORT: i16 = 24;
const RULE_PORT: i16 = 16;
const RULE_TO: i16 = 20;

/// One instruction: operation, registers (source in the high half), offset, immediate
/// (Documentation/bpf/standardization/instruction-set.rst).
type Instruction = (u8, u8, i16, i32);

/// The code, and the places in it where the map's address goes.
#[derive(Default)]
struct Code {
    instructions: Vec<Instruction>,
    maps: Vec<u64>,
}

/// `for rule in rules { if destination == rule.from { destination = rule.to } } return 1`
fn code(rules: &[u8], v6: bool) -> Code {
    let mut code = Code::default();
    code.instructions.push((0xbf, 0x16, 0, 0)); // r6 = context
    for rule in rules {
        code.instructions.extend([(0x62, 0x0a, -4, i32::from(*rule)), (0xbf, 0xa2, 0, 0), (0x07, 0x02, 0, -4)]); // r2 = &rule
        code.maps.push(code.instructions.len() as u64 * 8);
        code.instructions.extend([(0x18, 0x01, 0, 0), (0, 0, 0, 0), (0x85, 0, 0, 1)]); // r0 = map_lookup_elem(map, r2)
        let body = replace(v6);
        code.instructions.push((0x15, 0x00, body.len() as i16, 0)); // none: on to the next
        code.instructions.extend(body);
    }
    code.instructions.extend([(0xb7, 0x00, 0, 1), (0x95, 0, 0, 0)]);
    code
}

/// With the rule in r0: compares the destination word by word, then replaces it.
fn replace(v6: bool) -> Vec<Instruction> {
    let address: Vec<(i16, i16)> =
        if v6 { (0..4).map(|n| (USER_IP6 + 4 * n, 4 * n)).collect() } else { vec![(USER_IP4, 0)] };
    let words: Vec<(i16, i16)> = address.into_iter().chain([(USER_PORT, RULE_PORT)]).collect();
    let mut body = Vec::new();
    let length = words.len() * 5;
    for (context, rule) in &words {
        body.extend([(0x61, 0x61, *context, 0), (0x61, 0x02, *rule, 0)]); // r1 = destination, r2 = rule
        body.push((0x5d, 0x21, (length - body.len() - 1) as i16, 0)); // unlike: out of here
    }
    for (context, rule) in words {
        body.extend([(0x61, 0x01, rule + RULE_TO, 0), (0x63, 0x16, context, 0)]);
    }
    body
}

fn object() -> Result<Vec<u8>> {
    let mut assembled = Assembled::default();
    let rules_of_all = assembled.array(RULES, size_of::<Rule>() as u32, 3);
    for (name, section, rules) in PROGRAMS {
        let Code { instructions, maps } = code(rules, name.ends_with('6'));
        let bytes: Vec<u8> = instructions.into_iter().flat_map(encode).collect();
        let program = assembled.program(name, section, &bytes);
        for offset in maps {
            assembled.refer(program, offset, rules_of_all)?;
        }
    }
    assembled.finish().context("writing an object file")
}

fn encode((operation, registers, offset, immediate): Instruction) -> [u8; 8] {
    let ([o0, o1], [i0, i1, i2, i3]) = (offset.to_le_bytes(), immediate.to_le_bytes());
    [operation, registers, o0, o1, i0, i1, i2, i3]
}
