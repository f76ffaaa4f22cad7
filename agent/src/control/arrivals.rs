//! Lives: weir-agent, control. Which directories of the managed tree are watched for cgroups that somebody waits for.
//! Called by: `tick` and `look`, which say where; a thread, which waits for news and has control look.
//! May touch: inotify, directory names below the cgroup root.
//! Never: is needed: what it misses, or has no room to watch, the next tick finds.
//!
//! The kernel tells of a directory that is made in a cgroup file system as in any other, before whoever made it can put a process there.

use std::{
    collections::BTreeSet,
    os::fd::AsFd,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    thread::sleep,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, poll},
    sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent, WatchDescriptor},
};

use super::actor::Handle;
use crate::runtime::Stop;

/// Directories watched at most: the kernel counts those of all of root's programs together, and others need some too.
const WATCHES: usize = 1024;
/// Longest time until a stop is noticed.
const TURN_MS: u8 = 100;
/// Shortest time between two looks: a container runtime makes its directories one after the other.
const PAUSE: Duration = Duration::from_millis(5);
/// Longest one: then the next tick has looked.
const LONGEST: Duration = Duration::from_secs(1);

/// Says where to watch. Cheap to clone; the default watches nothing.
#[derive(Clone, Debug, Default)]
pub struct Arrivals(Option<Arc<Watched>>);

#[derive(Debug)]
struct Watched {
    inotify: Inotify,
    watches: Mutex<BTreeSet<WatchDescriptor>>,
}

/// Waits for what appears there.
#[derive(Debug)]
pub struct News(Arc<Watched>);

impl Arrivals {
    /// Both ends.
    ///
    /// # Errors
    /// The kernel has no more such instances (`fs.inotify.max_user_instances`).
    pub fn open() -> Result<(Self, News), Errno> {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        let watched = Arc::new(Watched { inotify, watches: Mutex::default() });
        Ok((Self(Some(Arc::clone(&watched))), News(watched)))
    }

    /// Watches directories; whether one of them was not watched before, so that something may have appeared there unseen.
    pub fn watch(&self, directories: impl IntoIterator<Item = PathBuf>) -> bool {
        let Some(watched) = &self.0 else { return false };
        let mut watches = watched.watches.lock().unwrap_or_else(PoisonError::into_inner);
        let mut new = false;
        for directory in directories {
            if watches.len() >= WATCHES {
                break;
            }
            let what = AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO | AddWatchFlags::IN_ONLYDIR;
            match watched.inotify.add_watch(&directory, what | AddWatchFlags::IN_DONT_FOLLOW) {
                Ok(watch) => new |= watches.insert(watch),
                // Gone again, or no room: the next tick looks there.
                Err(error) => tracing::debug!(directory = %directory.display(), error = %error, "not watched"),
            }
        }
        new
    }
}

impl News {
    /// Has control look whenever something has appeared, until the stop.
    ///
    /// # Errors
    /// The kernel tells nothing any more.
    pub fn run(&self, control: &Handle, stop: &Stop) -> Result<(), Errno> {
        while !stop.is_set() {
            let mut waiting = [PollFd::new(self.0.inotify.as_fd(), PollFlags::POLLIN)];
            match poll(&mut waiting, TURN_MS) {
                Ok(0) | Err(Errno::EINTR) => {}
                Ok(_) if self.0.read()? => {
                    let begin = Instant::now();
                    control.look();
                    sleep(pause_after(begin.elapsed()));
                }
                Ok(_) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

impl Watched {
    /// Takes what the kernel has to tell; whether a directory has appeared.
    fn read(&self) -> Result<bool, Errno> {
        let events = match self.inotify.read_events() {
            Ok(events) => events,
            Err(Errno::EAGAIN) => return Ok(false),
            Err(error) => return Err(error),
        };
        let gone = |event: &&InotifyEvent| event.mask.contains(AddWatchFlags::IN_IGNORED);
        let mut watches = self.watches.lock().unwrap_or_else(PoisonError::into_inner);
        events.iter().filter(gone).for_each(|event| {
            watches.remove(&event.wd);
        });
        // The end of a watch alone is nothing to look for, and neither is a file.
        Ok(events.iter().any(|event| !gone(&event)))
    }
}

/// Who makes directories without end gets a fifth of control's time for it.
fn pause_after(look: Duration) -> Duration {
    (look * 4).clamp(PAUSE, LONGEST)
}

/// The directory in which the next part of a path that is not there yet will appear.
pub fn where_it_appears(path: &Path) -> Option<PathBuf> {
    path.ancestors().skip(1).find(|above| above.is_dir()).map(Path::to_path_buf)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn the_next_part_of_a_path_appears_in_what_is_there_of_it() {
        let root = tempfile::tempdir().unwrap();
        let there = root.path().join("a");
        fs::create_dir(&there).unwrap();
        assert_eq!(where_it_appears(&there.join("b/c/d")), Some(there.clone()));
        assert_eq!(where_it_appears(&there), Some(root.path().to_owned()));
    }

    #[test]
    fn the_longer_a_look_takes_the_longer_is_the_pause() {
        for (look, pause) in [(0, 5), (1, 5), (2, 8), (100, 400), (300, 1000), (9000, 1000)] {
            assert_eq!(pause_after(Duration::from_millis(look)), Duration::from_millis(pause), "{look} ms");
        }
    }

    #[test]
    fn what_appears_is_told_and_what_goes_is_not_watched_any_more() {
        let root = tempfile::tempdir().unwrap();
        let (arrivals, news) = Arrivals::open().unwrap();
        let within = root.path().join("within");
        fs::create_dir(&within).unwrap();
        let both = || [root.path().to_owned(), within.clone()];
        assert!(arrivals.watch(both()) && !arrivals.watch(both()));
        assert!(!arrivals.watch([root.path().join("absent")]));
        let told = || news.0.read().unwrap();
        assert!(!told());
        fs::create_dir(within.join("one")).unwrap();
        assert!(told() && !told());
        fs::remove_dir(within.join("one")).unwrap();
        fs::remove_dir(&within).unwrap();
        assert!(!told(), "nothing has appeared");
        fs::create_dir(&within).unwrap();
        assert!(told() && arrivals.watch(both()), "another one of that name is watched anew");
        assert!(!Arrivals::default().watch(both()));
    }
}
