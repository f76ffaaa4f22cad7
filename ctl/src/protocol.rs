//! Lives: ctl.
//! Called by: the command line (`--port 443/tcp`) and whoever shows a record.
//! May touch: nothing.
//! Never: asks the host's /etc/protocols; the words are the same everywhere.

use std::str::FromStr;

/// Names and numbers, as policies write them.
const NAMES: [(&str, u8); 5] = [("TCP", 6), ("UDP", 17), ("SCTP", 132), ("ICMP", 1), ("ICMPv6", 58)];

/// TCP flags, lowest bit first.
const FLAGS: [&str; 8] = ["FIN", "SYN", "RST", "PSH", "ACK", "URG", "ECE", "CWR"];

/// The name of a protocol, or its number.
pub fn name(number: u8) -> String {
    let known = NAMES.iter().find(|(_, known)| *known == number);
    known.map_or_else(|| number.to_string(), |(name, _)| (*name).to_owned())
}

/// Whether its packets carry ports.
pub const fn has_ports(number: u8) -> bool {
    matches!(number, 6 | 17 | 132 | 136 | 33)
}

/// Flags as words, such as "SYN|ACK".
pub fn tcp_flags(bits: u32) -> String {
    let set = FLAGS.iter().enumerate().filter(|(bit, _)| bits >> bit & 1 == 1);
    set.map(|(_, flag)| *flag).collect::<Vec<_>>().join("|")
}

/// Echo requests: what is meant by ICMP and ICMPv6 without a type.
const PINGS: [(u8, u16); 2] = [(1, 8), (58, 128)];

/// A protocol and a port, or type of ICMP: `443/tcp`, `443`, `icmp` (a ping), `3/icmp`, `0/89`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Port {
    pub port: u16,
    pub protocol: u8,
}

/// What is wrong with a port on the command line.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{problem}; {PORT_REMEDY}")]
pub struct BadPort {
    /// What is wrong.
    pub problem: &'static str,
}

/// What to do about it.
pub const PORT_REMEDY: &str = "write PORT/PROTOCOL such as 443/tcp or 53/udp, or a protocol without ports such as icmp";

impl FromStr for Port {
    type Err = BadPort;

    fn from_str(text: &str) -> Result<Self, BadPort> {
        let port = |word: &str| word.parse().map_err(|_| BadPort { problem: "the port is not a number up to 65535" });
        let known = |word: &str| number(word).ok_or(BadPort { problem: "the protocol is not known" });
        match text.split_once('/') {
            Some((word, protocol)) => Ok(Self { port: port(word)?, protocol: known(protocol)? }),
            None if text.starts_with(|c: char| c.is_ascii_digit()) => Ok(Self { port: port(text)?, protocol: 6 }),
            None => match known(text)? {
                protocol if has_ports(protocol) => Err(BadPort { problem: "the port is missing" }),
                protocol => Ok(Self { port: ping(protocol).unwrap_or(0), protocol }),
            },
        }
    }
}

impl std::fmt::Display for Port {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match has_ports(self.protocol) {
            true => write!(f, "{}/{}", self.port, name(self.protocol).to_lowercase()),
            false => {
                f.write_str(&name(self.protocol).to_lowercase())?;
                match ping(self.protocol) {
                    Some(kind) if kind == self.port => f.write_str(" echo-request"),
                    Some(_) => write!(f, " type {}", self.port),
                    None => Ok(()),
                }
            }
        }
    }
}

fn ping(protocol: u8) -> Option<u16> {
    PINGS.iter().find(|(known, _)| *known == protocol).map(|(_, kind)| *kind)
}

fn number(word: &str) -> Option<u8> {
    let known = NAMES.iter().find(|(name, _)| name.eq_ignore_ascii_case(word));
    known.map(|(_, number)| *number).or_else(|| word.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_read_and_written_back() {
        for (text, expected, written) in [
            ("443/tcp", (443, 6), "443/tcp"),
            ("443", (443, 6), "443/tcp"),
            ("53/UDP", (53, 17), "53/udp"),
            ("0/89", (0, 89), "89"),
            ("0/47", (0, 47), "47"),
            ("icmp", (8, 1), "icmp echo-request"),
            ("ICMPv6", (128, 58), "icmpv6 echo-request"),
            ("3/icmp", (3, 1), "icmp type 3"),
            ("0/icmp", (0, 1), "icmp type 0"),
        ] {
            let port: Port = text.parse().unwrap();
            assert_eq!(((port.port, port.protocol), port.to_string().as_str()), (expected, written), "{text}");
        }
    }

    #[test]
    fn bad_ports_say_what_is_wrong() {
        for (text, problem) in [
            ("tcp", "port is missing"),
            ("https", "not known"),
            ("443/quic", "not known"),
            ("65536/tcp", "not a number"),
            ("-1", "not known"),
            ("", "not known"),
            ("/tcp", "not a number"),
            ("80/256", "not known"),
        ] {
            let fault = text.parse::<Port>().unwrap_err().to_string();
            assert!(fault.contains(problem), "{text}: {fault}");
        }
    }

    #[test]
    fn flags_are_words() {
        for (bits, words) in [(0, ""), (0x02, "SYN"), (0x12, "SYN|ACK"), (0x80, "CWR"), (0x100, "")] {
            assert_eq!(tcp_flags(bits), words);
        }
    }
}
