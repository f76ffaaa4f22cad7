//! Lives: agent, user space.
//! Called by: `revoke`'s hands.
//! May touch: the sockets it is told to cut.
//! Never: takes a server for a connection that is gone; says that a socket was cut before the kernel has.
//!
//! Requests travel together: the kernel works through all messages of one `send` in their order, and answers those that fail. Only
//! the last one asks for an answer in any case; when that is there, no other is still to come.

use std::io;

use netlink_packet_core::{NLM_F_ACK, NLM_F_REQUEST, NetlinkPayload};
use netlink_packet_sock_diag::{SockDiagDestroy, SockDiagMessage};

use super::{Door, Living, Messages, Name, living, request, unless_gone};

/// What became of a socket that was to be cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// Both ends got an error.
    Done,
    /// There is none (any more).
    Gone,
}

impl Door {
    /// Cuts sockets: each and its peer get an error at once. Waits for each one's lock in turn. Tells what became of each.
    pub fn cut<'a>(&mut self, sockets: impl IntoIterator<Item = &'a Living>) -> Vec<io::Result<Cut>> {
        let named: Vec<_> = sockets.into_iter().map(|socket| (socket.protocol, self.name(socket))).collect();
        let asked = named.iter().filter_map(|(protocol, name)| {
            let Name { family, id } = name.as_ref().ok()?.clone()?;
            Some(SockDiagMessage::InetRequest(request(family, *protocol, u32::MAX, id)))
        });
        let mut destroyed = self.destroy(asked.collect()).into_iter();
        let unanswered = || Err(io::Error::other("the kernel did not say what became of it"));
        let became = |(_, name)| match name {
            Ok(Some(_)) => destroyed.next().unwrap_or_else(unanswered),
            Ok(None) => Ok(Cut::Gone),
            Err(error) => Err(error),
        };
        named.into_iter().map(became).collect()
    }

    /// What became of each of these sockets, once all have been destroyed, or could not be.
    fn destroy(&mut self, sockets: Vec<SockDiagMessage>) -> Vec<io::Result<Cut>> {
        let (first, count) = (self.sequence.wrapping_add(1), sockets.len());
        let mut requests = Vec::new();
        for (number, socket) in (1..).zip(sockets) {
            let answer = if number == count { NLM_F_ACK } else { 0 };
            self.add(SockDiagDestroy::new(socket), NLM_F_REQUEST | answer, &mut requests);
        }
        let mut refused: Vec<Option<io::Error>> = (0..count).map(|_| None).collect();
        let answered = if count == 0 {
            Ok(())
        } else {
            self.socket.send(&requests, 0).and_then(|_| self.refusals(first, &mut refused))
        };
        let became = |refused: Option<io::Error>| match (refused, &answered) {
            (Some(refused), _) => unless_gone(Err(refused)).map(|done| done.map_or(Cut::Gone, |()| Cut::Done)),
            (None, Ok(())) => Ok(Cut::Done),
            (None, Err(error)) => Err(io::Error::new(error.kind(), error.to_string())),
        };
        refused.into_iter().map(became).collect()
    }

    /// Notes which of the requests from `first` on have failed, up to the answer to the last one.
    fn refusals(&mut self, first: u32, refused: &mut [Option<io::Error>]) -> io::Result<()> {
        loop {
            self.fill()?;
            for message in Messages(&self.buffer) {
                let message = message?;
                let NetlinkPayload::Error(answer) = message.payload else { continue };
                let sequence = message.header.sequence_number;
                let place = usize::try_from(sequence.wrapping_sub(first)).ok();
                if let Some(place) = place.and_then(|place| refused.get_mut(place)) {
                    *place = answer.code.map(|_| answer.to_io());
                    if sequence == self.sequence {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// What names a socket that is to be cut; `None` if there is none.
    fn name(&mut self, socket: &Living) -> io::Result<Option<Name>> {
        if socket.is_any() { self.identify(socket) } else { Ok(Some(socket.name.clone())) }
    }

    /// The very socket that has these ends. The kernel takes a listener, or a server's datagram socket, for a connection that is
    /// gone: cut by its ends alone, a server would lose the socket it serves by.
    fn identify(&mut self, wanted: &Living) -> io::Result<Option<Name>> {
        let Name { family, id } = wanted.name.clone();
        let request = request(family, wanted.protocol, u32::MAX, id);
        self.send(SockDiagMessage::InetRequest(request), NLM_F_REQUEST | NLM_F_ACK)?;
        let (protocol, mut found) = (wanted.protocol, None);
        let answered = self.receive(&mut |answer| {
            if let SockDiagMessage::InetResponse(response) = answer {
                found = Some(living(protocol, *response));
            }
        });
        let same = |found: &Living| (found.local, found.remote) == (wanted.local, wanted.remote);
        Ok(unless_gone(answered)?.and(found).filter(same).map(|found| found.name))
    }
}
