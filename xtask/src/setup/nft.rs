//! Lives: xtask, setup's bringing of `nft`, with which live tests translate Services' addresses as a proxy does.
//! Called by: setup, for tasks that run live tests.
//! May touch: `.tools/nft`; the mirror that this machine's apt is configured for.
//! Never: installs a package; runs `nft`, let alone in this machine's namespace.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::apt::Apt;
use super::{Failure, Found, lock};
use crate::paths::Repo;
use crate::process;

const PACKAGE: &str = "nftables";

/// Some small archives.
const UNPACK: Duration = Duration::from_secs(60);

/// Where the program lies once it was brought, below its folder. Its libraries lie below `usr/lib`.
const PROGRAM: &str = "usr/sbin/nft";

/// Finds `nft`, or brings it. `lenient` says that it is lacking without failing.
pub fn ensure(repo: &Repo, lenient: bool) -> Result<Found, Failure> {
    let folder = repo.tools().join("nft");
    if let Some(program) = on_path().or_else(|| Some(folder.join(PROGRAM)).filter(|program| program.is_file())) {
        return Ok(Found::Ok(program.display().to_string()));
    }
    let brought = lock(repo).and_then(|_held| bring(repo, &folder));
    match brought {
        Ok(()) => Ok(Found::Ok(folder.join(PROGRAM).display().to_string())),
        Err(error) => {
            let failure = Failure::new(format!("{error:#}"), "install nftables, so that `nft` is on the PATH");
            if lenient { Ok(Found::Lacking(failure)) } else { Err(failure) }
        }
    }
}

fn on_path() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let here = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    here.map(|folder| folder.join("nft")).find(|program| program.is_file())
}

/// The package of the release this machine runs, with those of its libraries that are not installed.
fn bring(repo: &Repo, folder: &Path) -> Result<()> {
    let release = fs::read_to_string("/etc/os-release").context("reading which release this is")?;
    let Some(suite) = codename(&release) else { bail!("no Debian release whose packages would fit") };
    let mut tried = Vec::new();
    for mirror in Apt::mirrors().context("asking apt for Debian's mirror")? {
        match bring_from(repo, folder, &mirror, suite) {
            Ok(()) => return Ok(()),
            Err(error) => tried.push(format!("{mirror}: {error:#}")),
        }
    }
    bail!("no mirror gave {PACKAGE} ({})", tried.join("; "))
}

fn bring_from(repo: &Repo, folder: &Path, mirror: &str, suite: &str) -> Result<()> {
    let private = repo.tools().join("nft-apt");
    let apt = Apt::private(&private, mirror, suite)?;
    apt.update()?;
    // Unpacked beside and moved: a folder that exists under its name is complete.
    let fresh = repo.tools().join("nft-unpacking");
    let _ = fs::remove_dir_all(&fresh);
    for package in apt.download_with_needs(PACKAGE)? {
        let mut dpkg = process::clean("dpkg");
        dpkg.arg("-x").arg(&package).arg(&fresh);
        process::logged(&mut dpkg, &repo.tools().join("log/nft.log"), UNPACK)?;
    }
    let _ = fs::remove_dir_all(folder);
    fs::rename(&fresh, folder).with_context(|| format!("moving it to {}", folder.display()))?;
    let _ = fs::remove_dir_all(private);
    Ok(())
}

fn codename(release: &str) -> Option<&str> {
    let value = |key| release.lines().find_map(move |line| line.strip_prefix(key));
    let name = value("VERSION_CODENAME=").filter(|_| value("ID=") == Some("debian"))?;
    Some(name.trim_matches('"'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_debian_release_is_taken_for_one() {
        assert_eq!(codename("ID=debian\nVERSION_CODENAME=bookworm\n"), Some("bookworm"));
        assert_eq!(codename("VERSION_CODENAME=\"noble\"\nID=ubuntu\n"), None);
        assert_eq!(codename(""), None);
    }
}
