//! Lives: ctl.
//! Called by: `observe`.
//! May touch: nothing.
//! Never: says anything twice; what a line does not name is as one would expect.
//!
//! The opener of a connection stands left of the arrow, whichever end is local.

use jiff::tz::TimeZone;

use super::style::{BAD, DIM, ODD, clean, paint, verdict};
use super::time::{of_day, span};
use crate::view::{Direction, End, Kind, Record};

/// Identities that are not workloads (weir.v1 Endpoint.identity).
const NAMED_IDENTITIES: [(u32, &str); 2] = [(1, "world"), (2, "host")];

/// Digits of a container's id in a line.
const SHORT_ID: usize = 12;

/// One record as one line, without its end.
pub fn line(record: &Record, zone: &TimeZone) -> String {
    let mut words = vec![paint(DIM, &of_day(record.time, zone)), clean(&record.node).into_owned()];
    match record.kind {
        Kind::Loss => words.extend(loss(record, zone)),
        Kind::Close => words.extend([paint(DIM, "CLOSE"), flow(record)].into_iter().chain(totals(record))),
        Kind::Progress => words.extend([paint(DIM, "PROGRESS"), flow(record)].into_iter().chain(totals(record))),
        Kind::Cut => words.extend(spoken(paint(BAD, "CUT"), record)),
        Kind::Adopted => words.extend(spoken(paint(ODD, "ADOPTED"), record)),
        Kind::Verdict | Kind::Unknown => {
            let word = record.verdict.name().to_uppercase();
            words.extend(spoken(paint(verdict(record.verdict), &word), record));
        }
    }
    words.extend(origin(record));
    words.retain(|word| !word.is_empty());
    words.join(" ")
}

/// Whose records were lost, what they told of, and until when, where that is known.
fn loss(record: &Record, zone: &TimeZone) -> Vec<String> {
    let whose = record.local.as_ref().map(|end| end.workload.as_str()).filter(|name| !name.is_empty());
    let whose = whose.map(|name| format!(" of {}", clean(name))).unwrap_or_default();
    let verdict = match record.hook.is_empty() {
        true => String::new(),
        false => record.verdict.name().to_uppercase(),
    };
    let until = record.end.filter(|end| *end > record.time);
    vec![
        paint(BAD, "LOSS"),
        match record.count {
            0 => format!("nobody knows how many records{whose}: {}", clean(&record.loss_cause)),
            count => format!("{count} records{whose} lost: {}", clean(&record.loss_cause)),
        },
        clean(&record.hook).into_owned(),
        verdict,
        clean(&record.reason).into_owned(),
        until.map(|end| format!("until {}", of_day(end, zone))).unwrap_or_default(),
    ]
}

/// What was decided or done, and by which rule.
fn spoken(word: String, record: &Record) -> Vec<String> {
    let reason = match record.reason.as_str() {
        "rule" | "default" | "" => String::new(),
        other => format!("reason={}", clean(other)),
    };
    let named = |name: &str, value: &str| match value.is_empty() {
        true => String::new(),
        false => format!("{name}={}", clean(value)),
    };
    let rule = match record.rule.is_empty() {
        true => String::new(),
        false => format!("rule=\"{}\"", clean(&record.rule)),
    };
    vec![
        word,
        flow(record),
        reason,
        named("policy", &record.policy),
        rule,
        named("kernel", &record.kernel_reason),
        refusal(record),
        staged(record),
        named("if", &record.interface),
    ]
}

/// How the opener learns of a denial, where that is another way than the hook's usual one.
fn refusal(record: &Record) -> String {
    if record.refusal == "refused" { "refused".to_owned() } else { String::new() }
}

/// What staged policies would have decided: `staged=deny by Policy/shop/next "ingress[0]"`.
pub fn staged(record: &Record) -> String {
    let Some(verdict) = record.staged_verdict else { return String::new() };
    let by = match record.staged_policy.is_empty() {
        true => String::new(),
        false => format!(" by {} \"{}\"", clean(&record.staged_policy), clean(&record.staged_rule)),
    };
    paint(ODD, &format!("staged={}{by}", verdict.name()))
}

/// Direction, hook, both ends and the protocol.
fn flow(record: &Record) -> String {
    let local = record.local.as_ref().map_or_else(|| "?".to_owned(), |end| shown(end, record.has_ports));
    let remote = record.remote.as_ref().map_or_else(|| "?".to_owned(), |end| shown(end, record.has_ports));
    let (opener, other) = match record.direction {
        Direction::Ingress => (remote, local),
        Direction::Egress | Direction::Unknown => (local, remote),
    };
    let hook = clean(&record.hook);
    let icmp_type = record.icmp_type.map_or_else(String::new, |number| format!("type={number}"));
    let words = [
        record.direction.name(),
        hook.as_ref(),
        &format!("{opener} -> {other}"),
        &record.protocol,
        &record.tcp_flags,
        &icmp_type,
    ];
    words.into_iter().filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ")
}

fn totals(record: &Record) -> Vec<String> {
    let open = record.end.map(|end| end.duration_since(record.time)).filter(|open| !open.is_zero());
    vec![
        format!(
            "sent={}B/{} received={}B/{}",
            record.bytes_sent, record.packets_sent, record.bytes_received, record.packets_received
        ),
        format!("rtt={}us", record.rtt_us),
        if record.retransmits > 0 { paint(ODD, &format!("retransmits={}", record.retransmits)) } else { String::new() },
        open.map_or_else(String::new, |open| format!("open={}", span(open))),
    ]
}

/// The process, the generation, and how many equal decisions this stands for.
fn origin(record: &Record) -> Vec<String> {
    let process = record.process.as_ref().map(|process| {
        let program = if process.command.is_empty() { &process.executable } else { &process.command };
        format!("pid={} {}", process.pid, clean(program)).trim_end().to_owned()
    });
    let many = record.count > 1 && record.kind != Kind::Loss;
    vec![
        process.unwrap_or_default(),
        place(record),
        if record.generation > 0 { format!("gen={}", record.generation) } else { String::new() },
        if many { paint(ODD, &format!("x{}", record.count)) } else { String::new() },
    ]
}

/// The container, by as much of its id as tools for containers show, or the unit.
fn place(record: &Record) -> String {
    let id: String = record.container.chars().take(SHORT_ID).collect();
    match (id.is_empty(), record.unit.is_empty()) {
        (false, _) => format!("container={}", clean(&id)),
        (true, false) => format!("unit={}", clean(&record.unit)),
        (true, true) => String::new(),
    }
}

/// An end: `shop/web(10.0.0.2:0)`, `Service/shop/db(10.96.0.1:80)`, `world(203.0.113.9:443)`, `[2001:db8::1]:80`.
pub fn shown(end: &End, has_ports: bool) -> String {
    let address = match (end.address, has_ports) {
        (Some(address), true) if address.is_ipv6() => format!("[{address}]:{}", end.port),
        (Some(address), true) => format!("{address}:{}", end.port),
        (Some(address), false) => address.to_string(),
        (None, _) => String::new(),
    };
    let named = NAMED_IDENTITIES.iter().find(|(identity, _)| *identity == end.identity).map(|(_, name)| *name);
    let service = (!end.service.is_empty()).then(|| format!("Service/{}", end.service));
    let name =
        service.as_deref().or(Some(&*end.workload).filter(|name| !name.is_empty())).or(named).unwrap_or_default();
    match (name.is_empty(), address.is_empty()) {
        (true, true) => "?".to_owned(),
        (true, false) => address,
        (false, true) => clean(name).into_owned(),
        (false, false) => format!("{}({address})", clean(name)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::{Process, Verdict};

    fn end(workload: &str, identity: u32, address: &str, port: u32) -> Option<End> {
        let address = address.parse().ok();
        Some(End { workload: workload.to_owned(), identity, address, port, ..End::default() })
    }

    fn denied() -> Record {
        Record {
            time: "2026-11-21T23:04:05.123Z".parse().unwrap(),
            node: "node-1".to_owned(),
            verdict: Verdict::Deny,
            reason: "default".to_owned(),
            hook: "connect".to_owned(),
            direction: Direction::Egress,
            policy: "Policy/shop/db".to_owned(),
            rule: "default ingress".to_owned(),
            generation: 7,
            local: end("shop/web", 10, "10.0.0.2", 0),
            remote: end("shop/db", 11, "10.0.0.4", 5432),
            protocol: "TCP".to_owned(),
            has_ports: true,
            process: Some(Process { pid: 123, command: "curl".to_owned(), ..Process::default() }),
            count: 3,
            ..Record::default()
        }
    }

    #[test]
    fn records_are_one_line_each() {
        for (record, expected) in [
            (
                denied(),
                "23:04:05.123 node-1 DENY egress connect shop/web(10.0.0.2:0) -> shop/db(10.0.0.4:5432) TCP \
                 policy=Policy/shop/db rule=\"default ingress\" pid=123 curl gen=7 x3",
            ),
            (
                limited(),
                "23:04:05.123 node-1 DENY ingress xdp world([2001:db8::9]:40000) -> shop/api([2001:db8::2]:80) TCP SYN \
                 reason=rate_limit_packets policy=RateLimit/shop/api if=eth0 gen=7 x900",
            ),
            (
                ping(),
                "23:04:05.123 node-1 AUDIT egress connect shop/web(10.0.0.2) -> 10.0.0.4 ICMP type=8 policy=Policy/shop/db \
                 rule=\"default ingress\" gen=7",
            ),
            (
                close(),
                "23:04:05.123 node-1 CLOSE egress sock_ops shop/web(10.0.0.2:0) -> shop/db(10.0.0.4:5432) TCP \
                 sent=120B/3 received=4000B/5 rtt=80us retransmits=1 open=1.250s pid=123 curl gen=7",
            ),
            (
                Record {
                    staged_verdict: Some(Verdict::Allow),
                    staged_policy: "Policy/shop/next".to_owned(),
                    staged_rule: "ingress[0] web".to_owned(),
                    refusal: "refused".to_owned(),
                    hook: "sk_lookup".to_owned(),
                    direction: Direction::Ingress,
                    ..ping()
                },
                "23:04:05.123 node-1 AUDIT ingress sk_lookup 10.0.0.4 -> shop/web(10.0.0.2) ICMP type=8 policy=Policy/shop/db \
                 rule=\"default ingress\" refused staged=allow by Policy/shop/next \"ingress[0] web\" gen=7",
            ),
            (
                Record { unit: "web.service".to_owned(), ..ping() },
                "23:04:05.123 node-1 AUDIT egress connect shop/web(10.0.0.2) -> 10.0.0.4 ICMP type=8 policy=Policy/shop/db \
                 rule=\"default ingress\" unit=web.service gen=7",
            ),
            (
                Record { unit: "k3s.service".to_owned(), container: "0f1e2d3c4b5a6978".repeat(4), ..ping() },
                "23:04:05.123 node-1 AUDIT egress connect shop/web(10.0.0.2) -> 10.0.0.4 ICMP type=8 policy=Policy/shop/db \
                 rule=\"default ingress\" container=0f1e2d3c4b5a gen=7",
            ),
            (loss(), "23:04:05.123 node-1 LOSS 12 records lost: ring_full"),
            (
                Record {
                    count: 0,
                    loss_cause: "agent_ended".to_owned(),
                    end: Some("2026-11-21T23:04:07Z".parse().unwrap()),
                    ..loss()
                },
                "23:04:05.123 node-1 LOSS nobody knows how many records: agent_ended until 23:04:07.000",
            ),
            (
                Record {
                    local: denied().local,
                    hook: "connect".to_owned(),
                    verdict: Verdict::Deny,
                    reason: "default".to_owned(),
                    end: Some("2026-11-21T23:04:07Z".parse().unwrap()),
                    ..loss()
                },
                "23:04:05.123 node-1 LOSS 12 records of shop/web lost: ring_full connect DENY default until 23:04:07.000",
            ),
            (
                hostile(),
                "23:04:05.123 node-1 DENY egress connect ? -> shop/db(10.0.0.4:5432) TCP pid=1 a\\u{1b}[2Jb gen=7",
            ),
        ] {
            let line = line(&record, &TimeZone::UTC);
            assert_eq!(anstream::adapter::strip_str(&line).to_string(), expected);
        }
    }

    fn limited() -> Record {
        Record {
            hook: "xdp".to_owned(),
            reason: "rate_limit_packets".to_owned(),
            direction: Direction::Ingress,
            policy: "RateLimit/shop/api".to_owned(),
            rule: String::new(),
            local: end("shop/api", 12, "2001:db8::2", 80),
            remote: end("", 1, "2001:db8::9", 40000),
            tcp_flags: "SYN".to_owned(),
            interface: "eth0".to_owned(),
            process: None,
            count: 900,
            ..denied()
        }
    }

    fn ping() -> Record {
        Record {
            verdict: Verdict::Audit,
            protocol: "ICMP".to_owned(),
            has_ports: false,
            icmp_type: Some(8),
            remote: end("", 0, "10.0.0.4", 0),
            process: None,
            count: 1,
            ..denied()
        }
    }

    fn close() -> Record {
        Record {
            kind: Kind::Close,
            end: Some("2026-11-21T23:04:06.373Z".parse().unwrap()),
            hook: "sock_ops".to_owned(),
            bytes_sent: 120,
            packets_sent: 3,
            bytes_received: 4000,
            packets_received: 5,
            rtt_us: 80,
            retransmits: 1,
            count: 0,
            ..denied()
        }
    }

    fn loss() -> Record {
        Record {
            time: denied().time,
            node: "node-1".to_owned(),
            kind: Kind::Loss,
            loss_cause: "ring_full".to_owned(),
            count: 12,
            ..Record::default()
        }
    }

    fn hostile() -> Record {
        Record {
            local: None,
            policy: String::new(),
            rule: String::new(),
            process: Some(Process { pid: 1, command: "a\x1b[2Jb".to_owned(), ..Process::default() }),
            count: 1,
            ..denied()
        }
    }

    #[test]
    fn a_deny_stands_out() {
        assert!(line(&denied(), &TimeZone::UTC).contains(&paint(BAD, "DENY")));
    }
}
