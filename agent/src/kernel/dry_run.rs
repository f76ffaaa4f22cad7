//! Lives: agent, user space.
//! Called by: the in-kernel test runs, the benchmarks of the socket hooks and of XDP.
//! May touch: one loaded program, through `BPF_PROG_TEST_RUN`: the kernel runs it on a packet that exists nowhere else.
//! Never: sends anything; what the program counts and charges is real, though.

use std::{collections::BTreeMap, time::Duration};

use aya::programs::{Program, ProgramError, TestRun as _, TestRunOptions, TestRunResult, Xdp};
use aya_obj::programs::XdpAttachType;
use weir_common::maps;
use weir_policy::{Compiled, ResourceId, sets::Loaded};

use super::{Kernel, attach, error::KernelError, lookups::Lookups, slot::ReadBack, tracepoints};

/// A program that the kernel can run on a packet of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PacketHook {
    /// On an Ethernet frame; answers `XDP_DROP` (1) or `XDP_PASS` (2).
    Xdp,
    /// On an Ethernet frame whose IP packet arrives at a socket of no cgroup; answers 0 (drop) or 1.
    Ingress,
    /// On an Ethernet frame whose IP packet leaves a socket of no cgroup; answers 0 (drop) or 1.
    Egress,
    /// As [`Self::Ingress`], by the program of a workload that was not told yet whose packets it sees.
    UntoldIngress,
    /// As [`Self::Egress`], by such a program.
    UntoldEgress,
    /// On an Ethernet frame that leaves a workload by its interface; answers `TC_ACT_SHOT` (2) or `TC_ACT_UNSPEC` (-1).
    FromWorkload,
    /// On an Ethernet frame that goes to a workload by its interface; answers as [`Self::FromWorkload`].
    ToWorkload,
}

/// The interface that test runs come in by: the loopback interface's index in every network namespace.
const LOOPBACK: u32 = 1;

/// What a loaded program takes; a number the kernel does not tell is 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProgramSize {
    /// The program.
    pub name: &'static str,
    /// Instructions the verifier looked at, which it limits to a million (told since kernel 5.16).
    pub verified: u32,
    /// Instructions of the program itself, after the verifier's rewriting.
    pub instructions: u32,
    /// Bytes of machine code.
    pub machine_bytes: u32,
}

/// The XDP program, for running it beside a [`Kernel`] that changes its tables.
pub struct Runner(Xdp);

impl Runner {
    /// What the program answers for `frame`.
    ///
    /// # Errors
    /// When the kernel refuses to run it.
    pub fn run(&self, frame: &[u8]) -> Result<u32, KernelError> {
        let run = self.0.test_run(TestRunOptions { data_in: Some(frame), ..TestRunOptions::default() });
        let refused = |cause| KernelError::Program { program: attach::XDP, cause, verifier: String::new() };
        run.map(|result| result.return_value).map_err(refused)
    }
}

/// `sizeof(struct bpf_insn)`.
const INSTRUCTION_BYTES: u32 = 8;

impl Kernel {
    /// [`Kernel::install`], with `workload` under the number 0: packets of test runs arrive at no cgroup's socket, whose number is 0,
    /// and so are judged as this workload's.
    ///
    /// # Errors
    /// As there.
    pub fn install_for_dry_runs(&mut self, compiled: &Compiled, workload: &ResourceId) -> Result<(), KernelError> {
        self.prepare_limits(compiled)?;
        let numbers = BTreeMap::from([(workload.clone(), 0)]);
        self.tables.install(compiled, &numbers, &BTreeMap::new(), &Loaded::default())?;
        self.take_over_limits(compiled);
        Ok(())
    }

    /// [`Kernel::install`], with the interface that test runs come in by as `workload`'s own.
    ///
    /// # Errors
    /// As there.
    pub fn install_on_wire_for_dry_runs(
        &mut self,
        compiled: &Compiled,
        workload: &ResourceId,
    ) -> Result<(), KernelError> {
        const NUMBER: u32 = 1;
        self.wires.own_for_dry_runs(LOOPBACK, NUMBER)?;
        self.prepare_limits(compiled)?;
        let numbers = BTreeMap::from([(workload.clone(), NUMBER)]);
        self.tables.install(compiled, &numbers, &BTreeMap::new(), &Loaded::default())?;
        self.take_over_limits(compiled);
        Ok(())
    }

    /// Says what is special about the interface that test runs come in by: bits of [`weir_common::edge`], and whose own it is.
    ///
    /// # Errors
    /// When a map cannot be written.
    pub fn edge_for_dry_runs(&mut self, refuses: u32, workload: u32) -> Result<(), KernelError> {
        self.interfaces.enter(LOOPBACK, 0, [refuses, workload])
    }

    /// Makes another interface known, by whose index the one that test runs come in by is not found at once. Before that one.
    ///
    /// # Errors
    /// When a map cannot be written.
    pub fn crowd_for_dry_runs(&mut self, refuses: u32) -> Result<(), KernelError> {
        self.interfaces.enter(LOOPBACK + maps::HINTS, 1, [refuses, 0])
    }

    /// Everything the active slot's maps hold.
    ///
    /// # Errors
    /// When a map cannot be read.
    pub fn read_back(&self) -> Result<ReadBack, KernelError> {
        self.tables.read_back()
    }

    /// Makes the next installs write everything, as after an error.
    pub fn forget_slots(&mut self) {
        self.tables.forget();
    }

    /// What the loaded program answers for `frame`.
    ///
    /// # Errors
    /// When the kernel refuses to run it: no privilege, or a frame shorter than an Ethernet header.
    pub fn dry_run(&self, hook: PacketHook, frame: &[u8]) -> Result<u32, KernelError> {
        self.dry_run_into(hook, frame, None).map(|(answer, _)| answer)
    }

    /// The same, and what the program has made of the frame.
    ///
    /// # Errors
    /// As there.
    pub fn dry_run_changing(&self, hook: PacketHook, frame: &[u8]) -> Result<(u32, Vec<u8>), KernelError> {
        // Room for what it may add.
        let mut changed = vec![0; frame.len() + 256];
        let (answer, length) = self.dry_run_into(hook, frame, Some(&mut changed))?;
        changed.truncate(length);
        Ok((answer, changed))
    }

    /// How long a run of the loaded program on `frame` takes, of `repeat` one after the other.
    ///
    /// # Errors
    /// As there.
    pub fn time_dry_runs(&self, hook: PacketHook, frame: &[u8], repeat: u32) -> Result<Duration, KernelError> {
        let options = TestRunOptions { data_in: Some(frame), repeat, ..TestRunOptions::default() };
        self.test_run(hook, options).map(|result| result.duration)
    }

    fn dry_run_into(
        &self,
        hook: PacketHook,
        frame: &[u8],
        changed: Option<&mut [u8]>,
    ) -> Result<(u32, usize), KernelError> {
        let options = TestRunOptions { data_in: Some(frame), data_out: changed, ..TestRunOptions::default() };
        self.test_run(hook, options).map(|result| (result.return_value, result.data_size_out as usize))
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "the programs are of these three kinds")]
    fn test_run(&self, hook: PacketHook, options: TestRunOptions<'_>) -> Result<TestRunResult, KernelError> {
        let name = match hook {
            PacketHook::Xdp => attach::XDP,
            PacketHook::Ingress => "root_ingress",
            PacketHook::Egress => "root_egress",
            PacketHook::UntoldIngress => "ingress",
            PacketHook::UntoldEgress => "egress",
            PacketHook::FromWorkload => "from_workload",
            PacketHook::ToWorkload => "to_workload",
        };
        let program = self.ebpf.program(name).ok_or(KernelError::NoProgram(name))?;
        let run = match program {
            Program::Xdp(program) => program.test_run(options),
            Program::CgroupSkb(program) => program.test_run(options),
            Program::SchedClassifier(program) => program.test_run(options),
            _ => Err(ProgramError::UnexpectedProgramType),
        };
        run.map_err(|cause| KernelError::Program { program: name, cause, verifier: String::new() })
    }

    /// Runs the XDP program on frames while this value does something else.
    ///
    /// # Errors
    /// When the kernel does not tell of the program.
    pub fn runner(&self) -> Result<Runner, KernelError> {
        let program = self.ebpf.program(attach::XDP).ok_or(KernelError::NoProgram(attach::XDP))?;
        let refused = |cause| KernelError::Program { program: attach::XDP, cause, verifier: String::new() };
        let info = program.info().map_err(refused)?;
        let program = Xdp::from_program_info(info, attach::XDP.into(), XdpAttachType::Interface);
        program.map(Runner).map_err(refused)
    }

    /// Detaches everything from cgroups and namespaces; the next [`Kernel::reconcile`] attaches it again. For benchmarks, which
    /// take turns.
    pub fn detach_sockets(&mut self) {
        self.cgroups.detach();
        self.lookups = Lookups::default();
    }

    /// Detaches everything from interfaces, likewise.
    pub fn detach_interfaces(&mut self) {
        self.interfaces.detach();
    }

    /// What each program takes.
    ///
    /// # Errors
    /// When the kernel does not tell of a program.
    pub fn sizes(&self) -> Result<Vec<ProgramSize>, KernelError> {
        let size = |name| {
            let program = self.ebpf.program(name).ok_or(KernelError::NoProgram(name))?;
            let refused = |cause| KernelError::Program { program: name, cause, verifier: String::new() };
            let info = program.info().map_err(refused)?;
            Ok(ProgramSize {
                name,
                verified: info.verified_instruction_count().unwrap_or(0),
                instructions: info.size_translated().unwrap_or(0) / INSTRUCTION_BYTES,
                machine_bytes: info.size_jitted(),
            })
        };
        tracepoints::with(&self.ebpf, attach::programs(self.options.neighbours.chain)).map(size).collect()
    }
}
