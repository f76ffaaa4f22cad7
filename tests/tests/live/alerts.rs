//! Lives: weir-tests, live tests of the dashboard and the alert rules: a real Prometheus reads the agent, and real faults fire them.
//! Called by: main.
//! May touch: a world of its own, and the Prometheus in it.
//! Never: changes a rule, but for how long it waits.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use aya::programs::xdp::XdpMode;
use libtest_mimic::Trial;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use weir_tests::documents::{document, workloads};
use weir_tests::harness::{COLLECTOR_METRICS, Harness, METRICS, Options};
use weir_tests::process::Running;
use weir_tests::world::Who::{Api, Client, Node, Web};
use weir_tests::world::tools::{PROMETHEUS, PROMTOOL};
use weir_tests::world::{World, links};

use crate::metrics::fetch;
use crate::{abreast, test};

pub fn trials() -> Vec<Trial> {
    vec![
        test("alert_rules_pass_promtool_and_their_unit_tests_and_name_commands_that_exist", checked),
        abreast("a_real_prometheus_fires_the_alert_of_each_fault_and_no_other", fired),
    ]
}

/// Where Prometheus listens, in the node's namespace.
const PROMETHEUS_AT: &str = "127.0.0.1:9090";
/// How long an alert may take: scrapes and evaluations come every second, and a busy machine is slow.
const FIRES_WITHIN: Duration = Duration::from_secs(30);

fn deploy(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy").join(path)
}

fn here() -> Result<()> {
    let lacking = "prometheus and promtool are not here: run `cargo xtask setup`, or install the package prometheus";
    ensure!(PROMETHEUS.available() && PROMTOOL.available(), lacking);
    Ok(())
}

fn checked() -> Result<()> {
    here()?;
    for arguments in [["check", "rules", "weir.rules.yaml"], ["test", "rules", "tests.yaml"]] {
        let (mut promtool, _) = PROMTOOL.command();
        let output = promtool.args(arguments).current_dir(deploy("alerts")).output()?;
        let said = [output.stdout, output.stderr].concat();
        ensure!(output.status.success(), "promtool {arguments:?}: {}", String::from_utf8_lossy(&said));
    }
    let rules = std::fs::read_to_string(deploy("alerts/weir.rules.yaml"))?;
    let commands: BTreeSet<&str> =
        rules.split('`').skip(1).step_by(2).filter_map(|code| code.strip_prefix("weirctl ")).collect();
    ensure!(commands.len() > 4, "{commands:?}");
    for command in commands {
        let mut weirctl = std::process::Command::new(weir_tests::process::program("weirctl"));
        let output = weirctl.args(command.split_whitespace()).arg("--help").output()?;
        ensure!(output.status.success(), "weirctl {command}: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}

fn fired() -> Result<()> {
    here()?;
    let options = Options { all_metrics: true, room: Some((65_536, 1)), ..Options::default() };
    let mut harness = Harness::start(World::new("alerts")?, options)?;
    let limit = "\n  workloadSelector: {matchLabels: {app: api}}\n  packets: {perSecond: 10, burst: 10}";
    let egress = "\n  workloadSelector: {matchLabels: {app: web}}\n  policyTypes: [Egress]\n  defaultAction: deny";
    let egress = document("Policy", "web-out", egress);
    harness.apply(&format!("{}{}{egress}", workloads(), document("RateLimit", "api", limit)))?;
    harness.wait("everything to be attached and clean", |harness| {
        harness.status().is_ok_and(|status| status.ready() && status.all_attached() && status.clean())
    })?;
    let mut prometheus = start(&harness)?;

    // Healthy: what is allowed, denied and limited wakes nobody.
    let to = |rate| format!("udp-flood --to {}:5000 --rate {rate} --seconds 4", Api.v4());
    let _server = harness.world().serve(Api, "udp-serve --silent --listen 0.0.0.0:5000")?;
    let flood = harness.world().start("flood", harness.world().probe_line(Client, &to(500)))?;
    let denied = deny(&harness, 100, 4)?;
    let sent = flood.sent()?;
    ensure!(sent.ok > 1000 && denied > 50, "{sent:?}, {denied} denied");
    wait(&harness, "samples of some seconds", || {
        Ok(value(&harness, "count_over_time(weir_enforcing[1m]) >= 8")?.is_some())
    })?;
    firing(&harness, &[])?;
    dashboard(&harness)?;
    counts(&harness, denied)?;

    harness.stop_collector()?;
    firing(&harness, &["WeirCollectorAway"])?;
    // More than half of the spool: from there on one workload has its quota.
    for _ in 0..8 {
        deny(&harness, 10_000, 8)?;
        if value(&harness, "sum(weir_records_lost_total) > 0")?.is_some() {
            break;
        }
    }
    firing(&harness, &["WeirCollectorAway", "WeirRecordsLost", "WeirSpoolFilling"])?;
    harness.start_collector()?;
    firing(&harness, &["WeirRecordsLost"])?;

    let node = harness.world().netns(Node);
    links::spare(&node, "spare")?;
    let theirs = crate::interfaces::foreign(harness.world(), "spare", XdpMode::Skb)?;
    links::rename(&node, "spare", "v-theirs")?;
    firing(&harness, &["WeirNotEnforcing", "WeirRecordsLost"])?;
    drop(theirs);
    firing(&harness, &["WeirRecordsLost"])?;

    let agent = harness.agent_pid().context("no agent")?;
    kill(Pid::from_raw(agent.cast_signed()), Signal::SIGKILL)?;
    firing(&harness, &["WeirAgentDown", "WeirRecordsLost"])?;
    ensure!(!prometheus.ended(), "{}", prometheus.log_tail(20));
    Ok(())
}

/// Connections of web that its policy denies; how many.
fn deny(harness: &Harness, rate: u32, seconds: u32) -> Result<u64> {
    let line = format!("tcp-connect-loop --to {}:80 --rate {rate} --seconds {seconds}", Api.v4());
    let sent = harness.world().start("denied", harness.world().probe_line(Web, &line))?.sent()?;
    sent.refused.get("EPERM").copied().with_context(|| format!("nothing was denied: {sent:?}"))
}

/// A Prometheus that reads the agent every second, with the rules as they are but for how long they wait.
fn start(harness: &Harness) -> Result<Running> {
    let world = harness.world();
    let rules = std::fs::read_to_string(deploy("alerts/weir.rules.yaml"))?;
    let shorter = rules.lines().map(|line| match line.split_once("    for: ") {
        Some((before, _)) => format!("{before}    for: 1s\n"),
        None => format!("{line}\n"),
    });
    world.write("weir.rules.yaml", &shorter.collect::<String>())?;
    let config = serde_json::json!({
        "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
        "rule_files": ["weir.rules.yaml"],
        "scrape_configs": [
            {"job_name": "weir-agent", "static_configs": [{"targets": [METRICS]}]},
            {"job_name": "weir-collector", "static_configs": [{"targets": [COLLECTOR_METRICS]}]},
        ],
    });
    let config = world.write("prometheus.yaml", &config.to_string())?;
    let (_, program) = PROMETHEUS.command();
    let mut command = world.probe(Node);
    command.args(["exec", "--"]).arg(program);
    command.arg(format!("--config.file={}", config.display()));
    command.arg(format!("--storage.tsdb.path={}", world.folder().join("prometheus").display()));
    command.arg(format!("--web.listen-address={PROMETHEUS_AT}")).arg("--log.level=warn");
    let prometheus = Running::start_daemon("prometheus", command, world.folder())?;
    wait(harness, "Prometheus to read the agent", || {
        Ok(value(harness, "up{job=\"weir-agent\"} == 1").is_ok_and(|up| up.is_some()))
    })
    .with_context(|| prometheus.log_tail(20))?;
    for group in items(&ask(harness, "/api/v1/rules")?, "/data/groups") {
        for rule in items(group, "/rules") {
            ensure!(rule.pointer("/health").and_then(Value::as_str) != Some("err"), "{rule}");
        }
    }
    Ok(prometheus)
}

/// What Prometheus' API answers.
fn ask(harness: &Harness, path: &str) -> Result<Value> {
    let answer = fetch(harness, PROMETHEUS_AT, path)?;
    let (_, body) = answer.split_once("\r\n\r\n").with_context(|| answer.clone())?;
    let body: Value = serde_json::from_str(body).with_context(|| format!("{path}: {body}"))?;
    ensure!(body.pointer("/status").and_then(Value::as_str) == Some("success"), "{path}: {body}");
    Ok(body)
}

fn items<'v>(value: &'v Value, path: &str) -> &'v [Value] {
    value.pointer(path).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// What an expression finds now.
fn query(harness: &Harness, expression: &str) -> Result<Vec<Value>> {
    let escaped: String = expression.bytes().map(|byte| format!("%{byte:02X}")).collect();
    let answer = ask(harness, &format!("/api/v1/query?query={escaped}")).with_context(|| expression.to_owned())?;
    Ok(items(&answer, "/data/result").to_vec())
}

/// The value of an expression that finds one, or none.
fn value(harness: &Harness, expression: &str) -> Result<Option<f64>> {
    let found = query(harness, expression)?;
    ensure!(found.len() < 2, "{expression}: {found:?}");
    let value = found.first().and_then(|one| one.pointer("/value/1")?.as_str()?.parse().ok());
    Ok(value)
}

fn wait(harness: &Harness, what: &str, mut look: impl FnMut() -> Result<bool>) -> Result<()> {
    let begin = Instant::now();
    while !look()? {
        if begin.elapsed() > FIRES_WITHIN {
            bail!("waited too long for {what}\n{}", harness.logs());
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    Ok(())
}

/// Alerts that fire or are about to.
fn alerts(harness: &Harness) -> Result<Vec<Value>> {
    Ok(items(&ask(harness, "/api/v1/alerts")?, "/data/alerts").to_vec())
}

/// Waits until exactly these fire, and looks at what they say.
fn firing(harness: &Harness, expected: &[&str]) -> Result<()> {
    let mut last = Vec::new();
    let fires = || {
        last = alerts(harness)?;
        last.retain(|alert| alert.pointer("/state").and_then(Value::as_str) == Some("firing"));
        let names: BTreeSet<&str> =
            last.iter().filter_map(|alert| alert.pointer("/labels/alertname")?.as_str()).collect();
        Ok(names == expected.iter().copied().collect())
    };
    let waited = wait(harness, &format!("{expected:?}"), fires);
    waited.with_context(|| format!("firing: {last:#?}"))?;
    for alert in last {
        let summary = alert.pointer("/annotations/summary").and_then(Value::as_str).unwrap_or_default();
        let whole = !summary.is_empty() && !summary.contains("<error") && !summary.contains("no value");
        ensure!(whole && summary.contains(METRICS), "{alert}");
    }
    Ok(())
}

/// Panels that have nothing to show here: nothing is in audit mode, and every interface is attached.
const EMPTY: [&str; 2] = ["Would be denied, by hook", "Interfaces without the program"];

/// Every expression of the dashboard is understood, and finds something of this agent.
fn dashboard(harness: &Harness) -> Result<()> {
    let file: Value = serde_json::from_str(&std::fs::read_to_string(deploy("dashboards/weir.json"))?)?;
    let mut empty = BTreeSet::new();
    for panel in items(&file, "/panels") {
        let title = panel.pointer("/title").and_then(Value::as_str).context("a panel without a title")?;
        for target in items(panel, "/targets") {
            let expression = target.pointer("/expr").and_then(Value::as_str).context("a target without expr")?;
            let variables = [("$job", ".*"), ("$instance", ".*"), ("$__rate_interval", "10s")];
            let filled = variables.iter().fold(expression.to_owned(), |all, (name, text)| all.replace(name, text));
            if query(harness, &filled).with_context(|| title.to_owned())?.is_empty() {
                empty.insert(title.to_owned());
            }
        }
    }
    ensure!(empty == EMPTY.map(str::to_owned).into(), "nothing to see: {empty:?}");
    Ok(())
}

/// What costs something and was asked for is there, and right.
fn counts(harness: &Harness, denied: u64) -> Result<()> {
    let of = |expression: &str| value(harness, expression)?.with_context(|| format!("nothing: {expression}"));
    let arrived = || {
        let collected = of("weir_collector_records_total")?;
        Ok(collected > 0.0 && collected == of("weir_records_acknowledged_total")?)
    };
    wait(harness, "the collector to show the records that the agent says it took over", arrived)?;
    let mut counted = [0.0; 3];
    let agree = || {
        let by_policy = of("weir_policy_decisions_total{policy=\"Policy/shop/web-out\", verdict=\"deny\"}")?;
        counted = [by_policy, of("sum(weir_policy_decisions_total)")?, of("sum(weir_decisions_recorded_total)")?];
        Ok(by_policy == denied as f64 && counted[1] == counted[2] && counted[1] > by_policy)
    };
    wait(harness, "decisions by policy to be what was denied, and all that was recorded", agree)
        .with_context(|| format!("{denied} denied; by its policy, by all, recorded: {counted:?}"))?;
    ensure!(of("weir_collector_missing_batches_total")? == 0.0 && of("weir_collector_streams")? == 1.0);
    let runs = of("weir_program_runs_total{program=\"connect4\"}")?;
    let seconds = of("weir_program_run_seconds_total{program=\"connect4\"}")?;
    ensure!(runs >= denied as f64 && seconds > 0.0 && seconds < 60.0, "connect4: {runs} runs took {seconds} s");
    ensure!(of("weir_table_entries{table=\"xdp_drops\"}")? > 0.0, "the flood used no cell for drops");
    Ok(())
}
