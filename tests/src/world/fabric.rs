//! Lives: weir-tests, a world of any number of places on one router.
//! Called by: weir-conformance, which makes nodes, pods and the outside of a cluster of them.
//! May touch: namespaces, cgroups and a folder that carry the fabric's name.
//! Never: the host's interfaces, the root cgroup, or anything of another world.
//!
//! ```text
//!   pod   pod   node   outside        namespaces, each with eth0 and addresses that may change
//!    |     |     |       |
//!   p-1   p-2   p-3     p-4           namespace "router": /32 and /128 routes, nothing else
//! ```

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use super::error::{WorldError, chain};
use super::routed::{self, Way};
use super::{cgroup, ledger, links, netns, plain};

/// A world that exists. Dropping it removes it, every process in its cgroups included.
#[derive(Debug)]
pub struct Fabric {
    name: String,
    folder: PathBuf,
    cgroups: PathBuf,
    places: usize,
}

/// One namespace of it.
#[derive(Debug)]
pub struct Place {
    netns: PathBuf,
    interface: String,
    addresses: Vec<IpAddr>,
}

impl Place {
    /// The bound name of the network namespace.
    #[must_use]
    pub fn netns(&self) -> &Path {
        &self.netns
    }

    /// Its addresses.
    #[must_use]
    pub fn addresses(&self) -> &[IpAddr] {
        &self.addresses
    }
}

impl Fabric {
    /// Builds a fabric without places, named after `label` and this process.
    ///
    /// # Errors
    /// What could not be made; what was made until then is removed.
    pub fn new(label: &str) -> Result<Fabric, WorldError> {
        let name = format!("weir-{}-{}", plain(label), std::process::id());
        let cgroups = cgroup::mount()?.join(&name);
        let folder = ledger::enter(&name)?;
        // From here on dropping removes whatever is there.
        let fabric = Fabric { name, folder, cgroups, places: 0 };
        let _building = ledger::building();
        cgroup::create(&fabric.cgroups)?;
        cgroup::create(&fabric.outside())?;
        netns::create(&fabric.netns_name("router"))?;
        routed::router(&fabric.router())?;
        Ok(fabric)
    }

    /// A new place on a wire of its own, without addresses.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn place(&mut self) -> Result<Place, WorldError> {
        let _building = ledger::building();
        self.places += 1;
        let interface = format!("p-{}", self.places);
        let netns = netns::create(&self.netns_name(&interface))?;
        routed::wire(&netns, &self.router(), &interface)?;
        links::wait_in_service(&netns, links::INSIDE)?;
        Ok(Place { netns, interface, addresses: Vec::new() })
    }

    /// Gives places the addresses they are named with: all that somebody loses are gone before anyone gets a new one.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn readdress(&self, wanted: Vec<(&mut Place, Vec<IpAddr>)>) -> Result<(), WorldError> {
        let mut moves: Vec<_> = wanted.into_iter().filter(|(place, wanted)| place.addresses != *wanted).collect();
        let way = |to: &IpAddr, by: &str, open| Way { to: *to, by: by.to_owned(), open };
        let lost =
            moves.iter().flat_map(|(place, _)| place.addresses.iter().map(|ip| way(ip, &place.interface, false)));
        let won = moves.iter().flat_map(|(place, new)| new.iter().map(|ip| way(ip, &place.interface, true)));
        let ways: Vec<_> = lost.chain(won).collect();
        if moves.is_empty() {
            return Ok(());
        }
        for (place, _) in &mut moves {
            routed::readdress(&place.netns, &place.addresses, &[])?;
            place.addresses.clear();
        }
        routed::ways(&self.router(), &ways)?;
        for (place, new) in moves {
            routed::readdress(&place.netns, &[], &new)?;
            place.addresses = new;
        }
        Ok(())
    }

    /// Makes a cgroup, its parents included; `path` is below the fabric's own.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn cgroup(&self, path: &str) -> Result<PathBuf, WorldError> {
        let _building = ledger::building();
        let mut whole = self.cgroups.clone();
        for part in path.split('/') {
            whole.push(part);
            if !whole.exists() {
                cgroup::create(&whole)?;
            }
        }
        Ok(whole)
    }

    /// The cgroup of all that no agent manages.
    #[must_use]
    pub fn outside(&self) -> PathBuf {
        self.cgroups.join("outside")
    }

    /// A folder for files that live as long as the fabric.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The router's namespace.
    #[must_use]
    pub fn router(&self) -> PathBuf {
        netns::path(&self.netns_name("router"))
    }

    fn netns_name(&self, place: &str) -> String {
        format!("{}-{place}", self.name)
    }
}

impl Drop for Fabric {
    fn drop(&mut self) {
        if let Err(error) = ledger::leave(&self.name) {
            eprintln!("world {}: not wholly removed: {}", self.name, chain(&error));
        }
    }
}
