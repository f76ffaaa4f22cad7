//! Lives: agent, user space.
//! Called by: `seal`, and threads that were started before it; `runtime`, which says what is the agent's own.
//! May touch: what the calling thread, and those it starts, may open and connect to from then on.
//! Never: ends the agent because a kernel has no Landlock: what holds is told by [`state`].
//!
//! Landlock holds for a thread and those it starts, so a thread that was there before raises the fence itself. Rights are granted on
//! folders, not on files: whoever replaces a file - a certificate, a list of name servers - makes a new one, that no rule knows.

use std::{
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, AtomicU8, Ordering},
};

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible as _, NetPort, PathBeneath, PathFd,
    Ruleset, RulesetAttr as _, RulesetCreatedAttr as _, RulesetError, RulesetStatus, Scope,
};

/// Everything up to this is asked for; older kernels give what they have (`docs/operations.md`).
const ABI_ASKED: ABI = ABI::V6;

/// What the agent may open, and where it may listen and connect. What is not there is left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fence {
    /// Folders and files that are read, with what is below.
    pub read: Vec<PathBuf>,
    /// Folders below which files are made, changed and removed, too.
    pub write: Vec<PathBuf>,
    /// Folders below which things are pinned: folders and nodes are made and removed, and no file is opened.
    pub pin: Vec<PathBuf>,
    /// Ports that are listened on.
    pub bind: Vec<u16>,
    /// Ports that are connected to.
    pub connect: Vec<u16>,
}

/// What of it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum State {
    /// Nothing was raised.
    Off,
    /// All of it.
    Full,
    /// This kernel knows some of it only.
    Partial,
    /// This kernel has no Landlock, or it is switched off; or it has failed, as the log says.
    None,
}

impl State {
    /// Its word.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Full => "full",
            Self::Partial => "partial",
            Self::None => "none",
        }
    }
}

/// The least of what any thread has.
static STATE: AtomicU8 = AtomicU8::new(State::Off as u8);
/// New threads have it from who starts them.
static RAISED: AtomicBool = AtomicBool::new(false);

/// What holds for every thread.
pub fn state() -> State {
    let held = STATE.load(Ordering::Relaxed);
    [State::Full, State::Partial, State::None].into_iter().find(|state| *state as u8 == held).unwrap_or(State::Off)
}

impl Fence {
    /// For the main thread, and so for all that are started from now on.
    pub(super) fn raise_for_all(&self) {
        self.raise();
        RAISED.store(true, Ordering::Release);
    }

    /// For a thread that may have been started before.
    pub fn raise_early(&self) {
        if !RAISED.load(Ordering::Acquire) {
            self.raise();
        }
    }

    fn raise(&self) {
        let state = match self.restrict() {
            Ok(RulesetStatus::FullyEnforced) => State::Full,
            Ok(RulesetStatus::PartiallyEnforced) => State::Partial,
            Ok(RulesetStatus::NotEnforced) => State::None,
            Err(error) => {
                tracing::warn!(%error, "Landlock failed");
                State::None
            }
        };
        if STATE.fetch_max(state as u8, Ordering::Relaxed) < state as u8 && state != State::Full {
            let holds = state.word();
            tracing::warn!(
                holds,
                "files are not all closed to the agent: this kernel has no Landlock, or an older one"
            );
        }
    }

    fn restrict(&self) -> Result<RulesetStatus, RulesetError> {
        let mut rules = Ruleset::default()
            .set_compatibility(CompatLevel::BestEffort)
            .handle_access(AccessFs::from_all(ABI_ASKED))?
            .handle_access(AccessNet::from_all(ABI_ASKED))?
            .scope(Scope::Signal)?
            .create()?;
        for (paths, rights) in [(&self.read, reading()), (&self.write, writing()), (&self.pin, pinning())] {
            for (path, open) in paths.iter().filter_map(|path| Some((path, PathFd::new(path).ok()?))) {
                rules = rules.add_rule(PathBeneath::new(open, fitting(path, rights)))?;
            }
        }
        for (ports, right) in [(&self.bind, AccessNet::BindTcp), (&self.connect, AccessNet::ConnectTcp)] {
            for port in ports {
                rules = rules.add_rule(NetPort::new(*port, right))?;
            }
        }
        rules.restrict_self().map(|status| status.ruleset)
    }
}

fn reading() -> BitFlags<AccessFs> {
    AccessFs::ReadFile | AccessFs::ReadDir
}

/// What is pinned is a file to Landlock; to get hold of it again is no opening.
fn pinning() -> BitFlags<AccessFs> {
    AccessFs::ReadDir | AccessFs::MakeDir | AccessFs::MakeReg | AccessFs::RemoveDir | AccessFs::RemoveFile
}

/// Sockets are made in such folders, locks, too; no devices, and nothing is executed.
fn writing() -> BitFlags<AccessFs> {
    let refused = AccessFs::Execute | AccessFs::MakeChar | AccessFs::MakeBlock | AccessFs::IoctlDev;
    AccessFs::from_all(ABI_ASKED) & !refused
}

/// A rule for a file may not speak of what only folders have.
fn fitting(path: &Path, rights: BitFlags<AccessFs>) -> BitFlags<AccessFs> {
    if path.is_dir() { rights } else { rights & AccessFs::from_file(ABI_ASKED) }
}
