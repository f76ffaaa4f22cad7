//! Lives: weir-tests, live attacks: sockets used in another place than they were made in.
//! Called by: main; helpers, for its own agent.
//! May touch: the stage; cgroups of its own in the stage's tree.
//! Never: leaves a cgroup behind.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use weir_tests::documents::{document, workloads};
use weir_tests::harness::ctl::Mark;
use weir_tests::harness::{Harness, Record};
use weir_tests::process::program;
use weir_tests::report::Attempt;
use weir_tests::world::Who::{self, Api, Client, Db, Web};
use weir_tests::world::cgroup;

use crate::attacks_ways::close_web;
use crate::stage::on_stage;

pub fn trials() -> Vec<Trial> {
    vec![
        on_stage("adversarial 45, adversarial 46: a_passed_socket_or_a_moved_process_gains_nothing", passed),
        on_stage("adversarial 45: a_socket_of_no_workload_is_judged_by_who_uses_it", nobodys),
        on_stage("adversarial 46: a_connection_goes_on_where_its_process_moves", goes_on),
        on_stage("adversarial 47: a_listener_accepted_elsewhere_stays_under_its_own_policy", listener),
        on_stage("adversarial 48: a_cgroup_made_again_is_enforced_and_sockets_of_the_old_one_stay_so", made_again),
        on_stage("adversarial 52: nested_cgroups_are_judged_as_the_workload_they_lie_in", nested),
        on_stage("adversarial 53: labels_that_look_like_words_of_ours_are_labels_and_nothing_more", reserved),
        on_stage("adversarial 62: other_namespaces_are_no_way_out", namespaces),
        on_stage("adversarial 63: loopback_is_judged_between_workloads_and_within_one", loopback),
    ]
}

/// weir-probe in web's network namespace, in a cgroup of our choice.
fn probe(harness: &Harness, cgroup: &Path, line: &str) -> Result<Attempt> {
    Ok(harness.world().start("elsewhere", command(harness, cgroup, line))?.attempt()?)
}

fn command(harness: &Harness, cgroup: &Path, line: &str) -> Command {
    let mut command = Command::new(program("weir-probe"));
    command.arg("--netns").arg(harness.world().netns(Web)).arg("--cgroup").arg(cgroup);
    command.args(line.split_whitespace());
    command
}

/// Who makes the socket, who uses it, and what becomes of it.
struct Row {
    made_in: Who,
    used_in: Who,
    to: Who,
    result: &'static str,
    /// Verdict, reason and local workload of the record that names the process.
    record: (&'static str, &'static str, &'static str),
}

/// Web may reach api only; api may reach everybody.
const ROWS: [Row; 4] = [
    Row { made_in: Api, used_in: Web, to: Db, result: "EPERM", record: ("deny", "caller_mismatch", "shop/web") },
    Row { made_in: Web, used_in: Api, to: Db, result: "EPERM", record: ("deny", "default", "shop/web") },
    Row { made_in: Web, used_in: Api, to: Api, result: "ok", record: ("allow", "caller_mismatch", "shop/web") },
    Row { made_in: Api, used_in: Web, to: Api, result: "ok", record: ("allow", "caller_mismatch", "shop/api") },
];

pub fn passed(harness: &mut Harness) -> Result<()> {
    close_web(harness)?;
    let world = harness.world();
    let _servers = [Api, Db].map(|who| {
        [world.serve(who, "tcp-serve --listen [::]:8080"), world.serve(who, "udp-serve --listen [::]:5353")]
    });
    for row in ROWS {
        for how in ["moved", "handed"] {
            for (port, udp, address) in [
                (8080, "", row.to.v4()),
                (5353, "--udp", row.to.v4()),
                (8080, "", row.to.v6()),
                (5353, "--udp", row.to.v6()),
            ] {
                // A process that moves starts where its socket is made; one that is handed a socket starts where it uses it.
                let (start, other) =
                    if how == "moved" { (row.made_in, row.used_in) } else { (row.used_in, row.made_in) };
                let other = world.cgroup(other);
                let to = std::net::SocketAddr::new(address, port);
                let line = format!("elsewhere --how {how} --other {} --to {to} {udp}", other.display());
                let what = format!("{how} {udp} from {:?} to {:?}, to {to}", row.made_in, row.used_in);
                let mark = Mark::now();
                let attempt = probe(harness, &world.cgroup(start), &line)?;
                ensure!(attempt.result == row.result, "{what}: {attempt:?}");
                harness.record(mark, &what, |record| names(record, row.record, attempt.pid, address))?;
            }
        }
    }
    Ok(())
}

fn names(record: &Record, (verdict, reason, workload): (&str, &str, &str), pid: u32, to: std::net::IpAddr) -> bool {
    matches!(record.hook.as_str(), "connect" | "sendmsg")
        && (record.verdict.as_str(), record.reason.as_str()) == (verdict, reason)
        && record.local.workload == workload
        && record.remote.address == Some(to)
        && record.process.as_ref().is_some_and(|process| process.pid == pid)
}

/// A cgroup of our own below the managed root, removed when dropped.
struct Extra(PathBuf);

impl Extra {
    fn new(path: PathBuf) -> Result<Extra> {
        cgroup::create(&path)?;
        Ok(Extra(path))
    }
}

impl Drop for Extra {
    fn drop(&mut self) {
        drop(cgroup::remove(&self.0));
    }
}

fn nobodys(harness: &mut Harness) -> Result<()> {
    close_web(harness)?;
    let world = harness.world();
    let _server = world.serve(Db, "tcp-serve --listen [::]:8080")?;
    let unpoliced = Extra::new(world.managed().join("nobodys"))?;
    let line = |how, other: &Path| format!("elsewhere --how {how} --other {} --to {}:8080", other.display(), Db.v4());
    let free = probe(harness, &unpoliced.0, &line("moved", &unpoliced.0))?;
    ensure!(free.result == "ok", "nobody is refused by default: {free:?}");
    let web = world.cgroup(Web);
    for (start, line) in [(&unpoliced.0, line("moved", &web)), (&web, line("handed", &unpoliced.0))] {
        let mark = Mark::now();
        let refused = probe(harness, start, &line)?;
        ensure!(refused.result == "EPERM", "{line}: {refused:?}");
        let record = ("deny", "caller_mismatch", "shop/web");
        harness.record(mark, &line, |found| names(found, record, refused.pid, Db.v4()))?;
    }
    Ok(())
}

fn goes_on(harness: &mut Harness) -> Result<()> {
    close_web(harness)?;
    let world = harness.world();
    let _servers = [Api, Db].map(|who| world.serve(who, "tcp-serve --listen [::]:8080"));
    // Opened by api, which may; its process moves to web, which may not open one. The socket stays api's.
    let line = |other: Who, to: Who| {
        format!("elsewhere --how moved-connected --other {} --to {}:8080", world.cgroup(other).display(), to.v4())
    };
    let kept = probe(harness, &world.cgroup(Api), &line(Web, Db))?;
    ensure!(kept.result == "ok" && kept.received > 0, "{kept:?}");
    let kept = probe(harness, &world.cgroup(Web), &line(Api, Api))?;
    ensure!(kept.result == "ok" && kept.received > 0, "{kept:?}");
    Ok(())
}

fn listener(harness: &mut Harness) -> Result<()> {
    close_web(harness)?;
    let world = harness.world();
    let serve = |made_in: Who, used_in: Who, port| -> Result<_> {
        let line = format!("tcp-serve --listen [::]:{port} --then {}", world.cgroup(used_in).display());
        let mut server = world.start("moving-server", command(harness, &world.cgroup(made_in), &line))?;
        server.wait_for(weir_tests::process::SOON, |reports| (!reports.is_empty()).then_some(()))?;
        Ok(server)
    };
    let (closed, open) = (serve(Web, Api, 90)?, serve(Api, Web, 91)?);
    for (port, result) in [(90, "ETIMEDOUT"), (91, "ok")] {
        for to in [Web.v4(), Web.v6()] {
            let to = std::net::SocketAddr::new(to, port);
            let attempt = world.attempt(Client, &format!("tcp-connect --to {to} --bytes 100 --timeout-ms 400"))?;
            ensure!(attempt.result == result, "{to}: {attempt:?}");
        }
    }
    let (closed, open) = (closed.served()?, open.served()?);
    ensure!((closed.accepted, open.accepted) == (0, 2), "{closed:?} {open:?}");
    Ok(())
}

fn made_again(harness: &mut Harness) -> Result<()> {
    let phoenix = "---\napiVersion: weir.dev/v1alpha1\nkind: Workload\n\
                   metadata: {name: phoenix, namespace: shop, labels: {app: phoenix}}\nspec: {cgroup: phoenix}\n";
    let select = "workloadSelector: {matchLabels: {app: phoenix}}";
    let spec = format!("\n  {select}\n  policyTypes: [Egress]\n  defaultAction: deny");
    harness.apply(&format!("{}{phoenix}{}", workloads(), document("Policy", "phoenix", &spec)))?;
    let path = harness.world().managed().join("phoenix");
    let first = Extra::new(path.clone())?;
    attached(harness)?;
    // Its socket lives on in api's cgroup, which may send to everybody, when phoenix's own is gone.
    let away = harness.world().cgroup(Api);
    let line = format!("udp-paced --to {}:5353 --rate 200 --seconds 6 --then {}", Db.v4(), away.display());
    let survivor = harness.world().start("survivor", command(harness, &path, &line))?;
    harness.wait("the survivor to have moved", |_| {
        std::fs::read_to_string(path.join("cgroup.procs")).is_ok_and(|procs| procs.is_empty())
            && std::fs::read_to_string(away.join("cgroup.procs")).is_ok_and(|procs| !procs.is_empty())
    })?;
    drop(first);
    harness.wait("the agent to see that it is gone", |harness| state(harness).as_deref() == Some("waiting"))?;
    let _second = Extra::new(path.clone())?;
    attached(harness)?;
    let refused = probe(harness, &path, &format!("tcp-connect --to {}:8080", Db.v4()))?;
    ensure!(refused.result == "EPERM", "the new cgroup is not enforced: {refused:?}");
    let sent = survivor.sent()?;
    ensure!(sent.ok == 0 && sent.refused.get("EPERM").is_some_and(|refused| *refused > 100), "{sent:?}");
    Ok(())
}

fn state(harness: &Harness) -> Option<String> {
    let workloads = harness.status().ok()?.agent.workloads;
    workloads.into_iter().find(|workload| workload.workload == "shop/phoenix").map(|workload| workload.state)
}

fn attached(harness: &mut Harness) -> Result<()> {
    Ok(harness.wait("phoenix to be attached", |harness| state(harness).as_deref() == Some("attached"))?)
}

fn nested(harness: &mut Harness) -> Result<()> {
    close_web(harness)?;
    let world = harness.world();
    let _servers = [Api, Db].map(|who| world.serve(who, "tcp-serve --listen [::]:8080"));
    // As systemd and container runtimes nest them; the names mean nothing.
    let outer = Extra::new(world.cgroup(Web).join("kubepods-burstable.slice"))?;
    let inner = Extra::new(outer.0.join("cri-containerd-0123.scope"))?;
    for cgroup in [&outer.0, &inner.0] {
        let mark = Mark::now();
        let refused = probe(harness, cgroup, &format!("tcp-connect --to {}:8080", Db.v4()))?;
        ensure!(refused.result == "EPERM", "{}: {refused:?}", cgroup.display());
        let record = ("deny", "default", "shop/web");
        harness.record(mark, "the nested cgroup", |found| names(found, record, refused.pid, Db.v4()))?;
        let mark = Mark::now();
        let passed = probe(harness, cgroup, &format!("tcp-connect --to {}:8080 --bytes 10", Api.v4()))?;
        ensure!(passed.result == "ok", "{}: {passed:?}", cgroup.display());
        harness.record(mark, "the nested cgroup", |found| {
            found.is("allow", "sock_ops")
                && found.local.workload == "shop/web"
                && found.remote.address == Some(Api.v4())
        })?;
    }
    let mismatches = harness.status()?.counted("connect", "allow", "caller_mismatch");
    let again = probe(harness, &inner.0, &format!("tcp-connect --to {}:8080", Api.v4()))?;
    let after = harness.status()?.counted("connect", "allow", "caller_mismatch");
    ensure!(again.result == "ok" && mismatches == after, "a nested cgroup is no other workload: {mismatches} {after}");
    Ok(())
}

/// Api hears this host only; web calls itself what it likes.
fn reserved(harness: &mut Harness) -> Result<()> {
    let claims =
        "labels: {app: web, entity: host, \"weir.dev/entity\": host, \"weir.dev/identity\": \"2\", reserved: host}";
    let services = workloads().replace("labels: {app: web}", claims);
    ensure!(services.contains("weir.dev/entity"), "{services}");
    let select = "workloadSelector: {matchLabels: {app: api}}";
    let rule = "ingress: [{from: [{entity: host}], ports: [{port: 80}]}]";
    let spec = format!("\n  {select}\n  policyTypes: [Ingress]\n  defaultAction: deny\n  {rule}");
    harness.apply(&format!("{services}{}", document("Policy", "api", &spec)))?;
    harness.wait("all to be attached", |harness| harness.status().is_ok_and(|status| status.all_attached()))?;
    let world = harness.world();
    let server = world.serve(Api, "tcp-serve --listen [::]:80")?;
    let line = format!("tcp-connect --to {}:80 --timeout-ms 400", Api.v4());
    let (host, web) = (world.attempt(Who::Node, &line)?, world.attempt(Web, &line)?);
    ensure!((host.result.as_str(), web.result.as_str()) == ("ok", "ETIMEDOUT"), "{host:?} {web:?}");
    ensure!(server.served()?.accepted == 1, "somebody else arrived");
    Ok(())
}

fn namespaces(harness: &mut Harness) -> Result<()> {
    close_web(harness)?;
    let world = harness.world();
    let _servers = [Api, Db].map(|who| world.serve(who, "tcp-serve --listen [::]:8080"));
    let web = world.cgroup(Web);
    // A socket of the old network namespace reaches what it did; new namespaces lead nowhere, and are judged all the same.
    for (how, to, result) in [
        ("new-net", Api, "ok"),
        ("new-net", Db, "EPERM"),
        ("new-user", Db, "EPERM"),
        // Allowed, but a namespace without an interface knows no way.
        ("new-user", Api, "ENETUNREACH"),
    ] {
        let mark = Mark::now();
        let attempt = probe(harness, &web, &format!("elsewhere --how {how} --to {}:8080", to.v4()))?;
        ensure!(attempt.result == result, "{how} to {to:?}: {attempt:?}");
        if result == "EPERM" {
            let record = ("deny", "default", "shop/web");
            harness.record(mark, how, |found| names(found, record, attempt.pid, to.v4()))?;
        }
    }
    Ok(())
}

fn loopback(harness: &mut Harness) -> Result<()> {
    let policy = |rules: &str| {
        let select = "workloadSelector: {matchLabels: {app: web}}";
        let spec = format!("\n  {select}\n  policyTypes: [Ingress, Egress]\n  defaultAction: deny\n{rules}");
        format!("{}{}", workloads(), document("Policy", "web", &spec))
    };
    // Both live in web's network namespace: 127.0.0.1 is theirs together, and the policy's entity `loopback`.
    let world = harness.world();
    let neighbour = command(harness, &world.cgroup(Api), "tcp-serve --listen 127.0.0.1:90 --listen [::1]:90");
    let mut neighbour = world.start("neighbour", neighbour)?;
    neighbour.wait_for(weir_tests::process::SOON, |reports| (reports.len() > 1).then_some(()))?;
    let _own = world.serve(Web, "tcp-serve --listen 127.0.0.1:91 --listen [::1]:91")?;
    let rules = "  ingress: [{name: own, from: [{entity: loopback}], ports: [{port: 91}]}]\n  \
                 egress: [{name: own, to: [{entity: loopback}], ports: [{port: 91}]}]";
    for (rules, own) in [("", "EPERM"), (rules, "ok")] {
        harness.apply(&policy(rules))?;
        harness.wait("all to be attached", |harness| harness.status().is_ok_and(|status| status.all_attached()))?;
        for address in ["127.0.0.1", "[::1]"] {
            for (port, result) in [(90, "EPERM"), (91, own)] {
                let mark = Mark::now();
                let attempt = harness.world().attempt(Web, &format!("tcp-connect --to {address}:{port} --bytes 10"))?;
                ensure!(attempt.result == result, "{address}:{port}: {attempt:?}");
                let verdict = if result == "ok" { "allow" } else { "deny" };
                harness.record(mark, "loopback", |record| {
                    record.verdict == verdict && record.local.workload == "shop/web" && record.remote.port == port
                })?;
            }
        }
    }
    // The neighbour's way to web is judged where it arrives.
    let line = "tcp-connect --to 127.0.0.1:91 --bytes 10 --timeout-ms 300";
    let allowed = probe(harness, &harness.world().cgroup(Api), line)?;
    ensure!(allowed.result == "ok", "web hears loopback: {allowed:?}");
    harness.apply(&policy(""))?;
    let refused = probe(harness, &harness.world().cgroup(Api), line)?;
    ensure!(refused.result == "ETIMEDOUT", "web is closed: {refused:?}");
    Ok(())
}
