//! Lives: ctl, the verb top.
//! Called by: `top`.
//! May touch: nothing.
//! Never: keeps more than so many clients; counts a record at both of its ends.
//!
//! *Space saving* (Metwally, Agrawal and El Abbadi, 2005): when all places are taken, a new client takes that of the lightest, with its
//! weight as the error of its own. Who has more than a `1/keep` of all weight is there for certain.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::net::IpAddr;
use std::time::Duration;

use serde::Serialize;

use crate::failure::Failure;
use crate::render::output;
use crate::render::style::{BAD, ODD, PLAIN, paint};
use crate::render::table::Table;
use crate::view::{Direction, Kind, Record, Verdict};

/// What makes a client stand first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Heaviest {
    /// Bytes that it sent and that passed.
    Bytes,
    /// Packets and connections of it that passed.
    Passed,
    /// Packets and connections of it that a limit held back, or would have.
    Limited,
}

/// A service and who asks it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Who {
    service: String,
    address: IpAddr,
}

#[derive(Clone, Debug, Default)]
struct Counts {
    workload: String,
    bytes: u64,
    passed: u64,
    limited: u64,
    limits: BTreeSet<String>,
    /// What it may have sent before it took another's place.
    error: u64,
    weight: u64,
}

/// Limits of one client that are named.
const NAMED: usize = 4;

/// The clients of one interval.
pub struct Clients {
    by: Heaviest,
    keep: usize,
    counts: BTreeMap<Who, Counts>,
    /// The same by weight, lightest first.
    order: BTreeSet<(u64, Who)>,
}

impl Clients {
    /// None yet; at most `keep`.
    pub fn new(by: Heaviest, keep: usize) -> Self {
        Self { by, keep: keep.max(1), counts: BTreeMap::new(), order: BTreeSet::new() }
    }

    /// Counts what a record says of the client of a local workload; nothing of other records.
    pub fn add(&mut self, record: &Record) {
        let Some((who, more)) = read(record) else { return };
        let weight = match self.by {
            Heaviest::Bytes => more.bytes,
            Heaviest::Passed => more.passed,
            Heaviest::Limited => more.limited,
        };
        let mut counts = self.take(&who);
        counts.bytes += more.bytes;
        counts.passed += more.passed;
        counts.limited += more.limited;
        counts.weight += weight;
        counts.workload = more.workload;
        let named = counts.limits.len();
        counts.limits.extend(more.limits.into_iter().take(NAMED.saturating_sub(named)));
        self.order.insert((counts.weight, who.clone()));
        self.counts.insert(who, counts);
    }

    /// The client's counts, taken out; where it is new and there is no place, it takes the lightest one's weight over.
    fn take(&mut self, who: &Who) -> Counts {
        if let Some(counts) = self.counts.remove(who) {
            self.order.remove(&(counts.weight, who.clone()));
            return counts;
        }
        if self.counts.len() < self.keep {
            return Counts::default();
        }
        let Some((weight, lightest)) = self.order.pop_first() else { return Counts::default() };
        self.counts.remove(&lightest);
        Counts { weight, error: weight, ..Counts::default() }
    }

    /// The first so many of them.
    pub fn window(&self, show: usize, took: Duration, skipped: u64) -> Window {
        let first = self.order.iter().rev().take(show);
        let client = |who: &Who, counts: &Counts| Client {
            service: who.service.clone(),
            address: who.address,
            workload: counts.workload.clone(),
            bytes: counts.bytes,
            passed: counts.passed,
            limited: counts.limited,
            limits: counts.limits.iter().cloned().collect(),
            error: counts.error,
        };
        let clients = first.filter_map(|(_, who)| self.counts.get(who).map(|counts| client(who, counts))).collect();
        Window { seconds: took.as_secs_f64(), skipped, seen: self.counts.len(), clients }
    }
}

/// Whom a record is about and what it adds; `None` for one that no client of a local workload made.
fn read(record: &Record) -> Option<(Who, Counts)> {
    if record.direction != Direction::Ingress {
        return None;
    }
    let (local, remote) = (record.local.as_ref()?, record.remote.as_ref()?);
    let service = match local.workload.as_str() {
        "" => local.address?.to_string(),
        workload => workload.to_owned(),
    };
    let limited = record.reason.starts_with("rate_limit");
    let mut counts = Counts { workload: remote.workload.clone(), ..Counts::default() };
    match (record.kind, record.verdict) {
        (Kind::Verdict, verdict) => {
            let passed = matches!(verdict, Verdict::Allow | Verdict::Audit);
            counts.passed = if passed && !limited { record.count } else { 0 };
            counts.bytes = if passed && !limited { record.bytes_received } else { 0 };
            counts.limited = if limited { record.count } else { 0 };
        }
        (Kind::Close, _) => counts.bytes = record.bytes_received,
        (Kind::Loss | Kind::Cut | Kind::Adopted | Kind::Progress | Kind::Unknown, _) => return None,
    }
    if limited {
        counts.limits.insert(format!("{}/{}", record.policy, record.rule));
    }
    (counts.bytes + counts.passed + counts.limited > 0).then_some((Who { service, address: remote.address? }, counts))
}

/// What one interval has shown.
#[derive(Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Window {
    seconds: f64,
    /// Records this reader was too slow for.
    skipped: u64,
    /// Clients kept.
    seen: usize,
    clients: Vec<Client>,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Client {
    service: String,
    address: IpAddr,
    workload: String,
    bytes: u64,
    passed: u64,
    limited: u64,
    limits: Vec<String>,
    /// How much more it may have sent than is shown, of what it stands by.
    error: u64,
}

impl Window {
    /// A table.
    pub fn write(&self, out: &mut dyn Write) -> Result<(), Failure> {
        if self.skipped > 0 {
            let skipped = format!("{} records skipped: this reader was too slow for them", self.skipped);
            output::remark(&paint(ODD, &skipped));
        }
        let columns = ["SERVICE", "CLIENT", "WORKLOAD", ">BYTES", ">PASSED", ">LIMITED", "BY", ">ERROR"];
        let mut table = Table::new(&columns);
        for client in &self.clients {
            table.styled([
                (client.service.clone(), PLAIN),
                (client.address.to_string(), PLAIN),
                (client.workload.clone(), PLAIN),
                (client.bytes.to_string(), PLAIN),
                (client.passed.to_string(), PLAIN),
                (client.limited.to_string(), if client.limited > 0 { BAD } else { PLAIN }),
                (client.limits.join(", "), PLAIN),
                (client.error.to_string(), PLAIN),
            ]);
        }
        writeln!(out, "{} clients in {:.0} s", self.seen, self.seconds)?;
        table.write(out)?;
        Ok(writeln!(out)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::End;

    fn record(address: &str, kind: Kind, verdict: Verdict, reason: &str, (count, bytes): (u64, u64)) -> Record {
        Record {
            kind,
            verdict,
            reason: reason.to_owned(),
            direction: Direction::Ingress,
            policy: "RateLimit/shop/api".to_owned(),
            rule: "limit".to_owned(),
            local: Some(End { workload: "shop/api".to_owned(), ..End::default() }),
            remote: Some(End { address: address.parse().ok(), ..End::default() }),
            count,
            bytes_received: bytes,
            ..Record::default()
        }
    }

    fn first(clients: &Clients) -> Vec<(String, u64, u64, u64)> {
        let window = clients.window(10, Duration::ZERO, 0);
        let line = |client: &Client| (client.address.to_string(), client.bytes, client.passed, client.limited);
        window.clients.iter().map(line).collect()
    }

    #[test]
    fn clients_stand_by_what_was_asked_for() {
        let records = [
            record("192.0.2.1", Kind::Verdict, Verdict::Allow, "rule", (5, 500)),
            record("192.0.2.2", Kind::Verdict, Verdict::Allow, "rule", (1, 60)),
            record("192.0.2.2", Kind::Close, Verdict::Unknown, "", (1, 9000)),
            record("192.0.2.3", Kind::Verdict, Verdict::Deny, "rate_limit_packets", (70, 7000)),
            record("192.0.2.3", Kind::Verdict, Verdict::Audit, "rate_limit_bytes", (7, 700)),
            record("192.0.2.4", Kind::Verdict, Verdict::Deny, "default", (99, 9900)),
            Record {
                direction: Direction::Egress,
                ..record("192.0.2.5", Kind::Verdict, Verdict::Allow, "rule", (99, 99_000))
            },
        ];
        let line = |host: u8, bytes, passed, limited| (format!("192.0.2.{host}"), bytes, passed, limited);
        let (one, two, three) = (line(1, 500, 5, 0), line(2, 9060, 1, 0), line(3, 0, 0, 77));
        for (by, expected) in [
            (Heaviest::Bytes, [&two, &one, &three]),
            (Heaviest::Passed, [&one, &two, &three]),
            (Heaviest::Limited, [&three, &two, &one]),
        ] {
            let mut clients = Clients::new(by, 100);
            records.iter().for_each(|record| clients.add(record));
            assert_eq!(first(&clients).iter().collect::<Vec<_>>(), expected, "{by:?}");
        }
    }

    #[test]
    fn with_too_few_places_the_heavy_stay_and_the_error_is_told() {
        let mut clients = Clients::new(Heaviest::Passed, 4);
        for round in 0..100 {
            clients.add(&record("192.0.2.1", Kind::Verdict, Verdict::Allow, "rule", (10, 0)));
            clients.add(&record(&format!("198.51.100.{round}"), Kind::Verdict, Verdict::Allow, "rule", (1, 0)));
        }
        let window = clients.window(10, Duration::ZERO, 0);
        assert_eq!((window.seen, window.clients.len()), (4, 4));
        assert_eq!((window.clients[0].address.to_string().as_str(), window.clients[0].passed), ("192.0.2.1", 1000));
        assert_eq!(window.clients[0].error, 0);
        assert!(window.clients[1..].iter().all(|light| light.passed == 1 && light.error > 0), "{window:?}");
    }

    #[test]
    fn a_picture_names_the_limits() {
        let mut clients = Clients::new(Heaviest::Limited, 4);
        clients.add(&record("192.0.2.3", Kind::Verdict, Verdict::Deny, "rate_limit_packets", (70, 7000)));
        let mut out = Vec::new();
        clients.window(10, Duration::from_secs(5), 0).write(&mut out).unwrap();
        let text = anstream::adapter::strip_str(&String::from_utf8(out).unwrap()).to_string();
        for part in ["1 clients in 5 s", "shop/api", "192.0.2.3", "70", "RateLimit/shop/api/limit"] {
            assert!(text.contains(part), "{part} is missing in\n{text}");
        }
    }
}
