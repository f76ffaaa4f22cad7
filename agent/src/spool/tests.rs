//! Lives: weir-agent, tests of the spool.
//! Called by: `cargo test`.
//! May touch: a temporary directory.
//! Never: needs a collector; the stream is tested in `rpc`, the whole in `tests/tests/live`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::OpenOptions,
    os::unix::fs::{FileExt, PermissionsExt},
};

use weir_journal::{HEADER, sorted};

use super::*;

const CODEC: Codec = Codec { pack: |_| Packed::default(), given_up };
/// A batch of this many bytes: sixteen fill a small segment.
const BODY: usize = 4000;

/// Bodies of these tests begin with their decisions.
fn given_up(body: &[u8]) -> Given {
    let mut given = Given::default();
    given.add(Some(1), u64::from_le_bytes(*body.first_chunk().unwrap()), 5, 6);
    given
}

fn limits(bytes: u64) -> Limits {
    Limits { bytes, age: Duration::from_secs(3600) }
}

fn open(dir: &Path, bytes: u64, boot: &str, start: u64) -> (Spool, Left) {
    Spool::open(dir, limits(bytes), boot, start).unwrap()
}

fn append_at(spool: &mut Spool, decisions: u64, newest_ns: u64) -> bool {
    let mut body = vec![7; BODY];
    body[..8].copy_from_slice(&decisions.to_le_bytes());
    spool.append(Facts { records: 2, decisions, newest_ns }, &body, ["a", "b"].into_iter())
}

fn append(spool: &mut Spool, decisions: u64) {
    assert!(append_at(spool, decisions, 10));
}

/// Everything that can be sent now: boot, number and batches given up before it.
fn all(spool: &mut Spool) -> Vec<(String, u64, u64)> {
    let mut parcels = Vec::new();
    while let (Some(parcel), None) = spool.next_parcel() {
        parcels.push((parcel.boot.to_string(), parcel.sequence, parcel.dropped_before));
    }
    parcels
}

fn numbers(boot: &str, numbers: impl IntoIterator<Item = u64>) -> Vec<(String, u64, u64)> {
    numbers.into_iter().map(|number| (boot.to_owned(), number, 0)).collect()
}

fn segments(dir: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = sorted(dir).unwrap().iter().flat_map(|boot| sorted(boot).unwrap()).collect();
    found.retain(|path| path.extension().is_some());
    found
}

#[test]
fn batches_come_in_order_again_after_a_break_and_never_after_their_acknowledgement() {
    let dir = tempfile::tempdir().unwrap();
    let (mut spool, left) = open(dir.path(), 1 << 20, "a", 1);
    assert_eq!(left, Left::default());
    (1..=100).for_each(|n| append(&mut spool, n));
    assert_eq!(all(&mut spool), numbers("a", 1..=100));
    assert_eq!((spool.in_flight(), spool.is_behind(), spool.is_empty()), (100, false, false));
    spool.acknowledge("a", 40).unwrap();
    spool.acknowledge("a", 30).unwrap();
    assert_eq!(spool.acknowledge("a", 101).unwrap_err().sent, 100);
    assert!(spool.acknowledge("b", 1).is_err());
    spool.rewind();
    assert_eq!(all(&mut spool), numbers("a", 41..=100));
    append(&mut spool, 1);
    assert_eq!(spool.status().records, 122);
    assert_eq!(all(&mut spool), numbers("a", [101]));
    let files = segments(dir.path());
    assert!(files.len() > 3, "{files:?}");
    assert!(files.iter().all(|file| file.metadata().unwrap().permissions().mode() & 0o077 == 0));
    spool.acknowledge("a", 101).unwrap();
    assert!(spool.is_empty());
    assert_eq!((spool.status().records, spool.status().acknowledged, segments(dir.path()).len()), (0, 202, 1));
    spool.end();
    assert_eq!(sorted(dir.path()).unwrap(), Vec::<PathBuf>::new(), "nothing is left of a boot that delivered all");
}

#[test]
fn what_a_run_left_goes_first_under_its_own_name() {
    let dir = tempfile::tempdir().unwrap();
    for (start, boot, last) in [(1, "a", 30), (2, "b", 20)] {
        let (mut spool, left) = open(dir.path(), 1 << 20, boot, start);
        assert_eq!(left.ended_ns.is_some(), boot == "b", "a ended without a word");
        (1..=last).for_each(|n| append(&mut spool, n));
        if boot == "a" {
            assert_eq!(spool.next_parcel().0.map(|parcel| parcel.sequence), Some(1));
            assert_eq!(spool.next_parcel().0.map(|parcel| parcel.sequence), Some(2));
            spool.acknowledge("a", 1).unwrap();
        } else {
            spool.end();
        }
    }
    let (mut spool, left) = open(dir.path(), 1 << 20, "c", 3);
    assert_eq!(left, Left::default(), "b said that it ended");
    assert_eq!(spool.status().records, 29 * 2 + 40);
    append(&mut spool, 1);
    let expected = [numbers("a", 2..=30), numbers("b", 1..=20), numbers("c", [1])].concat();
    assert_eq!(all(&mut spool), expected);
    spool.rewind();
    assert_eq!(all(&mut spool), expected);
    spool.acknowledge("b", 3).unwrap();
    spool.rewind();
    assert_eq!(all(&mut spool), expected[29 + 3..], "what was sent before the batch has arrived as well");
    spool.acknowledge("c", 1).unwrap();
    assert_eq!((spool.status().records, sorted(dir.path()).unwrap().len()), (0, 1));
}

#[test]
fn a_full_spool_gives_up_the_oldest_that_was_never_sent_and_says_what_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let (mut spool, _) = open(dir.path(), 300_000, "a", 1);
    let mut given = Vec::new();
    for n in 1..=400 {
        append(&mut spool, n);
        if n == 3 {
            // These two are on their way for the whole time.
            assert_eq!(spool.next_parcel().0.unwrap().sequence, 1);
            assert_eq!(spool.next_parcel().0.unwrap().sequence, 2);
        }
        given.extend(spool.give_up(20, CODEC));
        assert!(spool.status().bytes < 300_000 + 3 * 65_536, "{}", spool.status().bytes);
    }
    assert!(given.iter().all(|(why, lost)| *why == Why::Full && (lost.first_ns, lost.last_ns) == (5, 6)));
    let lost: u64 = given.iter().map(|(_, lost)| lost.cells[&Some(1)]).sum();
    assert_eq!(lost, spool.status().lost);
    spool.rewind();
    let parcels = all(&mut spool);
    assert_eq!(parcels[..2], numbers("a", 1..=2), "what was sent is never given up");
    let kept: u64 = parcels.iter().map(|(_, n, _)| n).sum();
    assert_eq!(kept + lost, (1..=400).sum::<u64>());
    let mut before = 0;
    for (_, number, dropped) in parcels {
        assert_eq!(number, before + dropped + 1, "each gap is said");
        before = number;
    }
    assert_eq!(before, 400);
}

#[test]
fn how_old_the_oldest_is_that_waits_is_known() {
    let dir = tempfile::tempdir().unwrap();
    let (mut spool, _) = open(dir.path(), 10 << 20, "a", 1);
    assert_eq!(spool.status().oldest_ns, 0);
    for newest_ns in [100, 200, 300] {
        append_at(&mut spool, 1, newest_ns);
    }
    assert_eq!(spool.status().oldest_ns, 100);
    all(&mut spool);
    assert_eq!(spool.status().oldest_ns, 100);
    spool.acknowledge("a", 2).unwrap();
    assert_eq!(spool.status().oldest_ns, 300);
    spool.rewind();
    assert_eq!(spool.status().oldest_ns, 300);
    all(&mut spool);
    spool.acknowledge("a", 3).unwrap();
    assert_eq!(spool.status().oldest_ns, 0);
    append_at(&mut spool, 1, 400);
    drop(spool);
    assert_eq!(open(dir.path(), 10 << 20, "b", 2).0.status().oldest_ns, 100, "of its segment, which is not older");
}

#[test]
fn what_is_too_old_is_given_up_and_what_is_not_stays() {
    let dir = tempfile::tempdir().unwrap();
    let (mut spool, _) = open(dir.path(), 10 << 20, "a", 1);
    let hour = 3_600_000_000_000;
    // Segments are of a sixteenth of the longest age.
    for quarter in 1..=8 {
        assert!(append_at(&mut spool, quarter, quarter * hour / 4));
    }
    assert_eq!(spool.give_up(2 * hour - 1, CODEC).iter().map(|(_, lost)| lost.cells[&Some(1)]).sum::<u64>(), 1 + 2 + 3);
    assert_eq!(spool.give_up(2 * hour - 1, CODEC), []);
    let given = spool.give_up(3 * hour - 1, CODEC);
    assert!(given.iter().all(|(why, _)| *why == Why::Expired));
    assert_eq!(all(&mut spool), [("a".to_owned(), 8, 7)], "the last one is still written to");
}

#[test]
fn memory_takes_over_from_a_disk_that_fails_up_to_a_bound_and_the_disk_again_later() {
    let dir = tempfile::tempdir().unwrap();
    let (mut spool, _) = open(dir.path(), 1 << 20, "a", 1);
    // A file where the directory of this boot should be.
    let obstacle = dir.path().join(format!("{:020}-a", 1));
    std::fs::write(&obstacle, "").unwrap();
    let mut taken = 0;
    while append_at(&mut spool, 1, 10) {
        taken += 1;
        assert!(taken < 10_000);
    }
    assert!(taken * (BODY + HEADER) as u64 > MEMORY - 65_536 && spool.status().bytes <= MEMORY + 65_536, "{taken}");
    assert!(!spool.status().fault.is_empty());
    std::fs::remove_file(&obstacle).unwrap();
    spool.disk_from = Some(Instant::now());
    assert!(append_at(&mut spool, 1, 10));
    assert!(spool.status().fault.is_empty());
    assert_eq!(segments(dir.path()).len(), 1);
    assert_eq!(all(&mut spool), numbers("a", 1..=taken + 1));
    spool.acknowledge("a", taken).unwrap();
    assert_eq!(spool.memory(), 0);
}

#[test]
fn without_a_disk_memory_keeps_what_it_may_and_nothing_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let (mut spool, _) = open(&dir.path().join("never"), 0, "a", 1);
    append(&mut spool, 1);
    assert_eq!(all(&mut spool), numbers("a", [1]));
    assert!(sorted(dir.path()).unwrap().is_empty());
}

/// Leaves 40 batches of boot "a" in segments, changes one file, and shows what the next run finds, and the decisions in damage it meets.
fn damaged(change: impl FnOnce(&[PathBuf])) -> (Vec<u64>, Left, Option<u64>) {
    let dir = tempfile::tempdir().unwrap();
    let (mut spool, _) = open(dir.path(), 1 << 20, "a", 1);
    (1..=40).for_each(|n| append(&mut spool, n));
    drop(spool);
    change(&segments(dir.path()));
    let (mut spool, left) = open(dir.path(), 1 << 20, "b", 2);
    append(&mut spool, 1);
    let (mut parcels, mut met) = (Vec::new(), None);
    loop {
        let (parcel, lost) = spool.next_parcel();
        met = met.or(lost);
        let Some(parcel) = parcel else { break };
        parcels.push((parcel.boot.to_string(), parcel.sequence));
    }
    assert_eq!(parcels.pop(), Some(("b".to_owned(), 1)));
    assert!(parcels.iter().all(|(boot, _)| boot == "a") && left.ended_ns.is_some());
    spool.acknowledge("b", 1).unwrap();
    assert_eq!(sorted(dir.path()).unwrap().len(), 1, "what cannot be read does not stay for ever");
    (parcels.into_iter().map(|(_, number)| number).collect(), left, met)
}

fn edit(file: &Path) -> std::fs::File {
    OpenOptions::new().write(true).open(file).unwrap()
}

#[test]
fn torn_and_changed_segments_cost_what_was_changed_and_that_is_said() {
    let frame = (HEADER + BODY) as u64;
    let without = |number: u64| (1..=40).filter(|n| *n != number).collect::<Vec<_>>();
    let (whole, left, met) = damaged(|_| ());
    assert_eq!((whole, left.damaged, met), (without(0), false, None));

    let (torn, left, met) = damaged(|files| edit(files.last().unwrap()).set_len(frame * 2 + 100).unwrap());
    let last = *torn.last().unwrap();
    assert!((20..40).contains(&last), "{last}");
    assert_eq!((torn, left.damaged, met), ((1..=last).collect(), false, None), "a torn end is part of what ended");

    // A bit of the third body; its header says how many decisions that costs.
    let (changed, left, met) = damaged(|files| edit(&files[0]).write_all_at(b"?", frame * 2 + 60).unwrap());
    assert_eq!((changed, left.damaged, met), (without(3), false, Some(3)));

    // The header of the second frame: how many is not known.
    let (changed, left, met) = damaged(|files| edit(&files[0]).write_all_at(b"????", frame + 8).unwrap());
    assert_eq!((changed, left.damaged, met), (without(2), false, Some(0)));

    for length in [0, 100, frame + 30] {
        let (rest, left, met) = damaged(|files| edit(&files[0]).set_len(length).unwrap());
        assert!(rest.len() > 20 && rest.len() < 40, "{rest:?}");
        assert_eq!((left.damaged, met), (true, None), "{length}: nobody knows what was behind it");
    }

    let position = |files: &[PathBuf]| files[0].with_file_name("position");
    let (again, left, _) = damaged(|files| std::fs::write(position(files), "nonsense").unwrap());
    assert_eq!((again, left.damaged), (without(0), false));
}

#[test]
fn what_a_later_version_wrote_is_neither_delivered_nor_removed() {
    let dir = tempfile::tempdir().unwrap();
    let (mut spool, _) = open(dir.path(), 1 << 20, "a", 1);
    (1..=40).for_each(|n| append(&mut spool, n));
    drop(spool);
    let files = segments(dir.path());
    // Its last segment only, as when a version was exchanged in between: the rest is of the same run.
    let changed = files.last().unwrap();
    for (magic, newer) in [(b"WFR2", 1), (b"WFR9", 1), (b"WFR1", 0), (b"WFR0", 0), (b"WFRx", 0)] {
        edit(changed).write_all_at(magic, 0).unwrap();
        let bytes = |files: &[PathBuf]| files.iter().map(|file| std::fs::read(file).unwrap()).collect::<Vec<_>>();
        let before = bytes(&files);
        let mut spool = Spool::empty(dir.path().join("b"), limits(1 << 20), "b");
        let left = spool.recover(dir.path()).unwrap();
        assert_eq!(left.newer, newer, "{magic:?}");
        if newer == 1 {
            assert!(spool.is_empty() && !left.damaged && left.ended_ns.is_none(), "{left:?}");
            assert_eq!(bytes(&files), before);
        } else {
            assert!(!spool.is_empty());
        }
    }
}

#[test]
fn a_workload_has_a_share_until_its_batches_are_gone() {
    let dir = tempfile::tempdir().unwrap();
    let (mut spool, _) = open(dir.path(), 1 << 20, "a", 1);
    let body = vec![0; 40_000];
    for _ in 0..10 {
        assert!(spool.append(Facts { records: 4, decisions: 4, newest_ns: 1 }, &body, ["x", "x", "x", ""].into_iter()));
    }
    assert!((270..300).contains(&spool.share_permille("x")), "{}", spool.share_permille("x"));
    assert_eq!((spool.share_permille("y"), spool.share_permille("")), (0, 0));
    all(&mut spool);
    spool.acknowledge("a", 10).unwrap();
    assert!(spool.share_permille("x") < 60, "{}", spool.share_permille("x"));
}

/// Random work, breaks and restarts against what must hold.
#[test]
fn whatever_happens_every_batch_is_delivered_or_said_to_be_given_up() {
    for seed in 0..60 {
        let mut random = fastrand::Rng::with_seed(seed);
        let dir = tempfile::tempdir().unwrap();
        let bytes = random.u64(200_000..2_000_000);
        let mut boots = 1;
        let (mut spool, _) = open(dir.path(), bytes, "1", 1);
        let mut appended: BTreeMap<(u64, u64), u64> = BTreeMap::new();
        let mut delivered: BTreeSet<(u64, u64)> = BTreeSet::new();
        let (mut given, mut on_stream, mut answered) = (0, Vec::<(u64, u64)>::new(), 0);
        let mut number = 0;
        for _ in 0..random.u32(100..1500) {
            match random.u8(0..100) {
                0..60 => {
                    let decisions = random.u64(1..1000);
                    number += 1;
                    append(&mut spool, decisions);
                    appended.insert((boots, number), decisions);
                    let lost = spool.give_up(20, CODEC);
                    given += lost.iter().map(|(_, lost)| lost.cells[&Some(1)]).sum::<u64>();
                }
                60..80 => {
                    if let (Some(parcel), lost) = spool.next_parcel() {
                        assert_eq!(lost, None);
                        let key = (parcel.boot.parse().unwrap(), parcel.sequence);
                        assert!(on_stream.last() < Some(&key), "{seed}: in order");
                        on_stream.push(key);
                    }
                }
                80..95 => {
                    if answered < on_stream.len() {
                        let upto = random.usize(answered..on_stream.len());
                        answered = upto + 1;
                        let (boot, sequence) = on_stream[upto];
                        // The collector has these, whether or not its acknowledgement arrives.
                        delivered.extend(&on_stream[..=upto]);
                        if random.bool() {
                            spool.acknowledge(&boot.to_string(), sequence).unwrap();
                        }
                    }
                }
                95..99 => {
                    spool.rewind();
                    on_stream.clear();
                    answered = 0;
                }
                _ => {
                    boots += 1;
                    number = 0;
                    on_stream.clear();
                    answered = 0;
                    spool = open(dir.path(), bytes, &boots.to_string(), boots).0;
                }
            }
        }
        spool.rewind();
        while let (Some(parcel), _) = spool.next_parcel() {
            delivered.insert((parcel.boot.parse().unwrap(), parcel.sequence));
        }
        let sum: u64 = delivered.iter().map(|key| appended[key]).sum();
        assert_eq!(sum + given, appended.values().sum::<u64>(), "seed {seed}");
    }
}
