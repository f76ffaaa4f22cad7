//! Lives: weir-agent, telemetry.
//! Called by: the telemetry loop, when an epoch's merged decisions become records.
//! May touch: its own memory.
//! Never: gives a packet to an epoch that was over when it came; keeps one for longer than two epochs.
//!
//! The ring is read after the epoch was closed, so it holds what the next one dropped meanwhile too. That waits for its record here.

use std::collections::HashMap;

use weir_common::event::{DropBytes, MergeKey, MergeValue};

/// How dropped packets began that have no record yet.
#[derive(Debug, Default)]
pub struct Began {
    /// With the number of epochs that each has seen end, oldest first.
    waiting: HashMap<MergeKey, Vec<(u8, DropBytes)>>,
}

impl Began {
    /// Takes in what came since the last epoch's end.
    pub fn add(&mut self, came: Vec<DropBytes>) {
        for shown in came {
            self.waiting.entry(shown.key).or_default().push((0, shown));
        }
    }

    /// The first bytes of the epoch's first drop of this key, if they came.
    pub fn take(&mut self, key: &MergeKey, value: &MergeValue) -> Option<Box<[u8]>> {
        let of_key = self.waiting.get_mut(key)?;
        // Whoever counts the first drop shows it afterwards, so a packet from before is an earlier epoch's.
        of_key.retain(|(_, shown)| shown.time_ns >= value.first_ns);
        if of_key.is_empty() {
            return None;
        }
        let (_, first) = of_key.remove(0);
        let length = usize::try_from(first.length).ok()?;
        first.bytes.get(..length).map(Box::from)
    }

    /// The epoch's records are made: what is left belongs to the next, unless it has waited for that already.
    pub fn end(&mut self) {
        self.waiting.retain(|_, of_key| {
            of_key.retain_mut(|(ends, _)| {
                *ends += 1;
                *ends < 2
            });
            !of_key.is_empty()
        });
    }
}

#[cfg(test)]
mod tests {
    use zerocopy::FromZeros as _;

    use super::*;

    const KEY: u64 = 7;

    fn key(rule: u64) -> MergeKey {
        MergeKey { generation: rule, ..MergeKey::new_zeroed() }
    }

    fn shown(rule: u64, time_ns: u64, byte: u8) -> DropBytes {
        let mut shown = DropBytes { key: key(rule), time_ns, length: 1, ..DropBytes::new_zeroed() };
        shown.bytes[0] = byte;
        shown
    }

    /// Per epoch: what the ring held, when the record's first drop was (none: no record), and the byte it must be shown with.
    #[test]
    fn a_packet_is_shown_with_the_record_of_its_own_epoch() {
        type Epoch = (&'static [(u64, u8)], Option<u64>, Option<u8>);
        let rows: [(&str, &[Epoch]); 6] = [
            ("one each", &[(&[(11, 1)], Some(10), Some(1)), (&[(21, 2)], Some(20), Some(2))]),
            ("the next epoch's was read with the last", &[(&[(21, 2)], None, None), (&[], Some(20), Some(2))]),
            ("both read at once", &[(&[(11, 1), (21, 2)], Some(10), Some(1)), (&[], Some(20), Some(2))]),
            (
                "one of an epoch without a record is not given to a later one",
                &[(&[(11, 1)], None, None), (&[], Some(20), None)],
            ),
            ("a record whose packet found no room has none", &[(&[(11, 1)], Some(10), Some(1)), (&[], Some(20), None)]),
            (
                "none waits for more than one epoch",
                &[(&[(11, 1)], None, None), (&[], None, None), (&[], Some(10), None)],
            ),
        ];
        for (name, epochs) in rows {
            let mut began = Began::default();
            for (number, (came, first, expected)) in epochs.iter().enumerate() {
                began.add(came.iter().map(|(time, byte)| shown(KEY, *time, *byte)).collect());
                // Another key's is no answer.
                began.add(vec![shown(KEY + 1, 1_000, 99)]);
                let value = first.map(|first_ns| MergeValue { first_ns, ..MergeValue::new_zeroed() });
                let got = value.and_then(|value| began.take(&key(KEY), &value));
                assert_eq!(got.as_deref(), expected.as_ref().map(std::slice::from_ref), "{name}, epoch {number}");
                began.end();
            }
        }
    }

    #[test]
    fn what_nobody_asks_for_is_let_go() {
        let mut began = Began::default();
        for epoch in 0..100 {
            began.add(vec![shown(epoch, epoch, 1)]);
            began.end();
            assert!(began.waiting.len() <= 1, "epoch {epoch}: {}", began.waiting.len());
        }
    }
}
