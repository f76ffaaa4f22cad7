//! Lives: agent, user space.
//! Called by: `interfaces`, which asks of what kind an interface is before it picks a mode.
//! May touch: one route netlink socket in the agent's own network namespace, reading.
//! Never: `/sys`, which may show another network namespace than the agent's.

use std::{collections::BTreeSet, io};

use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{InfoKind, LinkAttribute, LinkInfo, LinkMessage},
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

/// The kernel fills up to 32 KiB at once if there is room.
const BUFFER: usize = 64 * 1024;

/// Indices of the interfaces that are ends of a veth pair.
pub(super) fn veths() -> io::Result<BTreeSet<u32>> {
    let socket = Socket::new(NETLINK_ROUTE)?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    let question = RouteNetlinkMessage::GetLink(LinkMessage::default());
    let mut packet = NetlinkMessage::new(header, NetlinkPayload::from(question));
    packet.finalize();
    let mut request = vec![0; packet.buffer_len()];
    packet.serialize(&mut request);
    socket.send(&request, 0)?;
    let (mut found, mut buffer) = (BTreeSet::new(), Vec::with_capacity(BUFFER));
    loop {
        buffer.clear();
        // The kernel answers while it is asked.
        socket.recv(&mut buffer, 0)?;
        if read(&buffer, &mut found)? {
            return Ok(found);
        }
    }
}

/// Reads what was received; whether that was the end.
fn read(buffer: &[u8], found: &mut BTreeSet<u32>) -> io::Result<bool> {
    let mut rest = buffer;
    while !rest.is_empty() {
        let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        let length = usize::try_from(message.header.length).unwrap_or(usize::MAX).next_multiple_of(4);
        rest = rest.get(length..).unwrap_or_default();
        #[expect(
            clippy::wildcard_enum_match_arm,
            reason = "the kernel may say more in future; nothing else is asked here"
        )]
        match message.payload {
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) if is_veth(&link) => {
                found.insert(link.header.index);
            }
            NetlinkPayload::Done(_) => return Ok(true),
            NetlinkPayload::Error(error) => return Err(error.to_io()),
            _ => {}
        }
    }
    Ok(false)
}

fn is_veth(link: &LinkMessage) -> bool {
    link.attributes.iter().any(|attribute| {
        let LinkAttribute::LinkInfo(infos) = attribute else { return false };
        infos.iter().any(|info| matches!(info, LinkInfo::Kind(InfoKind::Veth)))
    })
}
