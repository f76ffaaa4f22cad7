//! Lives: weir-tests, translation of addresses in a world, as a proxy for Services does it.
//! Called by: live tests about Services; fabric, for conformance cases about them; the benchmark of the socket hooks, for comparison.
//! May touch: the nftables rules of namespaces that the world made, by the program `nft`.
//! Never: rules of the host's: `nft` is started inside the namespace.

use std::io::Write;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use super::error::{WorldError, file};
use super::tools::NFT;
use super::{Who, World, netns};

/// One translation.
#[derive(Clone, Copy, Debug)]
pub struct Translation<'t> {
    /// "tcp" or "udp".
    pub protocol: &'t str,
    /// The address and port that are called.
    pub from: (IpAddr, u16),
    /// Those that are reached instead, in turn; of the same family.
    pub to: &'t [(IpAddr, u16)],
}

/// Translates what sockets of a namespace call, in place of what was translated there before.
///
/// # Errors
/// When `nft` is not there or refuses.
pub fn translate(namespace: &Path, translations: &[Translation<'_>]) -> Result<(), WorldError> {
    rules_in(namespace, &ruleset("output", translations, ""))
}

/// Whether there is a program to translate with.
#[must_use]
pub fn available() -> bool {
    NFT.available()
}

impl World {
    /// Translates what `who`'s own sockets call, in place of what was translated there before.
    ///
    /// # Errors
    /// When `nft` is not there or refuses.
    pub fn translate(&self, who: Who, translations: &[Translation<'_>]) -> Result<(), WorldError> {
        translate(&self.netns(who), translations)
    }

    /// Translates what others send through `who`, who answers for the addresses; they see `who` as the sender.
    ///
    /// # Errors
    /// When `nft` is not there or refuses.
    pub fn translate_for_others(&self, who: Who, translations: &[Translation<'_>]) -> Result<(), WorldError> {
        self.forward(who)?;
        let back = " chain back {\n  type nat hook postrouting priority 100;\n  ct status dnat masquerade\n }\n";
        rules_in(&self.netns(who), &ruleset("prerouting", translations, back))
    }

    /// Lets `who` forward what is not for itself.
    fn forward(&self, who: Who) -> Result<(), WorldError> {
        netns::inside(&self.netns(who), || {
            // A bridge must not translate what its own host is to translate and route.
            let bridging = ["bridge/bridge-nf-call-iptables", "bridge/bridge-nf-call-ip6tables"];
            let settings = ["ipv4/ip_forward", "ipv6/conf/all/forwarding"].map(|key| (key, "1"));
            for (key, value) in settings.into_iter().chain(bridging.map(|key| (key, "0"))) {
                let path = Path::new("/proc/sys/net").join(key);
                // A kernel without bridge netfilter has no such setting.
                if path.exists() || value == "1" {
                    std::fs::write(&path, value).map_err(file("writing", path))?;
                }
            }
            Ok(())
        })
    }
}

/// Gives a namespace of a world rules in nftables' own words.
///
/// # Errors
/// When `nft` is not there or refuses.
pub fn rules_in(namespace: &Path, rules: &str) -> Result<(), WorldError> {
    netns::inside(namespace, || load(rules))
}

fn ruleset(hook: &str, translations: &[Translation<'_>], more: &str) -> String {
    // What one table of both families cannot say, two of one family each do.
    let table = |family: &str, v6: bool| {
        let rules: String =
            translations.iter().filter(|one| one.from.0.is_ipv6() == v6).map(|one| rule(family, one)).collect();
        let chain = format!(" chain to {{\n  type nat hook {hook} priority -100;\n{rules} }}\n{more}");
        format!("table {family} weir-test\ndelete table {family} weir-test\ntable {family} weir-test {{\n{chain}}}\n")
    };
    table("ip", false) + &table("ip6", true)
}

fn rule(family: &str, one: &Translation<'_>) -> String {
    let (address, port) = one.from;
    let number = one.to.len();
    let ends = one.to.iter().enumerate().map(|(n, (to, port))| format!("{n} : {to} . {port}"));
    let ends: Vec<String> = ends.collect();
    let protocol = one.protocol;
    format!(
        "  {family} daddr {address} {protocol} dport {port} dnat to numgen inc mod {number} map {{ {} }}\n",
        ends.join(", ")
    )
}

fn load(rules: &str) -> Result<(), WorldError> {
    let (mut nft, program) = NFT.command();
    nft.args(["-f", "-"]).stdin(Stdio::piped()).stderr(Stdio::piped());
    let mut child = nft.spawn().map_err(|source| WorldError::Start { program: program.clone(), source })?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(rules.as_bytes()).map_err(file("writing to", &program))?;
    }
    let output = child.wait_with_output().map_err(file("running", &program))?;
    if output.status.success() {
        return Ok(());
    }
    let problem = format!("{}rules:\n{rules}", String::from_utf8_lossy(&output.stderr));
    Err(WorldError::Process { name: "nft".to_owned(), problem, log: PathBuf::new() })
}
