//! Lives: weir-tests, in-kernel test runs: what may pass a workload's socket and interface besides TCP and UDP that rules name.
//! Called by: cargo test.
//! May touch: the bench.
//! Never: believes a drop alone: the counters must name the reason.

use weir_agent::kernel::PacketHook::{Egress, FromWorkload, Ingress, ToWorkload};
use weir_common::verdict::{Reason, Verdict};
use weir_policy::{Kind, ResourceId};

use crate::{
    bench::{Bench, compiled},
    frames::{Piece, datagram, error, extension, ip, segment, syn, v4, v6},
};

const WORKLOADS: &str = r#"
apiVersion: weir.dev/v1alpha1
kind: Workload
metadata: {name: api, labels: {app: api}}
spec: {cgroup: api, addresses: [10.0.0.2, "fd00::2"]}
---
apiVersion: weir.dev/v1alpha1
kind: Workload
metadata: {name: web, labels: {app: web}}
spec: {addresses: [10.0.0.3, "fd00::3"]}
"#;

const API: [u8; 4] = [10, 0, 0, 2];
const WEB: [u8; 4] = [10, 0, 0, 3];
const SYN: u8 = 2;
const ACK: u8 = 16;

/// A policy for api whose ingress and egress with web are `rules`.
fn policy(rules: &str) -> String {
    let peer = "{workloadSelector: {matchLabels: {app: web}}}";
    format!(
        "{WORKLOADS}---
apiVersion: weir.dev/v1alpha1
kind: Policy
metadata: {{name: api}}
spec:
  workloadSelector: {{matchLabels: {{app: api}}}}
  policyTypes: [Ingress, Egress]
  defaultAction: deny
  ingress: [{{from: [{peer}]{rules}}}]
  egress: [{{to: [{peer}]{rules}}}]
"
    )
}

/// adversarial 17: a protocol that no rule names is refused, tunnels among them, whatever they carry.
#[test]
fn adversarial_17_other_protocols_need_a_rule_of_their_own() {
    let named = policy(", ports: [{protocol: TCP}, {protocol: UDP}]");
    // Inside each of them, what would be allowed by itself. (It also reads as an SCTP chunk of its length.)
    let mut carried = syn(WEB, API, 80, 1)[14..].to_vec();
    carried[12..16].copy_from_slice(&[10, 0, 0, 28]);
    let carried = carried.as_slice();
    let others = [
        ("IPIP", 4),
        ("6in4", 41),
        ("GRE", 47),
        ("ESP", 50),
        ("AH", 51),
        ("SCTP", 132),
        ("UDP-Lite", 136),
        ("L2TP", 115),
        ("no next header", 59),
        ("255", 255),
    ];
    let bench = Bench::of_workload("others", &named, "api");
    for (name, protocol) in others {
        bench.refuses(Ingress, &ip("10.0.0.3", "10.0.0.2", protocol, carried), Reason::Default, name);
        bench.refuses(Egress, &ip("10.0.0.2", "10.0.0.3", protocol, carried), Reason::Default, name);
    }
    drop(bench);
    let bench = Bench::on_wire("others-wire", &named, "api");
    for (name, protocol) in others {
        bench.refuses(ToWorkload, &ip("10.0.0.3", "10.0.0.2", protocol, carried), Reason::Default, name);
        bench.refuses(FromWorkload, &ip("10.0.0.2", "10.0.0.3", protocol, carried), Reason::Default, name);
        if protocol != 51 {
            // AH in IPv6 is an extension header, which is looked through.
            let six = ip("fd00::3", "fd00::2", protocol, carried);
            bench.refuses(ToWorkload, &six, Reason::Default, name);
        }
    }
    drop(bench);
    // A rule without ports is one for every protocol, and says so.
    let bench = Bench::on_wire("others-all", &policy(""), "api");
    for (name, protocol) in others {
        assert!(bench.passes(ToWorkload, &ip("10.0.0.3", "10.0.0.2", protocol, carried)), "{name}");
    }
}

/// adversarial 20: what cannot open a connection makes none, at a listener as on the interface.
#[test]
fn adversarial_20_a_bare_ack_is_judged_like_an_opening_and_leaves_nothing_behind() {
    let frame = |flags| v4(WEB, API, 6, &[], Piece::default(), &segment(1, 80, flags));
    let bench = Bench::of_workload("acks", &policy(", ports: [{protocol: TCP, port: 81}]"), "api");
    for _ in 0..3 {
        bench.refuses(Ingress, &frame(ACK), Reason::Default, "a bare ACK");
        bench.refuses(Ingress, &frame(SYN), Reason::Default, "a SYN after it");
        bench.refuses(Ingress, &frame(SYN | ACK), Reason::Default, "an answer to nothing");
    }
}

/// adversarial 21: the tuple of a connection is no permit: what opens is judged by the policy of now.
#[test]
fn adversarial_21_an_opening_on_a_known_tuple_is_judged_by_the_policy_in_force() {
    let (open, closed) =
        (policy(", ports: [{protocol: TCP, port: 80}]"), policy(", ports: [{protocol: TCP, port: 81}]"));
    let api = ResourceId::new(Kind::Workload, "default", "api");
    let mut bench = Bench::of_workload("rejudged", &open, "api");
    let again = syn(WEB, API, 80, 40_000);
    let last_ack = v4(WEB, API, 6, &[], Piece::default(), &segment(40_000, 80, ACK));
    for round in 0..5 {
        assert!(bench.passes(Ingress, &again) && bench.passes(Ingress, &last_ack), "round {round}");
        bench.kernel.install_for_dry_runs(&compiled(&closed, Verdict::Deny), &api).unwrap();
        bench.refuses(Ingress, &again, Reason::Default, "the same SYN under the new policy");
        bench.refuses(Ingress, &last_ack, Reason::Default, "the handshake's last ACK");
        bench.kernel.install_for_dry_runs(&compiled(&open, Verdict::Deny), &api).unwrap();
    }
}

/// adversarial 22: an error is judged by the packet that it quotes, wherever that stands.
#[test]
fn adversarial_22_an_icmp_error_passes_for_a_flow_that_may_be_also_behind_options_and_extension_headers() {
    let bench = Bench::on_wire("errors", &policy(", ports: [{protocol: TCP, port: 80}]"), "api");
    let router = [192, 0, 2, 77];
    let quote =
        |port, options: &[u8]| v4(API, WEB, 6, options, Piece::default(), &segment(4000, port, ACK))[14..].to_vec();
    let too_big = |options: &[u8], quoted: &[u8]| {
        v4(router, API, 1, options, Piece::default(), &[&[3, 4, 0, 0, 0, 0, 5, 0], quoted].concat())
    };
    for (name, outer, inner) in [
        ("plain", &[][..], &[][..]),
        ("behind options", &[1, 1, 1, 1, 1, 1, 1, 1], &[]),
        ("quoting options", &[], &[1, 1, 1, 0]),
        ("both, as many as fit", &[1; 40], &[1; 40]),
    ] {
        assert!(bench.passes(ToWorkload, &too_big(outer, &quote(80, inner))), "{name}");
        assert!(
            bench.passes(ToWorkload, &too_big(outer, &quote(80, inner)[..20 + inner.len() + 8])),
            "{name}, eight bytes"
        );
        bench.refuses(ToWorkload, &too_big(outer, &quote(81, inner)), Reason::Default, name);
        bench.refuses(ToWorkload, &too_big(outer, &quote(80, inner)[..20 + inner.len() + 2]), Reason::Malformed, name);
    }
    let foreign = v4(WEB, WEB, 6, &[], Piece::default(), &segment(4000, 80, ACK));
    bench.refuses(ToWorkload, &too_big(&[], &foreign[14..]), Reason::Spoofed, "quotes another's packet");
    bench.refuses(ToWorkload, &too_big(&[], &[]), Reason::Malformed, "quotes nothing");
    let chain = [(0, extension::options(0)), (60, extension::options(1))];
    let quote6 = |port| v6("fd00::2", "fd00::3", &chain, 6, &segment(4000, port, ACK))[14..].to_vec();
    let too_big6 =
        |quoted: &[u8]| v6("2001:db8::1", "fd00::2", &chain, 58, &[&[2, 0, 0, 0, 0, 0, 5, 0], quoted].concat());
    assert!(bench.passes(ToWorkload, &too_big6(&quote6(80))), "IPv6, behind and quoting extension headers");
    bench.refuses(ToWorkload, &too_big6(&quote6(81)), Reason::Default, "IPv6, a flow that may not be");
    let unknown =
        error("192.0.2.77", "10.0.0.2", 3, &v4(API, [192, 0, 2, 1], 17, &[], Piece::default(), &datagram(1, 2, 8)));
    bench.refuses(ToWorkload, &unknown, Reason::Default, "an unknown flow");
}
