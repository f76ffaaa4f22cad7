//! Lives: weir-tests, in-kernel test of what an install waits for.
//! Called by: cargo test.
//! May touch: the bench; a program of its own that does nothing for a while, on a packet that exists nowhere.
//! Never: guesses how long the program ran; the kernel says it.
//!
//! A program that read the active word before a switch judges by tables that the next install overwrites, and lets through what the
//! next sweep must find. Such a program takes a microsecond, so no traffic shows whether anybody waits for it: this one takes long.

use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use aya::programs::{SocketFilter, TestRun as _, TestRunOptions};
use aya::{Ebpf, EbpfLoader};
use weir_common::verdict::Verdict;
use weir_tests::assembled::Assembled;

use crate::bench::Bench;

/// `while may_goto { ktime_get_ns() } return 1`: the kernel ends it after 250 ms (Linux 6.15), or 8 million rounds (6.9)
/// (Documentation/bpf/standardization/instruction-set.rst).
const CODE: [[u8; 8]; 5] = [
    [0xe5, 0, 2, 0, 0, 0, 0, 0],
    [0x85, 0, 0, 0, 5, 0, 0, 0],
    [0x05, 0, 0xfd, 0xff, 0, 0, 0, 0],
    [0xb7, 0, 0, 0, 1, 0, 0, 0],
    [0x95, 0, 0, 0, 0, 0, 0, 0],
];
const NAME: &str = "lingers";
/// Less would prove nothing: an install takes as long on a busy machine.
const LONG: Duration = Duration::from_millis(100);

#[test]
fn an_install_returns_only_when_no_program_runs_that_began_before_its_switch() {
    let mut bench = Bench::new("grace", "", Verdict::Deny);
    for _ in 0..3 {
        let (ran, returned) = lingers(&mut bench);
        assert!(ran > LONG, "the program ran for {ran:?} only");
        assert!(returned >= ran, "the install came back after {returned:?}, while a program ran that took {ran:?}");
    }
}

/// How long the program ran, by the kernel's clock, and how long after it was called an install returned that began meanwhile.
fn lingers(bench: &mut Bench) -> (Duration, Duration) {
    let mut ebpf = load();
    let program: &mut SocketFilter = ebpf.program_mut(NAME).unwrap().try_into().unwrap();
    program.load().unwrap();
    thread::scope(|scope| {
        let (begun, begins) = channel();
        let running = scope.spawn(move || {
            begun.send(Instant::now()).unwrap();
            let options = TestRunOptions { data_in: Some(&[0; 64]), ..TestRunOptions::default() };
            let answered = program.test_run(options).unwrap();
            assert_eq!(answered.return_value, 1);
            answered.duration
        });
        let called = begins.recv().unwrap();
        // The thread is about to make its system call; if it has not yet, nothing is proved, and nothing fails.
        thread::sleep(LONG / 4);
        let _ = bench.kernel.install(&bench.compiled).unwrap();
        let returned = called.elapsed();
        (running.join().unwrap(), returned)
    })
}

fn load() -> Ebpf {
    let mut assembled = Assembled::default();
    let _ = assembled.program(NAME, "socket", &CODE.concat());
    EbpfLoader::new().load(&assembled.finish().unwrap()).unwrap()
}
