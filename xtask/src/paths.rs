//! Lives: xtask, where things are.
//! Called by: every task.
//! May touch: nothing but the environment and `cargo metadata`, read-only.
//! Never: guesses a path twice in different ways.

use std::env;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::process;

/// The checkout this xtask belongs to.
pub struct Repo {
    root: PathBuf,
}

impl Repo {
    /// Finds the checkout from what cargo says at run time, so that a shared target folder never leads into another one.
    pub fn find() -> Result<Repo> {
        let manifest = env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
        let root = Path::new(&manifest).parent().map(Path::to_path_buf).unwrap_or_default();
        ensure!(
            root.join("xtask/Cargo.toml").is_file(),
            "{} is not the Weir repository; run `cargo xtask` inside it",
            root.display()
        );
        Ok(Repo { root })
    }

    /// A checkout at a known place, for tests.
    #[cfg(test)]
    pub fn at(root: &Path) -> Repo {
        Repo { root: root.to_path_buf() }
    }

    /// The checkout's top folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The project's own tools; nothing in it is needed by git, everything can be brought again.
    pub fn tools(&self) -> PathBuf {
        self.root.join(".tools")
    }

    /// Where cargo builds, as cargo itself says (environment and user configuration included).
    pub fn target(&self) -> Result<PathBuf> {
        let mut cargo = process::cargo(self);
        cargo.args(["metadata", "--no-deps", "--format-version", "1"]);
        let text = process::capture(&mut cargo).context("asking cargo where it builds")?;
        let json: serde_json::Value = serde_json::from_str(&text).context("reading cargo metadata")?;
        let folder = json.get("target_directory").and_then(serde_json::Value::as_str);
        folder.map(PathBuf::from).context("cargo metadata names no target_directory")
    }
}
