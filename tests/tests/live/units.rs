//! Lives: weir-tests, live tests of the systemd units, on a host whose first process is systemd.
//! Called by: main.
//! May touch: a world, and in it a host of its own that it reboots.
//! Never: installs otherwise than `docs/install.md` says.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;
use weir_tests::booted::Booted;
use weir_tests::process::{Running, program};
use weir_tests::report::{Report, Stormed};
use weir_tests::world::Who::{Api, Db, Web};
use weir_tests::world::World;

use crate::abreast;

pub fn trials() -> Vec<Trial> {
    vec![
        abreast("units: installed_as_documented_they_enforce_on_services_through_restart_kill_and_stop", installed),
        abreast("units: a_host_that_reboots_lets_none_of_its_services_through_before_the_policy_is_back", rebooted),
    ]
}

/// A host that was set up as the documentation says, with peers on the network that answer on port 80.
struct Host {
    booted: Booted,
    _servers: Vec<Running>,
    world: World,
}

/// One service, which may call Api and nobody else, and speak from its host's address.
const POLICY: &str = "apiVersion: weir.dev/v1alpha1
kind: Workload
metadata: {name: web, namespace: shop, labels: {app: web}}
spec: {cgroup: shop-web.service, addresses: [10.77.0.10]}
---
apiVersion: weir.dev/v1alpha1
kind: Workload
metadata: {name: held, namespace: shop, labels: {app: web}}
spec: {cgroup: held.service}
---
apiVersion: weir.dev/v1alpha1
kind: Policy
metadata: {name: web-out, namespace: shop}
spec:
  workloadSelector: {matchLabels: {app: web}}
  policyTypes: [Egress]
  defaultAction: deny
  egress: [{action: allow, to: [{ipBlock: {cidr: 10.77.0.20/32}}], ports: [{port: 80, protocol: TCP}]}]
";

/// The commands of a section of `docs/install.md`, as they stand.
fn documented(section: &str) -> Result<String> {
    let text = include_str!("../../../docs/install.md");
    let (_, rest) = text.split_once(&format!("\n## {section}\n")).with_context(|| format!("no section {section}"))?;
    let block = rest.lines().skip_while(|line| !line.starts_with("    ")).take_while(|line| line.starts_with("    "));
    let commands: String = block.map(|line| format!("{}\n", line.trim())).collect();
    ensure!(commands.lines().count() > 2, "no commands in {section}");
    Ok(commands)
}

fn start(label: &str) -> Result<Host> {
    let world = World::new(label)?;
    let servers =
        [Api, Db].map(|who| world.serve(who, &format!("tcp-keep --listen {}", SocketAddr::new(who.v4(), 80))));
    let servers = servers.into_iter().collect::<Result<Vec<_>, _>>()?;
    let units = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/systemd");
    let programs = ["weir-agent", "weir-collector", "weirctl"].map(program);
    let mut files: Vec<PathBuf> = fs::read_dir(&units)?.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    files.extend(programs);
    let booted = Booted::start(&world, Web, &files)?;
    // Where a person has unpacked the release.
    booted.ok("mkdir -p deploy/systemd; mv *.service *.slice deploy/systemd/")?;
    let host = Host { booted, _servers: servers, world };
    let said = host.booted.ok(&documented("On a host, by systemd")?).with_context(|| host.booted.journal())?;
    println!("    {}", said.trim());
    host.enforces().context("after it was installed")?;
    Ok(host)
}

impl Host {
    fn enforces(&self) -> Result<()> {
        self.booted.wait(
            "systemctl is-active --quiet weir-agent weir-collector; weirctl status | grep -q 'enforcing  *yes'",
        )?;
        Ok(())
    }

    /// What has no name yet may do nothing: a service has none until the agent has seen its cgroup, some milliseconds after its start.
    fn deny_unknown(&self) -> Result<()> {
        fs::write(self.booted.path("etc/weir/agent.d/20-unknown.yaml"), "unknownWorkloads: deny\n")?;
        self.booted.ok("systemctl restart weir-agent")?;
        self.enforces()
    }

    /// A service of the managed slice, as a person adds one: what it does, and when it starts.
    fn service(&self, line: &str) -> Result<()> {
        let unit = format!(
            "[Unit]\nDescription=A shop\n[Service]\nType=exec\nSlice=weir.slice\nExecStart=/opt/probe/weir-probe {line}\nStandardOutput=truncate:/var/log/web\n\
             [Install]\nWantedBy=multi-user.target\n"
        );
        fs::write(self.booted.path("etc/systemd/system/shop-web.service"), unit)?;
        self.booted.ok("systemctl daemon-reload; systemctl enable --quiet --now shop-web")?;
        Ok(())
    }

    fn apply(&self, documents: &str) -> Result<()> {
        fs::write(self.booted.path("src/policy.yaml"), documents)?;
        self.booted.ok("weirctl apply -f policy.yaml")?;
        Ok(())
    }

    /// What the service has counted since it started, and in two seconds more, is as the policy says.
    fn has_judged(&self) -> Result<()> {
        self.booted.ok("sleep 2; systemctl stop shop-web")?;
        let counted = self.counted()?;
        println!("    {counted:?}");
        self.is_as_the_policy_says(&counted)
    }

    /// Only TCP to Api got through, and it did; a datagram to Api is something else.
    fn is_as_the_policy_says(&self, counted: &BTreeMap<String, u64>) -> Result<()> {
        let passed: Vec<&str> = counted.keys().map(String::as_str).filter(|what| !what.ends_with(" EPERM")).collect();
        ensure!(passed == ["tcp 10.77.0.20:80 ok"], "{counted:?}\n{}", self.booted.journal());
        // A few of its first calls may come before it is known, and be refused.
        let often = counted.iter().filter(|(_, count)| **count > 100).count();
        ensure!(often >= 4, "too few: {counted:?}");
        Ok(())
    }

    /// What the service has counted, by end and result.
    fn counted(&self) -> Result<BTreeMap<String, u64>> {
        let text = fs::read_to_string(self.booted.path("var/log/web"))?;
        let report = text.lines().rev().find_map(|line| serde_json::from_str::<Report>(line).ok());
        let Some(Report::Stormed(Stormed { ends })) = report else { anyhow::bail!("it reported nothing: {text}") };
        let flat = ends.into_iter().flat_map(|(end, results)| {
            results.into_iter().map(move |(result, count)| (format!("{end} {result}"), count))
        });
        Ok(flat.collect())
    }
}

const STORM: &str =
    "storm --to 10.77.0.20:80 --to 10.77.0.30:80 --threads 2 --pause-ms 1 --timeout-ms 4000 --seconds 3000";

fn installed() -> Result<()> {
    let host = start("units")?;
    let booted = &host.booted;
    host.apply(POLICY)?;
    host.deny_unknown()?;
    host.service(STORM)?;
    // A connection that must outlive all that comes. It begins once its service is known.
    booted.ok(
        "systemd-run --quiet --slice=weir.slice --unit=held --property=StandardOutput=truncate:/var/log/held \
         sh -c 'until weirctl status | grep -q \"shop/held.*attached\"; do sleep 0.1; done
                exec /opt/probe/weir-probe tcp-hold --to 10.77.0.20:80 --seconds 3000'",
    )?;
    booted.wait("grep -q weir-probe /proc/$(systemctl show --property=MainPID --value held)/comm")?;
    booted.wait("weirctl status | grep -q 'shop/web.*attached'")?;
    let known = booted.ok("date --utc +%FT%T.%N")?;
    for trouble in [
        "systemctl restart weir-agent",
        "systemctl restart weir-agent",
        "systemctl restart weir-agent",
        "systemctl kill --signal=KILL weir-agent; until [ $(systemctl show --property=NRestarts --value weir-agent) = 1 ]; do sleep 0.1; done",
        "systemctl restart weir-collector",
        // For a second of calls nobody but the kernel judges.
        "systemctl stop weir-agent; sleep 1; systemctl start weir-agent",
        "systemctl daemon-reload; systemctl restart weir-collector weir-agent",
    ] {
        booted.ok(trouble).with_context(|| booted.journal())?;
        host.enforces().with_context(|| trouble.to_owned())?;
    }
    // A drop-in that is wrong: the agent says where, and what was in force stays so.
    fs::write(booted.path("etc/weir/agent.d/50-wrong.yaml"), "unknownWorkloads: maybe\n")?;
    let refused = booted.run("systemctl restart weir-agent")?;
    ensure!(!refused.status.success(), "it started in spite of its configuration");
    booted.wait("journalctl --unit weir-agent --no-pager | grep 'agent.d/50-wrong.yaml:1:.*unknownWorkloads'")?;
    fs::remove_file(booted.path("etc/weir/agent.d/50-wrong.yaml"))?;
    booted.wait("systemctl reset-failed weir-agent; systemctl restart weir-agent")?;
    host.enforces()?;
    booted.ok("systemctl stop shop-web held")?;
    let held = fs::read_to_string(booted.path("var/log/held"))?;
    ensure!(held.contains("\"living\":1"), "the connection did not live: {held}\n{}", booted.journal());
    let counted = host.counted()?;
    println!("    {counted:?}");
    host.is_as_the_policy_says(&counted)?;
    // From then on it was never a stranger, whatever became of the agent.
    let denied = booted.ok("weirctl observe --verdict deny -o json")?;
    // Not even its first record is without its name.
    let nameless = denied
        .lines()
        .find(|line| says(line, "/policy") == "Policy/shop/web-out" && says(line, "/local/workload").is_empty());
    ensure!(nameless.is_none(), "{nameless:?}");
    let strangers: Vec<&str> = denied.lines().filter(|line| refused_after(line, known.trim())).collect();
    ensure!(strangers.is_empty(), "{} of its calls to Api were refused: {strangers:#?}", strangers.len());
    // The record names the unit, and outlives the collector, which was restarted twice.
    let said = booted.wait("weirctl observe --verdict deny -o json | grep -m1 shop-web.service")?;
    ensure!(said.contains("10.77.0.30") || said.contains("10.77.0.20"), "{said}");
    booted.wait("weirctl reconcile >/dev/null")?;
    // And away with it, as documented.
    let removed = booted.ok(&documented("Removing")?).with_context(|| booted.journal())?;
    println!("    {}", removed.trim().replace('\n', "; "));
    // The kernel's own are there in every such file system.
    let pinned = booted.ok("find /sys/fs/bpf -mindepth 1 ! -name '*.debug'")?;
    ensure!(pinned.trim().is_empty(), "still pinned: {pinned}");
    booted
        .ok("systemd-run --quiet --slice=weir.slice --unit=after --property=StandardOutput=truncate:/var/log/after \
         /opt/probe/weir-probe tcp-connect --to 10.77.0.30:80")?;
    booted.wait("grep '\"result\":\"ok\"' /var/log/after").context("still refused")?;
    drop(host.world);
    Ok(())
}

/// Whether a record tells of a call to Api that was refused after a time.
fn refused_after(line: &str, time: &str) -> bool {
    says(line, "/protocol") == "TCP"
        && says(line, "/remote/address") == "10.77.0.20"
        && says(line, "/time").as_str() > time
}

/// What a record says at a place.
fn says(line: &str, pointer: &str) -> String {
    let record: serde_json::Value = serde_json::from_str(line).unwrap_or_default();
    record.pointer(pointer).and_then(serde_json::Value::as_str).unwrap_or_default().to_owned()
}

/// A service that calls from its first moment on, with a boot that is as the units make it: not one call may pass that the policy forbids.
fn rebooted() -> Result<()> {
    let mut host = start("reboot")?;
    host.apply(POLICY)?;
    host.deny_unknown()?;
    host.service(STORM)?;
    host.has_judged()?;
    let at_first = host.booted.ok("date --utc +%FT%T; systemctl start shop-web")?;
    for in_order in [true, false, true] {
        host.has_judged()?;
        host.booted.end(in_order)?;
        host.booted.boot()?;
        host.enforces().context("after a reboot")?;
        host.booted.wait("systemctl is-active --quiet shop-web")?;
    }
    host.has_judged()?;
    // Records of before: the history is on the disk of the host.
    let told = host.booted.ok("weirctl observe --verdict deny -o json")?;
    let oldest = told.lines().map(|line| says(line, "/time")).min().context("no record")?;
    ensure!(
        oldest.as_str() < at_first.trim(),
        "the oldest record is of {oldest}; before the first reboot it was {at_first}"
    );
    Ok(())
}
