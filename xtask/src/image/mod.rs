//! Lives: xtask, the task `image`: static programs, a container image FROM scratch, and what it is made of.
//! Called by: a person; nightly runs.
//! May touch: `target/image`, and container storage of its own inside it.
//! Never: uses the machine's own images or storage; pushes anywhere.

mod sbom;
mod trial;
mod world;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;

use crate::paths::Repo;
use crate::{process, setup};

/// Shown below `cargo xtask image --help`.
pub const HELP: &str = "\
Needs buildah (Debian: `apt-get install buildah`); --test also podman, runc and root. What comes out is in target/image:
weir.oci.tar, weir.cdx.json (CycloneDX: every crate in the programs) and digest.

Examples:
  cargo xtask image                    build the programs and the image, twice, and compare
  cargo xtask image --test             then run it under podman as the DaemonSet would, and see that it enforces
  cargo xtask image --test --reuse     with the programs that were built before";

/// `cargo xtask image`.
#[derive(Args)]
pub struct Options {
    /// Run it as the DaemonSet would: an agent in a container must enforce on other containers
    #[arg(long)]
    test: bool,
    /// Take the programs as they were built before
    #[arg(long)]
    reuse: bool,
    /// For the test, other capabilities than the DaemonSet's, such as BPF,NET_ADMIN: shows what each is for
    #[arg(long, value_name = "LIST", requires = "test", value_delimiter = ',')]
    capabilities: Option<Vec<String>>,
}

/// By which an agent of a debug build is told to fail.
const FAULTS: &[u8] = b"WEIR_FAULTS";
/// What an agent calls itself whose layouts are those of the next version, for tests.
const NEXT_LAYOUT: &[u8] = b"-weir-next-layout";

/// What the image is called where it is built.
const NAME: &str = "localhost/weir";
/// There is no musl target to rely on: glibc is linked in. Only with an explicit target are proc macros left as they are.
const TARGET: &str = "x86_64-unknown-linux-gnu";
const PROFILE: &str = "dist";
const PACKAGES: [&str; 3] = ["weir-agent", "weir-collector", "weir-ctl"];
const PROGRAMS: [&str; 3] = ["weir-agent", "weir-collector", "weirctl"];

/// `cargo xtask image`.
pub fn task(repo: &Repo, options: &Options) -> Result<bool> {
    setup::demand(repo, setup::For::Build)?;
    let built = repo.target()?.join(TARGET).join(PROFILE);
    if !options.reuse {
        programs(repo)?;
    }
    let folder = repo.target()?.join("image");
    let context = context(repo, &built, &folder)?;
    let epoch = process::capture(git(repo).args(["log", "-1", "--format=%ct"]))?.trim().to_owned();
    let digests = [image(&context, &folder.join("first"), &epoch)?, image(&context, &folder.join("second"), &epoch)?];
    ensure!(digests[0] == digests[1], "two builds of the same programs differ: {digests:?}");
    export(&folder)?;
    fs::write(folder.join("digest"), format!("{}\n", digests[0])).context("writing the digest")?;
    sbom::write(repo, &folder.join("weir.cdx.json"))?;
    println!("image: {}/weir.oci.tar, twice {}", folder.display(), digests[0]);
    if options.test {
        return trial::run(repo, &folder, &built, options.capabilities.as_deref());
    }
    Ok(true)
}

fn programs(repo: &Repo) -> Result<()> {
    let mut cargo = process::cargo(repo);
    cargo.args(["build", "--locked", "--profile", PROFILE, "--target", TARGET]);
    cargo.args(PACKAGES.iter().flat_map(|package| ["--package", package]));
    cargo.env_remove("RUSTFLAGS").env("CARGO_ENCODED_RUSTFLAGS", flags(repo)?.join("\u{1f}"));
    if !process::shown(&mut cargo)? {
        bail!("the build failed; cargo's message is above");
    }
    Ok(())
}

/// Static, and without the names of this machine's folders, so that other machines get the same programs.
fn flags(repo: &Repo) -> Result<Vec<String>> {
    let home = std::env::var("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|_| std::env::var("HOME").map(|home| Path::new(&home).join(".cargo")));
    let home = home.context("finding cargo's folder: neither CARGO_HOME nor HOME is set")?;
    Ok(vec![
        "-Ctarget-feature=+crt-static".to_owned(),
        format!("--remap-path-prefix={}=/weir", repo.root().display()),
        format!("--remap-path-prefix={}=/cargo", home.display()),
        standard_library()?,
    ])
}

/// Where the toolchain has the library's source, panics in generic code name it; elsewhere they name this.
fn standard_library() -> Result<String> {
    let said = process::capture(process::clean("rustc").args(["--print", "sysroot"]))?;
    let sysroot = said.trim();
    let version = process::capture(process::clean("rustc").arg("-vV"))?;
    let commit = version.lines().find_map(|line| line.strip_prefix("commit-hash: ")).context("rustc has no commit")?;
    Ok(format!("--remap-path-prefix={sysroot}/lib/rustlib/src/rust=/rustc/{commit}"))
}

/// A folder that holds what the image is made of and nothing else.
fn context(repo: &Repo, built: &Path, folder: &Path) -> Result<PathBuf> {
    let context = folder.join("context");
    let _ = fs::remove_dir_all(&context);
    fs::create_dir_all(&context).with_context(|| format!("creating {}", context.display()))?;
    for program in PROGRAMS {
        let from = built.join(program);
        is_static(&from)?;
        is_no_test_build(&from)?;
        // chmod in buildah is `COPY --chmod`, which old ones lack: cargo's own mode is 755 already.
        fs::copy(&from, context.join(program)).with_context(|| format!("copying {}", from.display()))?;
    }
    let file = repo.root().join("deploy/image/Containerfile");
    fs::copy(&file, context.join("Containerfile")).with_context(|| format!("copying {}", file.display()))?;
    Ok(context)
}

/// Without an interpreter in the image, a program that asks for one ends with "no such file".
fn is_static(program: &Path) -> Result<()> {
    let text = process::capture(process::clean("readelf").arg("-lW").arg(program))?;
    ensure!(!text.contains("INTERP"), "{} is not static", program.display());
    Ok(())
}

/// What is shipped cannot be told to fail (`agent/src/faults.rs` is a part of debug builds only), and has the layouts of its version.
fn is_no_test_build(program: &Path) -> Result<()> {
    let bytes = fs::read(program).with_context(|| format!("reading {}", program.display()))?;
    let holds = |word: &[u8]| bytes.windows(word.len()).any(|bytes| bytes == word);
    ensure!(!holds(FAULTS), "{} has the fault points of debug builds", program.display());
    ensure!(!holds(NEXT_LAYOUT), "{} was built with the feature next_layout, which is for tests", program.display());
    Ok(())
}

/// Builds once, in storage of its own, and says the digest of the image's manifest.
fn image(context: &Path, storage: &Path, epoch: &str) -> Result<String> {
    let mut buildah = buildah(storage);
    buildah.args(["bud", "--isolation", "chroot", "--no-cache", "--timestamp", epoch, "--tag", NAME]).arg(context);
    process::logged(&mut buildah, &storage.with_extension("log"), std::time::Duration::from_secs(300))?;
    let digest = storage.with_extension("digest");
    let mut buildah = self::buildah(storage);
    buildah.args(["push", "--quiet", "--digestfile"]).arg(&digest).arg(NAME);
    process::capture(buildah.arg(format!("oci:{}:latest", fresh(&storage.with_extension("oci"))?.display())))?;
    fs::read_to_string(&digest).context("reading the digest that buildah wrote").map(|text| text.trim().to_owned())
}

fn export(folder: &Path) -> Result<()> {
    let archive = folder.join("weir.oci.tar");
    let _ = fs::remove_file(&archive);
    let to = format!("oci-archive:{}:{NAME}", archive.display());
    process::capture(buildah(&folder.join("first")).args(["push", "--quiet", NAME, &to])).map(drop)
}

/// buildah with storage and state of its own. Plain folders: an overlay may not be possible where the checkout lies.
fn buildah(storage: &Path) -> Command {
    let mut buildah = process::clean("buildah");
    buildah.args(["--storage-driver", "vfs", "--root"]).arg(storage).arg("--runroot").arg(storage.join("run"));
    buildah
}

fn fresh(folder: &Path) -> Result<&Path> {
    if folder.exists() {
        fs::remove_dir_all(folder).with_context(|| format!("removing {}", folder.display()))?;
    }
    Ok(folder)
}

fn git(repo: &Repo) -> Command {
    let mut git = process::clean("git");
    git.current_dir(repo.root());
    git
}
