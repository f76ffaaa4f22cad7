//! Lives: xtask, setup's bringing of programs from Debian: `nft`, with which live tests translate Services' addresses as a proxy does,
//! Prometheus, which reads the agent's metrics in them, and what the benchmark of XDP measures beside it.
//! Called by: setup, for tasks that run live tests; bench; vm.
//! May touch: the program's folder in `.tools`; the mirror that this machine's apt is configured for.
//! Never: installs a package; runs what it brings, let alone in this machine's namespace.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::apt::Apt;
use super::{Failure, Found, lock};
use crate::paths::Repo;
use crate::process;

/// A program, and the package it comes in. tests/src/world/tools.rs finds them.
#[derive(Clone, Copy)]
pub struct Program {
    /// What it is called where it is installed.
    name: &'static str,
    package: &'static str,
    /// Its folder below `.tools`; its libraries lie below `usr/lib` there.
    folder: &'static str,
    /// Where it lies once it was brought.
    program: &'static str,
}

/// nftables.
pub const NFT: Program = Program { name: "nft", package: "nftables", folder: "nft", program: "usr/sbin/nft" };
/// iptables, the one that speaks to its own part of the kernel.
pub const IPTABLES: Program =
    Program { name: "iptables-legacy", package: "iptables", folder: "iptables", program: "usr/sbin/iptables-legacy" };

/// Prometheus, with promtool beside it.
pub const PROMETHEUS: Program =
    Program { name: "prometheus", package: "prometheus", folder: "prometheus", program: "usr/bin/prometheus" };

/// The emulator in which other kernels boot.
pub const QEMU: Program = Program {
    name: "qemu-system-x86_64",
    package: "qemu-system-x86",
    folder: "vm/qemu",
    program: "usr/bin/qemu-system-x86_64",
};
/// What makes and starts their file system: one static program.
pub const BUSYBOX: Program =
    Program { name: "busybox", package: "busybox-static", folder: "vm/busybox", program: "bin/busybox" };

/// Some archives, of which the largest unpacks to 90 MB.
const UNPACK: Duration = Duration::from_secs(60);

/// The packet filter of xdp-tools.
pub const XDP_FILTER: Program =
    Program { name: "xdp-filter", package: "xdp-tools", folder: "xdp-tools", program: "usr/sbin/xdp-filter" };

/// Finds a program, or brings it. `lenient` says that it is lacking without failing.
pub fn ensure(repo: &Repo, wanted: Program, lenient: bool) -> Result<Found, Failure> {
    let brought = repo.tools().join(wanted.folder).join(wanted.program);
    if let Some(program) = wanted.on_path().or_else(|| Some(brought.clone()).filter(|program| program.is_file())) {
        return Ok(Found::Ok(program.display().to_string()));
    }
    match lock(repo).and_then(|_held| bring(repo, wanted)) {
        Ok(()) => Ok(Found::Ok(brought.display().to_string())),
        Err(error) => {
            let remedy = format!("install {}, so that `{}` is on the PATH", wanted.package, wanted.name);
            let failure = Failure::new(format!("{error:#}"), remedy);
            if lenient { Ok(Found::Lacking(failure)) } else { Err(failure) }
        }
    }
}

/// The folder of a program that is taken from Debian whatever the PATH has; brought if it is not there.
pub fn folder(repo: &Repo, wanted: Program) -> Result<PathBuf> {
    let folder = repo.tools().join(wanted.folder);
    let _held = lock(repo)?;
    if !folder.join(wanted.program).is_file() {
        fs::create_dir_all(repo.tools().join("vm")).context("creating .tools/vm")?;
        bring(repo, wanted)?;
    }
    Ok(folder)
}

impl Program {
    fn on_path(self) -> Option<PathBuf> {
        let path = std::env::var_os("PATH")?;
        let here = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
        here.map(|folder| folder.join(self.name)).find(|program| program.is_file())
    }
}

/// The package of the release this machine runs, with those of its libraries that are not installed.
fn bring(repo: &Repo, wanted: Program) -> Result<()> {
    let release = fs::read_to_string("/etc/os-release").context("reading which release this is")?;
    let Some(suite) = codename(&release) else { bail!("no Debian release whose packages would fit") };
    let mut tried = Vec::new();
    for mirror in Apt::mirrors().context("asking apt for Debian's mirror")? {
        match bring_from(repo, wanted, &mirror, suite) {
            Ok(()) => return Ok(()),
            Err(error) => tried.push(format!("{mirror}: {error:#}")),
        }
    }
    bail!("no mirror gave {} ({})", wanted.package, tried.join("; "))
}

fn bring_from(repo: &Repo, wanted: Program, mirror: &str, suite: &str) -> Result<()> {
    let beside = |end| repo.tools().join(format!("{}-{end}", wanted.folder));
    let (folder, private) = (repo.tools().join(wanted.folder), beside("apt"));
    let apt = Apt::private(&private, mirror, suite)?;
    apt.update()?;
    // Unpacked beside and moved: a folder that exists under its name is complete.
    let fresh = beside("unpacking");
    let log = repo.tools().join(format!("log/{}.log", wanted.folder));
    let _ = fs::remove_dir_all(&fresh);
    for package in apt.download_with_needs(wanted.package)? {
        let mut dpkg = process::clean("dpkg");
        dpkg.arg("-x").arg(&package).arg(&fresh);
        process::logged(&mut dpkg, &log, UNPACK)?;
    }
    let _ = fs::remove_dir_all(&folder);
    fs::rename(&fresh, &folder).with_context(|| format!("moving it to {}", folder.display()))?;
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
