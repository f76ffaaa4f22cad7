//! Lives: weir-tests, the benchmark of the socket hooks: nftables, for comparison.
//! Called by: the benchmark, once.
//! May touch: the rules of namespaces of its own world, by the program `nft`.
//! Never: rules of the host's: `nft` is started in the namespace.

use std::fmt::Write as _;

use anyhow::Result;
use weir_tests::world::nat::rules_in;

use crate::site::{LAST_PORT, PORT, Site, Wire};

/// Rules that do not match before the one that does.
const LINEAR: u32 = 1000;

/// Writes the rules of both wires, or says why there are none.
pub fn prepare(site: &Site) -> Result<()> {
    for (wire, rules) in [(Wire::Conntrack, 0), (Wire::Linear, LINEAR)] {
        let [client, server] = site.namespaces(wire);
        rules_in(&client, &ruleset("output", rules))?;
        rules_in(&server, &ruleset("input", rules))?;
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
