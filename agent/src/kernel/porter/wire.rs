//! Lives: agent, user space, and the porter.
//! Called by: both ends of the porter's socket.
//! May touch: that socket.
//! Never: takes an answer for that to another question; believes a length.
//!
//! A question: its kind (a byte), its number (4 bytes), numbers of processes (4 bytes each). An answer: the number of the question, an
//! error (4 bytes, 0 for none), what is answered. Both in the machine's own order: both ends are one program. A file goes beside them.

use std::{
    io::{self, ErrorKind, IoSlice, IoSliceMut},
    os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
};

use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};

/// As many processes as one question may name.
pub(super) const MOST_PIDS: usize = 1000;
/// The longest message.
const LONGEST: usize = 16 * 1024;

/// What the porter is asked for.
pub(super) enum Ask {
    /// The ids of the network namespaces of processes.
    Ids(Vec<u32>),
    /// A file that stands for the network namespace of one.
    Open(u32),
    /// A sock_diag socket in the namespace that is sent along.
    Door,
    /// The ports of clients in it.
    Ports,
    /// `stat` and program of a process.
    Look(u32),
}

impl Ask {
    fn parts(&self) -> (u8, &[u32]) {
        match self {
            Self::Ids(pids) => (1, pids),
            Self::Open(pid) => (2, std::slice::from_ref(pid)),
            Self::Door => (3, &[]),
            Self::Ports => (4, &[]),
            Self::Look(pid) => (5, std::slice::from_ref(pid)),
        }
    }

    fn read(kind: u8, pids: Vec<u32>) -> Option<Self> {
        match (kind, pids.as_slice()) {
            (1, _) => Some(Self::Ids(pids)),
            (2, [pid]) => Some(Self::Open(*pid)),
            (3, []) => Some(Self::Door),
            (4, []) => Some(Self::Ports),
            (5, [pid]) => Some(Self::Look(*pid)),
            _ => None,
        }
    }
}

/// One end.
pub(super) struct Line {
    socket: OwnedFd,
    number: u32,
}

/// What is asked, if that is known; the question's number; the file beside it.
type Asked = (Option<Ask>, u32, Option<OwnedFd>);
/// Bytes, and the file beside them.
type Message = (Vec<u8>, Option<OwnedFd>);

impl Line {
    pub(super) const fn new(socket: OwnedFd) -> Self {
        Self { socket, number: 0 }
    }

    /// Asks, and waits for the answer.
    pub(super) fn ask(&mut self, ask: &Ask, with: Option<BorrowedFd<'_>>) -> io::Result<Message> {
        self.number = self.number.wrapping_add(1);
        let (kind, pids) = ask.parts();
        let mut question = vec![kind];
        question.extend(self.number.to_ne_bytes());
        question.extend(pids.iter().flat_map(|pid| pid.to_ne_bytes()));
        self.send(&question, with)?;
        loop {
            let Some((answer, file)) = self.receive()? else {
                return Err(io::Error::new(ErrorKind::BrokenPipe, "the porter has ended"));
            };
            let (number, rest) = word(&answer)?;
            let (error, rest) = word(rest)?;
            // The late answer to a question that nobody waits for any more.
            if number != self.number {
                continue;
            }
            return match i32::from_ne_bytes(error.to_ne_bytes()) {
                0 => Ok((rest.to_vec(), file)),
                error => Err(io::Error::from_raw_os_error(error)),
            };
        }
    }

    /// The next question with its number and the file beside it; `None` when nobody will ask any more.
    pub(super) fn next(&self) -> io::Result<Option<Asked>> {
        let Some((question, file)) = self.receive()? else { return Ok(None) };
        let (kind, rest) = question.split_first().ok_or(ErrorKind::InvalidData)?;
        let (number, rest) = word(rest)?;
        let pids = rest.as_chunks::<4>().0.iter().map(|pid| u32::from_ne_bytes(*pid)).collect();
        Ok(Some((Ask::read(*kind, pids), number, file)))
    }

    pub(super) fn answer(&self, number: u32, answer: io::Result<(Vec<u8>, Option<BorrowedFd<'_>>)>) -> io::Result<()> {
        let mut message = number.to_ne_bytes().to_vec();
        match answer {
            Ok((bytes, file)) => {
                message.extend(0u32.to_ne_bytes());
                message.extend(bytes.iter().take(LONGEST - message.len()));
                self.send(&message, file)
            }
            Err(error) => {
                message.extend(error.raw_os_error().unwrap_or(nix::libc::EIO).to_ne_bytes());
                self.send(&message, None)
            }
        }
    }

    fn send(&self, bytes: &[u8], file: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let files = file.map(|file| [file.as_raw_fd()]);
        let beside: Vec<_> = files.iter().map(|files| ControlMessage::ScmRights(files)).collect();
        let parts = [IoSlice::new(bytes)];
        sendmsg::<()>(self.socket.as_raw_fd(), &parts, &beside, MsgFlags::MSG_NOSIGNAL, None)?;
        Ok(())
    }

    /// `None` when the other end is closed.
    fn receive(&self) -> io::Result<Option<Message>> {
        let mut bytes = vec![0; LONGEST];
        let mut beside = nix::cmsg_space!([i32; 1]);
        let mut parts = [IoSliceMut::new(&mut bytes)];
        let flags = MsgFlags::MSG_CMSG_CLOEXEC;
        let received = loop {
            match recvmsg::<()>(self.socket.as_raw_fd(), &mut parts, Some(&mut beside), flags) {
                Err(nix::errno::Errno::EINTR) => {}
                other => break other?,
            }
        };
        let mut file = None;
        for message in received.cmsgs()? {
            if let ControlMessageOwned::ScmRights(files) = message {
                for number in files {
                    #[expect(unsafe_code, reason = "the kernel hands over files by number")]
                    // SAFETY: the kernel has just made it for this call; nobody else knows of it.
                    let owned = unsafe { OwnedFd::from_raw_fd(number) };
                    file = Some(owned);
                }
            }
        }
        let length = received.bytes;
        bytes.truncate(length);
        Ok((length != 0).then_some((bytes, file)))
    }
}

fn word(bytes: &[u8]) -> io::Result<(u32, &[u8])> {
    let (word, rest) = bytes.split_first_chunk().ok_or(ErrorKind::InvalidData)?;
    Ok((u32::from_ne_bytes(*word), rest))
}
