//! Lives: weir-tests, a live test of changes under fire: three policies take turns while everybody connects.
//! Called by: main.
//! May touch: the stage.
//! Never: accepts a verdict that no policy gives, or a record that its generation does not explain.
//!
//! What is alike in all policies is what tells half a change from a whole one. `web` and `db` change their roles from one policy to
//! the next, and the rules which role they name: to whom a rule is about stays the same, but old identities with new rules
//! (or the other way round) let in the wrong one, or keep out the right one. Two guests exchange their addresses, likewise.
//!
//! Three policies and not two: the tables that a change is written into are those of the generation before the last. With two they
//! would hold the same policy already, and a switch before they are complete would show nothing (docs/testing.md, "Mutations tried").

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;
use weir_tests::documents::document;
use weir_tests::harness::Harness;
use weir_tests::process::Running;
use weir_tests::report::{AT_LAST, Stormed};
use weir_tests::world::Who::{self, Api, Client, Db, Polite, Web};

use crate::flips_records::{LOOK, Watch};
use crate::stage::{agrees, on_stage};

pub fn trials() -> Vec<Trial> {
    vec![on_stage("a_thousand_flips_under_fire_give_no_verdict_that_neither_policy_gives", flips)]
}

/// How many changes; a longer run is a matter of this alone.
const FLIPS: &str = "WEIR_FLIPS";

/// One of the policies: which port only it opens, and the roles of web and db under it.
struct Side {
    only: u16,
    roles: [&'static str; 2],
    /// The role that rules name: always web's.
    named: &'static str,
    /// Where the guests are; rules name the one at client's address.
    guests: [Who; 2],
}

/// The guests, which are no workloads of this node; each has its role by its name.
const GUESTS: [&str; 2] = ["one", "other"];

const SIDES: [Side; 3] = [
    Side { only: 1, roles: ["x", "y"], named: "x", guests: [Client, Polite] },
    Side { only: 2, roles: ["y", "x"], named: "y", guests: [Polite, Client] },
    Side { only: 7, roles: ["v", "x"], named: "v", guests: [Client, Polite] },
];

/// Ports by what becomes of them, added to the first port of a direction: those of egress are decided at the caller, those of
/// ingress at the called one.
const BOTH: u16 = 3;
const NEITHER: u16 = 4;
const GUEST: u16 = 5;
const ROLE: u16 = 6;
const OUT: u16 = 7000;
const IN: u16 = 7010;

impl Side {
    fn documents(&self) -> String {
        let workload = |who: Who, role: &str| {
            let (name, v4, v6) = (who.name(), who.v4(), who.v6());
            let spec = format!("{{cgroup: {name}, addresses: [{v4}, \"{v6}\"]}}");
            document("Workload", name, &spec)
                .replace("namespace: shop}", &format!("namespace: shop, labels: {{app: {name}, role: {role}}}}}"))
        };
        let guest = |(name, at): (&str, Who)| {
            document("Workload", name, &format!("{{addresses: [{}, \"{}\"]}}", at.v4(), at.v6()))
                .replace("namespace: shop}", &format!("namespace: shop, labels: {{role: {name}}}}}"))
        };
        let [web, db] = self.roles;
        let guests: String = GUESTS.into_iter().zip(self.guests).map(guest).collect();
        workload(Web, web)
            + &workload(Db, db)
            + &guests
            + &workload(Api, "z")
            + &self.policy("egress", OUT, IN)
            + &self.policy("ingress", IN, OUT)
    }

    /// The guest at client's address.
    fn invited(&self) -> &'static str {
        GUESTS.into_iter().zip(self.guests).find(|(_, at)| *at == Client).map_or("", |(name, _)| name)
    }

    /// The policy of a direction: `own` ports are told apart, `others` are all open, for the other direction to tell apart. The
    /// order of rules differs between the sides, so that their numbers mean different rules.
    fn policy(&self, direction: &str, own: u16, others: u16) -> String {
        let (kind, end) = if direction == "egress" { ("Egress", "to") } else { ("Ingress", "from") };
        let ports = |port: u16| format!("ports: [{{port: {port}}}, {{port: {port}, protocol: UDP}}]");
        let last = others + 9;
        let mut rules = [
            format!("{{name: only, {}}}", ports(own + self.only)),
            format!("{{name: both, {}}}", ports(own + BOTH)),
            format!(
                "{{name: guest, {end}: [{{workloadSelector: {{matchLabels: {{role: {}}}}}}}], {}}}",
                self.invited(),
                ports(own + GUEST)
            ),
            format!(
                "{{name: role, {end}: [{{workloadSelector: {{matchLabels: {{role: {}}}}}}}], {}}}",
                self.named,
                ports(own + ROLE)
            ),
            format!(
                "{{name: elsewhere, ports: [{{port: {others}, endPort: {last}}}, {{port: {others}, endPort: {last}, protocol: UDP}}]}}"
            ),
        ];
        rules.rotate_left(usize::from(self.only) % 4);
        let rules = rules.join(", ");
        document(
            "Policy",
            direction,
            &format!(
                "\n  workloadSelector: {{}}\n  policyTypes: [{kind}]\n  defaultAction: deny\n  {direction}: [{rules}]"
            ),
        )
    }
}

/// What a client must see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Allowed by all.
    Always,
    /// Refused by all, at the caller.
    Refused,
    /// Refused by all, at the called one.
    Lost,
    /// Allowed by one.
    Flips,
}

/// Who calls whom, at which port.
pub type Call = (Who, Who, u16, Fate);

pub fn calls() -> Vec<Call> {
    let mut calls = vec![
        (Api, Web, OUT + ROLE, Fate::Always),
        (Api, Db, OUT + ROLE, Fate::Refused),
        (Web, Api, IN + ROLE, Fate::Always),
        (Db, Api, IN + ROLE, Fate::Lost),
        (Api, Client, OUT + GUEST, Fate::Always),
        (Api, Polite, OUT + GUEST, Fate::Refused),
    ];
    for (from, to) in [(Api, Web), (Api, Db), (Web, Db), (Db, Web)] {
        calls.extend([(from, to, OUT + BOTH, Fate::Always), (from, to, OUT + NEITHER, Fate::Refused)]);
        calls.extend(SIDES.iter().map(|side| (from, to, OUT + side.only, Fate::Flips)));
    }
    for from in [Web, Db] {
        calls.extend([(from, Api, IN + BOTH, Fate::Always), (from, Api, IN + NEITHER, Fate::Lost)]);
        calls.extend(SIDES.iter().map(|side| (from, Api, IN + side.only, Fate::Flips)));
    }
    calls
}

fn ends(who: Who, port: u16) -> [SocketAddr; 2] {
    [who.v4(), who.v6()].map(|address| SocketAddr::new(address, port))
}

fn flips(harness: &mut Harness) -> Result<()> {
    let count: usize = std::env::var(FLIPS).ok().and_then(|text| text.parse().ok()).unwrap_or(1000);
    let documents = SIDES.each_ref().map(Side::documents);
    let [first, ..] = &documents;
    let mut sides = BTreeMap::from([(harness.apply(first)?, 0)]);
    harness
        .wait("all workloads to be attached", |harness| harness.status().is_ok_and(|status| status.all_attached()))?;
    let mut watch = Watch::new(&documents)?;
    let servers = serve(harness)?;
    let clients = storm(harness)?;
    let began = Instant::now();
    for flip in 1..=count {
        let side = flip % SIDES.len();
        let Some(documents) = documents.get(side) else { continue };
        sides.insert(harness.apply(documents)?, side);
        if watch.looked.elapsed() > LOOK {
            watch.look(harness, &sides)?;
        }
    }
    let took = began.elapsed();
    let seen = clients
        .into_iter()
        .map(|(from, fate, client)| Ok((from, fate, client.stormed()?)))
        .collect::<Result<Vec<_>>>()?;
    let tries = check_clients(&seen);
    let served = servers.into_iter().map(|(who, server)| Ok((who, server.stormed()?))).collect::<Result<Vec<_>>>()?;
    agrees(harness)?;
    // A record that no policy explains says more than what a client missed.
    watch.look(harness, &sides)?;
    let checked = watch.checked;
    ensure!(checked > 1000, "only {checked} records");
    let refused = &watch.refused;
    ensure!(refused.is_empty(), "refused, though every policy allows it:\n{}", refused.join("\n"));
    let failed = failed_answers(&served);
    ensure!(failed.is_empty(), "answers that could not be sent:\n{}", failed.join("\n"));
    let (tries, again) = tries?;
    // A network loses one in many thousands; what loses more without a record is no network.
    ensure!(again <= tries / 1000, "{again} of {tries} tries took more than one datagram, and nothing was refused");
    check_servers(&served)?;
    println!(
        "    {count} flips in {took:.1?}; {tries} tries, {again} of two datagrams or more; {checked} records, each explained by its generation"
    );
    Ok(())
}

/// A server for everything that is called of somebody.
fn serve(harness: &Harness) -> Result<Vec<(Who, Running)>> {
    let servers = [Web, Api, Db, Client, Polite].into_iter().map(|who| {
        let mut called: Vec<SocketAddr> =
            calls().into_iter().filter(|call| call.1 == who).flat_map(|(_, to, port, _)| ends(to, port)).collect();
        called.sort_unstable();
        called.dedup();
        let listen: String = called.iter().map(|end| format!(" --listen {end}")).collect();
        Ok((who, harness.world().serve(who, &format!("storm-serve{listen}"))?))
    });
    servers.collect()
}

/// The clients, apart by what they must see: who waits for what never comes must not keep others from trying.
fn storm(harness: &Harness) -> Result<Vec<(Who, Fate, Running)>> {
    let mut clients = Vec::new();
    for from in [Web, Api, Db] {
        // Time enough on a busy machine where an answer must come, little where none will. A network may lose a datagram, and then it
        // is sent again; one that was refused has a record.
        for (fate, timeout, threads, pause) in [
            (Fate::Always, "8000 --again-ms 1000", 3, 40),
            (Fate::Refused, "1000", 2, 50),
            (Fate::Lost, "25", 2, 50),
            (Fate::Flips, "60", 3, 40),
        ] {
            let to: String = (calls().into_iter())
                .filter(|call| (call.0, call.3) == (from, fate))
                .flat_map(|(_, to, port, _)| ends(to, port))
                .map(|end| format!(" --to {end}"))
                .collect();
            if to.is_empty() {
                continue;
            }
            let line = format!(
                "storm --from {} --from {} --threads {threads} --timeout-ms {timeout} --pause-ms {pause}{to}",
                from.v4(),
                from.v6()
            );
            clients.push((from, fate, harness.world().start("storm", harness.world().probe_line(from, &line))?));
        }
    }
    Ok(clients)
}

/// How often each end must at least have been tried.
const ENOUGH: u64 = 20;

/// How many tries there were, and how many of them took more than one datagram.
fn check_clients(seen: &[(Who, Fate, Stormed)]) -> Result<(u64, u64)> {
    let (mut tries, mut again, mut wrong) = (0, 0, Vec::new());
    for (from, to, port, fate) in calls() {
        let (_, _, stormed) =
            seen.iter().find(|(who, other, _)| (*who, *other) == (from, fate)).context("a client is missing")?;
        for end in ends(to, port) {
            for protocol in ["tcp", "udp"] {
                let results = stormed.of(protocol, end);
                let total: u64 = results.values().sum();
                let only = |word: &str| results.keys().all(|result| result == word);
                let as_it_must = match fate {
                    Fate::Always => results.keys().all(|result| ["ok", AT_LAST].contains(&result.as_str())),
                    Fate::Refused => only("EPERM"),
                    Fate::Lost => only("ETIMEDOUT"),
                    Fate::Flips => results.contains_key("ok") && results.len() > 1,
                };
                if !as_it_must || total < ENOUGH {
                    wrong.push(format!("  {from:?} to {protocol} {end}, which is {fate:?}: {results:?}"));
                }
                tries += total;
                again += results.get(AT_LAST).copied().unwrap_or(0);
            }
        }
    }
    ensure!(wrong.is_empty(), "clients saw:\n{}", wrong.join("\n"));
    Ok((tries, again))
}

/// What is lost on the way to its server never came there.
fn check_servers(served: &[(Who, Stormed)]) -> Result<()> {
    for (who, seen) in served {
        let reached =
            |port: u16| calls().into_iter().any(|call| (call.1, call.2) == (*who, port) && !is_closed(call.3));
        for port in calls().into_iter().filter(|call| call.1 == *who).map(|call| call.2) {
            for (protocol, end) in ends(*who, port).into_iter().flat_map(|end| [("tcp", end), ("udp", end)]) {
                let came: u64 = seen.of(protocol, end).values().sum();
                ensure!((came > 0) == reached(port), "{came} came to {protocol} {end}");
            }
        }
    }
    Ok(())
}

/// What kept servers from answering at ends that every policy opens.
fn failed_answers(served: &[(Who, Stormed)]) -> Vec<String> {
    let always = calls().into_iter().filter(|call| call.3 == Fate::Always);
    let ends = always.flat_map(|(_, to, port, _)| ends(to, port).map(|end| (to, end)));
    let failed = ends.filter_map(|(to, end)| {
        let (_, seen) = served.iter().find(|(who, _)| *who == to)?;
        let results = seen.of("udp", end);
        (results.len() > 1).then(|| format!("  {to:?} at {end}: {results:?}"))
    });
    failed.collect()
}

const fn is_closed(fate: Fate) -> bool {
    matches!(fate, Fate::Refused | Fate::Lost)
}
