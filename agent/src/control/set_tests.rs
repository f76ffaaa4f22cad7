//! Lives: weir-agent, tests of what control does with address sets.
//! Called by: cargo test.
//! May touch: a temporary directory, a kernel in memory.
//! Never: more than the public side of control.

use weir_policy::{Prefix, sets::entry};

use super::{
    ControlError,
    sets::{SetChange, SetError},
    tests::{world, world_in},
};

const BAD: &str = "apiVersion: weir.dev/v1alpha1\nkind: AddressSet\nmetadata: {name: bad}\n\
                   spec: {action: block, addresses: [10.0.0.0/8]}\n";
const HOUR: u64 = 3_600_000_000_000;

fn prefixes(list: &[&str]) -> Vec<Prefix> {
    list.iter().flat_map(|text| entry(text).unwrap()).collect()
}

fn change(add: &[&str], remove: &[&str]) -> SetChange {
    SetChange { name: "bad".to_owned(), add: prefixes(add), remove: prefixes(remove), expires_in: 0 }
}

impl super::tests::World {
    /// What the kernel has of what was loaded, and what control says of it, which must be the same.
    fn loaded(&self) -> Vec<String> {
        let inner = self.fake.inner();
        let set = inner.loaded.get("bad");
        let kernel: Vec<String> =
            set.map_or_else(Vec::new, |set| set.entries.iter().map(|(prefix, _)| prefix.to_string()).collect());
        drop(inner);
        let shown = self.control.show_set("bad", None).unwrap().into_iter();
        let shown: Vec<_> = shown.filter(|(.., listed)| !listed).map(|(prefix, ..)| prefix.to_string()).collect();
        assert_eq!(kernel, shown);
        shown
    }
}

#[test]
fn what_is_loaded_replaces_what_was_and_single_entries_come_and_go() {
    let mut world = world();
    world.apply(&[BAD]);
    assert_eq!(world.loaded(), [""; 0]);
    let done = world.control.load_set("bad", prefixes(&["192.0.2.1", "192.0.2.1", "2001:db8::/32"]), 0).unwrap();
    assert_eq!((done.added, done.removed, world.fake.inner().reloaded), (2, 0, 1));
    let done = world.control.load_set("bad", prefixes(&["192.0.2.1-192.0.2.3"]), 0).unwrap();
    assert_eq!((done.added, done.removed), (2, 2));
    assert_eq!(world.loaded(), ["192.0.2.1/32", "192.0.2.2/31"]);
    let done = world.control.change_set(&change(&["198.51.100.0/24"], &["192.0.2.1"])).unwrap();
    assert_eq!((done.added, done.removed), (1, 1));
    assert_eq!(world.loaded(), ["192.0.2.2/31", "198.51.100.0/24"]);
    assert_eq!(world.fake.inner().reloaded, 2, "single entries take no new image");
    let (sets, bytes) = world.control.list_sets().unwrap();
    let [set] = sets.as_slice() else { panic!("{sets:?}") };
    assert_eq!((set.listed, set.loaded, set.count.packets, set.blocks, bytes), (1, 2, 3, true, 4096));
    let around = world.control.show_set("bad", Some(prefixes(&["198.51.100.7"])[0])).unwrap();
    assert_eq!(around, [(prefixes(&["198.51.100.0/24"])[0], 0, false)]);
    let listed = world.control.show_set("bad", Some(prefixes(&["10.1.2.3"])[0])).unwrap();
    assert_eq!(listed, [(prefixes(&["10.0.0.0/8"])[0], 0, true)]);
}

#[test]
fn what_the_kernel_refuses_changes_nothing() {
    let mut world = world();
    world.apply(&[BAD]);
    world.control.load_set("bad", prefixes(&["192.0.2.1"]), 0).unwrap();
    world.fake.inner().fail_sets = true;
    world.fake.inner().sets_full = true;
    let error = world.control.load_set("bad", prefixes(&["192.0.2.2"]), 0).unwrap_err();
    assert!(matches!(error, ControlError::Set(SetError::Kernel { .. })), "{error}");
    let error = world.control.change_set(&change(&["192.0.2.3", "192.0.2.1"], &[])).unwrap_err();
    assert!(matches!(error, ControlError::Set(SetError::Kernel { .. })), "{error}");
    // The first of them finds room, the second none, and a new image is refused: the first goes again.
    (world.fake.inner().sets_full, world.fake.inner().sets_room) = (false, Some(1));
    let error = world.control.change_set(&change(&["192.0.2.5", "192.0.2.7"], &[])).unwrap_err();
    assert!(matches!(error, ControlError::Set(SetError::Kernel { .. })), "{error}");
    assert_eq!(world.loaded(), ["192.0.2.1/32"]);
    (world.fake.inner().sets_full, world.fake.inner().sets_room) = (true, None);
    world.fake.inner().fail_sets = false;
    // Where there is no room for a single entry, all is made anew.
    let reloaded = world.fake.inner().reloaded;
    world.control.change_set(&change(&["192.0.2.4"], &[])).unwrap();
    assert_eq!(
        (world.loaded(), world.fake.inner().reloaded),
        (vec!["192.0.2.1/32".into(), "192.0.2.4/32".into()], reloaded + 1)
    );
}

#[test]
fn what_is_not_there_is_refused_by_name() {
    let mut world = world();
    world.apply(&[BAD]);
    let rows = [
        world.control.load_set("good", Vec::new(), 0).unwrap_err(),
        world.control.show_set("good", None).unwrap_err(),
        world.control.change_set(&change(&["192.0.2.1"], &["192.0.2.9"])).unwrap_err(),
        // What the document lists is the document's.
        world.control.change_set(&change(&[], &["10.0.0.0/8"])).unwrap_err(),
    ];
    let words = ["AddressSet/good", "AddressSet/good", "192.0.2.9/32 was not loaded", "10.0.0.0/8 was not loaded"];
    for (error, words) in rows.iter().zip(words) {
        assert!(error.to_string().contains(words), "{error}");
    }
    assert_eq!(world.loaded(), [""; 0], "a request is taken whole or not at all");
}

#[test]
fn what_was_loaded_is_there_after_a_restart_and_goes_with_its_document() {
    let mut world = world();
    world.apply(&[BAD]);
    world.control.load_set("bad", prefixes(&["192.0.2.1", "192.0.2.2/31"]), 0).unwrap();
    world.control.change_set(&SetChange { expires_in: HOUR, ..change(&["2001:db8::/32"], &["192.0.2.1"]) }).unwrap();
    let mut again = world_in(world.dir);
    assert!(again.control.restore().unwrap());
    assert_eq!(again.loaded(), ["192.0.2.2/31", "2001:db8::/32"]);
    let (sets, _) = again.control.list_sets().unwrap();
    assert!(sets[0].next_expiry.is_some());
    again.apply(&[&BAD.replace("10.0.0.0/8", "11.0.0.0/8")]);
    assert_eq!(again.loaded().len(), 2, "another edit of the document keeps it");
    again.control.delete(&[weir_policy::ResourceId::new(weir_policy::Kind::AddressSet, "", "bad")], false).unwrap();
    again.apply(&[BAD]);
    assert_eq!(again.loaded(), [""; 0]);
    let mut again = world_in(again.dir);
    assert!(again.control.restore().unwrap());
    assert_eq!(again.loaded(), [""; 0]);
}

#[test]
fn what_could_not_be_saved_is_saved_as_soon_as_it_can_be() {
    let mut world = world();
    world.apply(&[BAD]);
    world.control.load_set("bad", prefixes(&["192.0.2.1"]), 0).unwrap();
    // A folder in the way of the journal, and of the file beside the set: like a full disk, nothing can be written.
    let sets = world.dir.path().join("state/sets");
    for name in ["bad.journal", "bad.new"] {
        std::fs::create_dir_all(sets.join(name)).unwrap();
    }
    for (add, held) in [("192.0.2.2", 2), ("192.0.2.8", 3)] {
        let done = world.control.change_set(&change(&[add], &[])).unwrap();
        let [warning] = done.warnings.as_slice() else { panic!("{:?}", done.warnings) };
        assert!(warning.contains(&sets.display().to_string()) && warning.contains("not saved"), "{warning}");
        assert_eq!(world.loaded().len(), held, "in force all the same");
    }
    world.control.tick();
    for name in ["bad.journal", "bad.new"] {
        std::fs::remove_dir(sets.join(name)).unwrap();
    }
    world.control.tick();
    let mut again = world_in(world.dir);
    assert!(again.control.restore().unwrap());
    assert_eq!(again.loaded(), ["192.0.2.1/32", "192.0.2.2/32", "192.0.2.8/32"]);
}

#[test]
fn ended_entries_are_taken_out_at_the_next_tick() {
    let mut world = world();
    world.apply(&[BAD]);
    let soon = SetChange { expires_in: 1, ..change(&["192.0.2.1"], &[]) };
    world.control.change_set(&soon).unwrap();
    world.control.change_set(&SetChange { expires_in: HOUR, ..change(&["192.0.2.2"], &[]) }).unwrap();
    world.control.tick();
    assert_eq!(world.loaded(), ["192.0.2.2/32"]);
    world.fake.inner().sets_full = true;
    let reloaded = world.fake.inner().reloaded;
    world.control.change_set(&SetChange { expires_in: 1, ..change(&["192.0.2.3"], &[]) }).unwrap();
    world.control.tick();
    assert_eq!((world.loaded(), world.fake.inner().reloaded), (vec!["192.0.2.2/32".into()], reloaded + 2));
}
