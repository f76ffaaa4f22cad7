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
const CGROUP: &str = "write a directory below the agent's cgroupRoot, such as shop/web";

/// Specs of a Policy.
const POLICIES: &[Row] = &[
    (
        "a field of another direction",
        "{egress: [{from: []}]}",
        &[("spec.egress[0].from", "known here: name, action, to, ports")],
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
    ("an unknown action", "{defaultAction: drop}", &[("spec.defaultAction", "known here: allow, deny")]),
    ("an unknown type", "{policyTypes: [ingress]}", &[("spec.policyTypes[0]", "did you mean \"Ingress\"?")]),
    ("port 0", "{ingress: [{ports: [{port: 0}]}]}", &[("spec.ingress[0].ports[0].port", WHOLE)]),
    ("port 65536", "{ingress: [{ports: [{port: 65536}]}]}", &[("spec.ingress[0].ports[0].port", WHOLE)]),
    ("a named port", "{ingress: [{ports: [{port: http}]}]}", &[("spec.ingress[0].ports[0].port", WHOLE)]),
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
        "a port of a protocol whose ports are not told apart",
        "{ingress: [{ports: [{protocol: SCTP, port: 80}]}]}",
        &[("spec.ingress[0].ports[0].port", "remove port and endPort to mean the whole protocol")],
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
            "name a workloadSelector, namespaceSelector, ipBlock or entity; for any peer leave out the whole list",
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
        "RateLimit",
        ("a limit that limits nothing", "{ports: []}", &[("spec", "add packets, bytes or connections with perSecond")]),
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
            "a rate of 0",
            "{packets: {perSecond: 0}}",
            &[("spec.packets.perSecond", "write a whole number from 1 to 1000000000000")],
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
            "a client of more bits than addresses have",
            "{packets: {perSecond: 1}, client: {prefixLengthIPv4: 33}}",
            &[("spec.client.prefixLengthIPv4", "write a whole number from 0 to 32")],
        ),
    ),
    (
        "AddressSet",
        ("an action that is none", "{action: drop, addresses: []}", &[("spec.action", "known here: block")]),
    ),
    (
        "AddressSet",
        (
            "an address with host bits",
            "{action: block, addresses: [10.0.0.1/8]}",
            &[("spec.addresses[0]", "write 10.0.0.0/8, or 10.0.0.1/32 for this one address")],
        ),
    ),
    (
        "AddressSet",
        (
            "nothing to say",
            "{}",
            &[("spec.action", "write action: block"), ("spec.addresses", "list addresses or prefixes")],
        ),
    ),
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
    assert!(found[0].problem.contains("aliases expanded"), "{found:?}");
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
