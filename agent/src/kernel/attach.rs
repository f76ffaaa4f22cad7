//! Lives: agent, user space.
//! Called by: `load`, `cgroups`, `interfaces`, `wires` and `lookups`.
//! May touch: one program and one target at a time.
//! Never: keeps a link; the caller owns it (`keep`).

use std::{collections::BTreeMap, os::fd::AsFd};

use aya::{
    Ebpf,
    programs::{CgroupAttachMode, CgroupSkbAttachType, Program, ProgramError, SkLookup, TcAttachType, links::FdLink},
};
use weir_common::maps;

use super::error::{self, KernelError};

/// A program for cgroups and where it goes.
#[derive(Clone, Copy, Debug)]
pub(super) struct CgroupHook {
    /// Program name in the object.
    pub program: &'static str,
    /// Word for status output.
    pub label: &'static str,
    /// `enum bpf_attach_type` (include/uapi/linux/bpf.h): the second half of the attach-point storage's key.
    pub attach_type: u32,
}

/// What is linked to each workload's cgroup.
pub(super) const WORKLOAD_HOOKS: [CgroupHook; 10] = [
    CgroupHook { program: "ingress", label: "ingress", attach_type: 0 },
    CgroupHook { program: "egress", label: "egress", attach_type: 1 },
    CgroupHook { program: "sock_create", label: "sock_create", attach_type: 2 },
    CgroupHook { program: "sock_ops", label: "sock_ops", attach_type: 3 },
    CgroupHook { program: "connect4", label: "connect4", attach_type: 10 },
    CgroupHook { program: "connect6", label: "connect6", attach_type: 11 },
    CgroupHook { program: "post_bind4", label: "post_bind4", attach_type: 12 },
    CgroupHook { program: "post_bind6", label: "post_bind6", attach_type: 13 },
    CgroupHook { program: "sendmsg4", label: "sendmsg4", attach_type: 14 },
    CgroupHook { program: "sendmsg6", label: "sendmsg6", attach_type: 15 },
];

/// What is linked to the cgroup of a workload whose openings `sk_lookup` judges alone: nothing that sees packets.
pub(super) const ALONE_HOOKS: [CgroupHook; 8] = [
    CgroupHook { program: "alone_sock_create", label: "sock_create", attach_type: 2 },
    CgroupHook { program: "sock_ops", label: "sock_ops", attach_type: 3 },
    CgroupHook { program: "connect4", label: "connect4", attach_type: 10 },
    CgroupHook { program: "connect6", label: "connect6", attach_type: 11 },
    CgroupHook { program: "post_bind4", label: "post_bind4", attach_type: 12 },
    CgroupHook { program: "post_bind6", label: "post_bind6", attach_type: 13 },
    CgroupHook { program: "alone_sendmsg4", label: "sendmsg4", attach_type: 14 },
    CgroupHook { program: "alone_sendmsg6", label: "sendmsg6", attach_type: 15 },
];

/// What is linked to a workload's network namespace, to refuse beside `ingress`.
pub(super) const LOOKUP: &str = "look_up";
/// What is linked there in place of `ingress`.
pub(super) const ALONE_LOOKUP: &str = "alone_look_up";

/// What is linked to the root of the managed tree, and its `enum bpf_attach_type`: judges by the calling task.
pub(super) const ROOT_PROGRAMS: [(&str, u32); 5] = [
    ("root_connect4", 10),
    ("root_connect6", 11),
    ("root_sendmsg4", 14),
    ("root_sendmsg6", 15),
    ("root_sock_create", 2),
];

/// What is linked to the root as well on strict nodes: judges packets of sockets that no workload owns.
pub(super) const STRICT_PROGRAMS: [(&str, u32); 2] = [("root_ingress", 0), ("root_egress", 1)];

/// `enum bpf_attach_type`, of what is linked to namespaces.
pub(super) const LOOKUP_ATTACH_TYPE: u32 = 36;

/// The XDP program.
pub(super) const XDP: &str = "xdp_edge";

/// What goes in front of an XDP program that was there first.
#[derive(Clone, Copy, Debug)]
pub(super) struct Chain {
    /// In the slot; calls the other.
    pub front: &'static str,
    /// Judges, for as long as the agent lives.
    pub chained: &'static str,
    /// The array that leads from the one to the other.
    pub judges: &'static str,
    /// The array of those that were there first.
    pub neighbours: &'static str,
}

/// For neighbours that take frames in several buffers, and for those that take one.
pub(super) const CHAINS: [Chain; 2] = [
    Chain {
        front: "xdp_front_frags",
        chained: "xdp_chained_frags",
        judges: maps::CHAINED_FRAGS,
        neighbours: maps::NEIGHBOURS_FRAGS,
    },
    Chain { front: "xdp_front", chained: "xdp_chained", judges: maps::CHAINED, neighbours: maps::NEIGHBOURS },
];

/// What is linked to the node's end of a workload's interface, and which way it looks from there.
pub(super) const WIRE_PROGRAMS: [(&str, TcAttachType); 2] =
    [("from_workload", TcAttachType::Ingress), ("to_workload", TcAttachType::Egress)];

/// `enum bpf_attach_type` of the two, in their order.
pub(super) const WIRE_ATTACH_TYPES: [u32; 2] = [46, 47];

/// Every program of the object that is loaded; those that stand in front of others only where that is asked for.
pub(super) fn programs(chain: bool) -> impl Iterator<Item = &'static str> {
    let chains = CHAINS.into_iter().flat_map(|chain| [chain.front, chain.chained]).filter(move |_| chain);
    let wires = WIRE_PROGRAMS.into_iter().map(|(program, _)| program);
    let alone = ALONE_HOOKS.iter().filter(|hook| hook.program.starts_with("alone_"));
    let hooks = WORKLOAD_HOOKS.iter().chain(alone).map(|hook| hook.program);
    let roots = ROOT_PROGRAMS.into_iter().chain(STRICT_PROGRAMS).map(|(program, _)| program);
    hooks.chain(roots).chain([XDP, LOOKUP, ALONE_LOOKUP]).chain(wires).chain(chains)
}

/// The ids by which the kernel knows the loaded programs.
pub(super) fn ids(ebpf: &Ebpf) -> BTreeMap<&'static str, u32> {
    let id = |name: &'static str| Some((name, ebpf.program(name)?.info().ok()?.id()));
    programs(true).filter_map(id).collect()
}

/// Links a program to a network namespace. Links coexist with other tools' programs in the same namespace.
pub(super) fn to_namespace(
    ebpf: &mut Ebpf,
    name: &'static str,
    namespace: impl AsFd,
    target: u64,
) -> Result<FdLink, KernelError> {
    let loaded = ebpf.program_mut(name).ok_or(KernelError::NoProgram(name))?;
    let link = <&mut SkLookup>::try_from(loaded).and_then(|program| {
        error::program_point("attach.namespace")?;
        let id = program.attach(namespace)?;
        program.take_link(id).map(FdLink::from)
    });
    let target = format!("network namespace {target}");
    link.map_err(|source| KernelError::Attach { program: name, target, source })
}

/// Links `program` to a cgroup. Links coexist with other tools' programs in the same cgroup.
pub(super) fn to_cgroup(
    ebpf: &mut Ebpf,
    program: &'static str,
    cgroup: impl AsFd,
    target: &str,
) -> Result<FdLink, KernelError> {
    let loaded = ebpf.program_mut(program).ok_or(KernelError::NoProgram(program))?;
    link(loaded, cgroup).map_err(|source| KernelError::Attach { program, target: target.to_owned(), source })
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "only these kinds go to cgroups; another is a build mistake and says so"
)]
fn link(program: &mut Program, cgroup: impl AsFd) -> Result<FdLink, ProgramError> {
    error::program_point("attach.cgroup")?;
    // Single: link-based attachment already allows several programs; AllowMultiple is refused with EINVAL.
    let mode = CgroupAttachMode::Single;
    let converted = match program {
        Program::CgroupSkb(program) => {
            let direction = match program.expected_attach_type() {
                Some(CgroupSkbAttachType::Egress) => CgroupSkbAttachType::Egress,
                Some(CgroupSkbAttachType::Ingress) | None => CgroupSkbAttachType::Ingress,
            };
            let id = program.attach(cgroup, direction, mode)?;
            program.take_link(id)?.try_into()
        }
        Program::CgroupSock(program) => {
            let id = program.attach(cgroup, mode)?;
            program.take_link(id)?.try_into()
        }
        Program::CgroupSockAddr(program) => {
            let id = program.attach(cgroup, mode)?;
            program.take_link(id)?.try_into()
        }
        Program::SockOps(program) => {
            let id = program.attach(cgroup, mode)?;
            program.take_link(id)?.try_into()
        }
        _ => return Err(ProgramError::UnexpectedProgramType),
    };
    converted.map_err(|_| ProgramError::UnexpectedProgramType)
}
