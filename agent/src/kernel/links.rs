//! Lives: agent, user space.
//! Called by: `interfaces`, once for each interface it attaches to; `preflight`.
//! May touch: one netlink socket of the calling thread's network namespace, to ask.
//! Never: changes an interface, but for the loopback of a namespace that `preflight` made for itself.

use std::io;

use netlink_packet_core::{NLM_F_ACK, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage, LinkXdp, XdpAttached},
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

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

fn kind(index: u32) -> io::Result<Option<InfoKind>> {
    let Some(link) = ask(index)? else { return Ok(None) };
    let infos = link.attributes.into_iter();
    let infos = infos.filter_map(|one| if let LinkAttribute::LinkInfo(infos) = one { Some(infos) } else { None });
    Ok(infos.flatten().find_map(|info| if let LinkInfo::Kind(kind) = info { Some(kind) } else { None }))
}

/// The XDP program of an interface, if it has one: in which mode, and its id (0 where the kernel does not say).
pub(super) fn xdp(index: u32) -> io::Result<Option<(&'static str, u32)>> {
    let Some(link) = ask(index)? else { return Ok(None) };
    let words = link.attributes.into_iter();
    let words = words.filter_map(|one| if let LinkAttribute::Xdp(words) = one { Some(words) } else { None });
    let (mut mode, mut id) = (None, 0);
    for word in words.flatten() {
        #[expect(clippy::wildcard_enum_match_arm, reason = "the other words say the same in another way")]
        match word {
            LinkXdp::Attached(XdpAttached::Driver) => mode = Some("native"),
            LinkXdp::Attached(XdpAttached::SocketBuffer) => mode = Some("generic"),
            LinkXdp::Attached(XdpAttached::Hardware) => mode = Some("offloaded"),
            LinkXdp::Attached(XdpAttached::Multiple) => mode = Some("several modes"),
            LinkXdp::ProgId(program) => id = program,
            _ => {}
        }
    }
    Ok(mode.map(|mode| (mode, id)))
}

/// Brings an interface up.
pub(super) fn raise(index: u32) -> io::Result<()> {
    let mut link = LinkMessage::default();
    link.header.index = index;
    (link.header.flags, link.header.change_mask) = (LinkFlags::Up, LinkFlags::Up);
    let answer = talk(RouteNetlinkMessage::SetLink(link), NLM_F_REQUEST | NLM_F_ACK)?;
    // An acknowledgement is an error of code 0.
    let NetlinkPayload::Error(error) = answer else { return Ok(()) };
    if error.code.is_some() { Err(error.to_io()) } else { Ok(()) }
}

/// What the kernel says of an interface; one that is gone is `None`.
fn ask(index: u32) -> io::Result<Option<LinkMessage>> {
    let mut link = LinkMessage::default();
    link.header.index = index;
    let answer = talk(RouteNetlinkMessage::GetLink(link), NLM_F_REQUEST)?;
    // An error, or an interface that is gone, has nothing to say.
    let NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) = answer else { return Ok(None) };
    Ok(Some(link))
}

fn talk(question: RouteNetlinkMessage, flags: u16) -> io::Result<NetlinkPayload<RouteNetlinkMessage>> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let mut header = NetlinkHeader::default();
    header.flags = flags;
    let mut question = NetlinkMessage::new(header, NetlinkPayload::from(question));
    question.finalize();
    let mut bytes = vec![0; question.buffer_len()];
    question.serialize(&mut bytes);
    let _ = socket.send(&bytes, 0)?;
    let (answer, _) = socket.recv_from_full()?;
    let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&answer).map_err(io::Error::other)?;
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
}
