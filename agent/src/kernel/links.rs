//! Lives: agent, user space.
//! Called by: `interfaces`, once for each interface it attaches to; `neighbours`; `preflight`.
//! May touch: netlink sockets of the calling thread's network namespace; of an interface, which program its XDP slot holds; the loopback of
//!   a namespace that `preflight` made for itself.
//! Never: takes a program out of a slot that is not the one it was told to expect there.

use std::{
    io,
    os::fd::{AsFd, AsRawFd as _},
};

use aya_obj::generated::{XDP_FLAGS_DRV_MODE, XDP_FLAGS_REPLACE, XDP_FLAGS_SKB_MODE};
use netlink_packet_core::{NLM_F_ACK, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage, LinkXdp, XdpAttached},
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

/// What an interface's XDP slot holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Slot {
    /// The program's id.
    pub program: u32,
    /// In which mode; `None` in the hardware, or in several at once.
    pub mode: Option<SlotMode>,
}

/// The modes in which a program can be replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SlotMode {
    /// In the driver.
    Native,
    /// In the stack.
    Generic,
}

/// Whether the interface is one end of a veth. One that cannot be asked about is taken for another kind.
pub(super) fn is_veth(index: u32) -> bool {
    match kind(index) {
        Ok(kind) => kind == Some(InfoKind::Veth),
        Err(error) => {
            tracing::debug!(index, %error, "the kernel does not say of what kind an interface is");
            false
        }
    }
}

/// What the interface's XDP slot holds; `None` when it is free.
///
/// # Errors
/// No such interface, or the kernel does not answer.
pub(super) fn xdp(index: u32) -> io::Result<Option<Slot>> {
    let words = attributes(index)?.into_iter();
    let words = words.filter_map(|one| if let LinkAttribute::Xdp(words) = one { Some(words) } else { None });
    let words: Vec<LinkXdp> = words.flatten().collect();
    let program = words.iter().find_map(|word| if let LinkXdp::ProgId(id) = word { Some(*id) } else { None });
    let attached = |how| words.contains(&LinkXdp::Attached(how));
    let mode = match (attached(XdpAttached::Driver), attached(XdpAttached::SocketBuffer)) {
        (true, _) => Some(SlotMode::Native),
        (_, true) => Some(SlotMode::Generic),
        (false, false) => None,
    };
    // Several at once have ids of their own, and none that is "the" one.
    let several = attached(XdpAttached::Multiple);
    Ok(program.or(several.then_some(0)).map(|program| Slot { program, mode }))
}

/// Puts `to` where `from` is, at one instant.
///
/// # Errors
/// EEXIST: another program is there, or none. EBUSY: a BPF link holds it there. ENODEV: no such interface.
pub(super) fn replace_xdp(index: u32, mode: SlotMode, from: impl AsFd, to: impl AsFd) -> io::Result<()> {
    let mode = match mode {
        SlotMode::Native => XDP_FLAGS_DRV_MODE,
        SlotMode::Generic => XDP_FLAGS_SKB_MODE,
    };
    let (from, to) = (from.as_fd().as_raw_fd(), to.as_fd().as_raw_fd());
    let expected = u32::try_from(from).map_err(io::Error::other)?;
    let mut link = LinkMessage::default();
    link.header.index = index;
    link.attributes = vec![LinkAttribute::Xdp(vec![
        LinkXdp::Fd(to),
        LinkXdp::Flags(mode | XDP_FLAGS_REPLACE),
        LinkXdp::ExpectedFd(expected),
    ])];
    ask(RouteNetlinkMessage::SetLink(link), NLM_F_ACK).map(drop)
}

fn kind(index: u32) -> io::Result<Option<InfoKind>> {
    let infos = attributes(index)?.into_iter();
    let infos = infos.filter_map(|one| if let LinkAttribute::LinkInfo(infos) = one { Some(infos) } else { None });
    Ok(infos.flatten().find_map(|info| if let LinkInfo::Kind(kind) = info { Some(kind) } else { None }))
}

/// Brings an interface up.
pub(super) fn raise(index: u32) -> io::Result<()> {
    let mut link = LinkMessage::default();
    link.header.index = index;
    (link.header.flags, link.header.change_mask) = (LinkFlags::Up, LinkFlags::Up);
    ask(RouteNetlinkMessage::SetLink(link), NLM_F_ACK).map(drop)
}

/// What the kernel tells of an interface.
fn attributes(index: u32) -> io::Result<Vec<LinkAttribute>> {
    let mut link = LinkMessage::default();
    link.header.index = index;
    let answer = ask(RouteNetlinkMessage::GetLink(link), 0)?;
    let NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) = answer else { return Ok(Vec::new()) };
    Ok(link.attributes)
}

/// One question, one answer; an error is the kernel's.
fn ask(question: RouteNetlinkMessage, flags: u16) -> io::Result<NetlinkPayload<RouteNetlinkMessage>> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | flags;
    let mut question = NetlinkMessage::new(header, NetlinkPayload::from(question));
    question.finalize();
    let mut bytes = vec![0; question.buffer_len()];
    question.serialize(&mut bytes);
    let _ = socket.send(&bytes, 0)?;
    let (answer, _) = socket.recv_from_full()?;
    let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&answer).map_err(io::Error::other)?;
    if let NetlinkPayload::Error(error) = &answer.payload
        && error.code.is_some()
    {
        return Err(error.to_io());
    }
    Ok(answer.payload)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_no_veth_and_what_is_not_there_is_none_either() {
        assert!(kind(1).is_ok(), "the kernel answers");
        assert!(!is_veth(1) && !is_veth(u32::MAX >> 1));
    }

    #[test]
    fn an_interface_that_is_not_there_is_an_error_and_not_a_free_slot() {
        assert_eq!(xdp(1).unwrap(), None);
        assert_eq!(xdp(u32::MAX >> 1).unwrap_err().raw_os_error(), Some(nix::libc::ENODEV));
    }
}
