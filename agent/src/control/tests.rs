//! Lives: weir-agent, tests of control.
//! Called by: `cargo test`.
//! May touch: a fake kernel, a temporary state directory.
//! Never: asks a real kernel.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use weir_common::{
    addr::Addr,
    verdict::{Reason, Verdict},
};
use weir_policy::{Kind, ResourceId};

use super::{
    explain::{Ask, EndError},
    *,
};
use crate::testing::{Fake, FakeDatapath};

const WEB: &str = "\
apiVersion: weir.dev/v1alpha1
kind: Workload
metadata: {name: web, namespace: shop, labels: {app: web}}
spec: {cgroup: web, addresses: [10.0.0.1]}
";
const API: &str = "\
apiVersion: weir.dev/v1alpha1
kind: Workload
metadata: {name: api, namespace: shop, labels: {app: api}}
spec: {cgroup: api, addresses: [10.0.0.2]}
---
apiVersion: weir.dev/v1alpha1
kind: Policy
metadata: {name: api, namespace: shop}
spec:
  workloadSelector: {matchLabels: {app: api}}
  ingress: [{name: from-web, from: [{workloadSelector: {matchLabels: {app: web}}}], ports: [{port: 80}]}]
---
apiVersion: weir.dev/v1alpha1
kind: RateLimit
metadata: {name: api, namespace: shop}
spec: {workloadSelector: {matchLabels: {app: api}}, packets: {perSecond: 100}}
";

/// Control over a fake kernel, in a folder of its own.
pub struct World {
    pub fake: Fake,
    pub dir: tempfile::TempDir,
    pub control: Control<FakeDatapath>,
}

fn settings(dir: &tempfile::TempDir) -> Settings {
    let queue = Arc::new(Queue::new(1024, crate::spool::Spool::in_memory("boot", String::new()), true));
    let clock: WallClock = Arc::new(|| Timestamp(clock::wall_now()));
    Settings {
        node: "n1".to_owned(),
        cgroup_root: dir.path().join("tree"),
        unknown: Verdict::Allow,
        unselected: Verdict::Allow,
        state_dir: dir.path().join("state"),
        names: Arc::default(),
        queue,
        revoker: Arc::default(),
        clock,
        arrivals: Arrivals::default(),
    }
}

pub fn world() -> World {
    world_in(tempfile::tempdir().unwrap())
}

pub fn world_in(dir: tempfile::TempDir) -> World {
    let fake = Fake::default();
    let control = Control::start(fake.datapath(), settings(&dir)).unwrap();
    World { fake, dir, control }
}

fn request(texts: &[&str]) -> Apply {
    let sources = texts.iter().enumerate().map(|(n, text)| (format!("{n}.yaml"), (*text).to_owned())).collect();
    Apply { sources, ..Apply::default() }
}

impl World {
    pub fn apply(&mut self, texts: &[&str]) -> Applied {
        self.control.apply(&request(texts)).unwrap()
    }

    pub fn generations(&self) -> Vec<u64> {
        self.fake.inner().installed.iter().map(|compiled| compiled.generation).collect()
    }

    fn ids(&self) -> Vec<String> {
        self.control.list(None, None).resources.iter().map(|view| view.resource.id().to_string()).collect()
    }

    pub fn saved(&self) -> Option<String> {
        std::fs::read_to_string(self.dir.path().join("state/policy.yaml")).ok()
    }
}

pub fn actions(applied: &Applied) -> Vec<(&'static str, String)> {
    applied.changes.iter().map(|change| (change.action.name(), change.id.to_string())).collect()
}

#[test]
fn an_empty_generation_is_in_force_before_anything_is_attached() {
    let mut world = world();
    assert_eq!((world.generations(), world.fake.inner().reconciled.len()), (vec![1], 0));
    assert!(!world.control.enforcing());
    world.control.tick();
    assert!(world.control.enforcing());
    assert_eq!(world.fake.inner().reconciled.len(), 1);
}

#[test]
fn a_generation_is_one_effective_change() {
    let mut world = world();
    let first = world.apply(&[WEB, API]);
    assert_eq!((first.generation, first.faults.len()), (2, 0));
    assert!(actions(&first).iter().all(|(action, _)| *action == "created"));
    assert_eq!(world.fake.inner().reconciled.len(), 1, "attached at once, not at the next tick");
    let same = world.apply(&[WEB, API]);
    assert_eq!(same.generation, 2);
    assert!(actions(&same).iter().all(|(action, _)| *action == "unchanged"));
    let changed = world.apply(&[&WEB.replace("10.0.0.1", "10.0.0.3")]);
    assert_eq!((changed.generation, actions(&changed)), (3, vec![("changed", "Workload/shop/web".to_owned())]));
    assert_eq!(world.generations(), [1, 2, 3]);
    let generation = |kind, name: &str| world.control.get(&ResourceId::new(kind, "shop", name)).unwrap().generation;
    assert_eq!((generation(Kind::Workload, "web"), generation(Kind::Workload, "api")), (3, 2));
}

#[test]
fn a_dry_run_tells_what_would_change_and_changes_nothing() {
    let mut world = world();
    let would = world.control.apply(&Apply { dry_run: true, ..request(&[WEB]) }).unwrap();
    assert_eq!((would.generation, actions(&would)), (1, vec![("created", "Workload/shop/web".to_owned())]));
    assert_eq!((world.ids().len(), world.generations(), world.saved()), (0, vec![1], None));
}

#[test]
fn one_fault_refuses_all_sources_and_every_fault_is_told() {
    let mut world = world();
    world.apply(&[WEB]);
    let before = world.saved();
    let bad = WEB.replace("cgroup", "cgruop");
    let worse = API.replace("port: 80", "port: 80000");
    let refused = world.apply(&[API, &bad, &worse]);
    assert_eq!((refused.generation, refused.changes.len()), (2, 0));
    assert!(refused.faults.len() >= 2, "{:?}", refused.faults);
    assert!(refused.faults.iter().any(|f| f.source == "1.yaml") && refused.faults.iter().any(|f| f.source == "2.yaml"));
    // Readable by itself, but two workloads of different labels claim one address.
    let refused = world.apply(&[&API.replace("10.0.0.2", "10.0.0.1")]);
    assert!(!refused.faults.is_empty());
    assert_eq!(
        (world.ids(), world.generations(), world.saved()),
        (vec!["Workload/shop/web".to_owned()], vec![1, 2], before)
    );
}

#[test]
fn sources_without_a_document_change_nothing_least_of_all_with_replace_all() {
    let mut world = world();
    world.apply(&[WEB]);
    for (texts, replace_all) in [(&[""][..], false), (&["", "# only a comment\n"], true), (&[], true)] {
        let refused = world.control.apply(&Apply { replace_all, ..request(texts) }).unwrap();
        assert_eq!((refused.generation, refused.changes.len(), refused.faults.len()), (2, 0, 1), "{texts:?}");
        assert!(refused.faults[0].problem.contains("no document"), "{:?}", refused.faults);
    }
    assert_eq!((world.ids().len(), world.generations()), (1, vec![1, 2]));
}

#[test]
fn a_kernel_that_refuses_leaves_everything_as_it_was() {
    let mut world = world();
    world.apply(&[WEB]);
    let before = (world.ids(), world.saved());
    let mut watch = world.control.watch(None);
    world.fake.inner().fail_install = true;
    let error = world.control.apply(&request(&[API])).unwrap_err();
    assert!(matches!(error, ControlError::Install { generation: 3, .. }), "{error}");
    let delete = world.control.delete(&[ResourceId::new(Kind::Workload, "shop", "web")], false);
    assert!(matches!(delete, Err(ControlError::Install { generation: 3, .. })));
    assert_eq!((world.ids(), world.saved()), before);
    assert_eq!(world.control.generation(), 2);
    assert!(watch.changes.try_recv().is_err(), "nobody is told of what did not happen");
    assert_eq!(world.control.settings.names.snapshot().rule(3, 1), None, "the names of generation 3 are taken back");

    world.fake.inner().fail_install = false;
    assert_eq!(world.apply(&[API]).generation, 3, "the number was not used up");
}

#[test]
fn a_start_that_the_kernel_refuses_is_an_error() {
    let fake = Fake::default();
    fake.inner().fail_install = true;
    let dir = tempfile::tempdir().unwrap();
    assert!(matches!(
        Control::start(fake.datapath(), settings(&dir)).err(),
        Some(ControlError::Install { generation: 1, .. })
    ));
}

#[test]
fn deleting_is_all_or_nothing_too() {
    let mut world = world();
    world.apply(&[WEB, API]);
    let (web, ghost) = (ResourceId::new(Kind::Workload, "shop", "web"), ResourceId::new(Kind::Policy, "shop", "ghost"));
    let refused = world.control.delete(&[web.clone(), ghost.clone()], false);
    assert!(matches!(refused, Err(ControlError::NotFound(ids)) if ids == [ghost]));
    assert_eq!((world.ids().len(), world.control.generation()), (4, 2));
    let deleted = world.control.delete(&[web.clone(), web], false).unwrap();
    assert_eq!((deleted.generation, deleted.changes.len(), world.ids().len()), (3, 1, 3));
}

#[test]
fn replacing_all_deletes_what_is_not_named() {
    let mut world = world();
    world.apply(&[WEB, API]);
    let replaced = world.control.apply(&Apply { replace_all: true, ..request(&[WEB]) }).unwrap();
    let deleted = actions(&replaced).iter().filter(|(action, _)| *action == "deleted").count();
    assert_eq!((deleted, world.ids()), (3, vec!["Workload/shop/web".to_owned()]));
}

#[test]
fn the_last_good_policy_is_there_again_after_a_restart_under_a_new_number() {
    let mut world = world();
    world.apply(&[WEB, API]);
    let ids = world.ids();
    let World { dir, .. } = world;
    let mut after = world_in(dir);
    assert!(after.control.restore().unwrap());
    assert_eq!((after.ids(), after.generations()), (ids, vec![3, 4]));
    assert_eq!(after.apply(&[WEB, API]).generation, 4, "the same documents change nothing");
}

#[test]
fn a_stored_policy_that_is_broken_names_its_file_and_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(dir.path().join("state")).unwrap();
    std::fs::write(dir.path().join("state/policy.yaml"), "kind: Nonsense\n").unwrap();
    let error = world_in(dir).control.restore().unwrap_err().to_string();
    assert!(error.contains("policy.yaml") && error.contains("delete it"), "{error}");
}

#[test]
fn a_policy_that_cannot_be_saved_is_in_force_with_a_warning() {
    let mut world = world();
    std::fs::write(world.dir.path().join("state"), "a file where the directory should be").unwrap();
    let applied = world.apply(&[WEB]);
    assert_eq!(applied.generation, 2);
    let warns = |applied: &Applied| applied.warnings.iter().any(|warning| warning.contains("not saved"));
    assert!(warns(&applied), "{:?}", applied.warnings);
    let again = world.apply(&[WEB]);
    assert!(
        again.generation == 2 && warns(&again),
        "nothing changed, and it is not saved either: {:?}",
        again.warnings
    );
}

#[test]
fn a_policy_that_could_not_be_saved_is_saved_as_soon_as_it_can_be() {
    type Retry = fn(&mut World);
    let saved = |by: Retry| {
        let mut world = world();
        let state = world.dir.path().join("state");
        std::fs::write(&state, "a file where the directory should be").unwrap();
        let _ = world.apply(&[WEB]);
        std::fs::remove_file(&state).unwrap();
        by(&mut world);
        world.saved().unwrap_or_default()
    };
    let rows: [(&str, Retry); 2] = [
        ("by itself", |world| world.control.tick()),
        ("by applying the same again", |world| assert!(world.apply(&[WEB]).warnings.is_empty())),
    ];
    for (name, by) in rows {
        assert!(saved(by).contains("generation 2\n"), "{name}");
    }
}

#[test]
fn the_policy_directory_comes_on_top_and_its_faults_never_take_a_policy_away() {
    let dir = tempfile::tempdir().unwrap();
    let files = dir.path().join("policy");
    std::fs::create_dir_all(&files).unwrap();
    std::fs::write(files.join("b.yaml"), API).unwrap();
    std::fs::write(files.join("a.yml"), WEB).unwrap();
    std::fs::write(files.join("notes.txt"), "no policy").unwrap();
    let mut world = world_in(dir);
    let empty = files.join("empty");
    std::fs::create_dir(&empty).unwrap();
    world.control.apply_dir(&empty, false).unwrap();
    assert!(world.ids().is_empty(), "no files, no documents, no error");
    world.control.apply_dir(&files, false).unwrap();
    assert_eq!((world.ids().len(), world.control.generation()), (4, 2));

    std::fs::write(files.join("c.yaml"), "kind: Nonsense\n").unwrap();
    world.control.apply_dir(&files, true).unwrap();
    assert_eq!(world.ids().len(), 4);
    let error = world.control.apply_dir(&files, false).unwrap_err();
    assert!(matches!(&error, ControlError::PolicyDir(faults) if !faults.is_empty()), "{error}");
}

#[test]
fn watchers_see_every_effective_change_after_their_snapshot() {
    let mut world = world();
    world.apply(&[WEB]);
    let mut watch = world.control.watch(Some(Kind::Workload));
    assert_eq!((watch.listing.resources.len(), watch.listing.generation), (1, 2));
    world.apply(&[WEB]);
    world.apply(&[WEB, API]);
    let changes = watch.changes.try_recv().unwrap();
    assert_eq!((changes.generation, changes.changes.len()), (3, 3), "unchanged ones are not told");
    assert!(watch.changes.try_recv().is_err());
}

#[test]
fn new_addresses_of_the_host_make_a_generation_and_the_same_ones_do_not() {
    let mut world = world();
    let before = world.control.generation();
    let mut addresses = world.control.force.context.host_addresses.clone();
    world.control.follow_host_addresses(addresses.clone());
    assert_eq!(world.control.generation(), before);
    addresses.push(Addr::v4([198, 51, 100, 7]));
    world.control.follow_host_addresses(addresses.clone());
    assert_eq!(world.control.generation(), before + 1);
    world.fake.inner().fail_install = true;
    world.control.follow_host_addresses(Vec::new());
    assert_eq!(world.control.force.context.host_addresses, addresses, "tried again with the next tick");
}

#[test]
fn explain_answers_from_what_is_in_force() {
    let mut world = world();
    world.apply(&[WEB, API]);
    let ask = |from: &str, to: &str, port| {
        world.control.explain(&Ask { from: from.into(), to: to.into(), protocol: 6, port })
    };
    let allowed = ask("web", "shop/api", 80).unwrap();
    assert_eq!((allowed.verdict, allowed.generation), (Verdict::Allow, 2));
    assert_eq!(allowed.ingress.decided, Some((Verdict::Allow, Reason::Rule)));
    assert_eq!(
        (allowed.ingress.policy.as_str(), allowed.ingress.rule.as_str()),
        ("Policy/shop/api", "ingress[0] from-web")
    );
    assert_eq!(allowed.egress.decided, Some((Verdict::Allow, Reason::NoPolicy)));
    assert_eq!(allowed.limits, ["RateLimit/shop/api"]);
    let denied = ask("10.0.0.1", "10.0.0.2", 81).unwrap();
    assert_eq!((denied.verdict, denied.ingress.decided), (Verdict::Deny, Some((Verdict::Deny, Reason::Default))));
    assert!(!denied.ingress.why.is_empty());
    let outside = ask("192.0.2.9", "api", 80).unwrap();
    assert_eq!((outside.verdict, outside.egress.decided), (Verdict::Deny, None));
    assert!(outside.egress.why.contains("no workload known here"), "{}", outside.egress.why);
    assert!(matches!(ask("nobody", "api", 80), Err(ControlError::End(EndError::Unknown(_)))));
    let other = WEB.replace("shop", "other").replace("10.0.0.1", "10.0.0.9").replace("cgroup: web", "cgroup: web2");
    world.apply(&[&other]);
    let ask = Ask { from: "web".into(), to: "api".into(), protocol: 6, port: 80 };
    let ambiguous = world.control.explain(&ask).unwrap_err().to_string();
    assert!(ambiguous.contains("other/web, shop/web"), "{ambiguous}");
}

const SERVICE: &str = "\
apiVersion: v1
kind: Service
metadata: {name: front, namespace: shop}
spec: {clusterIP: 10.96.0.1, ports: [{port: 8080}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: front, namespace: shop, labels: {kubernetes.io/service-name: front}}
addressType: IPv4
endpoints: [{addresses: [10.0.0.2]}]
ports: [{port: 80}]
";

#[test]
fn explain_says_what_is_behind_a_services_address_and_judges_that() {
    let mut world = world();
    world.apply(&[WEB, API, SERVICE]);
    let ask =
        |to: &str, port| world.control.explain(&Ask { from: "web".into(), to: to.into(), protocol: 6, port }).unwrap();
    let (through, direct) = (ask("10.96.0.1", 8080), ask("10.0.0.2", 80));
    assert_eq!((through.verdict, &through.limits), (Verdict::Allow, &direct.limits));
    assert_eq!((through.ingress.decided, &through.ingress.rule), (direct.ingress.decided, &direct.ingress.rule));
    for side in [&through.egress, &through.ingress] {
        let leads = "Service/shop/front leads to Workload/shop/api (10.0.0.2) at 80/TCP: ";
        assert_eq!(side.why, format!("{leads}{}", side.why.trim_start_matches(leads)), "{}", side.why);
    }
    let nowhere = ask("10.96.0.1", 80);
    assert_eq!((nowhere.verdict, nowhere.ingress.decided), (Verdict::Allow, None));
    assert!(nowhere.egress.why.starts_with("nothing is behind Service/shop/front at 80/TCP"), "{}", nowhere.egress.why);
}

const EXPIRING: &str = "\
apiVersion: weir.dev/v1alpha1
kind: Policy
metadata: {name: visit, namespace: shop}
spec:
  workloadSelector: {matchLabels: {app: api}}
  policyTypes: [Ingress]
  expiresAt: 2026-01-01T00:00:20Z
  ingress:
  - {name: short, expiresAt: \"2026-01-01T00:00:10Z\", ports: [{port: 1}]}
  - {name: long, ports: [{port: 2}]}
";

/// Seconds of the minute in which [`EXPIRING`] expires.
fn at(seconds: u64) -> Timestamp {
    let start: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
    Timestamp(start.0 + seconds * 1_000_000_000)
}

/// A world with a clock of its own.
fn timed(seconds: u64) -> (World, Arc<AtomicU64>) {
    let (fake, dir, hand) = (Fake::default(), tempfile::tempdir().unwrap(), Arc::new(AtomicU64::new(at(seconds).0)));
    let shown = Arc::clone(&hand);
    let clock: WallClock = Arc::new(move || Timestamp(shown.load(Ordering::Relaxed)));
    let control = Control::start(fake.datapath(), Settings { clock, ..settings(&dir) }).unwrap();
    (World { fake, dir, control }, hand)
}

impl World {
    /// Verdicts on ports 1 and 2 of api, for somebody outside.
    fn open_ports(&self) -> (Verdict, Verdict) {
        let ask = |port| Ask { from: "192.0.2.9".into(), to: "shop/api".into(), protocol: 6, port };
        let verdict = |port| self.control.explain(&ask(port)).unwrap().verdict;
        (verdict(1), verdict(2))
    }
}

#[test]
fn what_expires_goes_out_of_force_by_itself_under_a_new_number_and_watchers_are_told() {
    let api = API.split("---\n").next().unwrap();
    let (mut world, hand) = timed(0);
    world.apply(&[api, EXPIRING]);
    let id = ResourceId::new(Kind::Policy, "shop", "visit");
    let mut watch = world.control.watch(Some(Kind::Policy));
    let (allow, deny) = (Verdict::Allow, Verdict::Deny);
    let rows = [
        (9, 2, (allow, allow), false),
        (10, 3, (deny, allow), true),
        (11, 3, (deny, allow), false),
        (19, 3, (deny, allow), false),
        // Nothing selects api any more.
        (20, 4, (allow, allow), true),
        (3600, 4, (allow, allow), false),
    ];
    for (seconds, generation, verdicts, told) in rows {
        hand.store(at(seconds).0, Ordering::Relaxed);
        world.control.tick();
        assert_eq!((world.control.generation(), world.open_ports()), (generation, verdicts), "at {seconds} s");
        assert_eq!(world.fake.inner().installed.last().unwrap().generation, generation, "at {seconds} s");
        let expired = watch.changes.try_recv().ok();
        assert_eq!(expired.is_some(), told, "at {seconds} s");
        if let Some(set) = expired {
            assert_eq!(set.generation, generation);
            let told =
                |(change, resource): &(Changed, Option<weir_policy::Resource>)| (change.clone(), resource.is_some());
            let expected = (Changed { action: Action::Expired, id: id.clone() }, true);
            assert_eq!(set.changes.iter().map(told).collect::<Vec<_>>(), [expected]);
            assert_eq!(world.control.get(&id).unwrap().generation, generation);
        }
    }
    assert!(world.saved().unwrap().contains("generation 4"), "no later start reuses the number");
}

#[test]
fn an_expiry_the_kernel_refuses_is_tried_again_and_a_clock_set_back_revives_nothing() {
    let api = API.split("---\n").next().unwrap();
    let (mut world, hand) = timed(0);
    world.apply(&[api, EXPIRING]);
    hand.store(at(10).0, Ordering::Relaxed);
    world.fake.inner().fail_install = true;
    world.control.tick();
    assert_eq!(world.control.generation(), 2);
    world.fake.inner().fail_install = false;
    world.control.tick();
    assert_eq!(world.control.generation(), 3, "tried again with the next tick");
    hand.store(at(0).0, Ordering::Relaxed);
    world.control.tick();
    assert_eq!((world.control.generation(), world.open_ports()), (3, (Verdict::Deny, Verdict::Allow)));
}

#[test]
fn what_is_overdue_when_a_change_comes_expires_before_it_and_watchers_are_told() {
    let (mut world, hand) = timed(0);
    world.apply(&[API, EXPIRING]);
    let mut watch = world.control.watch(Some(Kind::Policy));
    hand.store(at(10).0, Ordering::Relaxed);
    assert_eq!(world.apply(&[WEB]).generation, 4);
    let told: Vec<_> = std::iter::from_fn(|| watch.changes.try_recv().ok()).map(|set| set.generation).collect();
    assert_eq!(told, [3, 4]);
    world.control.tick();
    assert_eq!(world.control.generation(), 4, "nothing is due any more");
}

#[test]
fn what_selects_nobody_expires_like_everything_else() {
    let (mut world, hand) = timed(0);
    world.apply(&[WEB, EXPIRING]);
    hand.store(at(3600).0, Ordering::Relaxed);
    world.control.tick();
    assert_eq!((world.control.generation(), world.control.force.next_expiry), (3, None));
}
