//! Lives: weir-tests, the benchmark of the socket hooks: programs that do nothing, for what a hook costs by itself.
//! Called by: the benchmark.
//! May touch: cgroups of its own world.
//! Never: decides anything: every program answers 1 (go on).

use std::fs::File;
use std::path::Path;

use anyhow::{Context, Result, bail};
use aya::programs::links::FdLink;
use aya::programs::{CgroupAttachMode, CgroupSkbAttachType, Program};
use aya::{Ebpf, EbpfLoader};
use weir_tests::assembled::Assembled;

/// Program and the section that says what kind it is: one for each hook that Weir uses.
const PROGRAMS: [(&str, &str); 10] = [
    ("ingress", "cgroup_skb/ingress"),
    ("egress", "cgroup_skb/egress"),
    ("sock_create", "cgroup/sock_create"),
    ("sock_ops", "sockops"),
    ("connect4", "cgroup/connect4"),
    ("connect6", "cgroup/connect6"),
    ("post_bind4", "cgroup/post_bind4"),
    ("post_bind6", "cgroup/post_bind6"),
    ("sendmsg4", "cgroup/sendmsg4"),
    ("sendmsg6", "cgroup/sendmsg6"),
];
/// What Weir has at the root of the managed tree as well.
const ROOT: [&str; 5] = ["connect4", "connect6", "sendmsg4", "sendmsg6", "sock_create"];

/// `r0 = 1; exit` (Documentation/bpf/standardization/instruction-set.rst).
const CODE: [u8; 16] = [0xb7, 0, 0, 0, 1, 0, 0, 0, 0x95, 0, 0, 0, 0, 0, 0, 0];

/// Which hooks get an empty program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hooks {
    /// `connect4` of the caller's cgroup.
    Connect,
    /// `cgroup_skb` of both ends, both directions.
    Packets,
    /// All that Weir has, at the same places.
    All,
}

/// The loaded programs. Dropping it detaches them.
pub struct Empty {
    ebpf: Ebpf,
    links: Vec<FdLink>,
}

impl Empty {
    /// Loads them, attaches nothing.
    pub fn load() -> Result<Empty> {
        let mut ebpf = EbpfLoader::new().load(&object()?).context("loading programs that do nothing")?;
        for (name, program) in ebpf.programs_mut() {
            load(program).with_context(|| format!("loading an empty {name}"))?;
        }
        Ok(Empty { ebpf, links: Vec::new() })
    }

    /// Attaches them below `tree`.
    pub fn attach(&mut self, tree: &Path, hooks: Hooks) -> Result<()> {
        let (web, api) = (tree.join("web"), tree.join("api"));
        let all = || PROGRAMS.map(|(name, _)| name);
        match hooks {
            Hooks::Connect => self.link(&web, &["connect4"]),
            Hooks::Packets => [&web, &api].into_iter().try_for_each(|end| self.link(end, &["ingress", "egress"])),
            Hooks::All => {
                self.link(tree, &ROOT)?;
                [&web, &api].into_iter().try_for_each(|end| self.link(end, &all()))
            }
        }
    }

    /// Detaches them.
    pub fn detach(&mut self) {
        self.links.clear();
    }

    fn link(&mut self, cgroup: &Path, names: &[&str]) -> Result<()> {
        let directory = File::open(cgroup).with_context(|| format!("opening {}", cgroup.display()))?;
        for name in names {
            let program = self.ebpf.program_mut(name).with_context(|| format!("no program {name}"))?;
            self.links.push(attach(program, name, &directory)?);
        }
        Ok(())
    }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "only these kinds are in the object")]
fn load(program: &mut Program) -> Result<()> {
    match program {
        Program::CgroupSkb(program) => program.load()?,
        Program::CgroupSock(program) => program.load()?,
        Program::CgroupSockAddr(program) => program.load()?,
        Program::SockOps(program) => program.load()?,
        _ => bail!("a kind of program that was not written"),
    }
    Ok(())
}

#[expect(clippy::wildcard_enum_match_arm, reason = "only these kinds are in the object")]
fn attach(program: &mut Program, name: &str, cgroup: &File) -> Result<FdLink> {
    let mode = CgroupAttachMode::Single;
    Ok(match program {
        Program::CgroupSkb(program) => {
            let direction = if name == "egress" { CgroupSkbAttachType::Egress } else { CgroupSkbAttachType::Ingress };
            let id = program.attach(cgroup, direction, mode)?;
            program.take_link(id)?.try_into()?
        }
        Program::CgroupSock(program) => {
            let id = program.attach(cgroup, mode)?;
            program.take_link(id)?.try_into()?
        }
        Program::CgroupSockAddr(program) => {
            let id = program.attach(cgroup, mode)?;
            program.take_link(id)?.try_into()?
        }
        Program::SockOps(program) => {
            let id = program.attach(cgroup, mode)?;
            program.take_link(id)?.try_into()?
        }
        _ => bail!("{name} is of a kind that was not written"),
    })
}

fn object() -> Result<Vec<u8>> {
    let mut assembled = Assembled::default();
    for (name, section) in PROGRAMS {
        let _ = assembled.program(name, section, &CODE);
    }
    assembled.finish().context("writing an object file")
}
