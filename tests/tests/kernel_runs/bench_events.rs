//! Lives: weir-tests, a measurement of what an event costs in the kernel, beside one that is only sent.
//! Called by: cargo test; a person, for the figures: `cargo test -p weir-tests --test kernel_runs -- --nocapture bench_events`.
//! May touch: the loaded programs; an object of its own (ebpf/src/bench.rs), which is attached nowhere.
//! Never: compares figures of two runs; each ratio is taken within a round, then the median over the rounds. Judges no figure: machines
//!   are noisy.

use aya::{
    Ebpf,
    maps::{MapData, RingBuf},
    programs::{TestRun as _, TestRunOptions, Xdp},
};
use weir_agent::kernel::PacketHook;

use crate::{bench::Bench, frames};

/// As many as the reader may leave unread without being woken: it is not there.
const REPEAT: u32 = 400;
const ROUNDS: usize = 40;

/// Two openings that differ only in whether their rule wants a record.
const POLICY: &str = r#"
apiVersion: weir.dev/v1alpha1
kind: Workload
metadata: {name: web, labels: {app: web}}
spec: {cgroup: web}
---
apiVersion: weir.dev/v1alpha1
kind: Policy
metadata: {name: web}
spec:
  workloadSelector: {matchLabels: {app: web}}
  policyTypes: [Ingress]
  defaultAction: deny
  ingress:
  - {name: recorded, ports: [{port: 80}]}
  - {name: quiet, log: false, ports: [{port: 81}]}
"#;

/// Programs that do nothing, and that send an event without a thought.
struct Bare {
    ebpf: Ebpf,
    ring: RingBuf<MapData>,
}

impl Bare {
    fn load() -> Bare {
        let mut ebpf = Ebpf::load(weir_agent::kernel::bench_object()).unwrap();
        for name in ["nothing", "event", "event_with_time"] {
            let program: &mut Xdp = ebpf.program_mut(name).unwrap().try_into().unwrap();
            program.load().unwrap_or_else(|error| panic!("{name}: {error:?}"));
        }
        let ring = ebpf.take_map("RING").unwrap().try_into().unwrap();
        Bare { ebpf, ring }
    }

    /// Nanoseconds of a run, and how many events came of all.
    fn run(&mut self, name: &str) -> (f64, u32) {
        let program: &Xdp = self.ebpf.program(name).unwrap().try_into().unwrap();
        let options = TestRunOptions { data_in: Some(&[0; 64]), repeat: REPEAT, ..TestRunOptions::default() };
        let result = program.test_run(options).unwrap();
        let mut came = 0;
        while self.ring.next().is_some() {
            came += 1;
        }
        (result.duration.as_nanos() as f64, came)
    }
}

/// The same of Weir's program for what arrives, by a SYN to a port.
fn arriving(bench: &mut Bench, port: u16) -> (f64, u32) {
    let frame = frames::syn([10, 0, 0, 9], [10, 0, 0, 1], port, 40_000);
    let time = bench.kernel.time_dry_runs(PacketHook::UntoldIngress, &frame, REPEAT).unwrap();
    let came = bench.events.drain(2 * REPEAT as usize, |_| {});
    (time.as_nanos() as f64, came as u32)
}

#[test]
fn an_event_beside_one_that_is_only_sent() {
    let mut bench = Bench::of_workload("bench-events", POLICY, "web");
    let mut bare = Bare::load();
    let mut rounds = Vec::new();
    for _ in 0..ROUNDS {
        let (nothing, sent, timed) = (bare.run("nothing"), bare.run("event"), bare.run("event_with_time"));
        let (quiet, recorded) = (arriving(&mut bench, 81), arriving(&mut bench, 80));
        let came = [nothing, sent, timed, quiet, recorded].map(|(_, came)| came);
        assert_eq!(came, [0, REPEAT, REPEAT, 0, REPEAT], "without its events it is no figure");
        let (floor, timed, ours) = (sent.0 - nothing.0, timed.0 - nothing.0, recorded.0 - quiet.0);
        rounds.push([floor, timed, ours, ours / floor, ours / timed]);
    }
    let [floor, timed, ours, ratio, to_timed] = std::array::from_fn(|which| {
        let mut all: Vec<f64> = rounds.iter().map(|round| round[which]).collect();
        all.sort_by(f64::total_cmp);
        all[all.len() / 2]
    });
    println!("    an event of a decision {ours:.0} ns, one that is only sent {floor:.0} ns: {ratio:.2} (goal 1.3)");
    println!("    one that is sent with the time of its sending {timed:.0} ns: {to_timed:.2}");
}
