//! Lives: xtask, setup's bringing of `core`'s source, which `-Z build-std=core` compiles for the kernel's target.
//! Called by: setup.
//! May touch: rustup's `rust-src` component, `.tools/core-src` and the folder that file names.
//! Never: accepts the source of another version; touches the toolchain other than through rustup.

use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{env, fs};

use anyhow::{Result, anyhow, bail};

use super::{Failure, Found, debian, lock, rustc, say};
use crate::paths::Repo;
use crate::process;

/// rustup retries a network it cannot reach for a while; more than this nobody wants to wait.
const RUSTUP: Duration = Duration::from_secs(90);

/// Names the source for agent/build.rs, which hands it to cargo; absent when the toolchain has its own.
const POINTER: &str = "core-src";

/// Which ways are open (`WEIR_SETUP_RUST_SRC`).
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    /// The toolchain's own, then rustup, then Debian.
    Any,
    Rustup,
    Debian,
}

/// Makes `core`'s source reachable, in the order the design gives.
pub fn ensure(repo: &Repo) -> Result<Found, Failure> {
    let way = Way::from_environment()?;
    let version = rustc::version(repo)?.release;
    let own = rustc::sysroot(repo)?.join("lib/rustlib/src/rust/library");
    if let Some(found) = present(repo, way, &version, &own) {
        return Ok(found);
    }
    let _held = lock(repo).map_err(|error| Failure::new(format!("{error:#}"), "make the repository writable"))?;
    if let Some(found) = present(repo, way, &version, &own) {
        return Ok(found);
    }
    let mut tried = Vec::new();
    if way != Way::Debian {
        match from_rustup(repo, &own) {
            Ok(()) => return Ok(Found::Ok(own.display().to_string())),
            Err(error) => tried.push(format!("{error:#}")),
        }
    }
    if way != Way::Rustup {
        match from_debian(repo, &version) {
            Ok(library) => return Ok(Found::Ok(library.display().to_string())),
            Err(error) => tried.push(format!("{error:#}")),
        }
    }
    let remedy = format!(
        "let rustup reach its server and run `rustup component add rust-src`, or put the rust-src of {version} there by other means"
    );
    Err(Failure::new(tried.join("\n  "), remedy))
}

impl Way {
    fn from_environment() -> Result<Way, Failure> {
        match env::var("WEIR_SETUP_RUST_SRC").as_deref() {
            Err(_) | Ok("" | "auto") => Ok(Way::Any),
            Ok("rustup") => Ok(Way::Rustup),
            Ok("debian") => Ok(Way::Debian),
            Ok(other) => {
                Err(Failure::new(format!("WEIR_SETUP_RUST_SRC={other} means nothing"), "auto, rustup or debian"))
            }
        }
    }
}

/// What is there already. The toolchain's own wins, and then a pointer left by an earlier fallback goes.
fn present(repo: &Repo, way: Way, version: &str, own: &Path) -> Option<Found> {
    let pointer = repo.tools().join(POINTER);
    if way != Way::Debian && is_core(own) {
        // Usually there is none; one that stays would only mean the same source from another place.
        let _ = fs::remove_file(pointer);
        return Some(Found::Ok(own.display().to_string()));
    }
    if way == Way::Rustup {
        return None;
    }
    let named = PathBuf::from(fs::read_to_string(pointer).ok()?.trim());
    let same = named == debian::library(repo, version);
    (same && is_core(&named)).then(|| Found::Ok(named.display().to_string()))
}

fn is_core(library: &Path) -> bool {
    library.join("core/src/lib.rs").is_file() && library.join("Cargo.toml").is_file()
}

fn from_rustup(repo: &Repo, own: &Path) -> Result<()> {
    say("asking rustup ... ");
    let mut rustup = process::clean("rustup");
    rustup.args(["component", "add", "rust-src"]).current_dir(repo.root());
    process::logged(&mut rustup, &repo.tools().join("log/rust-src.log"), RUSTUP)?;
    if is_core(own) { Ok(()) } else { bail!("rustup succeeded but {} is not there", own.display()) }
}

fn from_debian(repo: &Repo, version: &str) -> Result<PathBuf> {
    say("asking Debian ... ");
    let library = debian::bring(repo, version)?;
    if !is_core(&library) {
        bail!("Debian's package holds no core at {}", library.display());
    }
    let pointer = repo.tools().join(POINTER);
    fs::write(&pointer, format!("{}\n", library.display()))
        .map_err(|error| anyhow!("writing {}: {error}", pointer.display()))?;
    Ok(library)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn core_at(library: &Path) {
        fs::create_dir_all(library.join("core/src")).unwrap();
        fs::write(library.join("core/src/lib.rs"), "").unwrap();
        fs::write(library.join("Cargo.toml"), "").unwrap();
    }

    #[test]
    fn the_toolchains_own_source_wins_and_retires_the_fallback() {
        let folder = tempfile::tempdir().unwrap();
        let repo = Repo::at(folder.path());
        let own = folder.path().join("own");
        let library = debian::library(&repo, "1.95.0");
        core_at(&library);
        fs::write(repo.tools().join(POINTER), format!("{}\n", library.display())).unwrap();

        assert!(present(&repo, Way::Any, "1.95.0", &own).is_some(), "the fallback serves while there is no other");
        assert!(present(&repo, Way::Any, "1.96.0", &own).is_none(), "a source of another version does not");
        assert!(present(&repo, Way::Rustup, "1.95.0", &own).is_none());

        core_at(&own);
        assert!(present(&repo, Way::Debian, "1.95.0", &own).is_some());
        assert!(repo.tools().join(POINTER).exists());
        assert!(present(&repo, Way::Any, "1.95.0", &own).is_some());
        assert!(!repo.tools().join(POINTER).exists());
    }
}
