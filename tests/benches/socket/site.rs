//! Lives: weir-tests, the benchmark of the socket hooks: where it happens.
//! Called by: the benchmark, once.
//! May touch: namespaces and cgroups of a world of its own.
//! Never: an interface, a firewall or a cgroup of the host's.
//!
//! ```text
//!   plain-a ==== plain-b        conntrack-a ==== conntrack-b        linear-a ==== linear-b       namespaces
//!   10.78.0.1   10.78.0.2       the same addresses, each with nftables' rules at both ends
//!
//!   WORLD/load-0/{web,api}  WORLD/load-1/...     cgroups: a tree for each time the programs are loaded
//! ```

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use anyhow::{Context, Result};
use weir_tests::world::{World, cgroup, links, netns};

/// The caller's address on every wire.
pub const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 78, 0, 1);
/// The called one's.
pub const SERVER: Ipv4Addr = Ipv4Addr::new(10, 78, 0, 2);
/// The first port that is called; each load of the programs has one of its own.
pub const PORT: u16 = 7001;
/// The last one there can be.
pub const LAST_PORT: u16 = PORT + 98;

/// Two namespaces and what lies between them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wire {
    /// Nothing.
    Plain,
    /// nftables: established passes, what is new must match a rule.
    Conntrack,
    /// nftables: the same, and the rule that matches comes after 1,000 that do not.
    Linear,
}

impl Wire {
    /// Every wire.
    pub const ALL: [Wire; 3] = [Wire::Plain, Wire::Conntrack, Wire::Linear];

    const fn name(self) -> &'static str {
        match self {
            Wire::Plain => "plain",
            Wire::Conntrack => "conntrack",
            Wire::Linear => "linear",
        }
    }
}

/// A world with wires and cgroups for the benchmark.
pub struct Site {
    world: World,
}

impl Site {
    /// Builds it; dropping it removes it.
    pub fn new(loads: usize) -> Result<Site> {
        let site = Site { world: World::new("bench").context("building a world; needs root")? };
        for wire in Wire::ALL {
            let [client, server] = site.names(wire);
            let (client, server) = (netns::create(&client)?, netns::create(&server)?);
            links::pair(&client, &server, [IpAddr::V4(CLIENT), IpAddr::V4(SERVER)])?;
        }
        for load in 0..loads {
            let tree = site.tree(load);
            for path in [tree.clone(), tree.join("web"), tree.join("api")] {
                cgroup::create(&path)?;
            }
        }
        Ok(site)
    }

    /// The namespaces of client and server.
    pub fn namespaces(&self, wire: Wire) -> [PathBuf; 2] {
        self.names(wire).map(|name| netns::path(&name))
    }

    fn names(&self, wire: Wire) -> [String; 2] {
        ["a", "b"].map(|end| format!("{}-{}-{end}", self.world.name(), wire.name()))
    }

    /// The managed cgroups of one load of the programs.
    pub fn tree(&self, load: usize) -> PathBuf {
        // The world's own trees are called managed and outside.
        self.world.managed().with_file_name(format!("load-{load}"))
    }
}
