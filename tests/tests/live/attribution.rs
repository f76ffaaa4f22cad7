//! Lives: weir-tests, live tests of what records say of the process behind a socket.
//! Called by: main.
//! May touch: the stage.
//! Never: asks Weir what the truth is: /proc, sha256sum and the names of cgroups made here say it.

use std::io::Write as _;
use std::net::SocketAddr;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;
use weir_tests::documents::{document, workloads};
use weir_tests::harness::Harness;
use weir_tests::harness::ctl::Mark;
use weir_tests::process::{SOON, program};
use weir_tests::world::Who::{Client, Web};

use crate::stage::on_stage;

pub fn trials() -> Vec<Trial> {
    vec![on_stage("a_refused_connect_is_told_with_its_command_lines_hash_and_its_container_or_unit", told)]
}

const WEB_OUT: &str = "
  workloadSelector: {matchLabels: {app: web}}
  policyTypes: [Egress]
  defaultAction: deny
  egress: []";

const ID: &str = "4c01db0b339c7f9ed0a5e1d6b8f1a3f0c2b4d6e8f0a1b2c3d4e5f60718293a4b";

fn told(harness: &mut Harness) -> Result<()> {
    harness.apply(&format!("{}{}", workloads(), document("Policy", "web-out", WEB_OUT)))?;
    harness
        .wait("all workloads to be attached", |harness| harness.status().is_ok_and(|status| status.all_attached()))?;
    let scope = format!("docker-{ID}.scope");
    let rows = [("", "", ""), (&*scope, ID, ""), ("nginx.service/worker", "", "nginx.service")];
    for (number, (below, container, unit)) in rows.into_iter().enumerate() {
        let cgroup = harness.world().cgroup(Web).join(below);
        std::fs::create_dir_all(&cgroup).with_context(|| format!("making {}", cgroup.display()))?;
        let to = SocketAddr::new(Client.v4(), 4000 + u16::try_from(number)?);
        let mark = Mark::now();
        let mut command = Command::new(program("weir-probe"));
        command.arg("--netns").arg(harness.world().netns(Web)).arg("--cgroup").arg(&cgroup);
        // It lives until it is stopped, so that there is a process to ask about.
        command.args(["tcp-connect-loop", "--to", &to.to_string(), "--rate", "5"]);
        let mut client = harness.world().start("client", command)?;
        let pid = client.pid();
        let record = harness.record(mark, "the refused connect", |record| {
            let by = record.process.as_ref();
            record.is("deny", "connect")
                && record.remote.port == to.port()
                // New cgroups are looked for once a second; until then the workload's own is told.
                && record.cgroup.ends_with(below)
                && by.is_some_and(|process| process.pid == pid && !process.executable.is_empty())
        })?;
        let expected = sha256(&std::fs::read(format!("/proc/{pid}/cmdline"))?)?;
        let process = record.process.clone().unwrap_or_default();
        ensure!(process.command_line_hash == expected, "{record}: {process:?}, expected {expected}");
        ensure!(process.executable == program("weir-probe").display().to_string() && process.start_ticks > 0);
        ensure!((&*record.container, &*record.unit) == (container, unit), "{record:?}");
        client.stop(SOON)?;
        for made in cgroup.ancestors().take(below.split('/').filter(|part| !part.is_empty()).count()) {
            std::fs::remove_dir(made).with_context(|| format!("removing {}", made.display()))?;
        }
    }
    Ok(())
}

/// The first 16 digits, by somebody else's program.
fn sha256(bytes: &[u8]) -> Result<String> {
    let mut child = Command::new("sha256sum").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    child.stdin.take().context("sha256sum has an input")?.write_all(bytes)?;
    let said = String::from_utf8(child.wait_with_output()?.stdout)?;
    Ok(said.get(..16).context("sha256sum says a sum")?.to_owned())
}
