//! Lives: fuzz targets. Tables against evaluator, and increments against scratch.
//! Called by: libFuzzer's program `compile`, the replay.
//! May touch: the bytes it is handed.
//! Never: takes a cluster that is refused for one that was judged right.

use std::{collections::BTreeSet, net::IpAddr};

use arbitrary::Unstructured;
use weir_common::{
    addr::{Addr, Protocol},
    verdict::{Direction, Reason, Verdict},
};
use weir_policy::{
    Compiled, Compiler, Context, Edit, End, Question, Resource, Resources, Spec, Timestamp, addr, compile as tables_of,
    evaluate,
};

use crate::cluster::{ADDRESSES, Documents, PORTS};

/// Transport protocols, one without ports, and one that nobody names.
const PROTOCOLS: [Protocol; 5] = [Protocol::TCP, Protocol::UDP, Protocol::SCTP, Protocol::ICMP, Protocol(47)];
/// Some moment between those at which rules expire.
const NOW: Timestamp = Timestamp(1_800_000_000_000_000_000);

/// A small cluster, in which the tables of the node `here` must say what the evaluator says, whatever is asked; then another,
/// reached from it by edits, in which they must still.
pub fn compile(data: &[u8]) {
    let mut bytes = Unstructured::new(data);
    let mut compiler = Compiler::new(context());
    for _ in 0..2 {
        let Ok(documents) = Documents::of(&mut bytes) else { return };
        let Ok(pieces) = bytes.int_in_range(1..=4) else { return };
        let wanted = documents.resources().unwrap_or_else(|faults| panic!("{faults:#?}\n{}", documents.0.join("\n")));
        walk(&mut compiler, &wanted, pieces, &documents);
        let resources: Resources = wanted.into_iter().collect();
        assert_eq!(*compiler.resources(), resources);
        let scratch = match tables_of(&resources, &context()) {
            Ok(compiled) => compiled,
            Err(faults) => panic!("{faults:#?}\n{}", documents.0.join("\n")),
        };
        for compiled in [&scratch, &compiler.compiled()] {
            all_ends(&resources, compiled, data.len(), &documents);
        }
    }
}

/// Turns what the compiler has into what is wanted, a few edits at a time. What goes, goes first: addresses are reused.
fn walk(compiler: &mut Compiler, wanted: &[Resource], pieces: usize, documents: &Documents) {
    let kept: BTreeSet<_> = wanted.iter().map(Resource::id).collect();
    let gone = compiler.resources().iter().filter(|old| {
        // A pod that stays may have to give up an address that another gets: it goes and comes again.
        !kept.contains(old.id()) || matches!(old.spec(), Spec::Workload(_))
    });
    let removed: Vec<_> = gone.map(|old| Edit::Remove(old.id().clone())).collect();
    let put: Vec<_> = wanted.iter().cloned().map(Edit::Put).collect();
    let edits = [removed, put].concat();
    for piece in edits.chunks(edits.len().div_ceil(pieces).max(1)) {
        if let Err(faults) = compiler.apply(piece.iter().cloned()) {
            panic!("{faults:#?}\n{}", documents.0.join("\n"));
        }
    }
}

fn all_ends(resources: &Resources, compiled: &Compiled, salt: usize, documents: &Documents) {
    let mut turn = salt;
    for (resource, workload) in resources.workloads().filter(|(_, workload)| workload.cgroup.is_some()) {
        for remote in ADDRESSES.iter().chain(&["10.0.255.0", "10.0.255.1"]).filter_map(|text| address(text)) {
            // Its own address the kernel exempts before it asks.
            if !workload.addresses.contains(&remote) {
                turn += 1;
                some_ports(resources, compiled, resource, remote, turn, documents);
            }
        }
    }
}

/// Every fifth question, another one in each turn: a fuzzer's time is better spent on another cluster.
fn some_ports(
    resources: &Resources,
    compiled: &Compiled,
    workload: &Resource,
    remote: Addr,
    turn: usize,
    documents: &Documents,
) {
    let ports = |protocol| -> &[u16] {
        match protocol {
            Protocol::TCP | Protocol::UDP | Protocol::SCTP => &PORTS,
            // Types of messages.
            Protocol::ICMP => &[0, 8, 13],
            _ => &[0],
        }
    };
    let directions = [Direction::Ingress, Direction::Egress];
    let all = PROTOCOLS.into_iter().flat_map(|protocol| ports(protocol).iter().map(move |port| (protocol, *port)));
    let all = all.flat_map(|(protocol, port)| directions.map(|direction| (protocol, port, direction)));
    for (protocol, port, direction) in all.skip(turn % 5).step_by(5) {
        let told = by_tables(compiled, workload, direction, remote, protocol, port);
        let meant = by_evaluator(resources, workload, direction, remote, protocol, port);
        let asked = format!("{} {direction:?} {:?} {protocol:?} {port}", workload.id(), remote.0);
        assert_eq!(told, meant, "{asked}\n{}", documents.0.join("\n"));
    }
}

/// Verdict, reason, and the rule in words.
type Said = (Verdict, Reason, String, String);

fn by_tables(
    compiled: &Compiled,
    workload: &Resource,
    direction: Direction,
    remote: Addr,
    protocol: Protocol,
    port: u16,
) -> Option<Said> {
    let own = compiled.workloads.get(workload.id())?;
    let decision = compiled.seen_by(own).decide(direction, remote, protocol, port)?;
    let rule = compiled.rules.get(decision.rule as usize)?;
    Some((decision.verdict, decision.reason, rule.policy.clone(), rule.rule.clone()))
}

fn by_evaluator(
    resources: &Resources,
    workload: &Resource,
    direction: Direction,
    remote: Addr,
    protocol: Protocol,
    port: u16,
) -> Option<Said> {
    let (own, other) = (End::Workload(workload.id().clone()), End::Address(remote));
    let (from, to) = if direction == Direction::Egress { (own, other) } else { (other, own) };
    let explanation = evaluate(resources, &context(), &Question { from, to, protocol, port }).ok()?;
    let answer = if direction == Direction::Egress { explanation.egress } else { explanation.ingress }?;
    Some((answer.verdict, answer.reason, answer.policy, answer.rule))
}

/// The node `here`.
fn context() -> Context {
    let own = ["10.0.255.0", "127.0.0.1"];
    let host_addresses = own.iter().filter_map(|text| address(text)).collect();
    Context { generation: 1, unknown: Verdict::Deny, unselected: Verdict::Allow, host_addresses, tick_ns: 0, now: NOW }
}

fn address(text: &str) -> Option<Addr> {
    text.parse::<IpAddr>().ok().map(addr)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A generator that makes nothing, or only one thing, would find nothing.
    #[test]
    fn bytes_become_clusters_of_many_kinds() {
        let mut kinds = std::collections::BTreeSet::new();
        let mut isolated = 0;
        let mut noise = 1u64;
        for _ in 0..200 {
            let data: Vec<u8> = (0..512)
                .map(|_| {
                    noise ^= noise << 13;
                    noise ^= noise >> 7;
                    noise ^= noise << 17;
                    noise.to_le_bytes()[0]
                })
                .collect();
            let documents = Documents::of(&mut Unstructured::new(&data)).unwrap();
            let resources = documents.resources().unwrap_or_else(|faults| panic!("{faults:#?}"));
            kinds.extend(resources.iter().map(|resource| resource.id().kind));
            isolated += usize::from(resources.iter().any(|resource| matches!(resource.spec(), Spec::Policy(_))));
        }
        assert!(kinds.len() >= 7, "{kinds:?}");
        assert!(isolated > 100, "{isolated}");
    }
}
