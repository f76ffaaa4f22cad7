//! Lives: agent, user space.
//! Called by: `interfaces`, where an XDP slot is taken; `Kernel::load`, for what an agent before left behind.
//! May touch: XDP slots that hold a program which netlink put there; pins of its own.
//! Never: leaves a slot without the program that was there first, or takes one that has changed hands meanwhile.
//!
//! Weir goes in front of the neighbour (`ebpf/src/chain.rs`): one netlink request replaces it in the slot by the front, where it
//! still is what it was, and another puts it back. Between the two the array of neighbours is pinned (`pins`), so that it is
//! called also after a crash; so is what judges, where enforcement is to outlive the agent. The next agent puts its own front in the
//! place of the one that was left, or the neighbour where that is no longer to be shared with.

use std::{
    error::Error,
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use aya::{
    Ebpf,
    maps::{Map, MapData, MapError, ProgramArray},
    programs::{ProgramError, ProgramFd, ProgramInfo, Xdp, loaded_programs},
};
use nix::libc::{EBUSY, EEXIST, EINVAL, ENODEV, ENOENT};
use weir_common::maps;

use super::{
    Options, attach,
    error::{self, KernelError, Obstacle},
    generation::Grace,
    interfaces::XdpMode,
    keep,
    links::{self, SlotMode},
    pins::{Folder, Pin, Pins},
};
use crate::faults;

/// More than a frame takes on its way through programs.
const SETTLED: Duration = Duration::from_millis(100);

/// What is done where the XDP slot of an interface is taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Neighbours {
    /// Go in front of who is there, and not merely say so.
    pub chain: bool,
    /// A mounted BPF file system, for what must outlive a crash.
    pub bpffs: PathBuf,
}

impl Default for Neighbours {
    fn default() -> Self {
        Self { chain: false, bpffs: PathBuf::from("/sys/fs/bpf") }
    }
}

/// How a program takes frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Frames {
    /// In as many buffers as they came in.
    Several,
    /// In one.
    One,
}

/// A neighbour that Weir stands in front of. Who drops it without [`Neighbourhood::leave`] leaves a front that calls the neighbour.
pub(super) struct Chain {
    frames: Frames,
    pin: Pin,
    mode: SlotMode,
    front: ProgramFd,
    neighbour: ProgramFd,
    /// What to say of it.
    pub detail: String,
}

impl Chain {
    /// The word for its mode.
    pub(super) const fn mode(&self) -> &'static str {
        self.mode.word()
    }
}

impl SlotMode {
    const fn word(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Generic => "generic",
        }
    }
}

/// What stands, or could stand, in front of neighbours.
pub(super) struct Neighbourhood {
    chain: bool,
    /// What judges stays in force when the agent ends.
    pin: bool,
    pins: Pins,
    grace: Grace,
    /// Programs that take frames in several buffers, then those that take one: the kernel does not let the two call each other.
    kinds: [Kind; 2],
}

struct Kind {
    programs: attach::Chain,
    judges: Map,
    neighbours: Map,
    /// From the first neighbour on.
    folder: Option<Folder>,
}

/// An interface that is to be shared.
#[derive(Clone, Copy)]
pub(super) struct Where<'a> {
    pub index: u32,
    pub name: &'a str,
    pub place: u32,
}

impl Neighbourhood {
    pub(super) fn take(ebpf: &mut Ebpf, options: &Options) -> Result<Self, KernelError> {
        let mut kind = |programs: attach::Chain| {
            let judges = ebpf.take_map(programs.judges).ok_or(KernelError::NoMap(programs.judges))?;
            let neighbours = ebpf.take_map(programs.neighbours).ok_or(KernelError::NoMap(programs.neighbours))?;
            Ok::<_, KernelError>(Kind { programs, judges, neighbours, folder: None })
        };
        let [several, one] = attach::CHAINS;
        let kinds = [kind(several)?, kind(one)?];
        let grace = Grace::take(ebpf, maps::GRACE_NEIGHBOURS)?;
        let pins = Pins::new(keep::tree(&options.neighbours.bpffs, &options.cgroup_root)?);
        Ok(Self { chain: options.neighbours.chain, pin: options.pin, pins, grace, kinds })
    }

    /// Goes in front of the program that holds the interface's slot, if that is asked for. `hides`: generic mode may not be there.
    pub(super) fn join(
        &mut self,
        ebpf: &Ebpf,
        (mode, hides): (XdpMode, bool),
        at: Where<'_>,
    ) -> Result<Chain, KernelError> {
        let taken = || KernelError::Taken { interface: at.name.to_owned() };
        if !self.chain {
            self.restore();
            return Err(taken());
        }
        // What is gone by now is not there at the next reconcile either, when the slot is tried again.
        let Ok(Some(slot)) = links::xdp(at.index) else { return Err(taken()) };
        let Some(theirs) =
            program(slot.program).map_err(|source| KernelError::ProgramInfo { program: attach::XDP, source })?
        else {
            return Err(refused(at, &format!("id {}", slot.program), Obstacle::Place));
        };
        let Ok(from) = theirs.fd() else { return Err(taken()) };
        let before = if is_front(&theirs) { Some(self.before(theirs.id(), at.index).ok_or_else(taken)?) } else { None };
        let theirs = match &before {
            // The front of an agent before: its neighbour is ours now.
            Some((_, pin)) => program(pin.neighbour).ok().flatten().ok_or_else(taken)?,
            None => theirs,
        };
        let label = format!("{} (id {})", theirs.name_as_str().unwrap_or("without a name"), theirs.id());
        let refuse = |obstacle| refused(at, &label, obstacle);
        let their_mode = slot.mode.ok_or_else(|| refuse(Obstacle::Place))?;
        if hides && their_mode == SlotMode::Generic {
            return Err(KernelError::Hidden { interface: at.name.to_owned() });
        }
        if !fits(mode, their_mode) {
            return Err(refuse(Obstacle::Mode { theirs: their_mode.word() }));
        }
        let Ok(neighbour) = theirs.fd() else { return Err(taken()) };
        let frames = self.call(at.place, &neighbour)?.map_err(refuse)?;
        let chain = self.prepare(frames, ebpf, at, theirs.id(), (their_mode, neighbour));
        let chain = chain.inspect_err(|_| self.kind(frames).forget(at.place))?;
        // An answer that was lost says nothing of the slot: if the front is there, it is there.
        let exchanged = faults::point("share.exchange")
            .and_then(|()| links::replace_xdp(at.index, chain.mode, &from, &chain.front));
        if let Err(error) = exchanged
            && !self.stands(&chain)
        {
            self.kind(frames).remove(chain.pin, at.place);
            return Err(match error.raw_os_error() {
                Some(EBUSY) => refuse(Obstacle::Linked),
                Some(EEXIST) => taken(),
                _ => refuse(Obstacle::Refused(error)),
            });
        }
        tracing::info!(
            interface = at.name,
            neighbour = label,
            "Weir stands in front of the XDP program that was there"
        );
        faults::passed("share.exchanged");
        if let Some((folder, pin)) = before {
            self.settle();
            folder.remove(pin);
            folder.close();
        }
        let buffers = match frames {
            Frames::Several => "",
            Frames::One => " and, like it, takes frames in one buffer only",
        };
        Ok(Chain { detail: format!("shares the slot with {label}, which sees what Weir passes{buffers}"), ..chain })
    }

    /// What an agent that is gone left of its front on an interface.
    fn before(&self, front: u32, index: u32) -> Option<(Folder, Pin)> {
        let folder = self.pins.left_behind().into_iter().find(|folder| folder.front == front)?;
        let pin = folder.pins().into_iter().find(|pin| pin.index == index)?;
        Some((folder, pin))
    }

    const fn kind(&mut self, frames: Frames) -> &mut Kind {
        let [several, one] = &mut self.kinds;
        match frames {
            Frames::Several => several,
            Frames::One => one,
        }
    }

    /// Lets the neighbour be called by the interface's place: by which kind of program.
    fn call(&mut self, place: u32, neighbour: &ProgramFd) -> Result<Result<Frames, Obstacle>, KernelError> {
        for frames in [Frames::Several, Frames::One] {
            let kind = self.kind(frames);
            let Err(error) = kind.array().and_then(|mut array| array.set(place, neighbour, 0)) else {
                return Ok(Ok(frames));
            };
            match errno(&error) {
                Some(EINVAL) => {}
                Some(EBUSY) => return Ok(Err(Obstacle::Extended)),
                _ => return Err(error::map(kind.programs.neighbours)(error)),
            }
        }
        Ok(Err(Obstacle::Kind))
    }

    /// Everything that must be so before the front is in the slot.
    fn prepare(
        &mut self,
        frames: Frames,
        ebpf: &Ebpf,
        at: Where<'_>,
        id: u32,
        (mode, neighbour): (SlotMode, ProgramFd),
    ) -> Result<Chain, KernelError> {
        let (pins, pin_judge) = (self.pins.clone(), self.pin);
        let kind = self.kind(frames);
        let attach::Chain { front: name, chained, judges, neighbours } = kind.programs;
        let front = xdp(ebpf, name)?;
        let pin = Pin { index: at.index, neighbour: id };
        let unpinned =
            |path: &Path, why: String| refused(at, &format!("id {id}"), Obstacle::Pin { path: path.to_owned(), why });
        let folder = match kind.folder.take() {
            Some(folder) => folder,
            None => {
                let judge = xdp(ebpf, chained)?.fd().map_err(loading(chained))?;
                let set = ProgramArray::try_from(&mut kind.judges).and_then(|mut array| array.set(0, judge, 0));
                set.map_err(error::map(judges))?;
                let id = front.info().map_err(loading(name))?.id();
                let folder = pins.create(id).map_err(|error| unpinned(pins.path(), error.to_string()))?;
                if pin_judge {
                    let path = folder.judge();
                    let array = ProgramArray::try_from(&kind.judges).map_err(error::map(judges))?;
                    array.pin(&path).map_err(|error| unpinned(&path, error::causes(&error)))?;
                }
                folder
            }
        };
        let path = kind.folder.insert(folder).path(pin);
        // Before the pin, which would be in the way of the next try if this failed.
        let front = front.fd().and_then(|fd| Ok(fd.try_clone()?)).map_err(loading(name))?;
        faults::point("share.pin").map_err(|error| unpinned(&path, error.to_string()))?;
        let pinned = ProgramArray::try_from(&kind.neighbours).map_err(error::map(neighbours))?.pin(&path);
        pinned.map_err(|error| unpinned(&path, error::causes(&error)))?;
        Ok(Chain { frames, pin, mode, front, neighbour, detail: String::new() })
    }

    /// Whether the slot still holds the front.
    pub(super) fn stands(&mut self, chain: &Chain) -> bool {
        let front = self.kind(chain.frames).folder.as_ref().map(|folder| folder.front);
        // A kernel that does not answer is asked again.
        links::xdp(chain.pin.index).map_or(true, |slot| slot.map(|slot| slot.program) == front)
    }

    /// Puts neighbours back, except where the slot has changed hands; of each the interface's place and name.
    pub(super) fn leave(&mut self, chains: Vec<(Chain, u32, String)>) {
        let left: Vec<_> = chains.into_iter().filter(|(chain, _, name)| leave(chain, name)).collect();
        if !left.is_empty() {
            self.settle();
        }
        left.into_iter().for_each(|(chain, place, _)| self.kind(chain.frames).remove(chain.pin, place));
    }

    /// Waits for frames that are on their way through the front: they are the neighbour's to see.
    fn settle(&mut self) {
        if let Err(error) = self.grace.wait() {
            tracing::warn!(%error, "frames under way were not waited for: the program behind may miss some");
        }
    }

    /// Puts back what stands behind the fronts of agents that are gone.
    pub(super) fn restore(&mut self) {
        let _ = restore(&self.pins.clone(), || self.settle());
    }
}

/// Puts back what stands behind the fronts of agents that are gone; how many, and how many could not be. `settle` waits for frames that
/// are on their way through a front.
fn restore(pins: &Pins, mut settle: impl FnMut()) -> (usize, usize) {
    let (mut restored, mut left) = (0, 0);
    for folder in pins.left_behind() {
        // Not known whether it still stands somewhere: what it needs stays.
        let Ok(front) = program(folder.front) else { continue };
        let front = front.filter(is_front);
        let done = |pin: &Pin| front.as_ref().is_none_or(|front| put_back(front, *pin));
        let (done, stay): (Vec<Pin>, Vec<Pin>) = folder.pins().into_iter().partition(done);
        if !done.is_empty() {
            settle();
        }
        (restored, left) = (restored + done.len(), left + stay.len());
        done.into_iter().for_each(|pin| folder.remove(pin));
        folder.close();
    }
    (restored, left)
}

/// The same where no agent runs, below a tree's folder.
pub(super) fn put_all_back(tree: &Path) -> (usize, usize) {
    // No map of ours to wait with: frames are through long before.
    restore(&Pins::new(tree.to_owned()), || std::thread::sleep(SETTLED))
}

impl Kind {
    fn array(&mut self) -> Result<ProgramArray<&mut MapData>, MapError> {
        ProgramArray::try_from(&mut self.neighbours)
    }

    /// Takes back what was made known of a neighbour that the front no longer stands before.
    fn remove(&mut self, pin: Pin, place: u32) {
        if let Some(folder) = &self.folder {
            folder.remove(pin);
        }
        self.forget(place);
    }

    fn forget(&mut self, place: u32) {
        if let Err(error) = self.array().and_then(|mut array| array.clear_index(&place)) {
            tracing::warn!(%error, "a program that Weir stood before stays loaded until the agent ends");
        }
    }
}

impl Drop for Neighbourhood {
    fn drop(&mut self) {
        self.kinds.iter_mut().filter_map(|kind| kind.folder.take()).for_each(Folder::close);
    }
}

/// Whether the front no longer stands before the neighbour.
fn leave(chain: &Chain, interface: &str) -> bool {
    let Chain { pin, mode, front, neighbour, .. } = chain;
    let Err(error) = links::replace_xdp(pin.index, *mode, front, neighbour) else {
        tracing::info!(
            interface,
            neighbour = pin.neighbour,
            "the XDP program that was there has the slot to itself again"
        );
        return true;
    };
    match error.raw_os_error() {
        Some(ENODEV) => tracing::debug!(interface, "an interface that was shared is gone"),
        Some(EEXIST | EBUSY) => tracing::warn!(
            interface,
            neighbour = pin.neighbour,
            "somebody else has changed what is in the XDP slot that Weir shared: it is left as it is, the neighbour is not put back"
        ),
        _ => {
            tracing::error!(interface, %error, "the XDP program that was there could not be put back; it is called all the same");
            return false;
        }
    }
    true
}

/// Whether the neighbour of a front that an agent left behind is in its slot again.
fn put_back(front: &ProgramInfo, pin: Pin) -> bool {
    // Another namespace's interface, or one that changed hands: as long as the front is somewhere, it is left alone.
    let Ok(Some(slot)) = links::xdp(pin.index) else { return false };
    let Some(mode) = slot.mode.filter(|_| slot.program == front.id()) else { return false };
    let Ok(Some(neighbour)) = program(pin.neighbour) else { return false };
    let fds = front.fd().and_then(|front| Ok((front, neighbour.fd()?)));
    let replaced = fds
        .map_err(io::Error::other)
        .and_then(|(front, neighbour)| links::replace_xdp(pin.index, mode, front, neighbour));
    match replaced {
        Ok(()) => tracing::info!(
            index = pin.index,
            neighbour = pin.neighbour,
            "an agent before ended without a word: the XDP program that was there has its slot again"
        ),
        Err(error) => {
            tracing::error!(index = pin.index, neighbour = pin.neighbour, %error, "the XDP program behind a front that was left could not be put back");
            return false;
        }
    }
    true
}

fn fits(asked: XdpMode, theirs: SlotMode) -> bool {
    match asked {
        XdpMode::Auto => true,
        XdpMode::Native => theirs == SlotMode::Native,
        XdpMode::Generic => theirs == SlotMode::Generic,
    }
}

fn is_front(program: &ProgramInfo) -> bool {
    program.name_as_str().is_some_and(|name| attach::CHAINS.iter().any(|chain| chain.front == name))
}

/// The program with this id; `None` for one that is gone. A kernel that cannot be asked (no descriptor left, a privilege missing) has not
/// said that.
fn program(id: u32) -> Result<Option<ProgramInfo>, ProgramError> {
    let mut unknown = None;
    for program in loaded_programs() {
        match program {
            Ok(program) if program.id() == id => return Ok(Some(program)),
            Ok(_) => {}
            // One that goes away while they are listed.
            Err(ProgramError::SyscallError(error)) if error.io_error.raw_os_error() == Some(ENOENT) => {}
            Err(error) => unknown = Some(error),
        }
    }
    unknown.map_or(Ok(None), Err)
}

fn xdp<'a>(ebpf: &'a Ebpf, name: &'static str) -> Result<&'a Xdp, KernelError> {
    let program = ebpf.program(name).ok_or(KernelError::NoProgram(name))?;
    program.try_into().map_err(loading(name))
}

fn loading(program: &'static str) -> impl Fn(ProgramError) -> KernelError {
    move |cause| KernelError::Program { program, cause, verifier: String::new() }
}

fn refused(at: Where<'_>, program: &str, obstacle: Obstacle) -> KernelError {
    KernelError::Neighbour { interface: at.name.to_owned(), program: program.to_owned(), obstacle }
}

fn errno(error: &MapError) -> Option<i32> {
    let mut next: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(cause) = next {
        if let Some(cause) = cause.downcast_ref::<io::Error>() {
            return cause.raw_os_error();
        }
        next = cause.source();
    }
    None
}
