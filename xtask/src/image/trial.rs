//! Lives: xtask, the trial of the image: an agent in a container, with what the DaemonSet gives it and no more, enforces on other containers.
//! Called by: `image --test`.
//! May touch: a world of its own.
//! Never: gives the container a capability that the unit and the DaemonSet do not (unless a person asks to see what is lost).

use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::NAME;
use super::world::{FOLLOWER, World};
use crate::paths::Repo;
use crate::process;
use crate::report::{Report, Step};

const COLLECTOR: &str = "http://127.0.0.1:17444";
const POLICY: &str = "\
apiVersion: weir.dev/v1alpha1
kind: Workload
metadata: {name: web, namespace: shop, labels: {app: web}}
spec: {cgroup: web}
---
apiVersion: weir.dev/v1alpha1
kind: Workload
metadata: {name: api, namespace: shop, labels: {app: api}}
spec: {cgroup: api}
---
apiVersion: weir.dev/v1alpha1
kind: Policy
metadata: {name: web-goes-nowhere, namespace: shop}
spec:
  workloadSelector: {matchLabels: {app: web}}
  policyTypes: [Egress]
";
/// Verifying every program takes a while on a busy host.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs it; the answer is whether everything held.
pub fn run(repo: &Repo, image: &Path, built: &Path, capabilities: Option<&[String]>) -> Result<bool> {
    let start = Instant::now();
    let capabilities = capabilities.map_or_else(|| of_the_unit(repo), |list| Ok(list.to_vec()))?;
    println!("capabilities: {}", capabilities.join(", "));
    let steps = tried(&World::new(image.join("trial"))?, image, built, &capabilities);
    let report = Report::new("image", start, steps);
    report.print();
    Ok(report.ok)
}

/// Up to the first step that failed, whose reason may be in what the agent said.
fn tried(world: &World, image: &Path, built: &Path, capabilities: &[String]) -> Vec<Step> {
    let mut steps = Vec::new();
    // Each builds on those before it.
    let all: [(&str, &dyn Fn() -> Result<String>); 13] = [
        ("podman takes the archive", &|| load(world, image)),
        ("the collector starts without a capability", &|| collector(world)),
        ("the agent starts and enforces", &|| agent(world, built, capabilities)),
        ("it is sealed, and behind Landlock where the kernel has it", &|| sealed(world, built)),
        ("both containers reach the server before the policy", &|| both_reach(world)),
        ("a policy is taken", &|| apply(world, built)),
        ("a container that may not is told EPERM", &|| denied(world, "web")),
        ("its neighbour still reaches the server", &|| allowed(world, "api")),
        ("the agent's container ends, its policy does not", &|| stopped(world)),
        ("the agent starts again and takes over", &|| again(world, built)),
        ("another user talks in a network of its own", &|| talk(world)),
        ("its connection is cut once a policy forbids it", &|| cut(world, built)),
        ("a pod that detaches takes it all away", &|| detached(world, capabilities)),
    ];
    for (name, work) in all {
        let at = Instant::now();
        let done = work();
        let ok = done.is_ok();
        steps.push(Step::new(name, ok, at, done.unwrap_or_else(|error| format!("{error:#}"))));
        if !ok {
            let logs = process::capture(world.podman().args(["logs", "agent"]).stderr(std::process::Stdio::inherit()));
            println!("{}", logs.unwrap_or_default());
            break;
        }
    }
    steps
}

/// Unit and DaemonSet name the same ones; a test of the agent's holds that.
fn of_the_unit(repo: &Repo) -> Result<Vec<String>> {
    let path = repo.root().join("deploy/systemd/weir-agent.service");
    let unit = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    let line = unit.lines().find_map(|line| line.strip_prefix("CapabilityBoundingSet=")).context("no capabilities")?;
    Ok(line.split_whitespace().map(|name| name.trim_start_matches("CAP_").to_owned()).collect())
}

/// The very file that is handed out.
fn load(world: &World, image: &Path) -> Result<String> {
    process::capture(world.podman().args(["load", "--quiet", "--input"]).arg(image.join("weir.oci.tar")))?;
    Ok(String::new())
}

fn collector(world: &World) -> Result<String> {
    let run = volume(&world.folder.join("run"), "/run/weir", "rw");
    let (folder, history) = (world.folder.join("history"), "--history-directory=/var/lib/weir-collector");
    fs::create_dir_all(&folder)?;
    let kept = volume(&folder, "/var/lib/weir-collector", "rw");
    let listen = COLLECTOR.trim_start_matches("http://");
    let mut podman =
        world.run(None, "host", &["--detach", "--name", "collector", "--volume", &run, "--volume", &kept, NAME]);
    let socket = "--socket=/run/weir/collector.sock";
    podman.args(["/usr/local/bin/weir-collector", socket, history, "--listen", listen, "--insecure"]);
    process::capture(&mut podman)?;
    let socket = world.folder.join("run/collector.sock");
    until("the collector's socket", || socket.exists()).map(|()| String::new())
}

/// As the DaemonSet: the same mounts, the same command, the same flags for what the node's name is.
fn agent(world: &World, built: &Path, capabilities: &[String]) -> Result<String> {
    let start = Instant::now();
    process::capture(&mut agent_of(world, capabilities, &["--detach", "--name", "agent"], &[])?)?;
    until("an agent that enforces", || weirctl(world, built, &["status"]).is_ok_and(|status| enforces(&status)))?;
    Ok(format!("after {:.1} s", start.elapsed().as_secs_f64()))
}

/// Its container, and `more` for its command line.
fn agent_of(world: &World, capabilities: &[String], how: &[&str], more: &[&str]) -> Result<Command> {
    let config = format!("cgroupRoot: {}\nmetrics: {{listen: 127.0.0.1:9477}}\n", world.tree.display());
    let (etc, policy) = (world.folder.join("etc/weir"), world.folder.join("etc/policy"));
    [&etc, &policy].into_iter().try_for_each(fs::create_dir_all)?;
    fs::write(etc.join("agent.yaml"), config)?;
    let cgroup2 = world.cgroup2.display().to_string();
    let volumes = [
        volume(&etc, "/etc/weir", "ro"),
        volume(&policy, "/etc/weir-policy", "ro"),
        volume(&world.cgroup2, &cgroup2, "ro,rslave"),
        volume(&world.folder.join("bpf"), "/sys/fs/bpf", "rw,rslave"),
        volume(&world.folder.join("state"), "/var/lib/weir", "rw"),
        volume(&world.folder.join("run"), "/run/weir", "rw"),
    ];
    let mut podman = world.run(None, "host", &[how, &["--ulimit", "memlock=8388608:8388608"]].concat());
    podman.args(capabilities.iter().flat_map(|name| ["--cap-add", name]));
    podman.args(volumes.iter().flat_map(|volume| ["--volume", volume]));
    podman.args([NAME, "/usr/local/bin/weir-agent", "--config=/etc/weir/agent.yaml", "--node=trial"]);
    podman.args(more);
    Ok(podman)
}

/// As the chart's value `detach` has it.
fn detached(world: &World, capabilities: &[String]) -> Result<String> {
    process::capture(world.podman().args(["stop", "--time", "20", "agent"]))?;
    denied(world, "web")?;
    let said = process::capture(&mut agent_of(world, capabilities, &["--rm", "--name", "detach"], &["--detach"])?)?;
    both_reach(world)?;
    Ok(said.trim().to_owned())
}

fn enforces(status: &str) -> bool {
    status.lines().any(|line| line.trim_start().starts_with("enforcing") && line.contains("yes"))
}

/// By its own word; that the word is true, tests of the agent's hold.
fn sealed(world: &World, built: &Path) -> Result<String> {
    let status = weirctl(world, built, &["status"])?;
    let line = status
        .lines()
        .find(|line| line.contains("the agent itself"))
        .context("status says nothing of the agent itself")?;
    ensure!(!line.contains("not sealed"), "{line}");
    let landlock = fs::read_to_string("/sys/kernel/security/lsm").unwrap_or_default().contains("landlock");
    ensure!(!landlock || line.contains("Landlock: full") || line.contains("Landlock: partial"), "{line}");
    Ok(line.trim().to_owned())
}

fn stopped(world: &World) -> Result<String> {
    process::capture(world.podman().args(["stop", "--time", "20", "agent"]))?;
    denied(world, "web")?;
    allowed(world, "api")?;
    Ok("web is still refused, api still let through".to_owned())
}

/// In the same container, with the state that the one before left.
fn again(world: &World, built: &Path) -> Result<String> {
    process::capture(world.podman().args(["start", "agent"]))?;
    let start = Instant::now();
    until("an agent that enforces again", || {
        weirctl(world, built, &["status"]).is_ok_and(|status| enforces(&status) && !status.contains("not attached"))
    })?;
    denied(world, "web")?;
    allowed(world, "api")?;
    Ok(format!("after {:.1} s", start.elapsed().as_secs_f64()))
}

fn both_reach(world: &World) -> Result<String> {
    allowed(world, "web")?;
    allowed(world, "api")
}

fn apply(world: &World, built: &Path) -> Result<String> {
    let file = world.folder.join("etc/policy.yaml");
    fs::write(&file, POLICY)?;
    let said = weirctl(world, built, &["apply", "-f", &file.display().to_string()])?;
    until("both workloads attached", || {
        weirctl(world, built, &["status"]).is_ok_and(|status| !status.contains("not attached"))
    })?;
    Ok(said.lines().next().unwrap_or_default().to_owned())
}

fn allowed(world: &World, workload: &str) -> Result<String> {
    let (ok, said) = client(world, workload)?;
    ensure!(ok, "{workload} cannot reach the server: {said}");
    Ok(String::new())
}

fn denied(world: &World, workload: &str) -> Result<String> {
    let (ok, said) = client(world, workload)?;
    ensure!(!ok && said.contains("Operation not permitted"), "{workload} is not refused: {said}");
    Ok("Operation not permitted".to_owned())
}

/// A container in the workload's cgroup, with no capability, that opens a connection to the collector.
fn client(world: &World, workload: &str) -> Result<(bool, String)> {
    let mut podman = world.run(Some(workload), "host", &["--rm", NAME, "/usr/local/bin/weirctl"]);
    podman.args(["--insecure", "--collector", COLLECTOR, "observe", "--last", "1"]);
    let output = podman.output().context("starting a client")?;
    Ok((output.status.success(), String::from_utf8_lossy(&output.stderr).trim().to_owned()))
}

/// As a pod of an application: a user and a network namespace of its own, in which one connection lives.
fn talk(world: &World) -> Result<String> {
    let user = ["--user", "65534", "--detach", "--name"];
    let mut server = world.run(Some("pod"), "none", &[&user[..], &["server", NAME]].concat());
    process::capture(server.args(["/usr/local/bin/weir-collector", "--listen", "127.0.0.1:17445", "--insecure"]))?;
    let mut follower = world.run(Some("pod"), "container:server", &[&user[..], &[FOLLOWER, NAME]].concat());
    follower.args([
        "/usr/local/bin/weirctl",
        "--insecure",
        "--collector",
        "http://127.0.0.1:17445",
        "observe",
        "--follow",
    ]);
    process::capture(&mut follower)?;
    // It ends at once where nobody listens yet, or where it is refused.
    thread::sleep(Duration::from_secs(1));
    ensure!(lives(world)?, "no connection");
    Ok(String::new())
}

fn cut(world: &World, built: &Path) -> Result<String> {
    let file = world.folder.join("etc/pod.yaml");
    fs::write(&file, POLICY.replace("web", "pod"))?;
    let start = Instant::now();
    weirctl(world, built, &["apply", "-f", &file.display().to_string()])?;
    until("the end of its connection", || lives(world).is_ok_and(|lives| !lives))?;
    Ok(format!("after {:.1} s", start.elapsed().as_secs_f64()))
}

fn lives(world: &World) -> Result<bool> {
    let said = process::capture(world.podman().args(["inspect", "--format", "{{.State.Running}}", FOLLOWER]))?;
    Ok(said.trim() == "true")
}

/// From outside of the containers, as a person on the node.
fn weirctl(world: &World, built: &Path, what: &[&str]) -> Result<String> {
    let mut weirctl: Command = process::clean(built.join("weirctl"));
    let socket = |name: &str| format!("unix:{}", world.folder.join("run").join(name).display());
    weirctl.args(["--agent", &socket("agent.sock"), "--collector", &socket("collector.sock")]);
    process::capture(weirctl.args(what))
}

fn volume(from: &Path, to: &str, how: &str) -> String {
    format!("{}:{to}:{how}", from.display())
}

fn until(what: &str, holds: impl Fn() -> bool) -> Result<()> {
    let start = Instant::now();
    while start.elapsed() < PATIENCE {
        if holds() {
            return Ok(());
        }
        thread::sleep(Duration::from_millis(200));
    }
    bail!("waited {} s for {what}", PATIENCE.as_secs())
}
