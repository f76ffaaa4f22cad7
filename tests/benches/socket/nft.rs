//! Lives: weir-tests, the benchmark of the socket hooks: nftables, for comparison.
//! Called by: the benchmark, once.
//! May touch: the rules of namespaces of its own world, by the program `nft`.
//! Never: rules of the host's: `nft` is started in the namespace.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use weir_tests::world::netns;

use crate::site::{LAST_PORT, PORT, Site, Wire};

/// Rules that do not match before the one that does.
const LINEAR: u32 = 1000;

/// Writes the rules of both wires, or says why there are none.
pub fn prepare(site: &Site) -> Result<()> {
    for (wire, rules) in [(Wire::Conntrack, 0), (Wire::Linear, LINEAR)] {
        let [client, server] = site.namespaces(wire);
        load(&client, &ruleset("output", rules))?;
        load(&server, &ruleset("input", rules))?;
    }
    Ok(())
}

fn ruleset(hook: &str, rules: u32) -> String {
    let mut text = format!(
        "table inet bench {{\n chain weigh {{\n  type filter hook {hook} priority 0; policy drop;\n  \
         ct state established,related accept\n"
    );
    for rule in 0..rules {
        let (third, fourth) = (rule / 256, rule % 256);
        // Writing to a string cannot fail.
        let _ = writeln!(text, "  ip saddr 10.99.{third}.{fourth} tcp dport {} ct state new accept", 10_000 + rule);
    }
    text + &format!("  tcp dport {PORT}-{LAST_PORT} ct state new accept\n }}\n}}\n")
}

fn load(namespace: &Path, rules: &str) -> Result<()> {
    // WEIR_NFT: where `cargo xtask bench socket` unpacked it; its libraries are on LD_LIBRARY_PATH then.
    let program = std::env::var_os("WEIR_NFT").unwrap_or_else(|| "nft".into());
    let run = || -> Result<()> {
        let mut nft = Command::new(&program);
        if let Some(libraries) = std::env::var_os("WEIR_NFT_LIBRARIES") {
            nft.env("LD_LIBRARY_PATH", libraries);
        }
        nft.args(["-f", "-"]).stdin(Stdio::piped()).stderr(Stdio::piped());
        let mut child = nft.spawn().with_context(|| format!("starting {}", program.display()))?;
        child.stdin.take().context("no standard input")?.write_all(rules.as_bytes())?;
        let output = child.wait_with_output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "nft: {}", said.lines().next().unwrap_or("failed without a word"));
        Ok(())
    };
    let mut outcome = None;
    netns::inside(namespace, || {
        outcome = Some(run());
        Ok(())
    })?;
    match outcome {
        Some(outcome) => outcome,
        None => bail!("nft was not run"),
    }
}
