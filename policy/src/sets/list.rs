//! Lives: host.
//! Called by: the agent, for a list that is sent to it in pieces.
//! May touch: nothing.
//! Never: guesses: a line that is no address, prefix or range is a fault, and with one fault nothing of the list is used.
//!
//! What public lists look like is understood: one address or prefix a line; `a-b` ranges, also after a word such as `ip-range`; CSV
//! whose first column it is, with or without a heading; Spamhaus' `prefix ; reason`; comments after `#` and `;`; blank lines.

use std::{fmt, net::IpAddr};

use weir_common::addr::Addr;

use crate::{
    model::{Prefix, V4_BITS, addr, ip},
    parse::scalars::prefix_length,
};

/// Faults that are told one by one; the rest are counted.
const MOST_FAULTS: usize = 20;
/// Longest line.
const MOST_BYTES: usize = 4096;
/// Headings that a CSV's first column may have.
const HEADINGS: [&str; 10] =
    ["network", "cidr", "prefix", "ip", "address", "ip_address", "ip-range", "ip_range", "range", "netblock"];

/// One fault of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListFault {
    /// 1-based.
    pub line: u64,
    /// As written.
    pub value: String,
    /// What is wrong.
    pub problem: String,
    /// What to do.
    pub remedy: String,
}

impl fmt::Display for ListFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {:?}: {}; {}", self.line, self.value, self.problem, self.remedy)
    }
}

/// Reads a list piece by piece.
#[derive(Debug, Default)]
pub struct List {
    /// The line that is being read; bytes of it that have come.
    line: u64,
    begun: Vec<u8>,
    /// Whether a line was read that says something.
    headed: bool,
    prefixes: Vec<Prefix>,
    faults: Vec<ListFault>,
    more_faults: u64,
}

impl List {
    /// Takes the next piece, which may end within a line.
    pub fn push(&mut self, piece: &[u8]) {
        let mut parts = piece.split(|byte| *byte == b'\n');
        // What follows the last line's end is the beginning of the next line.
        let last = parts.next_back().unwrap_or_default();
        for part in parts {
            self.begin(part);
            self.end_line();
        }
        self.begin(last);
    }

    /// How many prefixes have been read.
    #[must_use]
    pub fn len(&self) -> usize {
        self.prefixes.len()
    }

    /// Whether none has.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.prefixes.is_empty()
    }

    /// The prefixes, as they came.
    ///
    /// # Errors
    /// The first faults, and how many there are beside them.
    pub fn finish(mut self) -> Result<Vec<Prefix>, (Vec<ListFault>, u64)> {
        if !self.begun.is_empty() {
            self.end_line();
        }
        if self.faults.is_empty() { Ok(self.prefixes) } else { Err((self.faults, self.more_faults)) }
    }

    /// More than the longest line is not kept: it is a fault whatever it says.
    fn begin(&mut self, bytes: &[u8]) {
        let room = (MOST_BYTES + 1).saturating_sub(self.begun.len());
        self.begun.extend_from_slice(bytes.get(..bytes.len().min(room)).unwrap_or_default());
    }

    fn end_line(&mut self) {
        self.line += 1;
        let bytes = std::mem::take(&mut self.begun);
        if bytes.len() > MOST_BYTES {
            let start = String::from_utf8_lossy(bytes.get(..40).unwrap_or_default()).into_owned();
            return self.fault(
                &start,
                format!("a line of more than {MOST_BYTES} bytes"),
                "send a list of addresses".to_owned(),
            );
        }
        let text = String::from_utf8_lossy(&bytes);
        // Some lists begin with a byte order mark.
        let text = text.trim_start_matches('\u{feff}');
        let text = text.split(['#', ';']).next().unwrap_or_default();
        let text = text.split([',', '\t']).next().unwrap_or_default();
        let text = text.trim().trim_matches(['"', '\'']).trim();
        if text.is_empty() {
            return;
        }
        let first = !std::mem::replace(&mut self.headed, true);
        if first && HEADINGS.iter().any(|heading| heading.eq_ignore_ascii_case(text)) {
            return;
        }
        match entry(text) {
            Ok(prefixes) => self.prefixes.extend(prefixes),
            Err((problem, remedy)) => self.fault(text, problem, remedy),
        }
    }

    fn fault(&mut self, value: &str, problem: String, remedy: String) {
        if self.faults.len() >= MOST_FAULTS {
            self.more_faults += 1;
            return;
        }
        self.faults.push(ListFault { line: self.line, value: value.to_owned(), problem, remedy });
    }
}

/// What is wrong, and what to do.
type Wrong = (String, String);

/// The prefixes of one entry: an address, a prefix, or a range with or without a word before it.
///
/// # Errors
/// What is wrong with it, and what to do.
pub fn entry(text: &str) -> Result<Vec<Prefix>, Wrong> {
    let text = match text.split_once(char::is_whitespace) {
        Some((word, rest)) if word.chars().all(|c| c.is_ascii_alphabetic() || c == '-' || c == '_') => rest.trim(),
        _ => text,
    };
    match text.split_once('-') {
        Some((first, last)) => range(address(first.trim())?, address(last.trim())?),
        None => prefix(text).map(|prefix| vec![prefix]),
    }
}

const EXAMPLE: &str = "write an address, a prefix such as 192.0.2.0/24 or 2001:db8::/32, or a range of addresses a-b";

fn address(text: &str) -> Result<Addr, Wrong> {
    let parsed = text.parse().map_err(|_| ("not an IP address".to_owned(), EXAMPLE.to_owned()))?;
    not_mapped(parsed).map(addr)
}

fn prefix(text: &str) -> Result<Prefix, Wrong> {
    let Some((first, bits)) = text.split_once('/') else { return address(text).map(Prefix::host) };
    let parsed: IpAddr =
        first.parse().map_err(|_| ("not an IP address before the /".to_owned(), EXAMPLE.to_owned()))?;
    let parsed = not_mapped(parsed)?;
    let most = if parsed.is_ipv4() { 32 } else { 128 };
    let bits = prefix_length(bits, most).ok_or_else(|| {
        ("not a prefix length".to_owned(), format!("write a whole number from 0 to {most} after the /"))
    })?;
    let address = addr(parsed);
    let prefix = Prefix::new(address, bits + if parsed.is_ipv4() { V4_BITS } else { 0 });
    if prefix.addr != address {
        let remedy = format!("write {prefix}, or {} for this one address", ip(address));
        return Err(("has bits set after its prefix".to_owned(), remedy));
    }
    Ok(prefix)
}

/// IPv4 is written as IPv4, as in documents.
fn not_mapped(address: IpAddr) -> Result<IpAddr, Wrong> {
    let IpAddr::V6(v6) = address else { return Ok(address) };
    match v6.to_ipv4_mapped() {
        Some(v4) => Err(("a v4-mapped IPv6 address".to_owned(), format!("write the IPv4 address: {v4}"))),
        None => Ok(address),
    }
}

/// The prefixes that together are a range, both ends included.
fn range(first: Addr, last: Addr) -> Result<Vec<Prefix>, Wrong> {
    if first.as_v4().is_some() != last.as_v4().is_some() {
        return Err(("a range from one family to the other".to_owned(), "write one range for each".to_owned()));
    }
    let (mut from, last) = (u128::from_be_bytes(first.0), u128::from_be_bytes(last.0));
    if from > last {
        return Err(("a range that ends before it begins".to_owned(), "write the lower address first".to_owned()));
    }
    let mut prefixes = Vec::new();
    loop {
        // The largest block that begins here and does not pass the end.
        let most = (last - from).checked_add(1).map_or(128, u128::ilog2);
        let block = from.trailing_zeros().min(most);
        prefixes.push(Prefix::new(Addr(from.to_be_bytes()), 128 - block.min(128) as u8));
        match from.checked_add(1u128.checked_shl(block).unwrap_or(0)).filter(|next| *next != 0 && *next <= last) {
            Some(next) if next > from => from = next,
            _ => return Ok(prefixes),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pieces: &[&str]) -> Result<Vec<String>, (Vec<ListFault>, u64)> {
        let mut list = List::default();
        pieces.iter().for_each(|piece| list.push(piece.as_bytes()));
        list.finish().map(|prefixes| prefixes.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn the_common_kinds_of_lists_are_read() {
        let rows: [(&str, &str, &[&str]); 12] = [
            ("plain", "1.2.3.4\n2001:db8::1\n", &["1.2.3.4/32", "2001:db8::1/128"]),
            ("prefixes, no end of line", "10.0.0.0/8\n2001:db8::/32", &["10.0.0.0/8", "2001:db8::/32"]),
            ("comments and blanks", "# a\n\n ; b\n1.2.3.4 # c\n   \r\n", &["1.2.3.4/32"]),
            ("Spamhaus DROP", "; Spamhaus\n1.10.16.0/20 ; SBL256894\n", &["1.10.16.0/20"]),
            ("FireHOL .netset", "#\n# firehol_level1\n#\n0.0.0.0/8\n1.10.16.0/20\n", &["0.0.0.0/8", "1.10.16.0/20"]),
            ("CSV with a heading", "network,asn\n192.0.2.0/24,64500\n", &["192.0.2.0/24"]),
            ("CSV, quoted", "\"192.0.2.0/24\",\"x, y\"\n", &["192.0.2.0/24"]),
            ("with a count", "192.0.2.1\t7\n", &["192.0.2.1/32"]),
            ("a range", "192.0.2.0-192.0.2.130\n", &["192.0.2.0/25", "192.0.2.128/31", "192.0.2.130/32"]),
            ("a range with a word", "ip-range 192.0.2.4 - 192.0.2.7\n", &["192.0.2.4/30"]),
            ("all of a family", "0.0.0.0-255.255.255.255\n::/0", &["0.0.0.0/0", "::/0"]),
            ("a byte order mark", "\u{feff}192.0.2.1\r\n", &["192.0.2.1/32"]),
        ];
        for (what, text, expected) in rows {
            assert_eq!(read(&[text]).unwrap(), expected, "{what}");
            let (start, end) = text.split_at(text.char_indices().nth(4).unwrap().0);
            assert_eq!(read(&[start, end]).unwrap(), expected, "{what}, in two pieces");
        }
        assert_eq!(entry("::-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff").unwrap(), [Prefix::new(Addr::UNSPECIFIED, 0)]);
    }

    #[test]
    fn a_fault_names_line_value_and_remedy_and_nothing_of_the_list_is_used() {
        let rows = [
            ("1.2.3.4\nexample.org\n", 2, "example.org", "not an IP address", "write an address"),
            ("10.0.0.1/8", 1, "10.0.0.1/8", "bits set after", "write 10.0.0.0/8, or 10.0.0.1 for"),
            ("\n10.0.0.0/33", 2, "10.0.0.0/33", "not a prefix length", "from 0 to 32"),
            ("::/129", 1, "::/129", "not a prefix length", "from 0 to 128"),
            ("10.0.0.0/+8", 1, "10.0.0.0/+8", "not a prefix length", "from 0 to 32"),
            ("10.0.0.0/08", 1, "10.0.0.0/08", "not a prefix length", "from 0 to 32"),
            ("1.2.3.9-1.2.3.4", 1, "1.2.3.9-1.2.3.4", "ends before", "lower address first"),
            ("1.2.3.9-::1", 1, "1.2.3.9-::1", "from one family", "one range for each"),
            ("::ffff:1.2.3.4", 1, "::ffff:1.2.3.4", "v4-mapped", "write the IPv4 address: 1.2.3.4"),
            ("1.2.3.4\nnetwork", 2, "network", "not an IP address", "write an address"),
        ];
        for (text, line, value, problem, remedy) in rows {
            let (faults, more) = read(&[text]).unwrap_err();
            let [fault] = faults.as_slice() else { panic!("{text}: {faults:?}") };
            assert_eq!((fault.line, fault.value.as_str(), more), (line, value, 0), "{text}");
            assert!(fault.problem.contains(problem) && fault.remedy.contains(remedy), "{fault}");
        }
        let (faults, more) = read(&[&"x\n".repeat(50), &"y".repeat(10_000)]).unwrap_err();
        assert_eq!((faults.len(), more), (MOST_FAULTS, 31));
    }
}
