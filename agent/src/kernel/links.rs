//! Lives: agent, user space.
//! Called by: `interfaces`, once for each interface it attaches to.
//! May touch: one netlink socket of the agent's own network namespace, to ask.
//! Never: changes an interface.

use std::io;

use netlink_packet_core::{NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{InfoKind, LinkAttribute, LinkInfo, LinkMessage},
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
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let mut link = LinkMessage::default();
    link.header.index = index;
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST;
    let mut question = NetlinkMessage::new(header, NetlinkPayload::from(RouteNetlinkMessage::GetLink(link)));
    question.finalize();
    let mut bytes = vec![0; question.buffer_len()];
    question.serialize(&mut bytes);
    let _ = socket.send(&bytes, 0)?;
    let (answer, _) = socket.recv_from_full()?;
    let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&answer).map_err(io::Error::other)?;
    // An error, or an interface that is gone, is of no kind.
    let NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) = answer.payload else { return Ok(None) };
    let infos = link.attributes.into_iter();
    let infos = infos.filter_map(|one| if let LinkAttribute::LinkInfo(infos) = one { Some(infos) } else { None });
    Ok(infos.flatten().find_map(|info| if let LinkInfo::Kind(kind) = info { Some(kind) } else { None }))
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
