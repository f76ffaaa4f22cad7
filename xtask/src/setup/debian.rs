//! Lives: xtask, setup's fallback: Debian's package `rust-src`, unpacked and not installed.
//! Called by: `rust_src`, where rustup cannot help.
//! May touch: `.tools/debian`; the mirror that this machine's apt is configured for.
//! Never: installs a package; runs apt with this machine's lists, cache or hooks; takes another version.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::apt::Apt;
use crate::paths::Repo;
use crate::process;

/// Newest stable's backports first: that is where a current compiler lands. Unstable last, its index is the largest.
const SUITES: [&str; 5] = ["trixie-backports", "trixie", "forky-backports", "forky", "sid"];

/// Unpacking 45 MB takes seconds.
const UNPACK: Duration = Duration::from_secs(300);

/// Where the source of `version` lies once it was brought.
pub fn library(repo: &Repo, version: &str) -> PathBuf {
    folder(repo, version).join(format!("usr/src/rustc-{version}/library"))
}

/// Downloads and unpacks the package, and says where the library is.
pub fn bring(repo: &Repo, version: &str) -> Result<PathBuf> {
    let mirrors = Apt::mirrors().context("asking apt for Debian's mirror")?;
    let mut tried = Vec::new();
    for mirror in &mirrors {
        for suite in SUITES {
            match bring_from(repo, version, mirror, suite) {
                Ok(true) => return Ok(library(repo, version)),
                Ok(false) => tried.push(format!("{suite}: other versions only")),
                Err(error) => tried.push(format!("{suite}: {error:#}")),
            }
        }
    }
    bail!("no Debian suite gave rust-src {version} ({})", tried.join("; "))
}

/// `false` when the suite has only other versions.
fn bring_from(repo: &Repo, version: &str, mirror: &str, suite: &str) -> Result<bool> {
    let apt = Apt::private(&repo.tools().join("debian/apt"), mirror, suite)?;
    apt.update()?;
    let Some(exact) = pick(&apt.madison("rust-src")?, version) else { return Ok(false) };
    let package = apt.download("rust-src", &exact)?;
    // Unpacked beside and moved: a folder that exists under its name is complete.
    let fresh = repo.tools().join("debian/unpacking");
    let _ = fs::remove_dir_all(&fresh);
    let mut dpkg = process::clean("dpkg");
    dpkg.arg("-x").arg(&package).arg(&fresh);
    process::logged(&mut dpkg, &repo.tools().join("log/rust-src.log"), UNPACK)?;
    let place = folder(repo, version);
    let _ = fs::remove_dir_all(&place);
    fs::rename(&fresh, &place).with_context(|| format!("moving the source to {}", place.display()))?;
    // Lists and the archive have served.
    let _ = fs::remove_dir_all(repo.tools().join("debian/apt"));
    Ok(true)
}

fn folder(repo: &Repo, version: &str) -> PathBuf {
    repo.tools().join(format!("debian/rust-src-{version}"))
}

/// Finds the full package version of an upstream version in apt's table (`name | version | where`).
fn pick(madison: &str, version: &str) -> Option<String> {
    let versions = madison.lines().filter_map(|line| line.split('|').nth(1)).map(str::trim);
    let mut matching =
        versions.filter(|full| full.strip_prefix(version).is_some_and(|rest| rest.starts_with(['+', '-', '~'])));
    matching.next().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_upstream_version_is_picked() {
        let table = "  rust-src | 1.96.1+dfsg1-2~bpo13+1 | http://mirror trixie-backports/main amd64 Packages\n\
                     \x20 rust-src | 1.95.0+dfsg1-2~bpo13+1 | http://mirror trixie-backports/main amd64 Packages\n";
        assert_eq!(pick(table, "1.95.0").as_deref(), Some("1.95.0+dfsg1-2~bpo13+1"));
        assert_eq!(pick(table, "1.95").as_deref(), None);
        assert_eq!(pick("", "1.95.0"), None);
    }
}
