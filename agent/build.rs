//! Lives: build time only.
//! Called by: cargo, before it compiles the agent.
//! May touch: `../ebpf`, the project's tool folder `../.tools`, and a target directory of its own inside `OUT_DIR`.
//! Never: downloads or installs anything; `cargo xtask setup` does that, and the messages here say so.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

const TARGET: &str = "bpfel-unknown-none";
/// What the kernel programs are made from and with.
const WATCHED: [&str; 6] =
    ["ebpf/src", "ebpf/Cargo.toml", "ebpf/Cargo.lock", "common/src", ".tools/bin/bpf-linker", ".tools/core-src"];

fn main() -> Result<(), String> {
    let root = PathBuf::from(var("CARGO_MANIFEST_DIR")?).join("..");
    let out = PathBuf::from(var("OUT_DIR")?);
    for watched in WATCHED.map(|watched| root.join(watched)) {
        // A watched file that does not exist would run this script again at every build.
        if watched.exists() {
            println!("cargo::rerun-if-changed={}", watched.display());
        }
    }
    let target_dir = out.join("ebpf");
    let status = cargo_for_bpf(&root, &target_dir)?.status().map_err(|error| format!("cannot run cargo: {error}"))?;
    if !status.success() {
        return Err("the kernel programs did not build (see above); if bpf-linker or core's source is missing, run `cargo xtask setup`".into());
    }
    for object in ["weir", "bench"] {
        let built = target_dir.join(TARGET).join("release").join(object);
        let to = out.join(format!("{object}.bpf.o"));
        // A copy writes in place: in a target directory that was copied by hard links it would change the other's too.
        let _ = fs::remove_file(&to);
        let copied = fs::copy(&built, &to);
        copied.map_err(|error| format!("cannot copy {}: {error}", built.display()))?;
    }
    Ok(())
}

/// The nested build: stable rustc with `core` built for BPF, linked by the project's own bpf-linker (DESIGN.md section 4).
fn cargo_for_bpf(root: &Path, target_dir: &Path) -> Result<Command, String> {
    let mut cargo = Command::new(var("CARGO")?);
    cargo.current_dir(root.join("ebpf")).args([
        "build",
        "--release",
        "--locked",
        "-Z",
        "build-std=core",
        "--target",
        TARGET,
    ]);
    cargo.arg("--target-dir").arg(target_dir);
    if env::var_os("CARGO_FEATURE_NEXT_LAYOUT").is_some() {
        cargo.args(["--features", "next_layout"]);
    }
    cargo.env("RUSTC_BOOTSTRAP", "1");
    // The separator of CARGO_ENCODED_RUSTFLAGS is the unit separator, so that flags may hold spaces.
    // Without the last flag bpf-linker keeps LLVM from writing small copies and zeroings as plain loads and stores: they become
    // calls of loops that go byte by byte, 10 to 30 ns each, on the way of every connection.
    let mut flags: Vec<String> =
        ["-Cdebuginfo=2", "-Clink-arg=--btf", "-Ctarget-cpu=v3", "-Clink-arg=--disable-expand-memcpy-in-order"]
            .map(str::to_owned)
            .into();
    flags.extend(places_that_do_not_show(root)?);
    cargo.env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"));
    // clippy and other wrappers of the outer build must not wrap the inner one.
    for outer in ["RUSTC", "RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER", "RUSTFLAGS", "CARGO_BUILD_TARGET"] {
        cargo.env_remove(outer);
    }
    let tools = root.join(".tools/bin");
    let path = env::join_paths([tools].into_iter().chain(env::split_paths(&env::var_os("PATH").unwrap_or_default())));
    cargo.env("PATH", path.map_err(|error| format!("PATH cannot be extended: {error}"))?);
    if let Ok(core) = fs::read_to_string(root.join(".tools/core-src")) {
        cargo.env("__CARGO_TESTS_ONLY_SRC_ROOT", core.trim());
    }
    Ok(cargo)
}

/// Line information names files: the same sources give the same programs, wherever they were built.
fn places_that_do_not_show(root: &Path) -> Result<Vec<String>, String> {
    let root = fs::canonicalize(root).map_err(|error| format!("cannot resolve {}: {error}", root.display()))?;
    let mut flags = vec![format!("--remap-path-prefix={}=/weir", root.display())];
    flags.extend(env::var("CARGO_HOME").map(|home| format!("--remap-path-prefix={home}=/cargo")));
    Ok(flags)
}

fn var(name: &str) -> Result<String, String> {
    env::var(name).map_err(|error| format!("{name}: {error}"))
}
