//! Lives: agent, user space.
//! Called by: `runtime`, once the programs are loaded, and by threads that need no privilege.
//! May touch: what this process and the calling thread may do from then on.
//! Never: gives anything back; ends the agent because a kernel cannot seal: it says so once, and enforcement goes on.
//!
//! Three walls. **seccomp** holds for every thread of the process and for good: no program is loaded, nothing is executed, nobody is
//! traced, nothing is mounted, no namespace is entered. **Landlock** (`fence`) closes files and ports that are not the agent's, and
//! other processes, `/proc/PID/mem` among it. **Capabilities** are per
//! thread: the main thread and those it starts keep [`KEPT`], threads
//! that serve people or carry records keep none. Threads share their memory, so the second wall stands only as long as no thread is taken
//! over as a whole; the others stand then, too. What takes CAP_SYS_ADMIN and CAP_SYS_PTRACE is done by `porter`, with a seal of its own.
#![expect(
    unsafe_code,
    reason = "the proof makes two system calls that have no safe form; both are refused or harmless"
)]

use std::{
    collections::BTreeMap,
    fs, io, mem, ptr,
    sync::atomic::{AtomicBool, Ordering},
};

use super::fence::{self, Fence};
use aya_obj::generated::{bpf_attr, bpf_cmd, bpf_prog_type};
use caps::{CapSet, Capability, CapsHashSet};
use nix::libc;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
};

/// What the main thread, and the thread that makes tables and attaches, need: tables; links and interfaces; and, for threads they start,
/// the priority of who cuts. [`close`] says when CAP_SYS_ADMIN is kept, too.
const KEPT: [Capability; 3] = [Capability::CAP_BPF, Capability::CAP_NET_ADMIN, Capability::CAP_SYS_NICE];
/// Threads that cut connections.
const CUTTING: [Capability; 2] = [Capability::CAP_NET_ADMIN, Capability::CAP_SYS_NICE];

/// System calls that the agent never makes once it is sealed, and a taken-over one would like to.
const REFUSED: &[libc::c_long] = &[
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_pidfd_getfd,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_open_by_handle_at,
    libc::SYS_io_uring_setup,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fsmount,
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_personality,
    libc::SYS_sethostname,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
];

/// What the porter does not do either: it makes no table, starts nothing, and changes no file.
const REFUSED_TO_PORTER: &[libc::c_long] = &[
    libc::SYS_bpf,
    libc::SYS_clone,
    libc::SYS_clone3,
    libc::SYS_kill,
    libc::SYS_openat2,
    libc::SYS_unlinkat,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_mkdirat,
    libc::SYS_mknodat,
    libc::SYS_linkat,
    libc::SYS_symlinkat,
    libc::SYS_fchmodat,
    libc::SYS_fchownat,
    libc::SYS_truncate,
    libc::SYS_ftruncate,
];
/// The same by their old names.
#[cfg(target_arch = "x86_64")]
const REFUSED_TO_PORTER_ANEW: &[libc::c_long] = &[
    libc::SYS_fork,
    libc::SYS_vfork,
    libc::SYS_open,
    libc::SYS_creat,
    libc::SYS_unlink,
    libc::SYS_rename,
    libc::SYS_mkdir,
    libc::SYS_rmdir,
    libc::SYS_mknod,
    libc::SYS_link,
    libc::SYS_symlink,
    libc::SYS_chmod,
    libc::SYS_chown,
];
#[cfg(not(target_arch = "x86_64"))]
const REFUSED_TO_PORTER_ANEW: &[libc::c_long] = &[];

/// Commands of `bpf()` that bring code into the kernel. Maps are still made: each policy takes new ones.
const REFUSED_BPF: [bpf_cmd; 3] = [bpf_cmd::BPF_PROG_LOAD, bpf_cmd::BPF_RAW_TRACEPOINT_OPEN, bpf_cmd::BPF_BTF_LOAD];

/// The other way to number calls on x86-64 (x32), where a kernel has it: with this bit, and some calls anew.
const X32: i64 = 0x4000_0000;
/// `execve`, `ptrace`, `kexec_load`, `process_vm_readv`, `process_vm_writev`, `execveat`.
const X32_ANEW: [i64; 6] = [520, 521, 528, 539, 540, 545];

/// Of the whole process, as what it says.
static CLOSED: AtomicBool = AtomicBool::new(false);

/// Seals the process: from here on no thread of it loads a program or executes one. Says what could not be done, and proves the rest.
///
/// Where it is to go in front of others' XDP programs (`asks_about_others`), CAP_SYS_ADMIN stays: nothing less may ask about those. So
/// it does where CAP_BPF was not granted, which is a part of it.
pub fn close(fence: &Fence, asks_about_others: bool) {
    let has_bpf = caps::has_cap(None, CapSet::Permitted, Capability::CAP_BPF).unwrap_or(false);
    if !has_bpf {
        tracing::warn!(
            "started without CAP_BPF: where tables are made CAP_SYS_ADMIN is kept in its place; grant CAP_BPF, too"
        );
    }
    let admin = (asks_about_others || !has_bpf).then_some(Capability::CAP_SYS_ADMIN);
    hold(&KEPT.into_iter().chain(admin).collect::<Vec<_>>());
    fence.raise_for_all();
    let tried =
        filter(false).and_then(|filter| seccompiler::apply_filter_all_threads(&filter).map_err(io::Error::other));
    let proven = tried.and_then(|()| prove());
    match proven {
        Ok(()) => {
            CLOSED.store(true, Ordering::Relaxed);
            let files = fence::state().word();
            tracing::info!(files, "sealed: no thread of this process can load or execute a program any more");
        }
        Err(error) => tracing::warn!(%error, "not sealed: the agent keeps what it was started with"),
    }
}

/// Whether that was done.
pub fn is_closed() -> bool {
    CLOSED.load(Ordering::Relaxed)
}

/// Seals the porter, which keeps `kept` and can do nothing but what it is there for.
///
/// # Errors
/// It can do more: then it had better not be there.
pub(super) fn close_porter(kept: &[Capability]) -> io::Result<()> {
    hold(kept);
    seccompiler::apply_filter(&filter(true)?).map_err(io::Error::other)?;
    prove()
}

/// The calling thread cuts connections, and does nothing else that takes a privilege.
pub fn hold_what_cutting_takes() {
    hold(&CUTTING);
}

/// The calling thread gives up every capability.
pub fn hold_nothing() {
    hold(&[]);
}

/// The calling thread, and those it starts, keep of `kept` what they have.
fn hold(kept: &[Capability]) {
    let held = caps::read(None, CapSet::Permitted).and_then(|held| {
        let kept: CapsHashSet = held.into_iter().filter(|one| kept.contains(one)).collect();
        // What is not permitted any more cannot be effective, so this comes first.
        caps::clear(None, CapSet::Inheritable)?;
        caps::set(None, CapSet::Effective, &kept)?;
        caps::set(None, CapSet::Permitted, &kept)
    });
    if let Err(error) = held {
        tracing::warn!(%error, "a thread keeps capabilities that it does not need");
    }
}

fn filter(porter: bool) -> io::Result<BpfProgram> {
    let arch: TargetArch = std::env::consts::ARCH.try_into().map_err(io::Error::other)?;
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = REFUSED.iter().map(|call| (*call, Vec::new())).collect();
    let bpf = REFUSED_BPF.iter().map(|command| when(0, SeccompCmpOp::Eq, *command as u64));
    rules.insert(libc::SYS_bpf, bpf.collect::<io::Result<_>>()?);
    if porter {
        rules.extend(porter_refused()?);
    }
    if arch == TargetArch::x86_64 {
        let again: Vec<_> = rules.iter().map(|(call, rules)| (call | X32, rules.clone())).collect();
        rules.extend(again);
        rules.extend(X32_ANEW.map(|call| (call | X32, Vec::new())));
    }
    let refuse = SeccompAction::Errno(libc::EPERM as u32);
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, refuse, arch).map_err(io::Error::other)?;
    filter.try_into().map_err(io::Error::other)
}

/// It enters network namespaces only, opens files for reading only, and speaks netlink only.
fn porter_refused() -> io::Result<BTreeMap<i64, Vec<SeccompRule>>> {
    let all = REFUSED_TO_PORTER.iter().chain(REFUSED_TO_PORTER_ANEW).map(|call| (*call, Vec::new()));
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = all.collect();
    rules.insert(libc::SYS_setns, vec![when(1, SeccompCmpOp::Ne, libc::CLONE_NEWNET as u64)?]);
    rules.insert(libc::SYS_socket, vec![when(0, SeccompCmpOp::Ne, libc::AF_NETLINK as u64)?]);
    let writing = [libc::O_WRONLY as u64, libc::O_RDWR as u64, libc::O_ACCMODE as u64];
    let writing = writing.map(|how| when(2, SeccompCmpOp::MaskedEq(libc::O_ACCMODE as u64), how));
    rules.insert(libc::SYS_openat, writing.into_iter().collect::<io::Result<_>>()?);
    Ok(rules)
}

fn when(argument: u8, op: SeccompCmpOp, value: u64) -> io::Result<SeccompRule> {
    let condition = SeccompCondition::new(argument, SeccompCmpArgLen::Dword, op, value).map_err(io::Error::other)?;
    SeccompRule::new(vec![condition]).map_err(io::Error::other)
}

/// Tries what must fail.
fn prove() -> io::Result<()> {
    for (what, tried) in [("load a program", load()), ("execute a program", execute())] {
        match tried {
            Err(error) if error.raw_os_error() == Some(libc::EPERM) => {}
            other => return Err(io::Error::other(format!("trying to {what} was not refused: {other:?}"))),
        }
    }
    // No folder of the agent's own has others' above it.
    match fs::read_dir("/") {
        Err(error) if error.raw_os_error() == Some(libc::EACCES) => Ok(()),
        Ok(_) if fence::state() != fence::State::Full => Ok(()),
        other => {
            Err(io::Error::other(format!("trying to open a folder of others' was not refused: {:?}", other.err())))
        }
    }
}

/// Loads the smallest program there is (`return 0`), which goes away again with its descriptor.
fn load() -> io::Result<()> {
    let program: [u64; 2] = [0xb7, 0x95];
    // SAFETY: integers all through, for which zero is a value.
    let mut attr: bpf_attr = unsafe { mem::zeroed() };
    attr.__bindgen_anon_3.prog_type = bpf_prog_type::BPF_PROG_TYPE_SOCKET_FILTER as u32;
    attr.__bindgen_anon_3.insn_cnt = 2;
    attr.__bindgen_anon_3.insns = program.as_ptr() as u64;
    attr.__bindgen_anon_3.license = c"GPL".as_ptr() as u64;
    let (command, size) = (bpf_cmd::BPF_PROG_LOAD as libc::c_int, size_of::<bpf_attr>());
    // SAFETY: the kernel reads within `attr`, of the size given, and what it points to, which lives on.
    let loaded = unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut attr, size) };
    if loaded < 0 {
        return Err(io::Error::last_os_error());
    }
    let descriptor = i32::try_from(loaded).map_err(io::Error::other)?;
    // SAFETY: the kernel has just made it for this call.
    let closed = unsafe { libc::close(descriptor) };
    if closed == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Executes a directory, which fails in any case: with another error where it is not forbidden.
fn execute() -> io::Result<()> {
    // SAFETY: a path that lives on; no arguments and no environment, which the kernel takes for empty lists.
    unsafe { libc::syscall(libc::SYS_execve, c"/".as_ptr(), ptr::null::<*const u8>(), ptr::null::<*const u8>()) };
    Err(io::Error::last_os_error())
}

#[cfg(test)]
mod tests {
    use std::{fs::File, path::PathBuf, process::Command, thread};

    use aya::maps::{Array, MapData};
    use nix::sched::{CloneFlags, setns, unshare};

    use super::*;

    const CHILD: &str = "WEIR_SEALED_CHILD";
    const PINS: &str = "WEIR_SEALED_PINS";
    const HERE: &str = "kernel::seal::tests::a_sealed_process";

    fn fields(name: &str) -> String {
        let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim_start_matches(':').trim().to_owned()
    }

    fn spawn() -> io::Result<()> {
        Command::new("/proc/self/exe").arg("--list").output().map(drop)
    }

    fn array() -> io::Result<()> {
        let made = Array::<MapData, u32>::create(1, 0);
        made.map(drop).map_err(io::Error::other)
    }

    fn namespace(path: &str, flags: CloneFlags) -> io::Result<()> {
        let file = File::open(path)?;
        thread::scope(|scope| scope.spawn(|| setns(file, flags)).join()).unwrap().map_err(io::Error::from)
    }

    type Attempt = fn() -> io::Result<()>;

    /// What is tried, and whether a sealed process may.
    const ROWS: [(&str, Attempt, bool); 10] = [
        ("load a program", load, false),
        ("spawn a process", spawn, false),
        ("make a network namespace", || in_thread(|| Ok(unshare(CloneFlags::CLONE_NEWNET)?)), false),
        ("make a table", array, true),
        ("enter a network namespace", || namespace("/proc/self/ns/net", CloneFlags::CLONE_NEWNET), false),
        ("open a folder that is not its own", || File::open("/").map(drop), false),
        (
            "look into another process",
            || std::fs::read_link(format!("/proc/{}/exe", std::os::unix::process::parent_id())).map(drop),
            false,
        ),
        (
            "make a folder for pins, and remove it",
            || pins("weir").and_then(|at| fs::create_dir(&at).and_then(|()| fs::remove_dir(&at))),
            true,
        ),
        ("write into a file beside pins", || File::options().write(true).open(pins("file")?).map(drop), false),
        ("enter an IPC namespace", || namespace("/proc/self/ns/ipc", CloneFlags::CLONE_NEWIPC), false),
    ];

    /// Below a folder in which things are pinned.
    fn pins(name: &str) -> io::Result<PathBuf> {
        std::env::var_os(PINS).map(|folder| PathBuf::from(folder).join(name)).ok_or(io::ErrorKind::NotFound.into())
    }

    fn in_thread(work: fn() -> io::Result<()>) -> io::Result<()> {
        thread::spawn(work).join().unwrap()
    }

    /// Sealing is for good and for every thread, so it happens in a process of its own, which is this test again.
    #[test]
    fn a_sealed_process_can_do_what_it_must_and_nothing_forbidden() {
        if std::env::var_os(CHILD).is_none() {
            let this = std::env::current_exe().unwrap();
            let folder = tempfile::tempdir().unwrap();
            fs::write(folder.path().join("file"), "").unwrap();
            let mut again = Command::new(this);
            again.args([HERE, "--nocapture"]).env(CHILD, "1").env(PINS, folder.path());
            let ran = again.output().unwrap();
            let said = format!("{}{}", String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
            assert!(ran.status.success() && said.contains("1 passed"), "{said}");
            return;
        }
        // Started before, so that only a filter for all threads reaches it.
        let (go, wait) = std::sync::mpsc::channel::<()>();
        let before = thread::spawn(move || (wait.recv(), load()).1);
        for (what, attempt, _) in ROWS {
            assert!(attempt().is_ok(), "before it is sealed, it may {what}: {:?}", attempt());
        }
        assert!(prove().is_err());
        close(&Fence { read: vec!["/proc".into()], pin: vec![pins("").unwrap()], ..Fence::default() }, false);
        assert_eq!(fence::state(), fence::State::Full);
        for (what, attempt, may) in ROWS {
            let tried = attempt();
            let refused =
                tried.as_ref().is_err_and(|error| matches!(error.raw_os_error(), Some(libc::EPERM | libc::EACCES)));
            assert_eq!((tried.is_ok(), refused), (may, !may), "{what}: {tried:?}");
        }
        go.send(()).unwrap();
        assert_eq!(before.join().unwrap().unwrap_err().raw_os_error(), Some(libc::EPERM));
        assert_eq!((fields("NoNewPrivs"), fields("Seccomp")), ("1".to_owned(), "2".to_owned()));
        assert_eq!(caps::read(None, CapSet::Effective).unwrap(), KEPT.into_iter().collect());
        thread::spawn(|| {
            hold_nothing();
            assert_eq!(fields("CapEff"), "0000000000000000");
            assert_eq!(fields("CapPrm"), "0000000000000000");
        })
        .join()
        .unwrap();
    }
}
