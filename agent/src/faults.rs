//! Lives: weir-agent, in builds with debug assertions: of what is shipped it is no part.
//! Called by: whatever puts something in force or on disk, between its steps.
//! May touch: the file that `WEIR_FAULTS` names; this process, which it kills when it is told to.
//! Never: does anything where that variable is not set.
//!
//! The file has a line for each fault, in the order in which they are to come: `POINT HOW COUNT`, such as `install.switch ENOMEM 1`. The
//! agent looks at it whenever it comes by one of [`POINTS`]. At the first line's point, for the COUNT-th time, it is killed (`kill`) or that
//! step fails (`ENOMEM`, `EIO`, `ENOSPC`). The line moves to `FILE.hit` before, so that each fault comes once (`docs/testing.md`).

use std::io;

/// The points, and what comes after each. A live test holds that every one of them is reached.
pub const POINTS: [(&str, &str); 43] = [
    ("start.load", "a kernel program is loaded"),
    ("start.run", "the folder of this run's pins is made"),
    ("install.limits", "what limits need is made ready"),
    ("install.maps", "an idle slot gets maps of its own"),
    ("install.lead", "the idle slot is made to lead to one of them"),
    ("install.page", "a page of the idle slot's tables is written"),
    ("install.address", "an address of the idle slot is written or removed"),
    ("install.prefix", "a prefix of the idle slot is written or removed"),
    ("install.image", "an image of address sets is made"),
    ("install.set", "the idle slot is made to lead to such an image"),
    ("install.switch", "one store puts the idle slot in force"),
    ("install.switched", "programs under way are waited for"),
    ("install.grace", "the wait itself"),
    ("install.settled", "limits and the counts of sets are taken over"),
    ("install.counts", "the counts of new sets begin anew"),
    ("save.create", "the file beside the last good policy's is made"),
    ("save.write", "the second half of the policy is written to it"),
    ("save.sync", "it is flushed to disk"),
    ("save.rename", "it takes the place of the file before"),
    ("save.renamed", "the folder is flushed to disk"),
    ("save.saved", "watchers are told, programs attached, the request answered"),
    ("attach.cgroup", "a program is linked to a cgroup"),
    ("attach.storage", "the program is told whose cgroup that is"),
    ("attach.caller", "the programs at the root are told whose cgroup that is"),
    ("attach.xdp", "a program is linked to an interface's XDP slot"),
    ("attach.wire", "a program is linked to a workload's interface"),
    ("attach.namespace", "a program is linked to a network namespace"),
    ("pin.link", "a link is pinned"),
    ("pin.pinned", "the next link is made"),
    ("xdp.update", "an XDP slot is taken over from the agent before"),
    ("xdp.updated", "the link of that slot is pinned by this agent, too"),
    ("detach.link", "the pin of a link of this agent's own is removed"),
    ("share.pin", "what leads to the program that was first in an XDP slot is pinned"),
    ("share.exchange", "Weir's program takes the place of that one"),
    ("share.exchanged", "what the agent before had there is removed"),
    ("set.switch", "one store puts what was loaded into address sets in force"),
    ("set.create", "the file beside that of a loaded set is made"),
    ("set.sync", "it is flushed to disk"),
    ("set.rename", "it takes the place of the file before"),
    ("set.renamed", "the journal of that one is removed"),
    ("set.note", "the second half of a change is written to a set's journal"),
    ("release.link", "a link of the agent before is let go of"),
    ("release.run", "the folders of runs before are removed"),
];

/// What a fault can be, beside `kill`.
pub const ERRORS: [&str; 3] = ["ENOMEM", "EIO", "ENOSPC"];

/// Comes by a point: what the step after it fails with.
///
/// # Errors
/// That was asked for.
#[cfg(debug_assertions)]
pub fn point(name: &'static str) -> io::Result<()> {
    armed::point(name)
}

/// Comes by a point. In a build without debug assertions there is nothing to it.
///
/// # Errors
/// None.
#[cfg(not(debug_assertions))]
#[inline(always)]
pub fn point(_name: &'static str) -> io::Result<()> {
    Ok(())
}

/// Comes by a point after which nothing can fail: an error that was asked for is none.
pub fn passed(name: &'static str) {
    let _ = point(name);
}

#[cfg(debug_assertions)]
mod armed {
    use std::{
        env, fs,
        io::{self, Write as _},
        path::{Path, PathBuf},
        sync::{Mutex, OnceLock, PoisonError},
    };

    use nix::{
        libc,
        sys::signal::{Signal, raise},
    };

    /// Names the file.
    const VARIABLE: &str = "WEIR_FAULTS";

    static FILE: OnceLock<Option<PathBuf>> = OnceLock::new();
    /// Several threads come by points.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

    pub(super) fn point(name: &'static str) -> io::Result<()> {
        match FILE.get_or_init(|| env::var_os(VARIABLE).map(PathBuf::from)) {
            Some(file) => look(file, name),
            None => Ok(()),
        }
    }

    pub(super) fn look(file: &Path, name: &'static str) -> io::Result<()> {
        if !super::POINTS.iter().any(|(known, _)| *known == name) {
            return Err(io::Error::other(format!("{name} is not in the table of fault points")));
        }
        let _lock = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let Ok(text) = fs::read_to_string(file) else { return Ok(()) };
        let (line, rest) = text.split_once('\n').unwrap_or((&text, ""));
        let mut words = line.split(' ');
        if words.next() != Some(name) {
            return Ok(());
        }
        let how = words.next().unwrap_or_default();
        let count = words.next().and_then(|word| word.parse::<u32>().ok()).unwrap_or(1);
        if count > 1 {
            fs::write(file, format!("{name} {how} {}\n{rest}", count - 1))?;
            return Ok(());
        }
        fs::write(file, rest)?;
        let mut hit = fs::OpenOptions::new().create(true).append(true).open(file.with_extension("hit"))?;
        writeln!(hit, "{name} {how}")?;
        strike(how)
    }

    fn strike(how: &str) -> io::Result<()> {
        let code = match how {
            "kill" => {
                raise(Signal::SIGKILL)?;
                return Ok(());
            }
            "ENOMEM" => libc::ENOMEM,
            "EIO" => libc::EIO,
            "ENOSPC" => libc::ENOSPC,
            other => return Err(io::Error::other(format!("{other} is no fault"))),
        };
        Err(io::Error::from_raw_os_error(code))
    }
}

#[cfg(all(test, debug_assertions))]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_fault_comes_at_its_point_as_often_as_it_was_said_and_once() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("faults");
        let look = |name| armed::look(&file, name).map_err(|error| error.raw_os_error());
        assert_eq!(look("save.sync"), Ok(()), "nothing is asked for");
        fs::write(&file, "save.sync ENOSPC 2\nsave.rename EIO 1\n").unwrap();
        assert_eq!(look("save.rename"), Ok(()), "it is not its turn");
        assert_eq!(look("save.sync"), Ok(()));
        assert_eq!(look("save.sync"), Err(Some(nix::libc::ENOSPC)));
        assert_eq!(look("save.sync"), Ok(()), "it came already");
        assert_eq!(look("save.rename"), Err(Some(nix::libc::EIO)));
        assert_eq!(fs::read_to_string(file.with_extension("hit")).unwrap(), "save.sync ENOSPC\nsave.rename EIO\n");
    }

    #[test]
    fn a_point_that_is_not_in_the_table_is_a_mistake() {
        let dir = tempfile::tempdir().unwrap();
        assert!(armed::look(&dir.path().join("faults"), "save.nothing").is_err());
        let names: std::collections::BTreeSet<&str> = POINTS.iter().map(|(name, _)| *name).collect();
        assert_eq!(names.len(), POINTS.len(), "a name stands there twice");
    }
}
