//! Lives: agent, user space.
//! Called by: `doctor`; `keep`, which looks whether what was attached still is.
//! May touch: asks which programs are attached to a cgroup, an interface or a network namespace; needs CAP_NET_ADMIN.
//! Never: attaches or detaches; keeps what it opens.
#![expect(unsafe_code, reason = "aya has no query of the programs of a cgroup or a namespace; the two calls are below")]

use std::{
    ffi::CString,
    fs::{self, File},
    io, mem,
    os::{
        fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

use aya_obj::generated::{bpf_attr, bpf_cmd};
use nix::libc;

use crate::kernel::attach::WORKLOAD_HOOKS;

/// The programs at one hook of a cgroup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The hook, in the words of status.
    pub hook: &'static str,
    /// Ids of those attached to this very cgroup.
    pub here: Vec<u32>,
    /// Ids of those that run for its processes, those of the cgroups above it included, in the order in which they run.
    pub effective: Vec<u32>,
}

/// `BPF_F_QUERY_EFFECTIVE` (include/uapi/linux/bpf.h).
const EFFECTIVE: u32 = 1;
/// More than the kernel attaches to one hook (`BPF_CGROUP_MAX_PROGS` is 64 for each cgroup on the way up).
const MOST: usize = 1024;

/// The programs at each hook that Weir uses.
///
/// # Errors
/// The cgroup cannot be opened or asked.
pub fn cgroup_programs(cgroup: &Path) -> io::Result<Vec<Found>> {
    let directory = File::open(cgroup)?;
    let target = directory.as_fd().as_raw_fd().cast_unsigned();
    let ask = |flags, kind| query(target, kind, flags);
    WORKLOAD_HOOKS
        .iter()
        .map(|hook| {
            let (here, effective) = (ask(0, hook.attach_type)?, ask(EFFECTIVE, hook.attach_type)?);
            Ok(Found { hook: hook.label, here, effective })
        })
        .collect()
}

/// Ids of the programs attached to a cgroup or a network namespace (`target` is its descriptor) or to an interface (its index).
///
/// # Errors
/// It is not there, or the kernel does not know the question.
pub(super) fn attached(target: u32, attach_type: u32) -> io::Result<Vec<u32>> {
    query(target, attach_type, 0)
}

/// Whether a pinned link of a cgroup is still attached: the kernel lets go of it with the last socket of a cgroup that was deleted.
///
/// # Errors
/// The pin cannot be opened, or the kernel does not tell.
pub(super) fn is_attached(pin: &Path) -> io::Result<bool> {
    let path = CString::new(pin.as_os_str().as_bytes()).map_err(io::Error::other)?;
    // SAFETY: integers all through, for which zero is a value.
    let mut attr: bpf_attr = unsafe { mem::zeroed() };
    attr.__bindgen_anon_4.pathname = path.as_ptr() as u64;
    let (command, size) = (bpf_cmd::BPF_OBJ_GET as libc::c_int, size_of::<bpf_attr>());
    // SAFETY: the kernel reads within `attr`, of the size given, and the string that it points to, which lives on.
    let opened = unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut attr, size) };
    let descriptor = i32::try_from(opened).map_err(io::Error::other)?;
    if descriptor < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made it for this call.
    let link = unsafe { OwnedFd::from_raw_fd(descriptor) };
    let said = fs::read_to_string(format!("/proc/self/fdinfo/{}", link.as_raw_fd()))?;
    Ok(!said.lines().any(|line| line.split_whitespace().eq(["cgroup_id:", "0"])))
}

fn query(target: u32, attach_type: u32, flags: u32) -> io::Result<Vec<u32>> {
    let mut ids = vec![0u32; MOST];
    // SAFETY: integers all through, for which zero is a value. Of full size: the kernel writes to its later members, too.
    let mut attr: bpf_attr = unsafe { mem::zeroed() };
    // The index of an interface stands in the same place.
    attr.query.__bindgen_anon_1.target_fd = target;
    attr.query.attach_type = attach_type;
    attr.query.query_flags = flags;
    attr.query.prog_ids = ids.as_mut_ptr() as u64;
    attr.query.__bindgen_anon_2.prog_cnt = MOST as u32;
    let (command, size) = (bpf_cmd::BPF_PROG_QUERY as libc::c_int, size_of::<bpf_attr>());
    // SAFETY: the kernel reads and writes within `attr`, of the size given, and writes at most `prog_cnt` ids to `ids`; both live on.
    let asked = unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut attr, size) };
    if asked < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: both members of the union are this integer.
    let count = unsafe { attr.query.__bindgen_anon_2.prog_cnt };
    ids.truncate(count as usize);
    Ok(ids)
}
