//! Lives: agent, user space.
//! Called by: `revoke`'s hands.
//! May touch: the sockets it is told to cut.
//! Never: takes a server for a connection that is gone; says that a socket was cut before the kernel has.
//!
//! Requests travel together: the kernel works through all messages of one `send` in their order, and answers those that ask for
//! something or fail. Only the last one asks for an answer in any case; when that is there, no other is still to come. Answers wait
//! in the door's receive buffer meanwhile, which has room for more than a hundred.

use std::{fmt::Debug, io};

use netlink_packet_core::{NLM_F_ACK, NLM_F_REQUEST, NetlinkPayload, NetlinkSerializable};
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

/// What the kernel says of one request: nothing, what was asked for, or why not.
type Answer = Option<io::Result<SockDiagMessage>>;

impl Door {
    /// Cuts sockets: each and its peer get an error at once. Waits for each one's lock in turn. Tells what became of each.
    ///
    /// A few dozen at a time: a process that holds the lock of one keeps those behind it waiting.
    pub fn cut<'a>(&mut self, sockets: impl IntoIterator<Item = &'a Living>) -> Vec<io::Result<Cut>> {
        let sockets: Vec<&Living> = sockets.into_iter().collect();
        let names = self.names(&sockets);
        let named = sockets.iter().zip(&names).filter_map(|(socket, name)| {
            let Name { family, id } = name.as_ref().ok()?.clone()?;
            let request = request(family, socket.protocol, u32::MAX, id);
            Some(SockDiagDestroy::new(SockDiagMessage::InetRequest(request)))
        });
        let mut destroyed = self.exchange(named.collect()).into_iter();
        let became = |name| match name {
            Ok(Some(_)) => became(destroyed.next().unwrap_or_else(unanswered)),
            Ok(None) => Ok(Cut::Gone),
            Err(error) => Err(error),
        };
        names.into_iter().map(became).collect()
    }

    /// What names each socket to the kernel; `None` if there is none. Those known by their ends alone are asked for.
    ///
    /// The kernel takes a listener, or a server's datagram socket, for a connection that is gone: cut by its ends alone, a server
    /// would lose the socket it serves by.
    fn names(&mut self, sockets: &[&Living]) -> Vec<io::Result<Option<Name>>> {
        let unnamed = sockets.iter().filter(|socket| socket.is_any());
        let questions = unnamed.map(|socket| {
            let Name { family, id } = socket.name.clone();
            SockDiagMessage::InetRequest(request(family, socket.protocol, u32::MAX, id))
        });
        let mut answers = self.exchange(questions.collect()).into_iter();
        let name = |socket: &&Living| match socket.is_any() {
            true => found(socket, answers.next().unwrap_or_else(unanswered)),
            false => Ok(Some(socket.name.clone())),
        };
        sockets.iter().map(name).collect()
    }

    /// Sends requests together. The answer to each, in their order.
    fn exchange<T>(&mut self, messages: Vec<T>) -> Vec<Answer>
    where
        T: NetlinkSerializable + Debug,
        NetlinkPayload<T>: From<T>,
    {
        let (first, count) = (self.sequence.wrapping_add(1), messages.len());
        let mut answers: Vec<Answer> = (0..count).map(|_| None).collect();
        let mut requests = Vec::new();
        for (number, message) in (1..).zip(messages) {
            let last = if number == count { NLM_F_ACK } else { 0 };
            self.add(message, NLM_F_REQUEST | last, &mut requests);
        }
        let sent = if count == 0 { Ok(()) } else { self.socket.send(&requests, 0).map(drop) };
        if let Err(error) = sent.and_then(|()| self.answers(first, &mut answers)) {
            // Whatever the kernel has not spoken of is not known.
            let same = || Some(Err(io::Error::new(error.kind(), error.to_string())));
            answers.iter_mut().filter(|answer| answer.is_none()).for_each(|answer| *answer = same());
        }
        answers
    }

    /// Notes the answers to the requests from `first` on, up to the word that ends the last one's.
    fn answers(&mut self, first: u32, answers: &mut [Answer]) -> io::Result<()> {
        if answers.is_empty() {
            return Ok(());
        }
        loop {
            self.fill()?;
            for message in Messages(&self.buffer) {
                let message = message?;
                let sequence = message.header.sequence_number;
                // Else it is the rest of an answer that somebody stopped reading.
                let place = usize::try_from(sequence.wrapping_sub(first)).ok();
                let Some(place) = place.and_then(|place| answers.get_mut(place)) else { continue };
                if let NetlinkPayload::Error(error) = message.payload {
                    if error.code.is_some() {
                        *place = Some(Err(error.to_io()));
                    }
                    if sequence == self.sequence {
                        return Ok(());
                    }
                } else if let NetlinkPayload::InnerMessage(inner) = message.payload {
                    *place = Some(Ok(inner));
                }
            }
        }
    }
}

/// Of a request to destroy a socket: it has failed, or it has not.
fn became(answer: Answer) -> io::Result<Cut> {
    let answered = answer.map_or(Ok(()), |answer| answer.map(drop));
    unless_gone(answered).map(|done| done.map_or(Cut::Gone, |()| Cut::Done))
}

/// Of a question for the socket with these ends: the very one.
fn found(wanted: &Living, answer: Answer) -> io::Result<Option<Name>> {
    let response = match answer {
        Some(Ok(SockDiagMessage::InetResponse(response))) => Some(*response),
        Some(Err(error)) => return unless_gone(Err(error)).map(|_| None),
        Some(Ok(_)) | None => None,
    };
    let found = response.map(|response| living(wanted.protocol, response));
    Ok(found.filter(|found| (found.local, found.remote) == (wanted.local, wanted.remote)).map(|found| found.name))
}

fn unanswered() -> Answer {
    Some(Err(io::Error::other("the kernel said nothing of it")))
}
