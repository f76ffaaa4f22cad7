//! Lives: kernel and host.
//! Called by: `packet`, to tell which question a message answers; `connect`, for what a ping socket will send.
//! May touch: nothing.
//! Never: names more than which message answers which; what may pass is the policy's to say.

use crate::addr::{Port, Protocol};

/// The type of the message that a ping socket sends: what a `connect()` on one asks for. `None` for other protocols.
#[inline(always)]
#[must_use]
pub const fn echo_request(protocol: Protocol) -> Option<u16> {
    match protocol {
        Protocol::ICMP => Some(8),
        Protocol::ICMPV6 => Some(128),
        _ => None,
    }
}

/// The type of the question that a message of ICMP (or else ICMPv6) answers, both in the place of a port; `None` if it answers none.
///
/// Errors answer an echo request: whoever may ask an address may hear from it why there is no answer.
#[inline(always)]
#[must_use]
#[expect(clippy::indexing_slicing, reason = "the mask keeps the index below 256; a branch per packet costs more")]
pub const fn question(protocol: Protocol, kind: Port) -> Option<Port> {
    let index = (kind.number() & 255) as usize;
    let asked = match protocol {
        Protocol::ICMP => QUESTIONS[index],
        _ => QUESTIONS_V6[index],
    };
    match asked {
        0 => None,
        asked => Some(Port::new(asked as u16)),
    }
}

/// Whether a message of ICMP or ICMPv6 with this type, in the place of a port, is an error about another packet: RFC 792 (with
/// the redirect), RFC 4443 section 2.1.
#[inline(always)]
#[must_use]
pub const fn is_error(protocol: Protocol, kind: Port) -> bool {
    let kind = kind.number();
    match protocol {
        Protocol::ICMP => kind == 3 || kind == 4 || kind == 5 || kind == 11 || kind == 12,
        Protocol::ICMPV6 => kind < 128,
        _ => false,
    }
}

/// By type of a message, the type it answers; 0 for one that answers none, as no question has that type. A table and not a match:
/// each arm of that would be a path that the verifier walks to the end of the program.
///
/// RFC 792 (3 to 5, 11 and 12 are its errors), RFC 950, RFC 8335.
static QUESTIONS: [u8; 256] =
    table(&[(0, 0, 8), (3, 5, 8), (11, 12, 8), (14, 14, 13), (16, 16, 15), (18, 18, 17), (43, 43, 42)]);

/// The same for ICMPv6: its errors are the types below 128 (RFC 4443 section 2.1); then RFC 4443, RFC 4620, RFC 8335.
static QUESTIONS_V6: [u8; 256] = table(&[(0, 127, 128), (129, 129, 128), (140, 140, 139), (161, 161, 160)]);

/// The table in which the types from the first to the second number answer the third.
#[expect(clippy::indexing_slicing, reason = "runs when it is compiled: an index out of bounds does not build")]
const fn table(runs: &[(usize, usize, u8)]) -> [u8; 256] {
    let mut questions = [0; 256];
    let mut run = 0;
    while run < runs.len() {
        let (mut answer, last, asked) = runs[run];
        while answer <= last {
            questions[answer] = asked;
            answer += 1;
        }
        run += 1;
    }
    questions
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_and_errors_answer_and_requests_do_not() {
        let rows = [
            (Protocol::ICMP, 0, Some(8)),
            (Protocol::ICMP, 3, Some(8)),
            (Protocol::ICMP, 5, Some(8)),
            (Protocol::ICMP, 6, None),
            (Protocol::ICMP, 8, None),
            (Protocol::ICMP, 9, None),
            (Protocol::ICMP, 12, Some(8)),
            (Protocol::ICMP, 13, None),
            (Protocol::ICMP, 14, Some(13)),
            (Protocol::ICMP, 43, Some(42)),
            (Protocol::ICMP, 255, None),
            (Protocol::ICMPV6, 1, Some(128)),
            (Protocol::ICMPV6, 2, Some(128)),
            (Protocol::ICMPV6, 128, None),
            (Protocol::ICMPV6, 129, Some(128)),
            // Neighbour discovery asks and answers, but not the one whose answer this would be.
            (Protocol::ICMPV6, 134, None),
            (Protocol::ICMPV6, 136, None),
            (Protocol::ICMPV6, 140, Some(139)),
        ];
        for (protocol, kind, asked) in rows {
            assert_eq!(question(protocol, Port::new(kind)), asked.map(Port::new), "{protocol:?} {kind}");
        }
        for protocol in [Protocol::ICMP, Protocol::ICMPV6] {
            let request = echo_request(protocol).unwrap();
            let replies = (0..=255).filter(|kind| question(protocol, Port::new(*kind)) == Some(Port::new(request)));
            assert!(replies.count() > 5, "{protocol:?}: an echo reply and the errors");
        }
        assert_eq!(echo_request(Protocol::UDP), None);
    }
}
