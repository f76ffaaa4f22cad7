//! Lives: agent, user space.
//! Called by: the in-kernel test runs.
//! May touch: one loaded program, through `BPF_PROG_TEST_RUN`: the kernel runs it on a packet that exists nowhere else.
//! Never: sends anything; what the program counts and charges is real, though.

use aya::programs::{Program, ProgramError, TestRun as _, TestRunOptions};

use super::{Kernel, attach, error::KernelError};

/// A program that the kernel can run on a packet of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PacketHook {
    /// On an Ethernet frame; answers `XDP_DROP` (1) or `XDP_PASS` (2).
    Xdp,
    /// On an Ethernet frame whose IP packet arrives at a socket of no known workload; answers 0 (drop) or 1.
    Ingress,
    /// On an Ethernet frame whose IP packet leaves a socket of no known workload; answers 0 (drop) or 1.
    Egress,
}

impl Kernel {
    /// What the loaded program answers for `frame`.
    ///
    /// # Errors
    /// When the kernel refuses to run it: no privilege, or a frame shorter than an Ethernet header.
    #[expect(clippy::wildcard_enum_match_arm, reason = "the three programs are of these two kinds")]
    pub fn dry_run(&self, hook: PacketHook, frame: &[u8]) -> Result<u32, KernelError> {
        let name = match hook {
            PacketHook::Xdp => attach::XDP,
            PacketHook::Ingress => "ingress",
            PacketHook::Egress => "egress",
        };
        let program = self.ebpf.program(name).ok_or(KernelError::NoProgram(name))?;
        let options = TestRunOptions { data_in: Some(frame), ..TestRunOptions::default() };
        let run = match program {
            Program::Xdp(program) => program.test_run(options),
            Program::CgroupSkb(program) => program.test_run(options),
            _ => Err(ProgramError::UnexpectedProgramType),
        };
        let refused = |source| KernelError::Program { program: name, source, verifier: String::new() };
        run.map(|result| result.return_value).map_err(refused)
    }
}
