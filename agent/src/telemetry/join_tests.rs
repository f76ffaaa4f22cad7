//! Lives: weir-agent, tests of `join`.
//! Called by: `cargo test`.
//! May touch: temporary directories in place of `/proc` and the cgroup tree.
//! Never: relies on the host's processes.

use weir_common::event::Totals;
use weir_policy::{Context, compile, parse};

use super::*;
use crate::{
    datapath::{AttachState, InterfaceState, Observed, WorkloadState},
    telemetry::{
        names::Names,
        opening::overflowed,
        record::{End, Traffic},
    },
    testing::{addr, event, process, totals},
};

const POLICY: &str = "\
apiVersion: weir.dev/v1alpha1
kind: Workload
metadata: {name: web, namespace: shop, labels: {app: web}}
spec: {cgroup: web, addresses: [10.0.0.1]}
---
apiVersion: weir.dev/v1alpha1
kind: Workload
metadata: {name: db, namespace: shop, labels: {app: db}}
spec: {addresses: [10.0.0.2]}
---
apiVersion: weir.dev/v1alpha1
kind: Policy
metadata: {name: web, namespace: shop}
spec:
  workloadSelector: {matchLabels: {app: web}}
  policyTypes: [Ingress, Egress]
  egress: [{name: to-db, to: [{workloadSelector: {matchLabels: {app: db}}}]}]
";

struct World {
    _dirs: [tempfile::TempDir; 2],
    join: Join,
    names: Names,
    rule: u32,
}

fn world() -> World {
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    for (pid, start, exe) in [(9, 50, "/usr/bin/curl"), (8, 500, "/usr/bin/other"), (7, 50, "/usr/sbin/nginx")] {
        let dir = dirs[0].path().join(pid.to_string());
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join("stat"), format!("{pid} (x) S {} {start} 0", vec!["0"; 18].join(" "))).unwrap();
        std::os::unix::fs::symlink(exe, dir.join("exe")).unwrap();
    }
    let mut join = Join::new(dirs[0].path().to_owned(), dirs[1].path().to_owned(), [(3, "NO_SOCKET".into())].into());
    join.clock = Clock { wall_offset: 1_700_000_000_000_000_000, boot_offset: 0 };
    let (names, rule) = names();
    World { _dirs: dirs, join, names, rule }
}

fn compiled(generation: u64, policy: &str) -> weir_policy::Compiled {
    let resources = parse("t.yaml", policy).unwrap().into_iter().collect();
    let context = Context {
        generation,
        unknown: Verdict::Allow,
        unselected: Verdict::Allow,
        host_addresses: vec![],
        tick_ns: 0,
        now: weir_policy::Timestamp(0),
    };
    compile(&resources, &context).unwrap()
}

fn names() -> (Names, u32) {
    let compiled = compiled(2, POLICY);
    let rule = compiled.rules.iter().position(|rule| rule.rule.contains("to-db")).unwrap() as u32;
    let names = Names::default();
    names.publish(&compiled);
    let web = compiled.workloads.values().find(|workload| workload.id.name == "web").unwrap();
    names.attach(&Observed {
        workloads: vec![WorkloadState {
            id: web.id.clone(),
            number: 3,
            lingering: 0,
            cgroup_id: 1003,
            state: AttachState::Attached,
            detail: String::new(),
            hooks: vec![],
            uncovered: vec![],
        }],
        interfaces: vec![InterfaceState {
            name: "eth0".into(),
            index: 7,
            mode: "native",
            detail: String::new(),
            refuses: vec!["martian"],
        }],
        enforcing: true,
        ..Observed::default()
    });
    (names, rule)
}

impl World {
    fn take(&mut self, event: Event) -> Option<Record> {
        let names = self.names.snapshot();
        let mut records = Vec::new();
        self.join.event(&event, &names, &mut records);
        assert!(records.len() <= 1);
        records.pop()
    }
}

fn at(time_ns: u64, event: Event) -> Event {
    Event { time_ns, ..event }
}

#[test]
fn a_socket_that_no_workload_owns_stays_nobodys_whatever_address_it_uses() {
    let mut world = world();
    for (hook, number, expected) in
        [(Hook::Ingress, 0, None), (Hook::Ingress, 3, Some("shop/web")), (Hook::Xdp, 0, Some("shop/db"))]
    {
        let decided = event(Kind::Verdict, hook, Direction::Ingress, 1);
        let decided = Event { workload: number, local: addr(2), ..decided };
        let record = world.take(decided).unwrap();
        assert_eq!(record.about.local.workload.as_ref().map(|w| w.name.as_str()), expected, "{hook:?} {number}");
    }
}

#[test]
fn a_connection_that_goes_out_names_its_process_twice_and_its_totals_once() {
    let mut world = world();
    let rule = world.rule;
    let attempt = event(Kind::Attempt, Hook::Connect, Direction::Egress, 77);
    let attempt = Event { detail: process(9, "curl"), cgroup: 1003, generation: 0, ..attempt };
    assert_eq!(world.take(attempt), None);
    let verdict = Event { rule, workload: 3, ..event(Kind::Verdict, Hook::SockOps, Direction::Egress, 77) };
    let opened = world.take(verdict).unwrap();
    assert_eq!((opened.kind, opened.count, opened.about.generation), (RecordKind::Verdict, 1, 2));
    assert_eq!(opened.time_ns, 1_700_000_001_000_000_000);
    let process_info = opened.about.process.clone().unwrap();
    assert_eq!((process_info.executable.as_str(), process_info.pid, process_info.uid), ("/usr/bin/curl", 9, 5));
    assert_eq!(opened.about.rule.as_ref().map(|rule| rule.policy.as_str()), Some("Policy/shop/web"));
    assert_eq!(
        opened.about.local.workload.as_ref().map(|w| (w.name.as_str(), w.labels.clone())),
        Some(("shop/web", vec!["app=web".into()]))
    );
    assert_eq!(opened.about.remote.workload.as_ref().map(|w| w.name.as_str()), Some("shop/db"));
    assert_eq!(opened.about.cgroup.as_deref(), Some("web"));

    let numbers =
        Totals { bytes_acked: 102, bytes_received: 201, segments_out: 5, segments_in: 4, rtt_us: 33, retransmits: 1 };
    let close = Event {
        detail: totals(numbers),
        old_state: 5,
        generation: 0,
        local_identity: 0,
        workload: 3,
        ..event(Kind::Close, Hook::SockOps, Direction::Egress, 77)
    };
    let closed = world.take(at(4_000_000_000, close)).unwrap();
    assert_eq!(
        (closed.kind, closed.count, closed.about.generation, closed.about.verdict),
        (RecordKind::Close, 0, 2, Some(Verdict::Allow))
    );
    assert_eq!((&closed.about.rule, &closed.about.process), (&opened.about.rule, &opened.about.process));
    let expected = Traffic {
        bytes_sent: 100,
        bytes_received: 200,
        packets_sent: 5,
        packets_received: 4,
        rtt_us: 33,
        retransmits: 1,
    };
    assert_eq!(closed.traffic, expected);
    assert_eq!((closed.start_ns, closed.time_ns), (1_700_000_001_000_000_000, 1_700_000_004_000_000_000));
    assert_eq!((closed.about.local.identity, closed.about.remote.identity), (16, 17));

    // The cookie is not remembered any longer: the next close of it is a miss.
    let again = world.take(at(5_000_000_000, close)).unwrap();
    assert_eq!((again.about.verdict, again.start_ns, &again.about.process), (None, 0, &None));
    assert_eq!(world.join.stats().missed_closes, 1);
}

#[test]
fn a_close_names_whom_its_opening_named_although_the_address_has_moved() {
    let mut world = world();
    let verdict = Event { workload: 3, ..event(Kind::Verdict, Hook::SockOps, Direction::Egress, 77) };
    world.take(verdict).unwrap();
    world.names.publish(&compiled(3, &POLICY.replace("{name: db,", "{name: cache,")));
    let close = Event { generation: 0, workload: 3, ..event(Kind::Close, Hook::SockOps, Direction::Egress, 77) };
    let closed = world.take(close).unwrap();
    // Of an opening that is not known, the latest names are all there is.
    let stranger = world.take(Event { cookie: 78, ..close }).unwrap();
    let remote = |record: &Record| record.about.remote.workload.as_ref().map(|workload| workload.name.clone());
    assert_eq!((remote(&closed).as_deref(), remote(&stranger).as_deref()), (Some("shop/db"), Some("shop/cache")));
}

/// As kernels tell that let the programs read the calling task: there is no attempt before.
#[test]
fn a_verdict_that_names_its_process_does_so_for_what_follows() {
    for verdict in [Verdict::Allow, Verdict::Deny] {
        let mut world = world();
        let decided = Event {
            detail: process(9, "curl"),
            cgroup: 1003,
            verdict: verdict as u8,
            ..event(Kind::Verdict, Hook::SockOps, Direction::Egress, 77)
        };
        let decided = world.take(decided).unwrap();
        assert_eq!(decided.about.process.as_ref().map(|process| process.executable.as_str()), Some("/usr/bin/curl"));
        // Of a refused connection `egress` holds the packets back, and knows its cookie only.
        let names = world.names.snapshot();
        let key = MergeKey { hook: Hook::Egress as u8, verdict: Verdict::Deny as u8, ..merge_key() };
        let value = MergeValue { count: 2, cookie: 77, ..MergeValue::default() };
        let held = world.join.merged(&key, &value, &names).unwrap();
        assert_eq!((&held.about.process, &held.about.cgroup), (&decided.about.process, &decided.about.cgroup));
        let closed = world.take(event(Kind::Close, Hook::SockOps, Direction::Egress, 77)).unwrap();
        let known = verdict.passes();
        assert_eq!((closed.about.process.is_some(), closed.about.verdict), (known, known.then_some(Verdict::Allow)));
    }
}

#[test]
fn a_connection_that_comes_in_names_the_listeners_process_and_joins_by_its_ends() {
    let mut world = world();
    let bound = Event {
        detail: process(7, "nginx"),
        cgroup: 1003,
        ..event(Kind::Bound, Hook::PostBind, Direction::Ingress, 5)
    };
    assert_eq!(world.take(bound), None);
    let verdict = event(Kind::Verdict, Hook::Ingress, Direction::Ingress, 5);
    let opened = world.take(Event { workload: 3, tcp_flags: 2, ..verdict }).unwrap();
    assert_eq!(opened.about.process.as_ref().map(|process| process.executable.as_str()), Some("/usr/sbin/nginx"));
    assert_eq!((opened.cookie, opened.tcp_flags), (5, 2));
    // The child has a cookie of its own; its ends and workload are those of the SYN.
    let close = event(Kind::Close, Hook::SockOps, Direction::Ingress, 6);
    let detail = totals(Totals { bytes_acked: 201, bytes_received: 101, ..Totals::default() });
    let elsewhere = world.take(Event { detail, old_state: 9, workload: 4, ..close }).unwrap();
    assert_eq!(elsewhere.about.verdict, None, "another workload's connection between the same addresses");
    let closed = world.take(Event { detail, old_state: 9, workload: 3, ..close }).unwrap();
    assert_eq!((closed.about.verdict, closed.about.hook), (Some(Verdict::Allow), Some(Hook::Ingress)));
    assert_eq!((closed.traffic.bytes_sent, closed.traffic.bytes_received), (200, 100));
    assert_eq!(closed.about.process, opened.about.process);
}

#[test]
fn a_close_that_does_not_say_who_opened_is_joined_by_what_is_known() {
    for active in [true, false] {
        let mut world = world();
        let (hook, direction) =
            if active { (Hook::SockOps, Direction::Egress) } else { (Hook::Ingress, Direction::Ingress) };
        world.take(event(Kind::Verdict, hook, direction, 77)).unwrap();
        let detail = totals(Totals { bytes_acked: 11, bytes_received: 10, ..Totals::default() });
        let close = Event { detail, old_state: 1, direction: 0, ..event(Kind::Close, Hook::SockOps, direction, 77) };
        let closed = world.take(close).unwrap();
        assert_eq!((closed.about.direction, closed.about.verdict), (Some(direction), Some(Verdict::Allow)));
        assert_eq!(closed.traffic.bytes_sent, if active { 10 } else { 11 });
    }
}

#[test]
fn what_is_not_known_stays_empty() {
    let mut world = world();
    let stranger = Event {
        local: addr(8),
        remote: addr(9),
        rule: 999,
        generation: 99,
        ..event(Kind::Verdict, Hook::Ingress, Direction::Ingress, 1)
    };
    let record = world.take(stranger).unwrap();
    let About { rule, process: caller, local, cgroup, .. } = (*record.about).clone();
    assert_eq!((rule, caller, local.workload, cgroup), (None, None, None, None));
    // A process that started after the event: the pid belongs to another now.
    let denied = Event {
        detail: process(8, "gone"),
        verdict: Verdict::Deny as u8,
        ..event(Kind::Verdict, Hook::Connect, Direction::Egress, 1)
    };
    let info = world.take(denied).unwrap().about.process.clone().unwrap();
    assert_eq!((info.pid, info.command.as_str(), info.executable.as_str(), info.start_ticks), (8, "gone", "", 0));
    let unreadable = Event { reason: 200, ..event(Kind::Verdict, Hook::Connect, Direction::Egress, 1) };
    assert_eq!(world.take(unreadable), None);
    assert_eq!(world.take(Event { kind: 99, ..unreadable }), None);
    assert_eq!(world.join.stats().unreadable, 2);
}

#[test]
fn a_denied_connection_is_not_remembered_for_a_close() {
    let mut world = world();
    let denied = Event { verdict: Verdict::Deny as u8, ..event(Kind::Verdict, Hook::Ingress, Direction::Ingress, 5) };
    world.take(denied).unwrap();
    assert_eq!(world.take(event(Kind::Close, Hook::SockOps, Direction::Ingress, 6)).unwrap().about.verdict, None);
}

fn merge_key() -> MergeKey {
    MergeKey {
        local: addr(1),
        remote: addr(2),
        generation: 2,
        rule: 0,
        local_identity: 0,
        remote_identity: 17,
        workload: 0,
        ifindex: 7,
        local_port: Port::new(80),
        remote_port: Port::new(0),
        hook: Hook::Xdp as u8,
        direction: Direction::Ingress as u8,
        verdict: Verdict::Deny as u8,
        reason: Reason::RateLimitPackets as u8,
        protocol: 6,
        reserved: [0; 3],
        staged: 0,
        padding: 0,
    }
}

#[test]
fn what_the_kernel_drops_by_itself_has_its_reason_and_no_rule() {
    let mut world = world();
    let value = MergeValue { count: 5, ..MergeValue::new_zeroed() };
    let names = world.names.snapshot();
    // The number is the kernel's; the sample's policy has a rule of it.
    for (number, reason) in [(3, "NO_SOCKET"), (world.rule, "0x2"), (0x1_0003, "0x10003")] {
        let (hook, reason_number) = (Hook::Kernel as u8, Reason::Kernel as u8);
        let key = MergeKey { rule: number, hook, reason: reason_number, ..merge_key() };
        let record = world.join.merged(&key, &value, &names).unwrap();
        let About { kernel_reason, rule, .. } = &*record.about;
        assert_eq!((kernel_reason.as_deref(), rule, record.count), (Some(reason), &None, 5), "{number}");
    }
}

#[test]
fn merged_decisions_keep_their_count_bytes_and_times() {
    let mut world = world();
    let key = MergeKey { rule: world.rule, ..merge_key() };
    let value =
        MergeValue { count: 500, bytes: 30_000, first_ns: 1, last_ns: 9, cookie: 0, last_port: 4711, tcp_flags: 18 };
    let names = world.names.snapshot();
    let record = world.join.merged(&key, &value, &names).unwrap();
    assert_eq!((record.count, record.traffic.bytes_received, record.traffic.packets_received), (500, 30_000, 500));
    assert_eq!(
        (record.end_ns - record.time_ns, record.remote_port, record.about.interface.as_deref()),
        (8, 4711, Some("eth0"))
    );
    assert_eq!(record.about.local.workload.as_ref().map(|w| w.name.as_str()), Some("shop/web"), "known by its address");
    let out = MergeKey { hook: Hook::Egress as u8, remote_port: Port::new(53), ..key };
    let record = world.join.merged(&out, &value, &names).unwrap();
    assert_eq!((record.traffic.bytes_sent, record.traffic.bytes_received, record.remote_port), (30_000, 0, 53));
    let rest = overflowed(Hook::Xdp, Verdict::Deny, Reason::Blocklist, 12, 1, 2);
    assert_eq!((rest.count, rest.about.reason, &rest.about.local), (12, Some(Reason::Blocklist), &End::default()));
}
