//! Lives: weir-tests, a world: a node with services and clients of its own.
//! Called by: live tests and the demo.
//! May touch: namespaces, cgroups and a folder that carry the world's name.
//! Never: the host's interfaces, the root cgroup, or anything of another world.
//!
//! ```text
//!   web        api        db        client      polite        namespaces, each with eth0
//!    |          |          |          |           |
//!   v-web     v-api      v-db     v-client    v-polite        ports of the bridge; the agent attaches XDP here
//!   ==================== br0 10.77.0.1 ==================     namespace "node": the agent runs here
//!
//!   NAME/managed/{web,api,db}   cgroups of the services: the agent's cgroupRoot is NAME/managed
//!   NAME/outside                cgroup of everything else the world starts
//! ```

mod bounds;
pub mod cgroup;
mod error;
mod fabric;
pub mod hop;
pub mod ledger;
pub mod links;
pub mod nat;
pub mod netns;
mod routed;
pub mod tools;
mod who;

use std::path::{Path, PathBuf};
use std::process;

pub use bounds::Bounds;
pub use error::WorldError;
pub use fabric::{Fabric, Place};
pub use who::Who;

use error::{chain, file, system};
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

/// A world that exists. Dropping it removes it, its processes included.
#[derive(Debug)]
pub struct World {
    name: String,
    folder: PathBuf,
    cgroups: PathBuf,
    kept: bool,
}

impl World {
    /// Builds a world named after `label` and this process.
    ///
    /// # Errors
    /// What could not be made; what was made until then is removed.
    pub fn new(label: &str) -> Result<World, WorldError> {
        let name = format!("weir-{}-{}", plain(label), process::id());
        let cgroups = cgroup::mount()?.join(&name);
        let folder = ledger::enter(&name)?;
        // From here on dropping removes whatever is there.
        let world = World { name, folder, cgroups, kept: false };
        let _building = ledger::building();
        world.mount_bpffs()?;
        world.build_cgroups()?;
        world.build_network()?;
        Ok(world)
    }

    fn build_cgroups(&self) -> Result<(), WorldError> {
        cgroup::create(&self.cgroups)?;
        cgroup::create(&self.managed())?;
        cgroup::create(&self.outside())?;
        Who::ALL.into_iter().filter(|who| who.managed()).try_for_each(|who| cgroup::create(&self.cgroup(who)))
    }

    fn build_network(&self) -> Result<(), WorldError> {
        for who in Who::ALL {
            netns::create(&self.netns_name(who))?;
        }
        let node = self.netns(Who::Node);
        links::node(&node, &Who::Node.addresses())?;
        let hosts = || Who::ALL.into_iter().filter(|who| *who != Who::Node);
        for who in hosts() {
            links::host(&self.netns(who), &node, &who.interface(), &who.addresses())?;
        }
        hosts().try_for_each(|who| {
            links::wait_in_service(&self.netns(who), links::INSIDE)?;
            links::wait_in_service(&node, &who.interface())
        })
    }

    /// Cuts `who`'s wire and lays a new one: other interfaces, of the same names and addresses.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn rewire(&self, who: Who) -> Result<(), WorldError> {
        let node = self.netns(Who::Node);
        links::cut(&node, &who.interface())?;
        links::host(&self.netns(who), &node, &who.interface(), &who.addresses())?;
        links::wait_in_service(&self.netns(who), links::INSIDE)?;
        links::wait_in_service(&node, &who.interface())
    }

    /// The world's name, which all its parts carry.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A folder for files that live as long as the world.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Root of the managed cgroups: the agent's `cgroupRoot`.
    #[must_use]
    pub fn managed(&self) -> PathBuf {
        self.cgroups.join("managed")
    }

    /// The cgroup in which `who`'s processes run.
    #[must_use]
    pub fn cgroup(&self, who: Who) -> PathBuf {
        if who.managed() { self.managed().join(who.name()) } else { self.outside() }
    }

    /// The cgroup of all that is no workload.
    #[must_use]
    pub fn outside(&self) -> PathBuf {
        self.cgroups.join("outside")
    }

    /// The bound name of `who`'s network namespace.
    #[must_use]
    pub fn netns(&self, who: Who) -> PathBuf {
        netns::path(&self.netns_name(who))
    }

    fn netns_name(&self, who: Who) -> String {
        format!("{}-{}", self.name, who.name())
    }

    /// How a person steps inside.
    #[must_use]
    pub fn step_inside(&self) -> String {
        let (netns, cgroup) = (self.netns(Who::Web), self.cgroup(Who::Web));
        format!(
            "step inside: nsenter --net={} bash     (also -node, -api, -db, -client, -polite)\n\
             as the workload: echo $$ > {}/cgroup.procs     (in that shell)",
            netns.display(),
            cgroup.display()
        )
    }

    /// Writes a file into the world's folder.
    ///
    /// # Errors
    /// What the system says.
    pub fn write(&self, name: &str, text: &str) -> Result<PathBuf, WorldError> {
        let path = self.folder.join(name);
        std::fs::write(&path, text).map_err(file("writing", &path))?;
        Ok(path)
    }

    /// Where the world's own BPF file system is mounted.
    #[must_use]
    pub fn bpffs(&self) -> PathBuf {
        bpffs(&self.folder)
    }

    /// Mounts it, once more after [`Self::unmount_bpffs`]. It goes with the world, and with it what is pinned there.
    ///
    /// # Errors
    /// What the system says.
    pub fn mount_bpffs(&self) -> Result<(), WorldError> {
        let at = self.bpffs();
        std::fs::create_dir_all(&at).map_err(file("creating", &at))?;
        let mounted = mount(Some("bpf"), &at, Some("bpf"), MsFlags::empty(), None::<&str>);
        mounted.map_err(system("mount", at.display().to_string()))
    }

    /// Takes it away again, with all that is pinned there.
    ///
    /// # Errors
    /// What the system says.
    pub fn unmount_bpffs(&self) -> Result<(), WorldError> {
        unmount_bpffs(&self.folder)
    }

    /// Lets the world and its processes outlive this process.
    ///
    /// # Errors
    /// When it cannot be marked as kept.
    pub fn keep(mut self) -> Result<(), WorldError> {
        ledger::keep(&self.name)?;
        self.kept = true;
        Ok(())
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        if let Err(error) = ledger::leave(&self.name) {
            eprintln!("world {}: not wholly removed: {}", self.name, chain(&error));
        }
    }
}

fn bpffs(folder: &Path) -> PathBuf {
    folder.join("bpf")
}

/// Unmounts the BPF file system of the world with this folder, if it has one.
fn unmount_bpffs(folder: &Path) -> Result<(), WorldError> {
    let at = bpffs(folder);
    match umount2(&at, MntFlags::MNT_DETACH) {
        // No such folder, or nothing is mounted there.
        Ok(()) | Err(Errno::ENOENT | Errno::EINVAL) => Ok(()),
        Err(errno) => Err(system("unmount", at.display().to_string())(errno)),
    }
}

/// Letters, digits and dashes, short enough for socket paths.
fn plain(label: &str) -> String {
    let letters = label.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' });
    letters.take(40).collect()
}
