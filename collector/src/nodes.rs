//! Lives: collector.
//! Called by: `store`, under its lock, for each batch.
//! May touch: memory only.
//! Never: lets a sender make it grow without bound; what does not fit is summed under "other" or forgotten oldest first.
//!
//! Batches of one boot of a node are numbered from 1 without gaps. A number at or below the last one is a resend of what
//! is already here. A number that skips some means batches are gone for good, because a sender sends in order; those that the
//! sender says it gave up are not missing, for their losses are told. The first batch ever seen of a boot may have any number:
//! the ones before it went to an earlier run of this collector.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Boots remembered of one node; the oldest goes. More than an agent has batches in flight (16), each of which may be of another boot: after a
/// break they all come again.
const MAX_BOOTS: usize = 32;
/// Different words a node may use in sums; there are about 80 in truth.
const MAX_WORDS: usize = 1024;
/// Where the rest is summed.
const OTHER: &str = "other";

/// One boot of one node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Boot {
    /// Random name of the boot.
    pub boot_id: String,
    /// Number of the first batch seen.
    pub first_sequence: u64,
    /// Number of the last batch taken over.
    pub last_sequence: u64,
    /// Batches that never came.
    pub missing_batches: u64,
    /// Batches that came again.
    pub duplicates: u64,
    /// Records taken over.
    pub records: u64,
    /// Streams open now.
    #[serde(skip)]
    pub streams: u32,
    /// When its first batch was taken over, nanoseconds since the Unix epoch: the sums begin then.
    pub first_seen_ns: u64,
    /// When it was last heard, nanoseconds since the Unix epoch.
    pub last_seen_ns: u64,
    /// Decisions by "hook/verdict/reason".
    pub decisions: BTreeMap<String, u64>,
    /// Losses by cause.
    pub losses: BTreeMap<String, u64>,
    /// Those that say which decisions were lost, by "cause hook/verdict/reason".
    pub lost_decisions: BTreeMap<String, u64>,
}

/// What a record adds to the sums of its node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tally {
    /// Equal decisions.
    Decision {
        /// "hook/verdict/reason".
        what: String,
        /// How many.
        count: u64,
    },
    /// Decisions whose records are lost.
    Loss {
        /// Why.
        cause: String,
        /// "hook/verdict/reason", where it is known.
        what: Option<String>,
        /// How many.
        count: u64,
    },
    /// Nothing: the record is not about decisions.
    Nothing,
}

/// What the number of a batch says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Not seen before; `missing` batches before it never came.
    New {
        /// Batches that never came.
        missing: u64,
    },
    /// Already here.
    Duplicate,
}

/// What all boots of a node make together; only grows, but for the streams.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Totals {
    /// Records taken over.
    pub records: u64,
    /// Batches that came again.
    pub duplicates: u64,
    /// Batches that never came.
    pub missing_batches: u64,
    /// Lost decisions by cause.
    pub losses: BTreeMap<String, u64>,
    /// Streams open now.
    #[serde(skip)]
    pub streams: u32,
    /// When it was last heard, nanoseconds since the Unix epoch.
    pub last_seen_ns: u64,
}

/// A node's boots, and what those made that are forgotten.
#[derive(Debug, Default)]
struct Node {
    boots: Vec<Boot>,
    forgotten: Totals,
}

/// Every node heard of since the start.
#[derive(Debug, Default)]
pub struct Nodes {
    nodes: BTreeMap<String, Node>,
}

/// The sums of one boot, or of those that are forgotten, as they are kept on disk: JSON, in which what is missing is zero.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Saved {
    node: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    boot: Option<Boot>,
    #[serde(skip_serializing_if = "Option::is_none")]
    forgotten: Option<Totals>,
}

impl Saved {
    /// For the disk.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        // Nothing of it can fail: the keys of its maps are strings.
        serde_json::to_vec(self).unwrap_or_default()
    }
}

impl Nodes {
    /// All sums, to be restored in this order.
    pub fn saved(&self) -> impl Iterator<Item = Saved> {
        self.nodes.iter().flat_map(|(name, node)| {
            let forgotten = Saved { node: name.clone(), boot: None, forgotten: Some(node.forgotten.clone()) };
            let boots = node.boots.iter();
            let boots = boots.map(|boot| Saved { node: name.clone(), boot: Some(boot.clone()), forgotten: None });
            std::iter::once(forgotten).chain(boots)
        })
    }

    /// Takes over what [`Saved::bytes`] gave; false if these bytes are something else.
    pub fn restore(&mut self, bytes: &[u8]) -> bool {
        let Ok(Saved { node, boot, forgotten }) = serde_json::from_slice(bytes) else { return false };
        if let Some(forgotten) = forgotten {
            self.nodes.entry(node.clone()).or_default().forgotten = forgotten;
        }
        if let Some(boot) = boot {
            let known = self.boot(&node, &boot.boot_id);
            *known = boot;
        }
        true
    }

    /// The boot a batch belongs to, made known if it is not.
    pub fn boot(&mut self, node: &str, boot_id: &str) -> &mut Boot {
        let Node { boots, forgotten } = self.nodes.entry(node.to_owned()).or_default();
        // A boot in use is moved to the end, so that the first is the one unheard of for longest.
        let known = boots.iter().position(|boot| boot.boot_id == boot_id).map(|index| boots.remove(index));
        let boot = known.unwrap_or_else(|| Boot { boot_id: boot_id.to_owned(), ..Boot::default() });
        if boots.len() >= MAX_BOOTS {
            forgotten.add(&boots.remove(0));
            // Its streams are open no more, or will be those of a boot that is known again.
            forgotten.streams = 0;
        }
        boots.push_mut(boot)
    }

    /// Every boot with the name of its node; of one node, the one heard last comes last.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Boot)> {
        self.nodes.iter().flat_map(|(name, node)| node.boots.iter().map(move |boot| (name.as_str(), boot)))
    }

    /// What all boots of each node make together.
    pub fn totals(&self) -> impl Iterator<Item = (&str, Totals)> {
        self.nodes.iter().map(|(name, node)| {
            let mut totals = node.forgotten.clone();
            node.boots.iter().for_each(|boot| totals.add(boot));
            (name.as_str(), totals)
        })
    }
}

impl Totals {
    fn add(&mut self, boot: &Boot) {
        self.records += boot.records;
        self.duplicates += boot.duplicates;
        self.missing_batches = self.missing_batches.saturating_add(boot.missing_batches);
        boot.losses.iter().for_each(|(cause, count)| sum(&mut self.losses, cause, *count));
        self.streams += boot.streams;
        self.last_seen_ns = self.last_seen_ns.max(boot.last_seen_ns);
    }
}

impl Boot {
    /// Whether a batch of this number is here already.
    #[must_use]
    pub const fn is_here(&self, sequence: u64) -> bool {
        self.first_sequence != 0 && sequence <= self.last_sequence
    }

    /// Judges a batch by its number and counts it. `dropped` batches right before it were given up.
    pub fn order(&mut self, sequence: u64, dropped: u64) -> Order {
        if self.first_sequence == 0 {
            self.first_sequence = sequence;
            self.last_sequence = sequence;
            return Order::New { missing: 0 };
        }
        if self.is_here(sequence) {
            self.duplicates += 1;
            return Order::Duplicate;
        }
        let missing = (sequence - self.last_sequence - 1).saturating_sub(dropped);
        self.missing_batches += missing;
        self.last_sequence = sequence;
        Order::New { missing }
    }

    /// Adds what one record stands for.
    pub fn add(&mut self, tally: &Tally) {
        self.records += 1;
        match tally {
            Tally::Decision { what, count } => sum(&mut self.decisions, what, *count),
            Tally::Loss { cause, what, count } => {
                sum(&mut self.losses, cause, *count);
                if let Some(what) = what {
                    sum(&mut self.lost_decisions, &format!("{cause} {what}"), *count);
                }
            }
            Tally::Nothing => {}
        }
    }
}

fn sum(sums: &mut BTreeMap<String, u64>, word: &str, count: u64) {
    let word = if sums.contains_key(word) || sums.len() < MAX_WORDS { word } else { OTHER };
    // Nearly always known already; then nothing is allocated.
    match sums.get_mut(word) {
        Some(total) => *total = total.saturating_add(count),
        None => drop(sums.insert(word.to_owned(), count)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_are_judged_by_their_number() {
        let mut nodes = Nodes::default();
        let new = Order::New { missing: 0 };
        for (boot_id, sequence, expected) in [
            ("a", 1, new),
            ("a", 2, new),
            ("a", 2, Order::Duplicate),
            ("a", 1, Order::Duplicate),
            ("a", 6, Order::New { missing: 3 }),
            ("a", 4, Order::Duplicate),
            ("b", 1, new),
            ("a", 7, new),
            ("b", 2, new),
            ("c", 900, new),
        ] {
            assert_eq!(nodes.boot("n", boot_id).order(sequence, 0), expected, "{boot_id} {sequence}");
        }
        let a = nodes.boot("n", "a");
        assert_eq!((a.first_sequence, a.last_sequence, a.missing_batches, a.duplicates), (1, 7, 3, 3));
        assert_eq!(nodes.boot("n", "c").first_sequence, 900);
    }

    #[test]
    fn sums_are_read_back_as_they_were_but_for_streams() {
        let mut nodes = Nodes::default();
        for boot_id in 0..MAX_BOOTS + 3 {
            let boot = nodes.boot("n", &boot_id.to_string());
            boot.add(&Tally::Decision { what: "connect/deny/rule".to_owned(), count: 7 });
            boot.add(&Tally::Loss { cause: "ring_full".to_owned(), what: Some("a/b/c".to_owned()), count: 5 });
            let _ = (boot.order(3, 0), boot.order(3, 0), boot.order(9, 1));
            (boot.first_seen_ns, boot.last_seen_ns) = (4, 5);
        }
        let mut again = Nodes::default();
        nodes.boot("other", "b").streams = 1;
        assert!(nodes.saved().all(|saved| again.restore(&saved.bytes())));
        nodes.boot("other", "b").streams = 0;
        assert_eq!(format!("{again:?}"), format!("{nodes:?}"));
        assert!(again.boot("n", "5").is_here(9) && !again.boot("n", "5").is_here(10));
        assert!(!again.restore(b"{") && !again.restore(b"7"));
    }

    #[test]
    fn sums_are_by_word_and_bounded() {
        let mut boot = Boot::default();
        boot.add(&Tally::Nothing);
        for index in 0..2000 {
            boot.add(&Tally::Decision { what: format!("hook/deny/{index}"), count: 2 });
        }
        boot.add(&Tally::Loss { cause: "ring_full".to_owned(), what: Some("a/b/c".to_owned()), count: 5 });
        assert_eq!(boot.records, 2002);
        assert_eq!(boot.decisions.values().sum::<u64>(), 4000);
        assert_eq!(boot.decisions.len(), MAX_WORDS + 1);
        assert_eq!((boot.losses["ring_full"], boot.lost_decisions["ring_full a/b/c"]), (5, 5));
    }

    #[test]
    fn the_boot_unheard_of_for_longest_is_forgotten() {
        let mut nodes = Nodes::default();
        let number = |boot: usize| boot.to_string();
        (0..MAX_BOOTS).chain([0, MAX_BOOTS]).for_each(|boot| nodes.boot("n", &number(boot)).records += 1);
        let kept: Vec<_> = nodes.iter().map(|(_, boot)| boot.boot_id.clone()).collect();
        assert_eq!(kept, (2..MAX_BOOTS).chain([0, MAX_BOOTS]).map(number).collect::<Vec<_>>());
    }

    #[test]
    fn what_a_forgotten_boot_has_brought_stays_in_the_nodes_totals() {
        let mut nodes = Nodes::default();
        let boots = MAX_BOOTS as u64 + 2;
        for boot_id in 0..boots {
            let boot = nodes.boot("n", &boot_id.to_string());
            boot.streams += 1;
            boot.add(&Tally::Loss { cause: "queue_full".to_owned(), what: None, count: 2 });
            let _ = (boot.order(1, 0), boot.order(1, 0), boot.order(3, 0));
        }
        let totals: Vec<(&str, Totals)> = nodes.totals().collect();
        let losses = BTreeMap::from([("queue_full".to_owned(), 2 * boots)]);
        let streams = u32::try_from(MAX_BOOTS).unwrap();
        let (records, duplicates, missing_batches) = (boots, boots, boots);
        let expected = Totals { records, duplicates, missing_batches, losses, streams, last_seen_ns: 0 };
        assert_eq!(totals, [("n", expected)]);
    }
}
