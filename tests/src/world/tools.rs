//! Lives: weir-tests, programs that setup brings from Debian where this machine has none.
//! Called by: nat, the benchmark of XDP, the tests of alerts.
//! May touch: nothing; the callers start the programs, inside namespaces of their own.
//! Never: installs or downloads anything: `cargo xtask setup` does that.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Where setup puts them.
const BROUGHT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../.tools");

/// A program of another project.
#[derive(Clone, Copy, Debug)]
pub struct Tool {
    /// Its name, where it is installed.
    pub name: &'static str,
    /// Its folder below `.tools`, where it was brought.
    pub folder: &'static str,
    /// Where it lies in there.
    pub program: &'static str,
}

/// nftables.
pub const NFT: Tool = Tool { name: "nft", folder: "nft", program: "usr/sbin/nft" };
/// iptables, the one that speaks to its own part of the kernel.
pub const IPTABLES: Tool = Tool { name: "iptables-legacy", folder: "iptables", program: "usr/sbin/iptables-legacy" };
/// The packet filter of xdp-tools.
pub const XDP_FILTER: Tool = Tool { name: "xdp-filter", folder: "xdp-tools", program: "usr/sbin/xdp-filter" };
/// Prometheus.
pub const PROMETHEUS: Tool = Tool { name: "prometheus", folder: "prometheus", program: "usr/bin/prometheus" };
/// What checks Prometheus' files; comes with it.
pub const PROMTOOL: Tool = Tool { name: "promtool", folder: "prometheus", program: "usr/bin/promtool" };

impl Tool {
    /// Starts the one that setup brought, or else the machine's own.
    #[must_use]
    pub fn command(self) -> (Command, PathBuf) {
        let brought = self.brought();
        let program = brought.join(self.program);
        if !program.is_file() {
            return (Command::new(self.name), PathBuf::from(self.name));
        }
        let mut command = Command::new(&program);
        command.env("LD_LIBRARY_PATH", libraries(&brought));
        (command, program)
    }

    /// The folder of what it brings along (modules, kernel programs), if it was brought.
    #[must_use]
    pub fn libraries(self) -> Option<PathBuf> {
        Some(self.brought()).filter(|brought| brought.join(self.program).is_file()).map(|brought| libraries(&brought))
    }

    /// Whether there is one that starts.
    #[must_use]
    pub fn available(self) -> bool {
        let (mut program, _) = self.command();
        program.arg("--version").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        // xdp-filter knows no such option. What lacks its libraries ends with the code of who is not there.
        program.status().is_ok_and(|status| status.code().is_some_and(|code| code != 127))
    }

    fn brought(self) -> PathBuf {
        Path::new(BROUGHT).join(self.folder)
    }
}

/// The folder of libraries, which is named after the machine.
fn libraries(brought: &Path) -> PathBuf {
    let folders = std::fs::read_dir(brought.join("usr/lib")).into_iter().flatten().flatten();
    let mut folders = folders.map(|entry| entry.path()).filter(|path| path.is_dir());
    folders.find(|path| path.to_string_lossy().contains("linux-gnu")).unwrap_or_else(|| brought.join("usr/lib"))
}
