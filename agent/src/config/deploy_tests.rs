//! Lives: weir-agent, tests of what is in `deploy` for those who install: does it start an agent that exists, with options that exist?
//! Called by: `cargo test`.
//! May touch: those files; `values.schema.json`, where WEIR_REGENERATE is set.
//! Never: renders the chart; `cargo xtask chart` does, with helm.

use std::{fs, path::PathBuf};

use clap::Parser as _;
use serde_json::{Map, Value, json};

use super::{Args, Config, options::OPTIONS, read};

const UNIT: &str = include_str!("../../../deploy/systemd/weir-agent.service");
const MANIFEST: &str = include_str!("../../../deploy/kubernetes/daemonset.yaml");
const VALUES: &str = include_str!("../../../deploy/helm/weir/values.yaml");

/// The values of a unit's directive.
fn directive<'u>(unit: &'u str, name: &str) -> Vec<&'u str> {
    unit.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix('=')).collect()
}

fn resources(manifest: &str) -> Vec<Value> {
    manifest.split("\n---\n").map(|text| serde_saphyr::from_str(text).unwrap()).collect()
}

fn of_kind(kind: &str, name: &str) -> Value {
    let found = resources(MANIFEST)
        .into_iter()
        .find(|resource| resource["kind"] == kind && resource["metadata"]["name"] == name);
    found.unwrap_or_else(|| panic!("no {kind} {name}"))
}

fn container(name: &str) -> Value {
    let set = of_kind("DaemonSet", "weir");
    let all = set.pointer("/spec/template/spec/containers").and_then(Value::as_array).cloned().unwrap_or_default();
    all.into_iter().find(|container| container["name"] == name).unwrap_or_else(|| panic!("no container {name}"))
}

fn texts(value: &Value) -> Vec<&str> {
    value.as_array().map(|all| all.iter().filter_map(Value::as_str).collect()).unwrap_or_default()
}

/// The configuration that the manifest mounts.
fn mounted() -> Config {
    let map = of_kind("ConfigMap", "weir");
    read("agent.yaml", map["data"]["agent.yaml"].as_str().unwrap()).unwrap()
}

#[test]
fn the_unit_starts_an_agent_by_flags_that_exist() {
    let commands = directive(UNIT, "ExecStart");
    assert_eq!(commands.len(), 1);
    let args = Args::try_parse_from(commands[0].split_whitespace()).unwrap();
    assert_eq!(args.config_path(), PathBuf::from("/etc/weir/agent.yaml"));
    assert_eq!(directive(UNIT, "Type"), ["notify"]);
}

#[test]
fn the_unit_lets_the_agent_seal_itself() {
    // None of them is in systemd's own set (252); without them nothing loads, or the agent warns that it is not sealed.
    let filter = directive(UNIT, "SystemCallFilter").join(" ");
    for call in ["bpf", "seccomp", "landlock_create_ruleset", "landlock_add_rule", "landlock_restrict_self"] {
        assert!(filter.split(' ').any(|word| word == call), "{call}: {filter}");
    }
}

#[test]
fn systemd_reads_the_units_without_a_complaint() {
    let (dir, program) = (tempfile::tempdir().unwrap(), std::env::current_exe().unwrap());
    let collector = include_str!("../../../deploy/systemd/weir-collector.service");
    let slice = include_str!("../../../deploy/systemd/weir.slice");
    for (name, text) in [("weir-agent.service", UNIT), ("weir-collector.service", collector), ("weir.slice", slice)] {
        // It looks whether the program is there.
        let text = text.replace("/usr/local/bin/weir-agent", &program.display().to_string());
        let text = text.replace("/usr/local/bin/weir-collector", &program.display().to_string());
        fs::write(dir.path().join(name), text).unwrap();
    }
    let units = ["weir-agent.service", "weir-collector.service", "weir.slice"].map(|name| dir.path().join(name));
    // Where there is no systemd nobody installs a unit; the other tests here hold what does not need it.
    let Ok(said) = std::process::Command::new("systemd-analyze").arg("verify").args(units).output() else { return };
    let complaints = String::from_utf8_lossy(&said.stderr).into_owned();
    assert!(said.status.success() && !complaints.contains("weir"), "{complaints}");
}

#[test]
fn the_units_folders_are_those_of_the_defaults() {
    let config = read("a.yaml", "cgroupRoot: /w\n").unwrap();
    assert_eq!(config.state_dir, PathBuf::from("/var/lib").join(directive(UNIT, "StateDirectory")[0]));
    assert!(config.grpc.socket.starts_with(PathBuf::from("/run").join(directive(UNIT, "RuntimeDirectory")[0])));
    assert_eq!(directive(UNIT, "RuntimeDirectoryPreserve"), ["yes"], "the other service's socket lies there too");
}

#[test]
fn nothing_that_stops_an_agent_ends_enforcement() {
    assert!(directive(UNIT, "ExecStop").is_empty() && directive(UNIT, "ExecStopPost").is_empty());
    assert!(container("agent").get("lifecycle").is_none());
    let update = of_kind("DaemonSet", "weir")["spec"]["updateStrategy"]["rollingUpdate"].clone();
    assert_eq!(update, json!({"maxUnavailable": 1, "maxSurge": 0}));
}

#[test]
fn unit_and_manifest_ask_for_the_same_capabilities() {
    let unit: Vec<String> = directive(UNIT, "CapabilityBoundingSet")[0]
        .split_whitespace()
        .filter_map(|name| name.strip_prefix("CAP_").map(str::to_owned))
        .collect();
    let container = container("agent");
    let pod = texts(&container["securityContext"]["capabilities"]["add"]);
    assert_eq!(unit, pod);
    assert_eq!(texts(&container["securityContext"]["capabilities"]["drop"]), ["ALL"]);
    assert_eq!(container["securityContext"]["privileged"], false);
}

#[test]
fn the_manifest_starts_an_agent_whose_files_are_mounted() {
    let (agent, config) = (container("agent"), mounted());
    let args = Args::try_parse_from(texts(&agent["command"])).unwrap();
    assert_eq!(
        (args.config_path(), args.node.as_deref()),
        (PathBuf::from("/etc/weir/agent.yaml"), Some("$(WEIR_NODE)"))
    );
    let mounts = agent["volumeMounts"].as_array().unwrap();
    let mounts: Vec<PathBuf> = mounts.iter().map(|mount| mount["mountPath"].as_str().unwrap().into()).collect();
    let needed = [
        args.config_path(),
        config.cgroup_root.clone(),
        config.neighbours.bpffs.clone(),
        config.state_dir.clone(),
        config.grpc.socket,
        // The chart names it where there are policies: an agent refuses a folder without any.
        "/etc/weir-policy".into(),
    ];
    for path in needed {
        assert!(mounts.iter().any(|mount| path.starts_with(mount)), "{} is not mounted", path.display());
    }
}

#[test]
fn the_manifests_probes_ask_where_the_agent_answers() {
    let (agent, listen) = (container("agent"), mounted().metrics.unwrap().listen);
    for (probe, path) in [("startupProbe", "/livez"), ("livenessProbe", "/livez"), ("readinessProbe", "/readyz")] {
        let asked = &agent[probe]["httpGet"];
        let expected = json!({"host": listen.ip().to_string(), "port": listen.port(), "path": path});
        assert_eq!(asked, &expected, "{probe}");
    }
}

#[test]
fn the_charts_schema_has_every_option_of_the_agent() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../deploy/helm/weir/values.schema.json");
    let text = fs::read_to_string(&path).unwrap();
    let mut schema: Value = serde_json::from_str(&text).unwrap();
    schema["properties"]["agent"]["properties"]["config"] = configuration();
    let fresh = serde_json::to_string_pretty(&schema).unwrap() + "\n";
    if std::env::var_os("WEIR_REGENERATE").is_some() {
        fs::write(&path, &fresh).unwrap();
    }
    let now = fs::read_to_string(&path).unwrap();
    assert!(
        now == fresh,
        "values.schema.json is out of date: WEIR_REGENERATE=1 cargo test -p weir-agent the_charts_schema"
    );
}

#[test]
fn the_chart_refuses_values_that_it_does_not_know_and_knows_its_own() {
    let schema: Value = serde_json::from_str(include_str!("../../../deploy/helm/weir/values.schema.json")).unwrap();
    let values: Value = serde_saphyr::from_str(VALUES).unwrap();
    assert_eq!(schema["additionalProperties"], false);
    let known: Vec<&String> = schema["properties"].as_object().unwrap().keys().collect();
    let mut used: Vec<&String> = values.as_object().unwrap().keys().collect();
    used.sort();
    assert_eq!(known.into_iter().filter(|key| *key != "global").collect::<Vec<_>>(), used);
}

/// The schema of `agent.config`: sections as objects that know their keys, and every option with its documentation.
fn configuration() -> Value {
    let mut root = section();
    for option in OPTIONS {
        let mut at = &mut root;
        let (sections, key) = option.path.rsplit_once('.').unwrap_or(("", option.path));
        for name in sections.split('.').filter(|name| !name.is_empty()) {
            at = at["properties"].as_object_mut().unwrap().entry(name).or_insert_with(section);
        }
        at["properties"][key] = documented(option.sample, option.doc);
    }
    root["required"] = json!(["cgroupRoot"]);
    root
}

fn section() -> Value {
    json!({"type": ["object", "null"], "additionalProperties": false, "properties": Map::new()})
}

/// Of what type an option is shows in its sample; what its values mean is the agent's to judge.
fn documented(sample: &str, doc: &str) -> Value {
    let kind = match serde_saphyr::from_str::<Value>(sample).unwrap() {
        Value::Array(_) => "array",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Null | Value::Object(_) => panic!("{sample} is no sample of an option"),
    };
    json!({"type": [kind, "null"], "description": doc})
}
