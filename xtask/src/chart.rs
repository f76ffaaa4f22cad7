//! Lives: xtask, the task `chart`: does the Helm chart render what is promised?
//! Called by: a person; ci.
//! May touch: `deploy/kubernetes/daemonset.yaml` where asked to write it; a folder of its own below target.
//! Never: speaks to a cluster; passes where helm or the schemas are missing.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use clap::Args;

use crate::paths::Repo;
use crate::report::{Report, Step};
use crate::setup::charts;
use crate::{pins, process, setup};

/// Shown below `cargo xtask chart --help`.
pub const HELP: &str = "\
helm and the schemas of Kubernetes are brought into .tools. Every check is made without a cluster.

Examples:
  cargo xtask chart            renders with values of several kinds, and compares with deploy/kubernetes/daemonset.yaml
  cargo xtask chart --write    writes that file anew; look at what git says has changed";

/// `cargo xtask chart`.
#[derive(Args)]
pub struct Options {
    /// Write the plain manifest from the chart instead of comparing it
    #[arg(long)]
    write: bool,
}

const CHART: &str = "deploy/helm/weir";
const GOLDEN: &str = "deploy/kubernetes/daemonset.yaml";
/// What `helm install --create-namespace` makes, and the label without which a cluster may refuse host namespaces.
const INTRO: &str = "\
# The chart deploy/helm/weir with its default values: `cargo xtask chart --write` makes this file. Do not edit it.
# kubectl apply -f daemonset.yaml; docs/install.md says what to look at before.
apiVersion: v1
kind: Namespace
metadata:
  name: weir-system
  labels:
    pod-security.kubernetes.io/enforce: privileged
";

/// Values that must be rendered into something valid, by what they are about: each reaches other branches of the templates.
const GOOD: [(&str, &str); 5] = [
    (
        "everything that is optional",
        r#"{"image": {"tag": "9.9", "digest": "sha256:00"}, "imagePullSecrets": [{"name": "s"}],
            "agent": {"config": {"node": "n", "interfaces": ["eth0", {"name": "e*", "refuse": ["martian"]}], "queue": {"records": 2048}},
                      "env": [{"name": "A", "value": "b"}], "seLinuxOptions": {"type": "spc_t"}},
            "affinity": {"nodeAffinity": {}}, "podAnnotations": {"a": "b"}, "podLabels": {"c": "d"},
            "extraVolumes": [{"name": "tls", "secret": {"secretName": "tls"}}], "extraVolumeMounts": [{"name": "tls", "mountPath": "/tls"}]}"#,
    ),
    ("no collector", r#"{"collector": {"enabled": false}, "agent": {"config": {"collector": {"address": "none"}}}}"#),
    ("detached", r#"{"detach": true}"#),
    ("detached, no collector", r#"{"detach": true, "collector": {"enabled": false}}"#),
    ("a policy", r#"{"policy": {"a.yaml": "kind: Policy\nmetadata:\n  name: a\n"}}"#),
];
/// Values that must be refused, and a word of the refusal.
const BAD: [(&str, &str); 5] = [
    (r#"{"agent": {"config": {"cgruopRoot": "/x"}}}"#, "cgruopRoot"),
    (r#"{"agent": {"config": {"queue": {"records": "many"}}}}"#, "records"),
    (r#"{"agent": {"config": {"grpc": {"tcp": {"tls": {"ca": "/x"}}}}}}"#, "tls"),
    (r#"{"tolerationz": []}"#, "tolerationz"),
    (r#"{"updateStrategy": {"type": "Recreate"}}"#, "updateStrategy"),
];

/// `cargo xtask chart`.
pub fn task(repo: &Repo, options: &Options) -> Result<bool> {
    setup::demand(repo, setup::For::Chart)?;
    if options.write {
        let path = repo.root().join(GOLDEN);
        fs::write(&path, plain(repo)?).with_context(|| format!("writing {}", path.display()))?;
        println!("written: {GOLDEN}");
    }
    let report = run(repo)?;
    report.print();
    Ok(report.ok)
}

/// Every check, also after one that failed. Setup was made before.
pub fn run(repo: &Repo) -> Result<Report> {
    let start = Instant::now();
    let folder = repo.target()?.join("chart");
    fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
    let mut steps = vec![
        step("the plain manifest is the chart's", || golden(repo)),
        step("the plain manifest is valid", || valid(repo, &repo.root().join(GOLDEN))),
        step("helm lint", || process::capture(helm(repo).args(["lint", "--strict", CHART])).map(drop)),
    ];
    for (number, (name, values)) in GOOD.iter().enumerate() {
        let files = [folder.join(format!("{number}.json")), folder.join(format!("{number}.yaml"))];
        steps.push(step(name, || {
            good(repo, values, &files)?;
            let rendered = fs::read_to_string(&files[1])?;
            // A pod that detaches enforces nothing, and no probe may ask it to.
            let detaches = rendered.contains("- --detach\n") && !rendered.contains("/readyz");
            let enforces = !rendered.contains("- --detach\n") && rendered.contains("/readyz");
            ensure!(if name.starts_with("detached") { detaches } else { enforces }, "{rendered}");
            Ok(())
        }));
    }
    for (values, word) in BAD {
        steps.push(step(&format!("refused: {word}"), || bad(repo, values, word, &folder.join("bad.json"))));
    }
    Ok(Report::new("chart", start, steps))
}

fn step(name: &str, work: impl FnOnce() -> Result<()>) -> Step {
    let start = Instant::now();
    let done = work();
    Step::new(name, done.is_ok(), start, done.err().map(|error| format!("{error:#}")).unwrap_or_default())
}

fn golden(repo: &Repo) -> Result<()> {
    let text = fs::read_to_string(repo.root().join(GOLDEN)).unwrap_or_default();
    ensure!(text == plain(repo)?, "{GOLDEN} is not what the chart renders; see `cargo xtask chart --write`");
    Ok(())
}

fn plain(repo: &Repo) -> Result<String> {
    Ok(format!("{INTRO}{}", render(repo, None)?))
}

fn good(repo: &Repo, values: &str, [values_file, rendered]: &[PathBuf; 2]) -> Result<()> {
    fs::write(values_file, values)?;
    fs::write(rendered, render(repo, Some(values_file))?)?;
    valid(repo, rendered)
}

fn bad(repo: &Repo, values: &str, word: &str, file: &Path) -> Result<()> {
    fs::write(file, values)?;
    let error = match render(repo, Some(file)) {
        Ok(_) => anyhow::bail!("{values} was rendered"),
        Err(error) => format!("{error:#}"),
    };
    ensure!(error.contains(word), "refused without naming {word}: {error}");
    Ok(())
}

fn render(repo: &Repo, values: Option<&Path>) -> Result<String> {
    let mut helm = helm(repo);
    helm.args(["template", "weir", CHART, "--namespace", "weir-system"]);
    if let Some(values) = values {
        helm.arg("--values").arg(values);
    }
    process::capture(&mut helm)
}

fn helm(repo: &Repo) -> Command {
    let mut helm = process::clean(charts::helm_program(repo));
    // Its caches and plugins are the user's; ours are none.
    helm.current_dir(repo.root()).env("HELM_CONFIG_HOME", "/nonexistent").env("HELM_DATA_HOME", "/nonexistent");
    helm.env("HELM_CACHE_HOME", "/nonexistent");
    helm
}

/// By the schemas that Kubernetes publishes, for the oldest and the newest release; what they do not know is refused.
fn valid(repo: &Repo, file: &Path) -> Result<()> {
    for version in pins::KUBERNETES {
        let mut python = process::clean("python3");
        python.env("PYTHONPATH", charts::schemas_folder(repo));
        python.args(["-m", "kubernetes_validate", "--strict", "--quiet", "-k", version]).arg(file);
        process::capture(&mut python).with_context(|| format!("Kubernetes {version}"))?;
    }
    Ok(())
}
