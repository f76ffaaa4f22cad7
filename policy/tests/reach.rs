//! Lives: host tests.
//! Called by: cargo test; `WEIR_STATES` sets how many states are compared (40 unless given).
//! May touch: the public surface of the crate.
//! Never: compares an answer with one that came by the same way: `reach` asks about kinds, `evaluate` about ends.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod support;

use proptest::{
    prelude::*,
    test_runner::{Config, TestRunner},
};
use support::{context, resources};
use weir_common::{addr::Protocol, verdict::Verdict};
use weir_policy::{
    Explanation, Question, Resources, evaluate,
    reach::{GroupBy, Reach, Who, changes, groups},
};

/// Ports at, before and after the edges that generated rules have, and protocols that few name.
const ASKED: [(Protocol, u16); 16] = [
    (Protocol::TCP, 0),
    (Protocol::TCP, 79),
    (Protocol::TCP, 80),
    (Protocol::TCP, 81),
    (Protocol::TCP, 90),
    (Protocol::TCP, 91),
    (Protocol::TCP, 8080),
    (Protocol::TCP, 65535),
    (Protocol::UDP, 53),
    (Protocol::UDP, 54),
    (Protocol::SCTP, 80),
    (Protocol::SCTP, 81),
    (Protocol::ICMP, 0),
    (Protocol::ICMP, 8),
    (Protocol(47), 0),
    (Protocol(89), 0),
];

/// Choices, one after the other; what is left out is 0.
struct Tape<'t>(std::slice::Iter<'t, u8>);

impl Tape<'_> {
    fn below(&mut self, end: u8) -> u8 {
        self.0.next().copied().unwrap_or_default() % end
    }

    fn of<'w>(&mut self, words: &[&'w str]) -> &'w str {
        words[usize::from(self.below(u8::try_from(words.len()).unwrap()))]
    }
}

const SPACES: [&str; 2] = ["shop", "data"];
const SELECTORS: [&str; 4] = [
    "{}",
    "{matchLabels: {app: a}}",
    "{matchLabels: {app: b}}",
    "{matchExpressions: [{key: tier, operator: NotIn, values: [x]}]}",
];

/// One service by labels, and one that leads to an address outside.
const SERVICES: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: front, namespace: shop}\n\
                        spec: {clusterIP: 10.96.0.1, selector: {app: a}, ports: [{port: 80}]}\n---\n\
                        apiVersion: v1\nkind: Service\nmetadata: {name: outer, namespace: data}\n\
                        spec: {clusterIP: 10.96.0.2, ports: [{port: 80}]}\n---\n\
                        apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: outer-1, namespace: data, \
                        labels: {kubernetes.io/service-name: outer}}\naddressType: IPv4\n\
                        endpoints: [{addresses: [198.51.100.7]}]\nports: [{port: 80}]\n";

/// A whole state. Every pod has a label of its own, which no policy looks at.
fn state(tape: &mut Tape<'_>) -> String {
    let mut text = String::new();
    let mut add = |document: String| text.push_str(&format!("{document}---\n"));
    for (n, space) in SPACES.iter().enumerate() {
        add(format!(
            "apiVersion: v1\nkind: Namespace\nmetadata: {{name: {space}, labels: {{team: {}}}}}\n",
            ["x", "y"][n]
        ));
        add(format!(
            "apiVersion: v1\nkind: Node\nmetadata: {{name: n{n}, labels: {{zone: z{n}}}}}\n\
             spec: {{podCIDRs: [10.0.{n}.0/24]}}\nstatus: {{addresses: [{{type: InternalIP, address: 192.0.2.{n}}}]}}\n"
        ));
    }
    add(SERVICES.to_owned());
    for n in 0..3 + tape.below(4) {
        let (space, app, tier) = (tape.of(&SPACES), tape.of(&["a", "b"]), tape.of(&["x", "y"]));
        let (node, octet, port) = (tape.below(2), tape.below(3), tape.of(&["80", "8080"]));
        add(format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: p{n}, namespace: {space}, labels: {{app: {app}, tier: {tier}, n: \"{n}\"}}}}\n\
             spec: {{nodeName: n{node}, containers: [{{name: c, ports: [{{name: web, containerPort: {port}}}]}}]}}\n\
             status: {{podIPs: [{{ip: 10.0.{octet}.{n}}}]}}\n"
        ));
    }
    for n in 0..1 + tape.below(3) {
        add(network_policy(tape, n));
    }
    for n in 0..tape.below(3) {
        add(cluster_policy(tape, n));
    }
    for n in 0..tape.below(3) {
        add(native_policy(tape, n));
    }
    text
}

fn network_policy(tape: &mut Tape<'_>, n: u8) -> String {
    let peers = [
        "[{podSelector: {matchLabels: {app: a}}}]",
        "[{namespaceSelector: {matchLabels: {team: y}}}]",
        "[{ipBlock: {cidr: 10.0.0.0/16, except: [10.0.1.0/24]}}]",
        "[{ipBlock: {cidr: 0.0.0.0/0}}, {podSelector: {}}]",
        "[]",
    ];
    let ports = ["[{port: 80}]", "[{port: 80, endPort: 90}]", "[{port: web}]", "[{protocol: UDP, port: 53}]", "[]"];
    let (space, selector) = (tape.of(&SPACES), tape.of(&SELECTORS));
    let rule = |tape: &mut Tape<'_>, side| format!("{{{side}: {}, ports: {}}}", tape.of(&peers), tape.of(&ports));
    let (ingress, egress) = (rule(tape, "from"), rule(tape, "to"));
    let types = tape.of(&["[Ingress]", "[Egress]", "[Ingress, Egress]"]);
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: np{n}, namespace: {space}}}\n\
         spec: {{podSelector: {selector}, policyTypes: {types}, ingress: [{ingress}], egress: [{egress}]}}\n"
    )
}

fn cluster_policy(tape: &mut Tape<'_>, n: u8) -> String {
    let tier = tape.of(&["Admin", "Baseline"]);
    let subject = tape.of(&["{namespaces: {}}", "{namespaces: {matchLabels: {team: x}}}"]);
    let from = tape.of(&["{namespaces: {}}", "{namespaces: {matchLabels: {team: y}}}"]);
    let to = tape.of(&[
        "{networks: [10.0.1.0/24, 198.51.100.0/24]}",
        "{nodes: {matchLabels: {zone: z0}}}",
        "{namespaces: {}}",
    ]);
    let actions = ["Accept", "Deny", "Pass"];
    let (first, second) = (tape.of(&actions), tape.of(&actions));
    let protocols = tape
        .of(&["[{tcp: {destinationPort: {number: 80}}}]", "[{tcp: {destinationPort: {range: {start: 79, end: 90}}}}]"]);
    format!(
        "apiVersion: policy.networking.k8s.io/v1alpha2\nkind: ClusterNetworkPolicy\nmetadata: {{name: cnp{n}}}\n\
         spec:\n  tier: {tier}\n  priority: {n}\n  subject: {subject}\n  ingress:\n  - {{action: {first}, from: [{from}], \
         protocols: {protocols}}}\n  egress:\n  - {{action: {second}, to: [{to}]}}\n"
    )
}

fn native_policy(tape: &mut Tape<'_>, n: u8) -> String {
    let peers = [
        "[{entity: world}]",
        "[{workloadSelector: {matchLabels: {app: b}}}]",
        "[{ipBlock: {cidr: 203.0.113.0/24}}]",
        "[{entity: node}, {entity: unknown}]",
        "[{service: {name: front, namespace: shop}}]",
        "[{service: {name: outer, namespace: data}}]",
    ];
    let ports = [
        "[{protocol: ICMP}]",
        "[{protocol: 47}, {port: 81}]",
        "[{protocol: SCTP, port: 80}, {protocol: ICMP, type: 8}]",
        "[{port: web}]",
    ];
    let (space, selector, mode) = (tape.of(&SPACES), tape.of(&SELECTORS), tape.of(&["enforce", "audit", "staged"]));
    let (action, default) = (tape.of(&["allow", "deny"]), tape.of(&["deny", "allow"]));
    let (from, port) = (tape.of(&peers), tape.of(&ports));
    format!(
        "apiVersion: weir.dev/v1alpha1\nkind: Policy\nmetadata: {{name: own{n}, namespace: {space}}}\n\
         spec: {{workloadSelector: {selector}, mode: {mode}, defaultAction: {default}, priority: {n}, \
         ingress: [{{action: {action}, from: {from}, ports: {port}}}]}}\n"
    )
}

fn states() -> u32 {
    std::env::var("WEIR_STATES").ok().and_then(|count| count.parse().ok()).unwrap_or(40)
}

/// Runs a check over generated pairs of states.
fn over_states(check: impl Fn(&Resources, &Resources, &str)) {
    let config = Config { cases: states(), failure_persistence: None, ..Config::default() };
    let tapes = (prop::collection::vec(any::<u8>(), 40..120), prop::collection::vec(any::<u8>(), 0..24));
    let result = TestRunner::new(config).run(&tapes, |(tape, edit)| {
        let old = state(&mut Tape(tape.iter()));
        // The later state differs in its last choices, which are policies'.
        let kept = tape.len().saturating_sub(edit.len());
        let new = state(&mut Tape([&tape[..kept], &edit].concat().iter()));
        check(&resources(&[&old]), &resources(&[&new]), &old);
        Ok(())
    });
    result.unwrap_or_else(|failure| panic!("{failure}"));
}

/// Whether the answer of two ends is one of their kinds: neither is the other, or the node of the other.
fn is_plain(reach: &Reach, from: usize, to: usize) -> bool {
    from != to && reach.pairs(&[from], &[to]) == 1
}

fn ask(resources: &Resources, reach: &Reach, from: usize, to: usize, asked: (Protocol, u16)) -> Explanation {
    let end = |party: usize| reach.parties()[party].end.clone();
    let question = Question { from: end(from), to: end(to), protocol: asked.0, port: asked.1 };
    evaluate(resources, &context(), &question).unwrap()
}

#[test]
fn reach_says_of_kinds_what_the_evaluator_says_of_every_two_ends() {
    over_states(|resources, _, text| {
        let reach = Reach::of(resources, &context());
        let ends = reach.parties().len();
        for (from, to) in (0..ends).flat_map(|from| (0..ends).map(move |to| (from, to))) {
            if !is_plain(&reach, from, to) {
                continue;
            }
            let pair = reach.pair(from, to);
            for asked in ASKED {
                let explanation = ask(resources, &reach, from, to, asked);
                let who = |party: usize| &reach.parties()[party].who;
                let named = format!("{:?} -> {:?} {asked:?}\n{text}", who(from), who(to));
                assert_eq!(pair.verdict(asked.0, asked.1), explanation.verdict, "{named}");
                assert_eq!(pair.passing().contains(asked.0, asked.1), explanation.verdict.passes(), "{named}");
                let audited = explanation.verdict == Verdict::Audit;
                assert_eq!(pair.audited().contains(asked.0, asked.1), audited, "{named}");
                assert_eq!(pair.is_judged(), explanation.egress.is_some() || explanation.ingress.is_some(), "{named}");
            }
        }
    });
}

#[test]
fn changes_are_exactly_the_pairs_and_ports_whose_verdict_differs() {
    over_states(|old, new, text| {
        let (before, after) = (Reach::of(old, &context()), Reach::of(new, &context()));
        let changes = changes(old, new, &context());
        // What is outside may be divided otherwise when both states are looked at together.
        let inside = |reach: &Reach| -> Vec<_> {
            let parties = reach.parties().iter().enumerate().filter(|(_, party)| !matches!(party.who, Who::Outside(_)));
            parties.map(|(place, party)| (party.who.clone(), place)).collect()
        };
        let was: std::collections::BTreeMap<_, _> = inside(&before).into_iter().collect();
        let both: Vec<_> =
            inside(&after).into_iter().filter_map(|(who, now)| Some((was.get(&who).copied()?, now, who))).collect();
        for ((was_from, from, caller), (was_to, to, called)) in
            both.iter().flat_map(|a| both.iter().map(move |b| (a, b)))
        {
            if !is_plain(&after, *from, *to) || !is_plain(&before, *was_from, *was_to) {
                continue;
            }
            for asked in ASKED {
                let then = ask(old, &before, *was_from, *was_to, asked).verdict;
                let now = ask(new, &after, *from, *to, asked).verdict;
                let naming = changes.list.iter().filter(|change| {
                    let ends = change.from_ends.contains(caller) && change.to_ends.contains(called);
                    ends && change.ports.contains(asked.0, asked.1)
                });
                let named: Vec<_> = naming.map(|change| (change.was.verdict, change.now.verdict)).collect();
                let expected = if then == now { vec![] } else { vec![(then, now)] };
                assert_eq!(named, expected, "{caller} -> {called} {asked:?}\n{text}");
            }
        }
    });
}

#[test]
fn a_state_does_not_differ_from_itself() {
    over_states(|resources, _, text| {
        let same = changes(resources, resources, &context());
        assert!(same.list.is_empty() && same.only_old.is_none() && same.only_new.is_none(), "{text}");
        assert!(same.compared > 0 && same.closed == 0 && same.opened == 0);
    });
}

/// A cell's "every" and "some" by asking about each pair of members.
#[test]
fn a_cell_says_what_holds_for_every_pair_and_for_some() {
    over_states(|resources, _, text| {
        let reach = Reach::of(resources, &context());
        for by in [GroupBy::Alike, GroupBy::Namespace, GroupBy::Label("app".to_owned()), GroupBy::Each] {
            let groups = groups(&reach, &by);
            let all: usize = groups.iter().map(|group| group.members.len()).sum();
            assert_eq!(all, reach.parties().len(), "every end is in one group");
            for (from, to) in groups.iter().flat_map(|from| groups.iter().map(move |to| (from, to))) {
                let cell = reach.cell(from, to);
                let members = from.members.iter().flat_map(|from| to.members.iter().map(move |to| (*from, *to)));
                let pairs: Vec<_> = members.filter(|(from, to)| is_plain(&reach, *from, *to)).collect();
                let judged: Vec<_> = pairs.iter().filter(|(from, to)| reach.pair(*from, *to).is_judged()).collect();
                assert_eq!(cell.judged, !judged.is_empty(), "{} -> {}\n{text}", from.name.short, to.name.short);
                for asked in ASKED {
                    let passes =
                        |(from, to): &&(usize, usize)| reach.pair(*from, *to).verdict(asked.0, asked.1).passes();
                    let (every, some) = (judged.iter().all(&passes), judged.iter().any(&passes));
                    let named = format!("{} -> {} {asked:?}\n{text}", from.name.short, to.name.short);
                    assert!(!cell.judged || cell.some.contains(asked.0, asked.1) == some, "some {named}");
                    assert!(!cell.judged || cell.every.contains(asked.0, asked.1) == every, "every {named}");
                }
            }
        }
    });
}

/// 1,000 replicas with names and labels of their own are as many ends, of as few kinds as there are Deployments.
#[test]
fn labels_that_no_policy_looks_at_make_no_kinds() {
    let mut text = String::new();
    for n in 0..1000 {
        let app = ["web", "api", "db", "cache"][n % 4];
        text.push_str(&format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: p{n}, namespace: shop, labels: {{app: {app}, n: \"{n}\"}}}}\n\
             status: {{podIP: 10.0.{}.{}}}\n---\n",
            n / 250,
            n % 250
        ));
    }
    for app in ["web", "api", "db"] {
        text.push_str(&format!(
            "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: {app}, namespace: shop}}\n\
             spec: {{podSelector: {{matchLabels: {{app: {app}}}}}, ingress: [{{from: [{{podSelector: {{}}}}]}}]}}\n---\n"
        ));
    }
    let reach = Reach::of(&resources(&[&text]), &context());
    let pods = |who: &Who| matches!(who, Who::Workload(_));
    assert_eq!(reach.parties().iter().filter(|party| pods(&party.who)).count(), 1000);
    let rows: Vec<_> = groups(&reach, &GroupBy::Alike).into_iter().map(|group| group.name.short).collect();
    assert_eq!(rows, ["shop/web (250)", "shop/api (250)", "shop/db (250)", "shop/cache (250)", "this host", "world"]);
}
