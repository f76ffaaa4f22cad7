//! Lives: weir-agent, `--doctor`: programs of others where Weir's go.
//! Called by: `doctor`.
//! May touch: asks the kernel which programs are attached (`kernel::preflight`).
//! Never: judges firewalls: nftables and iptables work beside Weir.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
};

use super::{Check, Outcome};
use crate::{
    config::Config,
    kernel::preflight::{self, Found, Interface, Loaded},
};

/// How many cgroups below the root are asked.
const MOST: usize = 512;

/// Every program in the kernel, by id; empty where they cannot be listed.
pub(super) fn programs() -> BTreeMap<u32, Loaded> {
    let all = preflight::all_programs().unwrap_or_default();
    all.into_iter().map(|program| (program.id, program)).collect()
}

/// Whose the XDP slots of the configured interfaces are.
pub(super) fn interfaces(config: &Config, ours: &Ours) -> Check {
    const NAME: &str = "interfaces";
    if config.interfaces.is_empty() {
        return Check::ok(NAME, "none is configured: limits are kept at sockets, and address sets are asked by nobody");
    }
    let present = match preflight::all_interfaces() {
        Ok(present) => present,
        Err(error) => return Check::warn(NAME, format!("they cannot be listed: {error}"), ""),
    };
    let programs = programs();
    let (mut found, mut outcome, mut remedy) = (Vec::new(), Outcome::Ok, String::new());
    for option in &config.interfaces {
        let fitting: Vec<&Interface> =
            present.iter().filter(|interface| preflight::fits(&option.name, &interface.name)).collect();
        if fitting.is_empty() {
            found.push(format!("{} fits none that is there now", option.name));
            outcome = outcome.max(Outcome::Warn);
        }
        for Interface { name, xdp, .. } in fitting {
            let Some((mode, id)) = xdp else {
                found.push(format!("{name} is free"));
                continue;
            };
            let program = programs.get(id);
            let shown = program.map_or("a program that cannot be asked about", |program| program.name.as_str());
            if program.is_some_and(|program| ours.has(*id, program)) {
                found.push(format!("{name} has Weir's ({shown}, id {id}, {mode})"));
                continue;
            }
            if config.neighbours.chain {
                found.push(format!("{name} is held by {shown} (id {id}, {mode}); Weir goes in front of it"));
                continue;
            }
            found.push(format!("{name} is held by {shown} (id {id}, {mode})"));
            outcome = Outcome::Fail;
            remedy = format!(
                "stop whoever attached it (`ip link set dev {name} xdp off`), or take {name} out of `interfaces`"
            );
        }
    }
    if outcome == Outcome::Warn {
        remedy = "correct the names, unless the interface comes later: the agent looks once a second".to_owned();
    }
    Check::new(NAME, outcome, found.join(", "), remedy)
}

/// Who else judges or rewrites at the cgroups of the managed tree.
pub(super) fn cgroups(root: &Path, ours: &Ours) -> Check {
    const NAME: &str = "conflicts-cgroup";
    let others = match others(root, ours) {
        Ok(others) => others,
        Err(error) => return Check::skipped(NAME, format!("{} cannot be asked: {error}", root.display())),
    };
    if others.is_empty() {
        return Check::ok(NAME, "no programs of others at or above the managed tree");
    }
    let found: Vec<String> = others.into_iter().collect();
    // They work beside Weir's: all must allow, and what a translator leads to is judged as well (README).
    Check::warn(
        NAME,
        found.join("; "),
        "nothing, if they are meant to be there: every program must allow, and the end a translator leads to is judged as well",
    )
}

/// One sentence for each program of others.
fn others(root: &Path, ours: &Ours) -> io::Result<BTreeSet<String>> {
    let programs = programs();
    let is_ours = |id: &u32| programs.get(id).is_some_and(|program| ours.has(*id, program));
    let shown = |id: &u32| match programs.get(id) {
        Some(program) => format!("{} (id {id})", program.name),
        None => format!("program {id}"),
    };
    let mut said = BTreeSet::new();
    for Found { hook, here, effective } in preflight::cgroup_programs(root)? {
        for id in effective.iter().filter(|id| !is_ours(id)) {
            let whence =
                if here.contains(id) { "at the root of the managed tree" } else { "above it, so after Weir's" };
            said.insert(format!("{} at {hook}, {whence}", shown(id)));
        }
    }
    let mut room = MOST;
    below(root, &mut room, &mut |cgroup| {
        // One that is gone by now has no programs.
        for Found { hook, here, .. } in preflight::cgroup_programs(cgroup).unwrap_or_default() {
            for id in here.iter().filter(|id| !is_ours(id)) {
                said.insert(format!("{} at {hook} of {}", shown(id), cgroup.display()));
            }
        }
    });
    if room == 0 {
        said.insert(format!("only the first {MOST} cgroups were asked"));
    }
    Ok(said)
}

fn below(path: &Path, room: &mut usize, look: &mut dyn FnMut(&Path)) {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    let directories: Vec<PathBuf> =
        entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path()).collect();
    for directory in directories {
        if *room == 0 {
            return;
        }
        *room -= 1;
        look(&directory);
        below(&directory, room, look);
    }
}

/// What Weir's own programs are known by.
#[derive(Clone, Debug, Default)]
pub(super) struct Ours {
    /// Of this build.
    tags: BTreeSet<u64>,
    /// Of any build: those that the running agent holds.
    held: BTreeSet<u32>,
}

impl Ours {
    pub(super) fn new(tags: BTreeSet<u64>, agent: Option<u32>) -> Self {
        Self { tags, held: agent.map(held_by).unwrap_or_default() }
    }

    fn has(&self, id: u32, program: &Loaded) -> bool {
        self.tags.contains(&program.tag) || self.held.contains(&id)
    }
}

/// Ids of the programs that a process has descriptors or links of; none where it cannot be asked.
fn held_by(pid: u32) -> BTreeSet<u32> {
    let descriptors = fs::read_dir(format!("/proc/{pid}/fdinfo")).into_iter().flatten().flatten();
    let texts = descriptors.filter_map(|descriptor| fs::read_to_string(descriptor.path()).ok());
    let id = |text: String| {
        text.lines().find_map(|line| line.strip_prefix("prog_id:").and_then(|id| id.trim().parse().ok()))
    };
    texts.filter_map(id).collect()
}
