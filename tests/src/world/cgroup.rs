//! Lives: weir-tests, the cgroups of a world.
//! Called by: world when it is built and removed.
//! May touch: one fresh directory of the world in the cgroup2 mount.
//! Never: the root cgroup, controllers, or processes outside that directory.

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::error::{WorldError, file};

/// How long killed processes may take to go.
const GONE_WITHIN: Duration = Duration::from_secs(5);

/// Where cgroup2 is mounted.
///
/// # Errors
/// When it is not, or /proc cannot be read.
pub fn mount() -> Result<PathBuf, WorldError> {
    let source = "/proc/self/mountinfo";
    let text = fs::read_to_string(source).map_err(file("reading", source))?;
    find(&text).ok_or(WorldError::NoCgroup2)
}

/// The mount point is the fifth field; the type follows the lone dash. Only whole mounts: a part of the tree would not
/// be where the agent looks for it.
fn find(mountinfo: &str) -> Option<PathBuf> {
    mountinfo.lines().find_map(|line| {
        let (mount, kind) = line.split_once(" - ")?;
        let mut fields = mount.split(' ').skip(3);
        let (root, point) = (fields.next()?, fields.next()?);
        (kind.starts_with("cgroup2 ") && root == "/").then(|| unescape(point))
    })
}

/// The kernel writes blanks and backslashes of a path as three octal digits.
fn unescape(path: &str) -> PathBuf {
    let mut bytes = Vec::with_capacity(path.len());
    let mut parts = path.split('\\');
    bytes.extend_from_slice(parts.next().unwrap_or_default().as_bytes());
    for part in parts {
        match part.get(..3).and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                bytes.push(byte);
                bytes.extend_from_slice(part.get(3..).unwrap_or_default().as_bytes());
            }
            None => bytes.extend_from_slice(format!("\\{part}").as_bytes()),
        }
    }
    PathBuf::from(OsString::from_vec(bytes))
}

/// Makes one cgroup; its parent exists.
///
/// # Errors
/// What the kernel says.
pub fn create(path: &Path) -> Result<(), WorldError> {
    fs::create_dir(path).map_err(file("creating cgroup", path))
}

/// Ends every process at or below `path` and removes the tree. Nothing there is fine.
///
/// # Errors
/// When processes survive, or the kernel refuses to remove a cgroup.
pub fn remove(path: &Path) -> Result<(), WorldError> {
    if !path.exists() {
        return Ok(());
    }
    let kill = path.join("cgroup.kill");
    let deadline = crate::process::deadline(GONE_WITHIN);
    loop {
        // Again each time: whoever was just being started comes after the first.
        fs::write(&kill, "1").map_err(file("writing", &kill))?;
        if !populated(path)? {
            break;
        }
        if Instant::now() > deadline {
            return Err(WorldError::Survivors(path.to_path_buf()));
        }
        sleep(Duration::from_millis(5));
    }
    remove_tree(path)
}

fn populated(path: &Path) -> Result<bool, WorldError> {
    let events = path.join("cgroup.events");
    let text = fs::read_to_string(&events).map_err(file("reading", events))?;
    Ok(text.lines().any(|line| line == "populated 1"))
}

/// Innermost first. The files in a cgroup go with it.
fn remove_tree(path: &Path) -> Result<(), WorldError> {
    for entry in fs::read_dir(path).map_err(file("reading", path))?.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_tree(&entry.path())?;
        }
    }
    fs::remove_dir(path).map_err(file("removing cgroup", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cgroup2_is_found_wherever_it_is_mounted() {
        let rows = [
            ("41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw", Some("/sys/fs/cgroup/unified")),
            ("1 2 0:3 / /a\\040b rw shared:4 master:2 - cgroup2 none rw", Some("/a b")),
            ("1 2 0:3 /part /x rw - cgroup2 none rw", None),
            ("41 31 0:38 / /sys/fs/cgroup2 rw - cgroup cgroup rw", None),
        ];
        for (line, expected) in rows {
            assert_eq!(find(line), expected.map(PathBuf::from), "{line}");
        }
    }
}
