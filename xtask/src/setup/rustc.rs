//! Lives: xtask, setup's look at the compiler.
//! Called by: setup, first; `rust_src` for the version.
//! May touch: `rustc -vV`.
//! Never: installs or switches a toolchain.

use std::env;
use std::path::PathBuf;
use std::process::Command;

use super::{Failure, Found};
use crate::paths::Repo;
use crate::{pins, process};

/// What `rustc -vV` says, as far as it matters here.
#[derive(Debug, PartialEq, Eq)]
pub struct Version {
    /// For example `1.95.0`.
    pub release: String,
    /// LLVM's major version.
    pub llvm: u64,
}

/// Refuses a compiler that cannot build the workspace or that the pinned linker cannot read.
pub fn check(repo: &Repo) -> Result<Found, Failure> {
    let version = version(repo)?;
    judge(&version).map(|()| Found::Ok(format!("{} with LLVM {}", version.release, version.llvm)))
}

/// The compiler that cargo will use in the checkout.
pub fn version(repo: &Repo) -> Result<Version, Failure> {
    let text = process::capture(command(repo).arg("-vV"));
    let text = text.map_err(|error| Failure::new(format!("{error:#}"), wanted()))?;
    parse(&text).ok_or_else(|| Failure::new("`rustc -vV` could not be read", wanted()))
}

/// The compiler's own folder.
pub fn sysroot(repo: &Repo) -> Result<PathBuf, Failure> {
    let text = process::capture(command(repo).args(["--print", "sysroot"]));
    let text = text.map_err(|error| Failure::new(format!("{error:#}"), wanted()))?;
    Ok(PathBuf::from(text.trim()))
}

fn command(repo: &Repo) -> Command {
    let mut command = process::clean(env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
    command.current_dir(repo.root());
    command
}

fn parse(text: &str) -> Option<Version> {
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let llvm = field("LLVM version:")?.split('.').next()?.parse().ok()?;
    Some(Version { release: field("release:")?.to_owned(), llvm })
}

fn judge(version: &Version) -> Result<(), Failure> {
    let mut numbers = version.release.split('.').map_while(|part| part.parse::<u64>().ok());
    let release = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if release < pins::RUSTC {
        return Err(Failure::new(format!("rustc {} is too old", version.release), wanted()));
    }
    if version.llvm != pins::LLVM {
        let what =
            format!("rustc {} carries LLVM {}, the BPF linker is for {}", version.release, version.llvm, pins::LLVM);
        return Err(Failure::new(what, wanted()));
    }
    Ok(())
}

fn wanted() -> String {
    let (major, minor) = pins::RUSTC;
    format!(
        "use Rust {major}.{minor}, for example `rustup toolchain install {major}.{minor}` and `rustup override set {major}.{minor}` here"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(release: &str, llvm: u64) -> Version {
        Version { release: release.to_owned(), llvm }
    }

    #[test]
    fn what_rustc_prints_is_read() {
        let text =
            "rustc 1.95.0 (59807616e 2026-04-14)\nbinary: rustc\nhost: x\nrelease: 1.95.0\nLLVM version: 22.1.2\n";
        assert_eq!(parse(text), Some(version("1.95.0", 22)));
        assert_eq!(parse("rustc 1.95.0\n"), None);
    }

    #[test]
    fn compilers_are_judged_by_release_and_llvm() {
        let rows = [
            ("1.95.0", 22, true),
            ("1.96.1", 22, true),
            ("1.94.1", 22, false),
            ("1.98.0", 23, false),
            ("x", 22, false),
        ];
        for (release, llvm, good) in rows {
            assert_eq!(judge(&version(release, llvm)).is_ok(), good, "{release} with LLVM {llvm}");
        }
    }
}
