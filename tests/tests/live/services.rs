//! Lives: weir-tests, live tests of Services: addresses that a proxy translates after the socket was judged.
//! Called by: main; `translated`, which has the same Service.
//! May touch: a world of its own, because the translation stays in its namespaces.
//! Never: believes a verdict whose connection did not reach the end behind the service.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use libtest_mimic::Trial;
use weir_tests::documents::{document, workloads};
use weir_tests::harness::ctl::Mark;
use weir_tests::harness::{Harness, Options};
use weir_tests::process::Running;
use weir_tests::world::Who::{self, Api, Db, Node, Web};
use weir_tests::world::World;
use weir_tests::world::nat::Translation;

use crate::abreast;
use crate::stage::agrees;

pub fn trials() -> Vec<Trial> {
    vec![
        abreast("a_service_translated_in_the_callers_namespace_is_as_open_as_its_ends", || {
            proxied("service-own", &OWN, World::translate, Web)
        }),
        abreast("a_service_translated_by_the_node_is_as_open_as_its_ends", || {
            proxied("service-node", &BY_NODE, World::translate_for_others, Node)
        }),
    ]
}

/// The addresses of the service: nobody's, or the node's, which then forwards.
pub struct Front {
    v4: &'static str,
    v6: &'static str,
}

pub const OWN: Front = Front { v4: "10.96.0.10", v6: "fd96::10" };
const BY_NODE: Front = Front { v4: "10.0.0.1", v6: "fd77:0:0:1::1" };

/// The service's port, and the ends' own.
pub const PORT: u16 = 80;
pub const ENDS: [(Who, u16); 2] = [(Api, 8080), (Db, 8081)];

/// How long a client waits for what comes, or is refused; a busy machine is no fault.
pub const PATIENCE_MS: u64 = 8000;
/// A refusal by the kernel takes no round trip, and no second try.
const AT_ONCE_MS: f64 = 900.0;

/// When everything decided has its record.
pub const SETTLED: Duration = Duration::from_secs(2);

impl Front {
    pub fn address(&self, v6: bool) -> IpAddr {
        let text = if v6 { self.v6 } else { self.v4 };
        text.parse().unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED))
    }

    /// The Service, and a slice for each of its ends: ports differ, so one slice would not do.
    pub fn documents(&self, ready: [bool; 2]) -> String {
        let mut text = format!(
            "---\napiVersion: v1\nkind: Service\nmetadata: {{name: front, namespace: shop}}\nspec: {{clusterIPs: [{}, \"{}\"], \
             ports: [{{name: a, port: {PORT}}}, {{name: b, port: {PORT}, protocol: UDP}}]}}\n",
            self.v4, self.v6
        );
        for ((who, port), ready) in ENDS.into_iter().zip(ready) {
            for (family, address) in [("IPv4", who.v4()), ("IPv6", who.v6())] {
                text += &format!(
                    "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: {}-{}, namespace: shop, labels: \
                     {{kubernetes.io/service-name: front}}}}\naddressType: {family}\nendpoints: [{{addresses: [\"{address}\"], \
                     conditions: {{ready: {ready}}}}}]\nports: [{{name: a, port: {port}}}, {{name: b, port: {port}, protocol: UDP}}]\n",
                    who.name(),
                    family.to_lowercase(),
                );
            }
        }
        text
    }
}

/// A policy for web's egress. Its ingress is closed too: answers come back because they are answers, not because all may come.
pub fn web_out(rules: &[&str]) -> String {
    let rules = rules.join(", ");
    let spec = format!(
        "\n  workloadSelector: {{matchLabels: {{app: web}}}}\n  policyTypes: [Ingress, Egress]\n  defaultAction: deny\n  egress: [{rules}]"
    );
    document("Policy", "web-out", &spec)
}

pub const TO_API: &str = "{name: to-api, to: [{workloadSelector: {matchLabels: {app: api}}}], \
    ports: [{port: 8080}, {port: 8080, protocol: UDP}]}";
const TO_DB: &str = "{name: to-db, to: [{workloadSelector: {matchLabels: {app: db}}}], \
    ports: [{port: 8081}, {port: 8081, protocol: UDP}]}";
const NOT_DB: &str = "{name: not-db, action: deny, to: [{workloadSelector: {matchLabels: {app: db}}}]}";
/// Rules are about what is behind a service, never about its own address and port.
const TO_FRONT: &str = "{name: to-front, to: [{ipBlock: {cidr: 10.96.0.0/16}}, {ipBlock: {cidr: 10.0.0.1/32}}]}";

/// A state of policies and ends, and what must follow.
struct Step {
    name: &'static str,
    rules: &'static [&'static str],
    ready: [bool; 2],
    /// The rule that the record must name; `None` where several may.
    rule: Option<&'static str>,
    passes: bool,
}

const STEPS: [Step; 6] = [
    Step { name: "both open", rules: &[TO_API, TO_DB], ready: [true; 2], rule: None, passes: true },
    Step { name: "one open", rules: &[TO_API], ready: [true; 2], rule: Some("default egress"), passes: false },
    Step { name: "one ready", rules: &[TO_API], ready: [true, false], rule: Some("egress[0] to-api"), passes: true },
    Step {
        name: "the other ready",
        rules: &[TO_API],
        ready: [false, true],
        rule: Some("default egress"),
        passes: false,
    },
    Step {
        name: "one denied",
        rules: &[NOT_DB, TO_API, TO_DB],
        ready: [true; 2],
        rule: Some("egress[0] not-db"),
        passes: false,
    },
    Step { name: "only the front", rules: &[TO_FRONT], ready: [true; 2], rule: Some("default egress"), passes: false },
];

type Translate = fn(&World, Who, &[Translation<'_>]) -> Result<(), weir_tests::world::WorldError>;

fn proxied(label: &str, front: &Front, translate: Translate, proxy: Who) -> Result<()> {
    let mut harness = Harness::start(World::new(label)?, Options::default())?;
    let servers = servers(&harness)?;
    for step in &STEPS {
        translate_to(&harness, front, translate, proxy, step.ready)?;
        let documents = format!("{}{}{}", workloads(), front.documents(step.ready), web_out(step.rules));
        let generation = harness.apply(&documents)?;
        harness.wait("all workloads to be attached", |harness| {
            harness.status().is_ok_and(|status| status.all_attached())
        })?;
        for (verb, protocol) in
            [("tcp-connect --bytes 1000", "TCP"), ("udp-exchange", "UDP"), ("udp-exchange --connected", "UDP")]
        {
            for v6 in [false, true] {
                let call = Call { verb, protocol, to: SocketAddr::new(front.address(v6), PORT) };
                // Each of two ends gets its turn.
                for _ in 0..2 {
                    check(&harness, step, &call, generation)?;
                }
            }
        }
        explained(&harness, front, step)?;
    }
    // In "both open" two ends took turns, in "one ready" one had them all; nothing else came through. Whose turn it is the translator
    // says, and who of its packets it counts is its own affair.
    let mut came = Vec::new();
    for [tcp, udp] in servers {
        let (tcp, udp) = (tcp.served()?, udp.served()?);
        let datagrams: u64 = udp.clients.values().map(|client| client.packets).sum();
        came.push([tcp.accepted, datagrams]);
    }
    let [[api_tcp, api_udp], [db_tcp, db_udp]] = came[..] else { bail!("{came:?}") };
    ensure!(
        (api_tcp + db_tcp, api_udp + db_udp) == (8, 16),
        "connections and datagrams that came to api and db: {came:?}"
    );
    ensure!(api_tcp > 4 && api_udp > 8 && db_tcp > 0 && db_udp > 0, "one end had no turn: {came:?}");
    agrees(&harness)
}

pub fn servers(harness: &Harness) -> Result<Vec<[Running; 2]>> {
    // By address: an answer to a datagram must come from the address that was asked.
    let serve = |who: Who, verb: &str, port| {
        let listen = [who.v4(), who.v6()].map(|address| format!(" --listen {}", SocketAddr::new(address, port)));
        harness.world().serve(who, &format!("{verb}{}", listen.concat()))
    };
    ENDS.into_iter().map(|(who, port)| Ok([serve(who, "tcp-serve", port)?, serve(who, "udp-serve", port)?])).collect()
}

fn translate_to(harness: &Harness, front: &Front, translate: Translate, proxy: Who, ready: [bool; 2]) -> Result<()> {
    let ends = |v6: bool| -> Vec<(IpAddr, u16)> {
        let ready = ENDS.into_iter().zip(ready).filter(|(_, ready)| *ready);
        ready.map(|((who, port), _)| (if v6 { who.v6() } else { who.v4() }, port)).collect()
    };
    let (v4, v6) = (ends(false), ends(true));
    let mut translations = Vec::new();
    for protocol in ["tcp", "udp"] {
        for (to, is_v6) in [(&v4, false), (&v6, true)] {
            translations.push(Translation { protocol, from: (front.address(is_v6), PORT), to });
        }
    }
    Ok(translate(harness.world(), proxy, &translations)?)
}

struct Call {
    verb: &'static str,
    protocol: &'static str,
    to: SocketAddr,
}

fn check(harness: &Harness, step: &Step, call: &Call, generation: u64) -> Result<()> {
    let Call { verb, protocol, to } = call;
    let mark = Mark::now();
    let attempt = harness.world().attempt(Web, &format!("{verb} --to {to} --timeout-ms {PATIENCE_MS}"))?;
    let what = format!("{}: {verb} to {to}", step.name);
    let as_it_must = match step.passes {
        true => attempt.result == "ok" && attempt.received == attempt.sent && attempt.sent > 0,
        false => attempt.result == "EPERM" && attempt.elapsed_ms < AT_ONCE_MS,
    };
    if !as_it_must {
        // What was decided says more than what the client saw.
        std::thread::sleep(SETTLED);
        let came: String = harness.records_since(mark)?.iter().map(|record| format!("  {record}\n")).collect();
        bail!("{what}: the client saw {attempt:?}; records:\n{came}");
    }
    let hook = match (step.passes, *protocol, verb.contains("--connected")) {
        (true, "TCP", _) => "sock_ops",
        (true, _, false) => "egress",
        (false, "UDP", false) => "sendmsg",
        (_, _, _) => "connect",
    };
    harness.record(mark, &what, |record| {
        // A datagram of an unconnected socket may be translated before it is judged the last time.
        let named = record.remote.service == "shop/front" && record.remote.address == Some(to.ip());
        record.is(if step.passes { "allow" } else { "deny" }, hook)
            && record.protocol == *protocol
            && record.generation == generation
            && record.local.workload == "shop/web"
            && (named || hook == "egress")
            && record.policy == "Policy/shop/web-out"
            && step.rule.is_none_or(|rule| record.rule == rule)
    })?;
    Ok(())
}

/// What explain says is what happens, and it names the service and the end that decides.
fn explained(harness: &Harness, front: &Front, step: &Step) -> Result<()> {
    let port = format!("{PORT}/tcp");
    let said = harness.ctl(&["explain", "--from", "shop/web", "--to", front.v4, "--port", &port], "")?;
    let expected = if step.passes { 0 } else { 4 };
    let ready: Vec<Who> =
        ENDS.into_iter().zip(step.ready).filter(|(_, ready)| *ready).map(|((who, _), _)| who).collect();
    let all_named = ready.iter().all(|who| said.out.contains(&format!("Workload/shop/{}", who.name())));
    ensure!(said.status.code() == Some(expected), "{}: {said:?}", step.name);
    ensure!(said.out.contains("Service/shop/front") && all_named, "{}: {}", step.name, said.out);
    Ok(())
}
