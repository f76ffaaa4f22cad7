//! Lives: xtask, setup's bringing of `nft`, which the benchmark compares with.
//! Called by: `bench socket`.
//! May touch: `.tools/nft`; the mirror that this machine's apt is configured for.
//! Never: installs a package; stops a task for want of it: the benchmark then says what it could not measure.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::apt::Apt;
use super::{Found, lock, say};
use crate::paths::Repo;
use crate::process;
use crate::setup::Failure;

/// nftables, and the libraries that a machine without it may lack.
const PACKAGES: [&str; 9] = [
    "nftables",
    "libnftables1",
    "libnftnl11",
    "libmnl0",
    "libjansson4",
    "libxtables12",
    "libedit2",
    "libgmp10",
    "libbsd0",
];
const UNPACK: Duration = Duration::from_secs(60);
/// Where Debian has programs for root.
const INSTALLED: [&str; 2] = ["/usr/sbin/nft", "/sbin/nft"];

/// The program, and the folder of its libraries where they are not the system's.
pub struct Nft {
    /// What to start.
    pub program: PathBuf,
    /// For `LD_LIBRARY_PATH`.
    pub libraries: Option<PathBuf>,
}

/// The machine's own, or the one in `.tools`.
pub fn find(repo: &Repo) -> Option<Nft> {
    let own = folder(repo).join("usr/sbin/nft");
    if let Some(program) = INSTALLED.iter().map(PathBuf::from).find(|path| path.is_file()) {
        return Some(Nft { program, libraries: None });
    }
    let libraries = folder(repo).join("usr/lib").join(format!("{}-linux-gnu", std::env::consts::ARCH));
    own.is_file().then_some(Nft { program: own, libraries: Some(libraries) })
}

/// Brings it where it is missing.
pub fn ensure(repo: &Repo) -> Result<Found, Failure> {
    if let Some(nft) = find(repo) {
        return Ok(Found::Ok(nft.program.display().to_string()));
    }
    let remedy = "install Debian's package nftables, or do without: the comparison is left out";
    let lacking = |error: anyhow::Error| Found::Lacking(Failure::new(format!("{error:#}"), remedy));
    let _held = lock(repo).map_err(|error| Failure::new(format!("{error:#}"), "make the repository writable"))?;
    say("unpacking Debian's package ... ");
    Ok(match bring(repo) {
        Ok(()) => Found::Ok(folder(repo).display().to_string()),
        Err(error) => lacking(error),
    })
}

fn folder(repo: &Repo) -> PathBuf {
    repo.tools().join("nft")
}

/// This system's own suite: its libraries are what the program was linked to.
fn bring(repo: &Repo) -> Result<()> {
    let os = fs::read_to_string("/etc/os-release").context("which system is this?")?;
    let suite = os.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME=")).context("not a Debian")?;
    let fresh = repo.tools().join("nft-unpacking");
    for mirror in Apt::mirrors().context("asking apt for Debian's mirror")? {
        let apt = Apt::private(&repo.tools().join("nft-apt"), &mirror, suite)?;
        if apt.update().is_err() {
            continue;
        }
        let _ = fs::remove_dir_all(&fresh);
        for package in PACKAGES {
            let table = apt.madison(package)?;
            let version = table.lines().find_map(|line| line.split('|').nth(1)).map(str::trim);
            let version = version.with_context(|| format!("{suite} has no {package}"))?;
            let file = apt.download(package, version)?;
            let mut dpkg = process::clean("dpkg");
            dpkg.arg("-x").arg(&file).arg(&fresh);
            process::logged(&mut dpkg, &repo.tools().join("log/nft.log"), UNPACK)?;
            // The next one must be the only archive there.
            fs::remove_file(&file).with_context(|| format!("removing {}", file.display()))?;
        }
        // Moved when complete: a folder that exists under its name is.
        fs::rename(&fresh, folder(repo)).context("moving nft to its place")?;
        let _ = fs::remove_dir_all(repo.tools().join("nft-apt"));
        return Ok(());
    }
    bail!("no archive could be reached")
}
