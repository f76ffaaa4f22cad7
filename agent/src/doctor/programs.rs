//! Lives: weir-agent, `--doctor`: whether this kernel takes and attaches the programs.
//! Called by: `doctor`.
//! May touch: the kernel, through `kernel::preflight`.
//! Never: attaches outside a cgroup and a namespace of the doctor's own.

use std::{collections::BTreeSet, io, path::Path};

use super::{Check, Outcome, host};
use crate::{
    config::{Config, IngressHook},
    kernel::{
        KernelError,
        preflight::{self, Cell, Trial},
    },
};

const TRY: &str = "look at `privileges` first; then compare the kernel with docs/operations.md, and report these lines";

/// What is not tried where programs do not load.
const HOOKS: [&str; 2] = ["hooks-cgroup", "hooks-namespace"];

/// Loads and attaches everything once; also the tags of what was loaded. `config`: if it is usable.
pub(super) fn checks(config: Option<&Config>) -> (Vec<Check>, BTreeSet<u64>) {
    let root = config.map(|config| (config.cgroup_root.as_path(), root(&config.cgroup_root)));
    let place = root.as_ref().filter(|(_, check)| check.outcome != Outcome::Fail).map(|(path, _)| *path);
    let mut checks: Vec<Check> = root.as_ref().map(|(_, check)| check.clone()).into_iter().collect();
    let mut tags = BTreeSet::new();
    let (chain, drop_bytes, kernel_drops) =
        config.map_or((false, 0, true), |config| (config.neighbours.chain, config.drop_bytes, config.kernel_drops));
    match Trial::load(chain, drop_bytes, kernel_drops) {
        Ok(mut trial) => {
            checks.push(loaded(&trial));
            checks.push(told(&mut trial, kernel_drops));
            checks.push(ends(&mut trial));
            tags = trial.tags();
            if trial.refused().is_empty() {
                checks.push(in_cgroup(&mut trial, place));
                checks.extend(in_namespace(&mut trial, config));
            } else {
                checks.extend(HOOKS.map(|name| Check::skipped(name, "programs are refused")));
            }
        }
        Err(error) => {
            checks.push(Check::fail("programs", weir_transport::why(&error), TRY));
            checks.extend(HOOKS.map(|name| Check::skipped(name, "the programs could not be loaded")));
        }
    }
    checks.push(destroy());
    (checks, tags)
}

fn root(path: &Path) -> Check {
    const NAME: &str = "cgroup-root";
    match preflight::check_root(path) {
        Ok(()) => Check::ok(NAME, format!("{}, below the tree's own root", path.display())),
        Err(error) => {
            let mounts = host::mounts("cgroup2");
            let remedy = match mounts.first() {
                Some(mount) => {
                    format!("cgroup2 is mounted at {mount}: make a directory below it and name it as cgroupRoot")
                }
                None => "mount cgroup2 (mount -t cgroup2 none /sys/fs/cgroup), and show it to the agent's container"
                    .to_owned(),
            };
            Check::fail(NAME, error.to_string(), remedy)
        }
    }
}

fn loaded(trial: &Trial) -> Check {
    const NAME: &str = "programs";
    let (count, instructions) = trial.sizes();
    match trial.refused() {
        [] => {
            let how = if trial.reads_tasks() { "read the calling task" } else { "ask for the calling task by helpers" };
            Check::ok(NAME, format!("all {count} load; {instructions} instructions verified; they {how}"))
        }
        refused => {
            const SHOWN: usize = 3;
            let mut lines = vec![format!("{} of {} are refused:", refused.len(), count + refused.len())];
            lines.extend(refused.iter().take(SHOWN).map(ToString::to_string));
            if refused.len() > SHOWN {
                lines.push(format!("... and {} more", refused.len() - SHOWN));
            }
            Check::fail(NAME, lines.join("\n"), TRY)
        }
    }
}

/// Whether records have what the kernel drops by itself.
fn told(trial: &mut Trial, wanted: bool) -> Check {
    const NAME: &str = "kernel-drops";
    if !wanted {
        return Check::skipped(NAME, "drops.kernel is false: what the kernel drops by itself is not recorded");
    }
    match trial.kernel_drops() {
        Ok(reasons) => Check::ok(NAME, format!("recorded, by the kernel's {reasons} reasons")),
        Err(why) => Check::warn(
            NAME,
            format!("what this kernel drops by itself is not recorded: {why}"),
            "look for it in the kernel's own counters (nstat, ss -m), or set drops.kernel to false",
        ),
    }
}

/// Whether connections that are older than enforcement have a record of their end.
fn ends(trial: &mut Trial) -> Check {
    const NAME: &str = "adopted-closes";
    match trial.adopted_closes() {
        Ok(()) => Check::ok(NAME, "connections older than enforcement have a record of their end"),
        Err(why) => Check::warn(
            NAME,
            format!("connections older than enforcement end without a record: {why}"),
            "start the agent before the workloads, so that it sees their connections open",
        ),
    }
}

fn in_cgroup(trial: &mut Trial, root: Option<&Path>) -> Check {
    const NAME: &str = "hooks-cgroup";
    let Some(root) = root else { return Check::skipped(NAME, "needs a cgroupRoot to try in") };
    let cell = match Cell::below(root) {
        Ok(cell) => cell,
        Err(error) => {
            let found = format!("no cgroup can be made below {}: {error}", root.display());
            let remedy = "mount the cgroup tree writable where the doctor runs; the agent itself does without";
            let denied = error.kind() == io::ErrorKind::PermissionDenied;
            return if denied { Check::skipped(NAME, found) } else { Check::warn(NAME, found, remedy) };
        }
    };
    let refused = match trial.in_cgroup(&cell) {
        Ok(refused) => refused,
        Err(error) => return Check::skipped(NAME, format!("{}: {error}", cell.path().display())),
    };
    match refused.as_slice() {
        [] => Check::ok(NAME, "every program attaches to a cgroup of the doctor's own"),
        [first, more @ ..] => Check::fail(
            NAME,
            format!("{first}{}", also(more)),
            "a program attached above without BPF_F_ALLOW_MULTI keeps others out; `conflicts-cgroup` names those there are",
        ),
    }
}

fn also(more: &[KernelError]) -> String {
    if more.is_empty() { String::new() } else { format!("; and {} more", more.len()) }
}

/// Each hook weighs as much as the configuration leans on it.
fn in_namespace(trial: &mut Trial, config: Option<&Config>) -> Vec<Check> {
    let tried = match preflight::in_a_namespace(|| trial.in_namespace()) {
        Ok(tried) => tried,
        Err(error) => {
            let why = format!("no network namespace could be made to try in: {error}");
            return vec![Check::skipped("hooks-namespace", why)];
        }
    };
    let needed = |hook: &str| match hook {
        "sk_lookup" => config.is_some_and(|config| config.ingress_hook == IngressHook::SkLookup),
        "xdp" => config.is_some_and(|config| !config.interfaces.is_empty()),
        _ => false,
    };
    let check = |(hook, result): (&'static str, Result<(), KernelError>)| {
        let (name, without) = match hook {
            "sk_lookup" => ("hooks-sk-lookup", "without it `action: refuse` and `ingressHook: sk_lookup` do not work"),
            "xdp" => ("hooks-xdp", "without it limits are kept at sockets only, and address sets are asked by nobody"),
            _ => ("hooks-tcx", "without it a Workload's `interface` is not judged"),
        };
        match result {
            Ok(()) => Check::ok(name, "attaches in a network namespace of the doctor's own"),
            Err(error) if needed(hook) => Check::fail(name, error.to_string(), without),
            Err(error) => Check::warn(name, error.to_string(), without),
        }
    };
    tried.into_iter().map(check).collect()
}

fn destroy() -> Check {
    const NAME: &str = "sock-destroy";
    // A namespace that cannot be made is one thing, a connection that cannot be cut in it another.
    match preflight::in_a_namespace(|| Ok(preflight::cut_a_connection())) {
        Ok(Ok(())) => Check::ok(NAME, "a connection in a network namespace of the doctor's own was cut"),
        Ok(Err(error)) => Check::fail(
            NAME,
            format!("a connection could not be cut: {error}"),
            "boot a kernel with CONFIG_INET_DIAG_DESTROY=y: else what a new policy forbids goes on until it ends by itself",
        ),
        Err(error) => Check::skipped(NAME, format!("no network namespace could be made to try in: {error}")),
    }
}
