//! Lives: weir-tests, the book of worlds: who made which, and what is to be removed.
//! Called by: world, the signal thread, and every start of a test program or the demo.
//! May touch: /run/weir-worlds, and through it namespaces and cgroups that carry a world's name.
//! Never: removes a world whose maker lives, or that is kept on purpose.
//!
//! A world's folder is made first and removed last, so whatever a crash leaves is found through it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::{Mutex, MutexGuard, Once, PoisonError};
use std::thread;

use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use signal_hook::iterator::Signals;

use super::error::{WorldError, chain, file};
use super::{bounds, cgroup, netns};

/// Folder of all worlds' folders.
pub const FOLDER: &str = "/run/weir-worlds";
/// Says who made a world: pid and start time, since pids come again.
const OWNER: &str = "owner";
/// Present in worlds that outlive their maker on purpose.
const KEEP: &str = "keep";

/// Worlds of this process that a signal must remove.
static OPEN: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Enters a new world; its folder is there afterwards. The first call collects what dead makers left behind and begins
/// to watch for signals.
///
/// # Errors
/// When the folder cannot be made.
pub fn enter(name: &str) -> Result<PathBuf, WorldError> {
    static FIRST: Once = Once::new();
    FIRST.call_once(|| {
        collect().iter().for_each(|name| eprintln!("world {name}: left behind by a dead process, removed"));
        watch_signals();
    });
    let open = &mut open();
    let (folder, draft) = (folder(name), Path::new(FOLDER).join(format!(".{name}")));
    fs::create_dir_all(&draft).map_err(file("creating", &draft))?;
    let owner = draft.join(OWNER);
    let id = process::id();
    fs::write(&owner, format!("{id} {}\n", start_time(id).unwrap_or_default())).map_err(file("writing", owner))?;
    fs::rename(&draft, &folder).map_err(file("creating", &folder))?;
    open.push(name.to_owned());
    Ok(folder)
}

/// For as long as it is held, no signal removes worlds: what is made meanwhile is found by the removal.
#[must_use = "the removal waits for as long as this is held"]
#[derive(Debug)]
pub struct Building {
    _open: MutexGuard<'static, Vec<String>>,
}

/// Begins to make a part of a world. Waits for ever once a signal removes them, as the process ends then.
pub fn building() -> Building {
    Building { _open: open() }
}

/// Removes a world of this process, unless a signal already does.
///
/// # Errors
/// What could not be removed.
pub fn leave(name: &str) -> Result<(), WorldError> {
    let mut open = open();
    open.retain(|other| other != name);
    remove(name)
}

/// Lets a world outlive this process until [`remove_kept`].
///
/// # Errors
/// When it cannot be marked.
pub fn keep(name: &str) -> Result<(), WorldError> {
    let mark = folder(name).join(KEEP);
    fs::write(&mark, "").map_err(file("writing", mark))?;
    open().retain(|other| other != name);
    Ok(())
}

/// Removes every kept world that was built with `label`, or all of them for an empty one; says which.
///
/// # Errors
/// What could not be removed.
pub fn remove_kept(label: &str) -> Result<Vec<String>, WorldError> {
    let prefix = if label.is_empty() { "weir-".to_owned() } else { format!("weir-{label}-") };
    let ours = |name: &String| name.starts_with(&prefix) && folder(name).join(KEEP).exists();
    let kept: Vec<String> = worlds().into_iter().filter(ours).collect();
    kept.iter().try_for_each(|name| remove(name))?;
    Ok(kept)
}

/// Removes a world by its name: processes, cgroups, namespaces (and with them interfaces), its BPF file system, folder.
fn remove(name: &str) -> Result<(), WorldError> {
    bounds::remove(name)?;
    cgroup::remove(&cgroup::mount()?.join(name))?;
    netns::remove_all(&format!("{name}-"))?;
    let folder = folder(name);
    super::unmount_bpffs(&folder)?;
    fs::remove_dir_all(&folder).map_err(file("removing", folder))
}

/// Removes worlds whose maker is dead; says which. A failure is said too, and does not stop anyone.
pub fn collect() -> Vec<String> {
    let mut names = worlds();
    names.retain(|name| !folder(name).join(KEEP).exists() && !owner_lives(name));
    names.retain(|name| match remove(name) {
        Ok(()) => true,
        Err(error) => {
            eprintln!("world {name}: left behind, and not removable: {}", chain(&error));
            false
        }
    });
    names
}

fn worlds() -> Vec<String> {
    let Ok(entries) = fs::read_dir(FOLDER) else { return Vec::new() };
    let names = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter(|name| name.starts_with("weir-")).collect()
}

fn owner_lives(name: &str) -> bool {
    let text = fs::read_to_string(folder(name).join(OWNER)).unwrap_or_default();
    let mut words = text.split_whitespace();
    let (Some(pid), Some(start)) = (words.next().and_then(|pid| pid.parse().ok()), words.next()) else { return false };
    start_time(pid).as_deref() == Some(start)
}

/// Field 22 of /proc/PID/stat; the name before it may hold blanks and parentheses.
fn start_time(pid: u32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(19).map(str::to_owned)
}

fn folder(name: &str) -> PathBuf {
    Path::new(FOLDER).join(name)
}

fn open() -> MutexGuard<'static, Vec<String>> {
    OPEN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// On Ctrl-C and its kin: remove this process's worlds, then end as the signal would have.
fn watch_signals() {
    let Ok(mut signals) = Signals::new([SIGINT, SIGTERM, SIGHUP, SIGQUIT]) else { return };
    thread::spawn(move || {
        let Some(signal) = signals.forever().next() else { return };
        // Held until the end: nobody enters or leaves meanwhile.
        let open = open();
        eprintln!("\nsignal {signal}: removing {} world(s)", open.len());
        for name in open.iter() {
            if let Err(error) = remove(name) {
                eprintln!("world {name}: {}", chain(&error));
            }
        }
        process::exit(128 + signal);
    });
}
