//! Lives: weir-tests, live tests of Services that are translated inside the system call, by somebody else's programs beside ours.
//! Called by: main.
//! May touch: worlds of its own.
//! Never: believes a refusal whose end behind the Service was reached after all.
//!
//! Where the translator runs decides what Weir's `connect` and `sendmsg` see. Before them: the end behind the Service. After them: the
//! Service, and the end is seen when the SYN or the datagram is about to leave.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use anyhow::{Result, bail, ensure};
use libtest_mimic::Trial;
use weir_tests::documents::workloads;
use weir_tests::harness::ctl::Mark;
use weir_tests::harness::{Harness, Options, Record};
use weir_tests::process::{Running, program};
use weir_tests::report::Attempt;
use weir_tests::world::Who::{self, Api, Db, Web};
use weir_tests::world::{World, cgroup};

use crate::abreast;
use crate::services::{ENDS, OWN, PATIENCE_MS, PORT, SETTLED, TO_API, servers, web_out};
use crate::stage::agrees;
use crate::translator::Translator;

pub fn trials() -> Vec<Trial> {
    let trial = |promise, place| abreast(promise, move || translated(place));
    vec![
        trial("a_service_translated_at_connect_before_ours_in_the_same_cgroup_is_its_end", Place::Before),
        trial("a_service_translated_at_connect_before_ours_in_a_cgroup_below_is_its_end", Place::Below),
        trial("a_service_translated_at_connect_after_ours_in_the_same_cgroup_is_judged_twice", Place::After),
        trial("a_service_translated_at_connect_after_ours_and_before_the_roots_is_judged_twice", Place::Between),
        trial("a_service_translated_at_connect_after_ours_at_the_top_is_judged_twice", Place::Above),
    ]
}

/// Where the translator is. The kernel runs the programs of the inmost cgroup first, those of one cgroup in the order they came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// In the workload's cgroup, and there first.
    Before,
    /// In a cgroup below the workload's, where its process lives.
    Below,
    /// In the workload's cgroup, behind Weir's programs.
    After,
    /// At the root of the managed tree, and there first: after the workload's programs, before those that judge the caller.
    Between,
    /// Above the managed tree, where socket load balancers are.
    Above,
}

impl Place {
    const fn is_before(self) -> bool {
        matches!(self, Place::Before | Place::Below)
    }

    fn cgroup(self, world: &World) -> Result<PathBuf> {
        Ok(match self {
            Place::Before | Place::After => world.cgroup(Web),
            Place::Below => {
                let inner = world.cgroup(Web).join("container");
                cgroup::create(&inner)?;
                inner
            }
            Place::Between => world.managed(),
            Place::Above => world.managed().join(".."),
        })
    }
}

/// What becomes of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// It reaches the end.
    Passes,
    /// EPERM from the call, which names the end.
    End,
    /// EPERM from the call, which names the Service.
    Service,
    /// The Service is open, the end is not: found out when the first packet is about to leave.
    Late,
}

/// Where the translator leads, and what Weir is told of the Service. web may call api only.
struct State {
    name: &'static str,
    ready: Option<[bool; 2]>,
    to: Who,
    before: Fate,
    after: Fate,
}

const STATES: [State; 5] = [
    State { name: "an open end", ready: Some([true, false]), to: Api, before: Fate::Passes, after: Fate::Passes },
    State { name: "a closed end", ready: Some([false, true]), to: Db, before: Fate::End, after: Fate::Service },
    State {
        name: "an end that is none of the Service's",
        ready: Some([true, false]),
        to: Db,
        before: Fate::End,
        after: Fate::Late,
    },
    State {
        name: "the open one of two ends",
        ready: Some([true; 2]),
        to: Api,
        before: Fate::Passes,
        after: Fate::Service,
    },
    State { name: "a Service nobody has told of", ready: None, to: Api, before: Fate::Passes, after: Fate::Service },
];

/// How long a client waits for what never comes.
const GIVE_UP_MS: u64 = 700;

const CALLS: [(&str, &str); 3] =
    [("TCP", "tcp-connect --bytes 1000"), ("UDP", "udp-exchange"), ("UDP connected", "udp-exchange --connected")];

fn translated(place: Place) -> Result<()> {
    let world = World::new(&format!("translated-{place:?}").to_lowercase())?;
    let directory = place.cgroup(&world)?;
    let early = !matches!(place, Place::After | Place::Above);
    let mut translator = if early { Some(Translator::attach(&directory)?) } else { None };
    let mut harness = Harness::start(world, Options::default())?;
    harness.apply(&workloads())?;
    attached(&mut harness)?;
    let translator = match &mut translator {
        Some(translator) => translator,
        late => late.insert(Translator::attach(&directory)?),
    };
    let running = servers(&harness)?;
    let mut ends = BTreeSet::new();
    let caller = if place == Place::Below { directory } else { harness.world().cgroup(Web) };
    for state in &STATES {
        let front = state.ready.map(|ready| OWN.documents(ready)).unwrap_or_default();
        let generation = harness.apply(&format!("{}{front}{}", workloads(), web_out(&[TO_API])))?;
        attached(&mut harness)?;
        for from in addresses() {
            // The mapped form follows IPv4.
            if from.to_canonical() == from {
                translator.translate(SocketAddr::new(from, PORT), end(state.to, from.is_ipv6()))?;
            }
        }
        for (how, verb) in CALLS {
            for from in addresses() {
                let call = Call { place, state, how, verb, from, generation };
                ends.insert(call.check(&harness, &caller)?);
            }
        }
    }
    nothing_came_through(running, place)?;
    // The agent ends calls that were denied late; alone, the kernel does at the first retransmission.
    ensure!(place.is_before() || ends.contains("ECONNABORTED"), "no late denial was ended: {ends:?}");
    agrees(&harness)
}

fn attached(harness: &mut Harness) -> Result<()> {
    let all = |harness: &Harness| harness.status().is_ok_and(|status| status.all_attached());
    Ok(harness.wait("all workloads to be attached", all)?)
}

/// The Service's addresses, and the IPv4 one as an IPv6 socket calls it.
fn addresses() -> [IpAddr; 3] {
    let (v4, v6) = (OWN.address(false), OWN.address(true));
    let mapped = match v4 {
        IpAddr::V4(v4) => IpAddr::V6(v4.to_ipv6_mapped()),
        IpAddr::V6(_) => v4,
    };
    [v4, v6, mapped]
}

fn end(who: Who, v6: bool) -> SocketAddr {
    let port = ENDS.into_iter().find(|(other, _)| *other == who).map_or(0, |(_, port)| port);
    SocketAddr::new(if v6 { who.v6() } else { who.v4() }, port)
}

struct Call<'s> {
    place: Place,
    state: &'s State,
    how: &'static str,
    verb: &'static str,
    from: IpAddr,
    generation: u64,
}

impl Call<'_> {
    /// How the call ended, which was as it must.
    fn check(&self, harness: &Harness, caller: &std::path::Path) -> Result<String> {
        let mark = Mark::now();
        let attempt = self.attempt(harness, caller)?;
        let fate = if self.place.is_before() { self.state.before } else { self.state.after };
        let as_it_must = match fate {
            Fate::Passes => attempt.result == "ok" && attempt.received == attempt.sent && attempt.sent > 0,
            Fate::End | Fate::Service => attempt.result == "EPERM",
            // The call of a TCP socket has no way to fail with EPERM any more; a datagram's has.
            Fate::Late if self.how == "TCP" => matches!(attempt.result.as_str(), "ECONNABORTED" | "ETIMEDOUT"),
            Fate::Late => attempt.result == "EPERM",
        };
        let what = format!("{:?}, {}: {} to {}", self.place, self.state.name, self.verb, self.from);
        if !as_it_must {
            // What was decided says more than what the client saw.
            std::thread::sleep(SETTLED);
            let came: String = harness.records_since(mark)?.iter().map(|record| format!("  {record}\n")).collect();
            bail!("{what}: the client saw {attempt:?}; records:\n{came}");
        }
        harness.record(mark, &what, |record| self.is_told(record, fate))?;
        Ok(attempt.result)
    }

    fn attempt(&self, harness: &Harness, caller: &std::path::Path) -> Result<Attempt> {
        let mut command = std::process::Command::new(program("weir-probe"));
        command.arg("--netns").arg(harness.world().netns(Web)).arg("--cgroup").arg(caller);
        let to = SocketAddr::new(self.from, PORT).to_string();
        // A connection that is denied late gets no answer before the first retransmission.
        let fate = if self.place.is_before() { self.state.before } else { self.state.after };
        let wait = if fate == Fate::Late { GIVE_UP_MS } else { PATIENCE_MS };
        command.args(self.verb.split_whitespace()).args(["--to", &to, "--timeout-ms", &wait.to_string()]);
        Ok(harness.world().start("translated-client", command)?.attempt()?)
    }

    /// The record says what was judged, and where.
    fn is_told(&self, record: &Record, fate: Fate) -> bool {
        let (verdict, hook) = match (fate, self.how) {
            (Fate::Passes, "TCP") => ("allow", "sock_ops"),
            (Fate::Passes, _) => ("allow", "egress"),
            (Fate::Late, "TCP") => ("deny", "sock_ops"),
            // The kernel takes each datagram of such a socket for one with an address of its own, and asks `sendmsg4` once more.
            (Fate::Late, "UDP connected") if self.from.to_canonical() != self.from => ("deny", "sendmsg"),
            (Fate::Late, _) => ("deny", "egress"),
            (Fate::End | Fate::Service, "UDP") => ("deny", "sendmsg"),
            (Fate::End | Fate::Service, _) => ("deny", "connect"),
        };
        let remote = &record.remote;
        let judged = if fate == Fate::Service {
            let service = if self.state.ready.is_some() { "shop/front" } else { "" };
            remote.service == service && remote.port == PORT && is(remote.address, self.from)
        } else {
            let end = end(self.state.to, self.from.to_canonical().is_ipv6());
            remote.workload == format!("shop/{}", self.state.to.name())
                && remote.port == end.port()
                && is(remote.address, end.ip())
        };
        let rule = if fate == Fate::Passes { "egress[0] to-api" } else { "default egress" };
        record.is(verdict, hook)
            && judged
            && (record.policy.as_str(), record.rule.as_str()) == ("Policy/shop/web-out", rule)
            && record.local.workload == "shop/web"
            && record.generation == self.generation
    }
}

fn is(found: Option<IpAddr>, wanted: IpAddr) -> bool {
    found.is_some_and(|found| found.to_canonical() == wanted.to_canonical())
}

/// What was let through came to api, each call once; nothing ever came to db.
fn nothing_came_through(running: Vec<[Running; 2]>, place: Place) -> Result<()> {
    let fates = STATES.iter().map(|state| if place.is_before() { state.before } else { state.after });
    let passed = (fates.filter(|fate| *fate == Fate::Passes).count() * addresses().len()) as u64;
    for ((who, _), [tcp, udp]) in ENDS.into_iter().zip(running) {
        let expected = if who == Api { passed } else { 0 };
        let (tcp, udp) = (tcp.served()?, udp.served()?);
        let datagrams: u64 = udp.clients.values().map(|client| client.packets).sum();
        ensure!((tcp.accepted, datagrams) == (expected, 2 * expected), "{place:?}, {who:?}: {tcp:?} {udp:?}");
    }
    Ok(())
}
