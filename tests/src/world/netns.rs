//! Lives: weir-tests, one network namespace with a name.
//! Called by: world when it is built and removed.
//! May touch: /run/netns, and the namespace of threads it starts itself.
//! Never: changes the namespace of the calling thread; shells out to `ip netns`, which would remount /sys and hide cgroups.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::thread;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};

use super::error::{WorldError, file, system};

/// Where `ip netns` and people look for namespaces.
pub const FOLDER: &str = "/run/netns";

/// Settings that make a fresh namespace quiet and ready at once: no duplicate address detection, no router or
/// link-local chatter between our own packets.
const QUIET: [(&str, &str); 5] = [
    ("net/ipv6/conf/all/disable_ipv6", "0"),
    ("net/ipv6/conf/default/disable_ipv6", "0"),
    ("net/ipv6/conf/default/accept_dad", "0"),
    ("net/ipv6/conf/default/accept_ra", "0"),
    ("net/ipv6/conf/default/addr_gen_mode", "1"),
];

/// Path of the namespace called `name`.
#[must_use]
pub fn path(name: &str) -> PathBuf {
    Path::new(FOLDER).join(name)
}

/// Makes a namespace and binds it to its name.
///
/// # Errors
/// When the name is taken or the kernel refuses.
pub fn create(name: &str) -> Result<PathBuf, WorldError> {
    prepare_folder()?;
    let path = path(name);
    File::create_new(&path).map_err(file("creating", &path))?;
    on_thread(name, || {
        unshare(CloneFlags::CLONE_NEWNET).map_err(system("unshare", name))?;
        let own = Path::new("/proc/thread-self/ns/net");
        mount(Some(own), &path, None::<&str>, MsFlags::MS_BIND, None::<&str>).map_err(system("bind mount", name))?;
        QUIET.iter().try_for_each(|(key, value)| {
            let key = Path::new("/proc/sys").join(key);
            fs::write(&key, value).map_err(file("writing", key))
        })
    })?;
    Ok(path)
}

/// Makes the folder a shared mount of its own, as `ip netns` does, under the lock that it takes too: otherwise a first
/// `ip netns add` while a world exists would mount the folder over itself, and our names could not be unmounted any more.
fn prepare_folder() -> Result<(), WorldError> {
    fs::create_dir_all(FOLDER).map_err(file("creating", FOLDER))?;
    let folder = File::open(FOLDER).map_err(file("opening", FOLDER))?;
    let _lock = Flock::lock(folder, FlockArg::LockExclusive).map_err(|(_, errno)| system("lock", FOLDER)(errno))?;
    let share = || mount(None::<&str>, FOLDER, None::<&str>, MsFlags::MS_SHARED | MsFlags::MS_REC, None::<&str>);
    match share() {
        Err(Errno::EINVAL) => {
            let bind = MsFlags::MS_BIND | MsFlags::MS_REC;
            mount(Some(FOLDER), FOLDER, None::<&str>, bind, None::<&str>).map_err(system("bind mount", FOLDER))?;
            share().map_err(system("make shared", FOLDER))
        }
        other => other.map_err(system("make shared", FOLDER)),
    }
}

/// Runs `work` on a thread inside the namespace.
///
/// # Errors
/// When the namespace cannot be entered, or what `work` returns.
pub fn inside<T: Send>(path: &Path, work: impl FnOnce() -> Result<T, WorldError> + Send) -> Result<T, WorldError> {
    let name = path.display().to_string();
    on_thread(&name, || {
        let namespace = File::open(path).map_err(file("opening", path))?;
        setns(&namespace, CloneFlags::CLONE_NEWNET).map_err(system("setns", &name))?;
        work()
    })
}

/// Removes every name below [`FOLDER`] that starts with `prefix`; the kernel frees a namespace with its last process.
///
/// # Errors
/// When a name cannot be unmounted or unlinked.
pub fn remove_all(prefix: &str) -> Result<(), WorldError> {
    let Ok(entries) = fs::read_dir(FOLDER) else { return Ok(()) };
    for entry in entries.flatten().filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix)) {
        let path = entry.path();
        // EINVAL: the name was made and the process died before it was bound.
        match umount2(&path, MntFlags::MNT_DETACH) {
            Ok(()) | Err(Errno::EINVAL) => {}
            Err(errno) => return Err(system("unmount", path.display().to_string())(errno)),
        }
        fs::remove_file(&path).map_err(file("removing", path))?;
    }
    Ok(())
}

/// A thread of its own, because a namespace belongs to a thread.
fn on_thread<T: Send>(name: &str, work: impl FnOnce() -> Result<T, WorldError> + Send) -> Result<T, WorldError> {
    thread::scope(|scope| scope.spawn(work).join()).unwrap_or_else(|_| Err(WorldError::Thread(name.to_owned())))
}
