//! Lives: xtask, setup's bringing of kernels that the agent is tried on: Debian's packages, unpacked and not installed.
//! Called by: the task `vm`.
//! May touch: `.tools/vm`; the mirror that this machine's apt is configured for.
//! Never: installs a kernel; boots one (the task does, in an emulator).

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::apt::Apt;
use super::lock;
use crate::paths::Repo;
use crate::process;

/// The largest unpacks to 110 MB.
const UNPACK: Duration = Duration::from_secs(120);
/// Flavour: small, and with everything a virtual machine needs.
const FLAVOUR: &str = "-cloud-amd64";

/// A kernel that is supported, and where its packages are.
pub struct Series {
    /// As on the command line and in the documents.
    pub name: &'static str,
    suite: &'static str,
    /// Beginnings of the packages' names; version and flavour follow.
    packages: &'static [&'static str],
}

/// Oldest first. The newest comes in two halves: there `linux-image` is an empty shell.
pub const SERIES: [Series; 3] = [
    Series { name: "6.1", suite: "bookworm", packages: &["linux-image-6.1."] },
    Series { name: "6.12", suite: "bookworm-backports", packages: &["linux-image-6.12."] },
    Series { name: "newest", suite: "trixie-backports", packages: &["linux-binary-", "linux-modules-"] },
];

/// The folder with the unpacked kernel; brought if it is not there. Deleting it brings the newest of its series.
pub fn ensure(repo: &Repo, series: &Series) -> Result<PathBuf> {
    let folder = repo.tools().join("vm").join(series.name);
    let _held = lock(repo)?;
    if folder.is_dir() {
        return Ok(folder);
    }
    let mut tried = Vec::new();
    for mirror in Apt::mirrors().context("asking apt for Debian's mirror")? {
        match bring(repo, series, &mirror, &folder) {
            Ok(()) => return Ok(folder),
            Err(error) => tried.push(format!("{error:#}")),
        }
    }
    bail!("no mirror gave kernel {} of {} ({})", series.name, series.suite, tried.join("; "))
}

fn bring(repo: &Repo, series: &Series, mirror: &str, folder: &Path) -> Result<()> {
    let beside = |end| repo.tools().join("vm").join(format!("{}-{end}", series.name));
    let (private, fresh) = (beside("apt"), beside("unpacking"));
    let apt = Apt::private(&private, mirror, series.suite)?;
    apt.update()?;
    let names = apt.names()?;
    let _ = fs::remove_dir_all(&fresh);
    fs::create_dir_all(&fresh).with_context(|| format!("creating {}", fresh.display()))?;
    for beginning in series.packages {
        let package = newest(&names, beginning).with_context(|| format!("no package {beginning}*{FLAVOUR}"))?;
        let table = apt.madison(package)?;
        let version = table.lines().find_map(|line| line.split('|').nth(1)).context("apt knows no version")?;
        let archive = apt.download(package, version.trim())?;
        let mut dpkg = process::clean("dpkg");
        dpkg.arg("-x").arg(&archive).arg(&fresh);
        process::logged(&mut dpkg, &repo.tools().join("log/kernel.log"), UNPACK)?;
        // Else the next download would be taken for this one.
        fs::remove_file(&archive).context("removing an unpacked archive")?;
    }
    // Unpacked beside and moved: a folder that exists under its name is complete.
    fs::rename(&fresh, folder).with_context(|| format!("moving it to {}", folder.display()))?;
    let _ = fs::remove_dir_all(private);
    Ok(())
}

/// The package with the highest version in its name.
fn newest<'a>(names: &'a str, beginning: &str) -> Option<&'a str> {
    let version = |name: &str| -> Option<Vec<u32>> {
        let rest = name.strip_prefix(beginning)?.strip_suffix(FLAVOUR)?;
        rest.starts_with(|first: char| first.is_ascii_digit())
            .then(|| rest.split(|c: char| !c.is_ascii_digit()).filter_map(|part| part.parse().ok()).collect())
    };
    names.lines().filter(|name| version(name).is_some()).max_by_key(|name| version(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_version_is_taken_and_no_shell_or_debug_package() {
        let names = "linux-image-6.1.0-9-cloud-amd64\nlinux-image-6.1.0-50-cloud-amd64\nlinux-image-6.12.9-cloud-amd64\n\
                     linux-image-6.1.0-51-cloud-amd64-dbg\nlinux-modules-cloud-amd64\nlinux-image-6.1.0-52-amd64\n";
        assert_eq!(newest(names, "linux-image-6.1."), Some("linux-image-6.1.0-50-cloud-amd64"));
        assert_eq!(newest(names, "linux-modules-"), None);
    }
}
