//! Lives: host tests.
//! Called by: cargo test.
//! May touch: the public surface of the crate.
//! Never: a fault that is only counted; where it points and what it advises are part of the promise.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm,
    reason = "a test fails by panicking"
)]

use proptest::prelude::*;
use weir_policy::{
    Fault,
    cases::{CASES, WORLD},
    parse, parse_all,
};

/// What, the spec of a Policy, and the faults: line and column within the spec's first line at 5, field, remedy.
type Row = (&'static str, &'static str, &'static [(&'static str, &'static str)]);

const WHOLE: &str = "write a whole number from 1 to 65535";
const LABEL: &str = "use at most 63 lower-case letters, digits and hyphens, with a letter or digit at both ends";
const SUBDOMAIN: &str =
    "use at most 253 lower-case letters, digits, hyphens and dots, with a letter or digit at both ends of each part";
const VALUE: &str = "use at most 63 letters, digits, \"-\", \"_\" or \".\", with a letter or digit at both ends";
const KEY: &str = "use an optional DNS prefix and slash, then at most 63 letters, digits, \"-\", \"_\" or \".\", with a letter or digit at both ends";
const OPERATORS: &str = "known here: In, NotIn, Exists, DoesNotExist";
const PORT_NAME: &str = "use at most 15 lower-case letters, digits and single hyphens, with at least one letter";
const TYPE: &str = "write type, such as echo-request, or nothing to mean the whole protocol";
const NO_ISOLATION: &str =
    "remove it; what no rule matches goes on to the next tier, and a last rule without peers matches everything";
const EXPIRY: &str = "write one such as 2026-12-24T18:00:00Z or 2026-12-24T19:00:00+01:00";
const ICMPV6: &str = "known here: destination-unreachable, packet-too-big, time-exceeded, parameter-problem, echo-request, \
                      echo-reply, listener-query, listener-report, listener-done, router-solicitation, router-advertisement, \
                      neighbor-solicitation, neighbor-advertisement, redirect";
const INTERFACE: &str = "write the name of the node's end of the workload's interface, such as veth1a2b3c";
const CGROUP: &str = "write a directory below the agent's cgroupRoot, such as shop/web";

/// Specs of a Policy.
const POLICIES: &[Row] = &[
    (
        "a field of another direction",
        "{egress: [{from: []}]}",
        &[("spec.egress[0].from", "known here: name, action, to, ports, expiresAt, log")],
    ),
    ("a misspelt field", "{workloadselector: {}}", &[("spec.workloadselector", "did you mean \"workloadSelector\"?")]),
    (
        "a misspelt field deep inside",
        "{ingress: [{ports: [{prot: TCP}]}]}",
        &[("spec.ingress[0].ports[0].prot", "did you mean \"port\"?")],
    ),
    ("a null list", "{ingress: }", &[("spec.ingress", "write a value, or remove the line")]),
    ("a null rule", "{ingress: [~]}", &[("spec.ingress[0]", "write a value, or remove the line")]),
    ("a null selector", "{workloadSelector: null}", &[("spec.workloadSelector", "write a value, or remove the line")]),
    ("a list where a map belongs", "{workloadSelector: []}", &[("spec.workloadSelector", "write a map here")]),
    ("a map where a list belongs", "{ingress: {}}", &[("spec.ingress", "write a list here")]),
    ("a text where a list belongs", "{sockets: raw}", &[("spec.sockets", "write a list here")]),
    ("a priority too high", "{priority: 1001}", &[("spec.priority", "write a whole number from 0 to 1000")]),
    ("a negative priority", "{priority: -1}", &[("spec.priority", "write a whole number from 0 to 1000")]),
    ("a fraction", "{priority: 1.0}", &[("spec.priority", "write a whole number from 0 to 1000")]),
    ("an octal number", "{priority: 0777}", &[("spec.priority", "write a whole number from 0 to 1000")]),
    ("a hexadecimal number", "{priority: 0x10}", &[("spec.priority", "write a whole number from 0 to 1000")]),
    ("a quoted number", "{priority: \"10\"}", &[("spec.priority", "remove the quotes")]),
    ("an unknown mode", "{mode: Audit}", &[("spec.mode", "did you mean \"audit\"?")]),
    ("an unknown action", "{defaultAction: drop}", &[("spec.defaultAction", "known here: allow, deny, refuse")]),
    ("an unknown type", "{policyTypes: [ingress]}", &[("spec.policyTypes[0]", "did you mean \"Ingress\"?")]),
    ("port 0", "{ingress: [{ports: [{port: 0}]}]}", &[("spec.ingress[0].ports[0].port", WHOLE)]),
    ("port 65536", "{ingress: [{ports: [{port: 65536}]}]}", &[("spec.ingress[0].ports[0].port", WHOLE)]),
    (
        "a named port with a capital",
        "{ingress: [{ports: [{port: Http}]}]}",
        &[("spec.ingress[0].ports[0].port", PORT_NAME)],
    ),
    ("a quoted port number", "{ingress: [{ports: [{port: \"80\"}]}]}", &[("spec.ingress[0].ports[0].port", PORT_NAME)]),
    (
        "a range from a named port on",
        "{ingress: [{ports: [{port: http, endPort: 90}]}]}",
        &[("spec.ingress[0].ports[0].endPort", "write port as a number, or remove endPort")],
    ),
    (
        "endPort below port",
        "{ingress: [{ports: [{port: 90, endPort: 80}]}]}",
        &[("spec.ingress[0].ports[0].endPort", "write a port from 90 to 65535, or swap the two")],
    ),
    (
        "endPort without port",
        "{ingress: [{ports: [{endPort: 80}]}]}",
        &[("spec.ingress[0].ports[0].endPort", "add port, the first port of the range")],
    ),
    (
        "a port of a protocol that has none",
        "{ingress: [{ports: [{protocol: 47, port: 80}]}]}",
        &[("spec.ingress[0].ports[0].port", "remove port and endPort to mean the whole protocol")],
    ),
    ("a port of ICMP", "{ingress: [{ports: [{protocol: ICMP, port: 8}]}]}", &[("spec.ingress[0].ports[0].port", TYPE)]),
    (
        "a type of TCP",
        "{ingress: [{ports: [{type: 8}]}]}",
        &[("spec.ingress[0].ports[0].type", "remove it, or write protocol: ICMP or ICMPv6")],
    ),
    (
        "types of ICMP that are none",
        "{ingress: [{ports: [{protocol: ICMP, type: 256}, {protocol: ICMPv6, type: echo}]}]}",
        &[
            ("spec.ingress[0].ports[0].type", "write a whole number from 0 to 255"),
            ("spec.ingress[0].ports[1].type", ICMPV6),
        ],
    ),
    (
        "a type and a port",
        "{ingress: [{ports: [{protocol: ICMP, type: 8, port: 1}]}]}",
        &[("spec.ingress[0].ports[0].port", TYPE)],
    ),
    ("a tier that is none", "{tier: platform}", &[("spec.tier", "known here: admin, namespace, baseline")]),
    (
        "other namespaces from the namespace tier",
        "{namespaceSelector: {}}",
        &[(
            "spec.namespaceSelector",
            "put the policy into the namespace it is about, or write tier: admin or tier: baseline",
        )],
    ),
    (
        "isolation outside of the namespace tier",
        "{tier: admin, policyTypes: [Ingress], defaultAction: deny, sockets: [raw]}",
        &[("spec.policyTypes", NO_ISOLATION), ("spec.defaultAction", NO_ISOLATION), ("spec.sockets", NO_ISOLATION)],
    ),
    (
        "a pass in the namespace tier",
        "{ingress: [{action: pass}]}",
        &[("spec.ingress[0].action", "write allow, deny or refuse, or make it a policy of tier admin or baseline")],
    ),
    ("a default that passes", "{defaultAction: pass}", &[("spec.defaultAction", "known here: allow, deny, refuse")]),
    (
        "times that are none",
        "{expiresAt: 2026-12-24, ingress: [{expiresAt: 2026-12-24T18:00:00}, {expiresAt: 1795341600}]}",
        &[
            ("spec.expiresAt", EXPIRY),
            ("spec.ingress[0].expiresAt", EXPIRY),
            ("spec.ingress[1].expiresAt", "quote it: \"1795341600\""),
        ],
    ),
    (
        "log as a word",
        "{ingress: [{log: no}, {log: \"false\"}]}",
        &[
            ("spec.ingress[0].log", "write true or false, without quotes"),
            ("spec.ingress[1].log", "write true or false, without quotes"),
        ],
    ),
    (
        "a service without a name, and some that are none",
        "{egress: [{to: [{service: {}}, {service: {name: a.b}}, {service: api}]}]}",
        &[
            ("spec.egress[0].to[0].service.name", "name the service"),
            ("spec.egress[0].to[1].service.name", LABEL),
            ("spec.egress[0].to[2].service", "write a map here"),
        ],
    ),
    (
        "a protocol in lower case",
        "{ingress: [{ports: [{protocol: tcp}]}]}",
        &[("spec.ingress[0].ports[0].protocol", "did you mean \"TCP\"?")],
    ),
    (
        "a protocol number too large",
        "{ingress: [{ports: [{protocol: 256}]}]}",
        &[("spec.ingress[0].ports[0].protocol", "write a whole number from 0 to 255")],
    ),
    (
        "a cidr with host bits",
        "{ingress: [{from: [{ipBlock: {cidr: 10.1.2.3/8}}]}]}",
        &[("spec.ingress[0].from[0].ipBlock.cidr", "write 10.0.0.0/8, or 10.1.2.3/32 for this one address")],
    ),
    (
        "an IPv6 cidr with host bits",
        "{ingress: [{from: [{ipBlock: {cidr: \"fd00::1/64\"}}]}]}",
        &[("spec.ingress[0].from[0].ipBlock.cidr", "write fd00::/64, or fd00::1/128 for this one address")],
    ),
    (
        "a cidr without a length",
        "{ingress: [{from: [{ipBlock: {cidr: 10.1.2.3}}]}]}",
        &[("spec.ingress[0].from[0].ipBlock.cidr", "write 10.1.2.3/32 for this one address")],
    ),
    (
        "a cidr with a length too long",
        "{ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/33}}]}]}",
        &[("spec.ingress[0].from[0].ipBlock.cidr", "write a whole number from 0 to 32 after the slash")],
    ),
    (
        "a cidr with leading zeros",
        "{ingress: [{from: [{ipBlock: {cidr: 010.0.0.0/8}}]}]}",
        &[("spec.ingress[0].from[0].ipBlock.cidr", "write a prefix such as 10.0.0.0/8 or \"fd00::/8\"")],
    ),
    (
        "a v4-mapped cidr",
        "{ingress: [{from: [{ipBlock: {cidr: \"::ffff:10.0.0.0/104\"}}]}]}",
        &[("spec.ingress[0].from[0].ipBlock.cidr", "write the IPv4 address: 10.0.0.0")],
    ),
    (
        "an exception outside of its block, and one of the same size",
        "{ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8, except: [11.0.0.0/16, 10.0.0.0/8]}}]}]}",
        &[
            ("spec.ingress[0].from[0].ipBlock.except[0]", "write a smaller prefix inside the cidr, or remove it"),
            ("spec.ingress[0].from[0].ipBlock.except[1]", "write a smaller prefix inside the cidr, or remove it"),
        ],
    ),
    (
        "an IPv4 exception of an IPv6 block",
        "{ingress: [{from: [{ipBlock: {cidr: \"::/0\", except: [10.0.0.0/8]}}]}]}",
        &[("spec.ingress[0].from[0].ipBlock.except[0]", "write a smaller prefix inside the cidr, or remove it")],
    ),
    (
        "a block without a cidr",
        "{ingress: [{from: [{ipBlock: {}}]}]}",
        &[("spec.ingress[0].from[0].ipBlock.cidr", "write a prefix such as 10.0.0.0/8")],
    ),
    (
        "a peer that says nothing",
        "{ingress: [{from: [{}]}]}",
        &[(
            "spec.ingress[0].from[0]",
            "name a workloadSelector, namespaceSelector, ipBlock, entity or service; for any peer leave out the whole list",
        )],
    ),
    (
        "a peer that says two things",
        "{egress: [{to: [{entity: world, ipBlock: {cidr: 10.0.0.0/8}}]}]}",
        &[("spec.egress[0].to[0]", "make them separate list items")],
    ),
    (
        "an unknown entity",
        "{ingress: [{from: [{entity: all}]}]}",
        &[("spec.ingress[0].from[0].entity", "known here: world, host, loopback, node, unknown")],
    ),
    ("a rule name that is none", "{ingress: [{name: From Web}]}", &[("spec.ingress[0].name", LABEL)]),
    (
        "a truth value as a label",
        "{workloadSelector: {matchLabels: {a: yes}}}",
        &[("spec.workloadSelector.matchLabels.a", "quote it: \"yes\"")],
    ),
    (
        "a number as a label",
        "{workloadSelector: {matchLabels: {a: 1e3}}}",
        &[("spec.workloadSelector.matchLabels.a", "quote it: \"1e3\"")],
    ),
    (
        "a label value that is none",
        "{workloadSelector: {matchLabels: {a: -b}}}",
        &[("spec.workloadSelector.matchLabels.a", VALUE)],
    ),
    (
        "a label key that is none",
        "{workloadSelector: {matchLabels: {a b: c}}}",
        &[("spec.workloadSelector.matchLabels[a b]", KEY)],
    ),
    (
        "a truth value as a label's key",
        "{workloadSelector: {matchLabels: {on: b, \"off\": b}}}",
        &[("spec.workloadSelector.matchLabels.on", "quote it: \"on\"")],
    ),
    (
        "an unknown operator",
        "{workloadSelector: {matchExpressions: [{key: a, operator: Matches}]}}",
        &[("spec.workloadSelector.matchExpressions[0].operator", OPERATORS)],
    ),
    (
        "In without values, and Exists with",
        "{workloadSelector: {matchExpressions: [{key: a, operator: In}, {key: a, operator: Exists, values: [b]}]}}",
        &[
            ("spec.workloadSelector.matchExpressions[0].values", "list at least one value"),
            ("spec.workloadSelector.matchExpressions[1].values", "remove the values, or use In or NotIn"),
        ],
    ),
    ("an unknown word for changes", "{onChange: keep}", &[("spec.onChange", "known here: cut, drain")]),
    ("a key written twice", "{priority: 1, priority: 2}", &[("spec.priority", "keep one of the two")]),
    (
        "several faults at once",
        "{priority: x, mode: y, ingress: [{ports: [{port: 0}, {port: 70000}], form: []}]}",
        &[
            ("spec.priority", "write a whole number from 0 to 1000"),
            ("spec.mode", "known here: enforce, audit, staged"),
            ("spec.ingress[0].ports[0].port", WHOLE),
            ("spec.ingress[0].ports[1].port", WHOLE),
            ("spec.ingress[0].form", "did you mean \"from\"?"),
        ],
    ),
];

/// Specs of other kinds.
const OTHERS: &[(&str, Row)] = &[
    ("Workload", ("an absolute cgroup", "{cgroup: /shop}", &[("spec.cgroup", CGROUP)])),
    ("Workload", ("a cgroup that climbs", "{cgroup: a/../../b}", &[("spec.cgroup", CGROUP)])),
    ("Workload", ("an empty cgroup", "{cgroup: \"\"}", &[("spec.cgroup", CGROUP)])),
    (
        "Workload",
        (
            "a path as an interface",
            "{cgroup: a, interface: a/b, addresses: [10.0.0.1]}",
            &[("spec.interface", INTERFACE)],
        ),
    ),
    (
        "Workload",
        (
            "a name no interface can have",
            "{cgroup: a, interface: sixteen-letters-, addresses: [10.0.0.1]}",
            &[("spec.interface", INTERFACE)],
        ),
    ),
    (
        "Workload",
        (
            "an interface elsewhere",
            "{interface: veth0, addresses: [10.0.0.1]}",
            &[("spec.interface", "add cgroup, or remove interface")],
        ),
    ),
    (
        "Workload",
        (
            "an interface without addresses",
            "{cgroup: a, interface: veth0}",
            &[(
                "spec.interface",
                "list the workload's addresses: what comes from its interface is checked against them",
            )],
        ),
    ),
    (
        "Workload",
        (
            "a prefix as an address",
            "{addresses: [10.0.0.0/8]}",
            &[("spec.addresses[0]", "write an address such as 10.0.0.2 or \"fd00::2\"")],
        ),
    ),
    (
        "Workload",
        (
            "a v4-mapped address",
            "{addresses: [\"::ffff:10.0.0.2\"]}",
            &[("spec.addresses[0]", "write the IPv4 address: 10.0.0.2")],
        ),
    ),
    (
        "Workload",
        (
            "an address listed twice",
            "{addresses: [\"fd00::2\", \"fd00:0::2\"]}",
            &[("spec.addresses[1]", "remove one of the two")],
        ),
    ),
    (
        "Workload",
        (
            "ports that have no name, no number, or the name of another",
            "{ports: [{port: 80}, {name: http}, {name: a, port: 1}, {name: a, port: 2}, {name: b, protocol: ICMP, port: 8}]}",
            &[
                ("spec.ports[0].name", "name the port"),
                ("spec.ports[1].port", "write the port's number"),
                ("spec.ports[3]", "give each port a name of its own"),
                ("spec.ports[4].port", TYPE),
            ],
        ),
    ),
    (
        "RateLimit",
        (
            "a staged limit, and ports that limits cannot tell apart",
            "{packets: {perSecond: 1}, mode: staged, ports: [{port: http}, {protocol: SCTP, port: 1}]}",
            &[
                ("spec.mode", "known here: enforce, audit"),
                ("spec.ports[0]", "write the port's number"),
                ("spec.ports[1]", "write the protocol alone, to mean all of it"),
            ],
        ),
    ),
    (
        "RateLimit",
        (
            "a limit that limits nothing",
            "{ports: []}",
            &[("spec", "add packets, bytes or connections with perSecond, for each client or under aggregate")],
        ),
    ),
    (
        "RateLimit",
        (
            "a rate of nothing",
            "{packets: {burst: 5}}",
            &[("spec.packets.perSecond", "write how many units a second may pass")],
        ),
    ),
    (
        "RateLimit",
        (
            "rates below 0 and above 2^63",
            "{packets: {perSecond: -1}, aggregate: {bytes: {perSecond: 9223372036854775809}}}",
            &[
                ("spec.packets.perSecond", "write a whole number from 0 to 9223372036854775808"),
                ("spec.aggregate.bytes.perSecond", "write a whole number from 0 to 9223372036854775808"),
            ],
        ),
    ),
    (
        "RateLimit",
        (
            "a burst of more than an hour",
            "{packets: {perSecond: 1, burst: 3601}}",
            &[("spec.packets.burst", "write a whole number from 1 to 3600")],
        ),
    ),
    (
        "RateLimit",
        (
            "bursts that could not be, and one that would never come",
            "{packets: {perSecond: 0, burst: 1}, bytes: {perSecond: 5, burst: 0}, connections: {perSecond: 1.5}}",
            &[
                ("spec.packets.burst", "remove burst: perSecond 0 lets nothing pass, or raise perSecond"),
                ("spec.bytes.burst", "write a whole number from 1 to 65535"),
                ("spec.connections.perSecond", "write a whole number from 0 to 9223372036854775808"),
            ],
        ),
    ),
    (
        "RateLimit",
        (
            "an aggregate that limits nothing",
            "{aggregate: {}}",
            &[("spec.aggregate", "add packets, bytes or connections with perSecond")],
        ),
    ),
    (
        "RateLimit",
        (
            "empty lists, which would read as none and mean all",
            "{packets: {perSecond: 1}, interfaces: [], addresses: [], client: {workloadLabels: []}}",
            &[
                ("spec.interfaces", "name interfaces that the agent manages, or remove the line"),
                ("spec.addresses", "list addresses or prefixes, or remove the line"),
                (
                    "spec.client.workloadLabels",
                    "list the labels whose values together name a client, such as [app], or remove the line",
                ),
            ],
        ),
    ),
    (
        "RateLimit",
        (
            "interfaces, addresses and labels that are none",
            "{packets: {perSecond: 1}, interfaces: [a/b, eth0, eth0], addresses: [10.0.0.1/8, api], client: {workloadLabels: [-a]}}",
            &[
                (
                    "spec.interfaces[0]",
                    "write the name of an interface that the agent manages, such as eth0, or a pattern, such as bond*",
                ),
                ("spec.interfaces[2]", "remove one of the two"),
                ("spec.addresses[0]", "write 10.0.0.0/8, or 10.0.0.1/32 for this one address"),
                ("spec.addresses[1]", "write a prefix such as 10.0.0.0/8 or \"fd00::/8\""),
                ("spec.client.workloadLabels[0]", KEY),
            ],
        ),
    ),
    (
        "RateLimit",
        (
            "SYN protection of what has no SYNs, that only watches",
            "{synProtection: auto, mode: audit, ports: [{protocol: UDP, port: 53}]}",
            &[
                ("spec.synProtection", "add a TCP port, or remove synProtection"),
                (
                    "spec.synProtection",
                    "remove synProtection, or mode: audit; a limit of its own may protect the same destinations",
                ),
            ],
        ),
    ),
    (
        "RateLimit",
        (
            "a word and a threshold that are none",
            "{synProtection: sometimes, synThreshold: 5}",
            &[
                ("spec.synProtection", "known here: auto, always, off"),
                ("spec.synThreshold", "write synProtection: auto, or remove it"),
            ],
        ),
    ),
    (
        "RateLimit",
        (
            "a threshold of nothing",
            "{synProtection: auto, synThreshold: 0}",
            &[("spec.synThreshold", "write a whole number from 1 to 100000000")],
        ),
    ),
    (
        "RateLimit",
        (
            "a threshold for always",
            "{synProtection: always, synThreshold: 5}",
            &[("spec.synThreshold", "write synProtection: auto, or remove it")],
        ),
    ),
    (
        "RateLimit",
        (
            "a client of more bits than addresses have",
            "{packets: {perSecond: 1}, client: {prefixLengthIPv4: 33}}",
            &[("spec.client.prefixLengthIPv4", "write a whole number from 0 to 32")],
        ),
    ),
    (
        "AddressSet",
        ("an action that is none", "{action: drop, addresses: []}", &[("spec.action", "known here: block, allow")]),
    ),
    (
        "AddressSet",
        (
            "an address with host bits",
            "{action: block, addresses: [10.0.0.1/8]}",
            &[("spec.addresses[0]", "write 10.0.0.0/8, or 10.0.0.1/32 for this one address")],
        ),
    ),
    ("AddressSet", ("nothing to say", "{}", &[("spec.action", "write action: block, or allow")])),
];

fn faults(text: &str) -> Vec<Fault> {
    parse("file.yaml", text).expect_err(text)
}

fn check(kind: &str, (name, spec, expected): &Row) {
    let text = format!("apiVersion: weir.dev/v1alpha1\nkind: {kind}\nmetadata: {{name: a}}\nspec: {spec}\n");
    let found = faults(&text);
    let told: Vec<_> = found.iter().map(|fault| (fault.field.as_str(), fault.remedy.as_str())).collect();
    assert_eq!(told, *expected, "{name}: {found:#?}");
    for fault in &found {
        assert_eq!((fault.source.as_str(), fault.line), ("file.yaml", 4), "{name}: {fault}");
        assert!(fault.column >= 7 && !fault.problem.is_empty(), "{name}: {fault}");
    }
}

#[test]
fn every_wrong_spec_is_refused_with_its_place_and_a_remedy() {
    for row in POLICIES {
        check("Policy", row);
    }
    for (kind, row) in OTHERS {
        check(kind, row);
    }
}

#[test]
fn every_wrong_frame_is_refused_with_its_place_and_a_remedy() {
    /// Line, column, field and remedy of the first fault.
    type First = (u32, u32, &'static str, &'static str);
    let rows: &[(&str, &str, First)] = &[
        (
            "another version",
            "apiVersion: v1\nkind: Policy\nmetadata: {name: a}\nspec: {}",
            (1, 13, "apiVersion", "known here: weir.dev/v1alpha1"),
        ),
        (
            "no version",
            "kind: Policy\nmetadata: {name: a}\nspec: {}",
            (1, 1, "apiVersion", "write apiVersion: weir.dev/v1alpha1"),
        ),
        (
            "another kind",
            "apiVersion: weir.dev/v1alpha1\nkind: Polcy\nmetadata: {name: a}\nspec: {}",
            (2, 7, "kind", "did you mean \"Policy\"?"),
        ),
        (
            "no name",
            "apiVersion: weir.dev/v1alpha1\nkind: Policy\nmetadata: {}\nspec: {}",
            (3, 11, "metadata.name", "give it a name"),
        ),
        (
            "a name that is none",
            "apiVersion: weir.dev/v1alpha1\nkind: Policy\nmetadata: {name: A_b}\nspec: {}",
            (3, 18, "metadata.name", SUBDOMAIN),
        ),
        (
            "a number as a name",
            "apiVersion: weir.dev/v1alpha1\nkind: Policy\nmetadata: {name: 12}\nspec: {}",
            (3, 18, "metadata.name", "quote it: \"12\""),
        ),
        (
            "a namespace with dots",
            "apiVersion: weir.dev/v1alpha1\nkind: Policy\nmetadata: {name: a, namespace: a.b}\nspec: {}",
            (3, 32, "metadata.namespace", LABEL),
        ),
        (
            "a set in a namespace",
            "apiVersion: weir.dev/v1alpha1\nkind: AddressSet\nmetadata: {name: a, namespace: b}\nspec: {action: block, addresses: []}",
            (3, 21, "metadata.namespace", "known here: name, labels"),
        ),
        (
            "no spec",
            "apiVersion: weir.dev/v1alpha1\nkind: Policy\nmetadata: {name: a}\n",
            (1, 1, "spec", "write what the document is about under spec:"),
        ),
        (
            "a status",
            "apiVersion: weir.dev/v1alpha1\nkind: Policy\nmetadata: {name: a}\nspec: {}\nstatus: {}",
            (5, 1, "status", "known here: apiVersion, kind, metadata, spec"),
        ),
        ("a list", "- a\n", (1, 1, "", "write a map here")),
        ("a tag", "apiVersion: !!str weir.dev/v1alpha1\n", (1, 19, "", "remove the word that starts with \"!\"")),
        ("a directive", "%YAML 1.1\n---\na: b\n", (1, 1, "", "correct the YAML at this place")),
        ("an open bracket", "a: [1, 2\n", (1, 4, "", "correct the YAML at this place")),
        ("a tab", "a:\n\t- b\n", (2, 2, "", "correct the YAML at this place")),
    ];
    for (name, text, (line, column, field, remedy)) in rows {
        let found = faults(text);
        let first = &found[0];
        let told = (first.line, first.column, first.field.as_str(), first.remedy.as_str());
        assert_eq!(told, (*line, *column, *field, *remedy), "{name}: {found:#?}");
    }
}

#[test]
fn hostile_texts_are_refused_where_they_turn_hostile() {
    let head = "apiVersion: weir.dev/v1alpha1\nkind: Workload\nmetadata: {name: a}\n";
    let kube = "apiVersion: v1\nkind: Pod\nmetadata: {name: a, labels: &l {a: b}}\n";
    // Text, then line, column, and how the fault's problem starts.
    let rows: Vec<(&str, String, u32, u32, &str)> = vec![
        ("a NUL in a text", format!("{head}spec: {{cgroup: \"a\\0b\"}}\n"), 4, 16, "not a plain relative path"),
        ("a raw NUL", format!("{head}spec: {{cgroup: a\0b}}\n"), 4, 0, ""),
        ("a tab as indentation", format!("{head}spec:\n\tcgroup: a\n"), 5, 2, "not valid YAML"),
        ("a key twice", format!("{head}spec: {{cgroup: a, cgroup: b}}\n"), 4, 19, "written twice"),
        ("a key twice in an ignored part", format!("{kube}spec: {{x: {{y: 1, y: 2}}}}\n"), 4, 18, "written twice"),
        (
            "a key twice by its escaped form",
            format!("{head}spec: {{cgroup: a, \"c\\u0067roup\": b}}\n"),
            4,
            19,
            "written twice",
        ),
        ("a merge key", format!("{kube}spec: {{<<: *l}}\n"), 4, 8, "merge keys are not read"),
        ("an alias of nothing", format!("{head}spec: *nowhere\n"), 4, 7, "not valid YAML"),
        ("a key that is a list", format!("{head}? [a]\n: b\n"), 4, 3, "a key that is itself"),
        (
            "a tag that names code",
            format!("{head}spec: !!python/object:os.system {{}}\n"),
            4,
            0,
            "tags are not supported",
        ),
        (
            "a number that never ends",
            format!("{head}spec: {{ports: [{{name: a, port: {}}}]}}\n", "9".repeat(100_000)),
            4,
            32,
            "out of range",
        ),
        ("a word that never ends", format!("{head}{}: 1\n", "x".repeat(1000)), 4, 1, "unknown field"),
        (
            "a label of a megabyte",
            format!("{head}spec: {{cgroup: [{}]}}\n", "y".repeat(1_000_000)),
            4,
            16,
            "a list where a text",
        ),
        ("brackets without an end", format!("{head}spec: {}", "[".repeat(100_000)), 4, 0, "not valid YAML"),
        ("JSON without an end", "{\"a\":".repeat(100_000), 1, 0, "not valid YAML"),
        ("braces nested in blocks", (0..100).map(|n| format!("{}a:\n", " ".repeat(n))).collect(), 0, 0, ""),
        ("an unfinished quote", format!("{head}spec: \"abc"), 4, 0, "not valid YAML"),
        ("a document end inside of a list", format!("{head}spec: [a,\n---\n]\n"), 4, 7, ""),
    ];
    for (name, text, line, column, problem) in rows {
        let start = std::time::Instant::now();
        let found = faults(&text);
        let first = &found[0];
        assert!(first.problem.starts_with(problem), "{name}: {first}");
        assert!(line == 0 || first.line == line, "{name}: {first}");
        assert!(column == 0 || first.column == column, "{name}: {first}");
        assert!(found.iter().all(|fault| fault.value.len() < 100 && fault.to_string().len() < 3000), "{name}");
        assert!(start.elapsed() < std::time::Duration::from_secs(10), "{name} took {:?}", start.elapsed());
    }
}

#[test]
fn words_that_readers_of_yaml_differ_about_are_refused_as_labels() {
    for word in [
        "no", "On", "OFF", "true", "0777", "0o17", "0x1f", "1e3", ".inf", "-.INF", ".nan", "22:30", "1_0", "+1", "~",
        "",
    ] {
        let text =
            format!("apiVersion: weir.dev/v1alpha1\nkind: Workload\nmetadata:\n  name: a\n  labels:\n    a: {word}\n");
        let found = faults(&text);
        assert_eq!(
            (found.len(), found[0].line, found[0].field.as_str()),
            (1, 6, "metadata.labels.a"),
            "{word}: {found:?}"
        );
        let quoted = text.replace(&format!("a: {word}\n"), &format!("a: \"{}\"\n", word.replace([':', '+', '~'], "")));
        assert!(parse("quoted", &quoted.replace("\"-", "\"").replace("\".", "\"")).is_ok(), "{quoted}");
    }
}

#[test]
fn a_byte_order_mark_and_windows_line_ends_are_no_fault() {
    let text = "\u{feff}apiVersion: weir.dev/v1alpha1\r\nkind: Workload\r\nmetadata: {name: a}\r\n";
    assert_eq!(parse("-", text).map(|found| found.len()), Ok(1));
}

#[test]
fn a_hundred_thousand_documents_are_read_and_their_faults_told_up_to_a_thousand() {
    let good: String = (0..100_000)
        .map(|n| format!("---\n{{apiVersion: weir.dev/v1alpha1, kind: Workload, metadata: {{name: w{n}}}}}\n"))
        .collect();
    assert_eq!(parse("-", &good).map(|found| found.len()), Ok(100_000));
    let bad = "---\na: b\n".repeat(5_000);
    let found = faults(&bad);
    assert_eq!(found.len(), 1001);
    assert!(found[1000].problem.ends_with("more faults are not told"), "{}", found[1000]);
}

#[test]
fn a_faulty_document_does_not_hide_the_faults_of_the_others() {
    let text = "a: [1, 2\n---\napiVersion: weir.dev/v1alpha1\nkind: Policy\nmetadata: {name: a}\nspec: {priority: 2000}\n---\nkind: Pod\n";
    let lines: Vec<_> = faults(text).iter().map(|fault| (fault.line, fault.field.clone())).collect();
    let expected = [(1, ""), (6, "spec.priority"), (8, "apiVersion"), (8, "metadata"), (8, "kind")];
    assert_eq!(lines, expected.map(|(line, field)| (line, field.to_owned())), "{lines:?}");
}

#[test]
fn aliases_expand_only_so_far() {
    let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for n in 1..12 {
        let before = vec![format!("*a{}", n - 1); 10].join(", ");
        bomb.push_str(&format!("a{n}: &a{n} [{before}]\n"));
    }
    let found = faults(&bomb);
    assert_eq!(found[0].problem, "its aliases stand for more than 1000000 values", "{found:?}");
    let deep = "a: ".to_owned() + &"[".repeat(5000);
    assert_eq!(faults(&deep)[0].line, 1);
    let own = faults("a: &a [*a]\n");
    assert_eq!(own[0].problem, "an alias inside of what it stands for");
}

#[test]
fn an_alias_stands_for_its_value() {
    let text = "apiVersion: weir.dev/v1alpha1\nkind: Workload\nmetadata: {name: &n web, labels: {app: *n}}\n";
    let parsed = parse("-", text).unwrap();
    assert_eq!(parsed[0].labels().get("app").unwrap(), "web");
}

#[test]
fn a_resource_described_twice_in_one_apply_is_refused() {
    let text = "apiVersion: weir.dev/v1alpha1\nkind: Workload\nmetadata: {name: web}\n";
    let found = parse_all([("a.yaml", text), ("b.yaml", text)]).unwrap_err();
    assert_eq!(found.len(), 1);
    assert_eq!(
        found[0].to_string(),
        "b.yaml:1:1: metadata.name: Workload/default/web is already described at a.yaml:1 (web); keep one of the two documents"
    );
}

#[test]
fn nothing_is_no_fault() {
    for text in ["", "\n# only a comment\n", "---\n---\n", "---\n...\n"] {
        assert_eq!(parse("-", text), Ok(Vec::new()), "{text:?}");
    }
}

/// Pieces that YAML gives a meaning, and some that it does not.
const PIECES: &[&str] = &[
    "",
    " ",
    "\n",
    "\n---\n",
    ":",
    ": ",
    "- ",
    "[",
    "]",
    "{",
    "}",
    "&a ",
    "*a",
    "!",
    "|",
    ">",
    "\"",
    "'",
    "#",
    "%",
    "~",
    "\t",
    "\0",
    "\u{feff}",
    "\u{85}",
    "é",
    "99999999999999999999",
    "-0",
    "::ffff:1.2.3.4/0",
    "/",
    "<<: *a",
    "? ",
    "null",
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever is done to a document, it is read or refused with a place and a remedy; nothing panics.
    #[test]
    fn a_damaged_document_is_read_or_refused(
        case in prop::sample::select(CASES),
        damage in prop::collection::vec((any::<prop::sample::Index>(), 0usize..6, prop::sample::select(PIECES)), 1..5),
    ) {
        let mut text: Vec<char> = format!("{WORLD}---{}", case.documents).chars().collect();
        for (at, removed, piece) in damage {
            let start = at.index(text.len());
            let end = (start + removed).min(text.len());
            text.splice(start..end, piece.chars());
        }
        let text: String = text.into_iter().collect();
        if let Err(faults) = parse("damaged", &text) {
            prop_assert!(!faults.is_empty());
            for fault in faults {
                prop_assert!(fault.line > 0 && fault.column > 0, "{fault} in {text}");
                prop_assert!(!fault.problem.is_empty() && !fault.remedy.is_empty(), "{fault} in {text}");
            }
        }
    }
}
