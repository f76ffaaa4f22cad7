//! Lives: weir-tests, the wires of a world.
//! Called by: world, while it is built; tests and benchmarks that change interfaces of their own worlds.
//! May touch: interfaces inside namespaces that the world made, over netlink.
//! Never: opens a netlink socket in the host's own namespace.

use std::fs::File;
use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::Path;
use std::pin::pin;
use std::time::{Duration, Instant};

use rtnetlink::packet_route::address::AddressHeaderFlags;
pub use rtnetlink::packet_route::link::XdpAttached;
use rtnetlink::packet_route::link::{
    BridgePortState, InfoBridgePort, InfoPortData, LinkAttribute, LinkInfo, LinkMessage, LinkXdp, State,
};
use rtnetlink::packet_route::route::RouteScope;
use rtnetlink::{Handle, LinkBridge, LinkUnspec, LinkVeth, RouteMessageBuilder};
use tokio_stream::StreamExt;

use super::error::{WorldError, file};
use super::netns;

/// The bridge in the node's namespace.
pub const BRIDGE: &str = "br0";
/// The one interface a service or client sees.
pub const INSIDE: &str = "eth0";
/// The kernel brings a new link into service from a work queue, at most once a second for all links.
const IN_SERVICE_WITHIN: Duration = Duration::from_secs(10);

/// Loopback and the bridge, with the node's own addresses on it.
///
/// # Errors
/// What the kernel says.
pub fn node(namespace: &Path, addresses: &[(IpAddr, u8)]) -> Result<(), WorldError> {
    in_namespace(namespace, async |handle| {
        up(&handle, "lo").await?;
        // Snooping off: neighbour discovery is multicast, and nobody here sends membership reports.
        let bridge = LinkBridge::new(BRIDGE).mcast_snooping(false).up().build();
        handle.link().add(bridge).execute().await.map_err(netlink("adding", BRIDGE))?;
        address(&handle, BRIDGE, addresses).await?;
        route(&handle, BRIDGE).await
    })
}

/// A wire from `namespace` (as [`INSIDE`]) to the node's bridge (as `outside`).
///
/// # Errors
/// What the kernel says.
pub fn host(namespace: &Path, node: &Path, outside: &str, addresses: &[(IpAddr, u8)]) -> Result<(), WorldError> {
    let target = File::open(node).map_err(file("opening", node))?;
    in_namespace(namespace, async |handle| {
        up(&handle, "lo").await?;
        let pair = LinkVeth::new(INSIDE, outside).up().build();
        handle.link().add(pair).execute().await.map_err(netlink("adding", INSIDE))?;
        let away = LinkUnspec::new_with_name(outside).setns_by_fd(target.as_raw_fd()).build();
        handle.link().set(away).execute().await.map_err(netlink("moving", outside))?;
        address(&handle, INSIDE, addresses).await?;
        route(&handle, INSIDE).await
    })?;
    in_namespace(node, async |handle| {
        let bridge = index(&handle, BRIDGE).await?;
        let port = LinkUnspec::new_with_name(outside).controller(bridge).up().build();
        handle.link().set(port).execute().await.map_err(netlink("bridging", outside))
    })
}

/// Removes a wire by its name at one end.
///
/// # Errors
/// What the kernel says.
pub fn cut(namespace: &Path, name: &str) -> Result<(), WorldError> {
    in_namespace(namespace, async |handle| {
        let index = index(&handle, name).await?;
        handle.link().del(index).execute().await.map_err(netlink("removing", name))
    })
}

/// A wire whose both ends stay in `namespace`: `name`, and the same with `-far`.
///
/// # Errors
/// What the kernel says.
pub fn spare(namespace: &Path, name: &str) -> Result<(), WorldError> {
    let far = format!("{name}-far");
    in_namespace(namespace, async |handle| {
        let pair = LinkVeth::new(name, &far).up().build();
        handle.link().add(pair).execute().await.map_err(netlink("adding", name))?;
        up(&handle, &far).await
    })
}

/// Takes an interface out of service and puts it back; who is attached to it stays.
///
/// # Errors
/// What the kernel says.
pub fn flap(namespace: &Path, name: &str) -> Result<(), WorldError> {
    in_namespace(namespace, async |handle| {
        let message = LinkUnspec::new_with_name(name).down().build();
        handle.link().set(message).execute().await.map_err(netlink("lowering", name))?;
        up(&handle, name).await
    })?;
    wait_in_service(namespace, name)
}

/// Gives an interface another name.
///
/// # Errors
/// What the kernel says.
pub fn rename(namespace: &Path, from: &str, to: &str) -> Result<(), WorldError> {
    in_namespace(namespace, async |handle| {
        let index = index(&handle, from).await?;
        // Older kernels rename only what is down.
        let renamed = LinkUnspec::new_with_index(index).down().name(to.to_owned()).build();
        handle.link().set(renamed).execute().await.map_err(netlink("renaming", from))?;
        up(&handle, to).await
    })
}

/// Lets an interface carry packets of `mtu` bytes.
///
/// # Errors
/// What the kernel says.
pub fn widen(namespace: &Path, name: &str, mtu: u32) -> Result<(), WorldError> {
    in_namespace(namespace, async |handle| {
        let wide = LinkUnspec::new_with_name(name).mtu(mtu).build();
        handle.link().set(wide).execute().await.map_err(netlink("widening", name))
    })
}

/// How a program is attached to an interface's XDP: in the driver, generic, or not at all.
///
/// # Errors
/// What the kernel says.
pub fn xdp(namespace: &Path, name: &str) -> Result<Option<XdpAttached>, WorldError> {
    let words = xdp_words(namespace, name)?;
    let mode = words.into_iter().find_map(|word| if let LinkXdp::Attached(mode) = word { Some(mode) } else { None });
    Ok(mode.filter(|mode| *mode != XdpAttached::None))
}

/// The id of the program that an interface's XDP slot holds.
///
/// # Errors
/// What the kernel says.
pub fn xdp_program(namespace: &Path, name: &str) -> Result<Option<u32>, WorldError> {
    let words = xdp_words(namespace, name)?;
    Ok(words.into_iter().find_map(|word| if let LinkXdp::ProgId(id) = word { Some(id) } else { None }))
}

fn xdp_words(namespace: &Path, name: &str) -> Result<Vec<LinkXdp>, WorldError> {
    let found = std::sync::Mutex::new(Vec::new());
    in_namespace(namespace, async |handle| {
        let link = link(&handle, name).await?;
        let xdp = |one| if let LinkAttribute::Xdp(words) = one { Some(words) } else { None };
        let words = link.attributes.into_iter().filter_map(xdp).flatten().collect();
        *found.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = words;
        Ok(())
    })?;
    Ok(found.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner))
}

/// Puts a program into an interface's XDP slot, or empties it, whatever it held, as `ip -force link set dev NAME xdp` does.
///
/// # Errors
/// What the kernel says.
pub fn set_xdp(
    namespace: &Path,
    name: &str,
    program: Option<BorrowedFd<'_>>,
    mode: XdpAttached,
) -> Result<(), WorldError> {
    // XDP_FLAGS_SKB_MODE and XDP_FLAGS_DRV_MODE
    let flags = if mode == XdpAttached::SocketBuffer { 1 << 1 } else { 1 << 2 };
    let fd = program.map_or(-1, |program| program.as_raw_fd());
    in_namespace(namespace, async |handle| {
        let mut message = LinkUnspec::new_with_name(name).build();
        message.attributes.push(LinkAttribute::Xdp(vec![LinkXdp::Fd(fd), LinkXdp::Flags(flags)]));
        handle.link().set(message).execute().await.map_err(netlink("setting XDP of", name))
    })
}

/// A wire from `one` to `other`, called [`INSIDE`] in both, without a bridge between them.
///
/// # Errors
/// What the kernel says.
pub fn pair(one: &Path, other: &Path, addresses: [IpAddr; 2]) -> Result<(), WorldError> {
    const FAR: &str = "far";
    let [here, there] = addresses;
    let target = File::open(other).map_err(file("opening", other))?;
    in_namespace(one, async |handle| {
        up(&handle, "lo").await?;
        let veth = LinkVeth::new(INSIDE, FAR).up().build();
        handle.link().add(veth).execute().await.map_err(netlink("adding", INSIDE))?;
        let away = LinkUnspec::new_with_name(FAR).setns_by_fd(target.as_raw_fd()).build();
        handle.link().set(away).execute().await.map_err(netlink("moving", FAR))?;
        address(&handle, INSIDE, &[(here, 24)]).await?;
        route(&handle, INSIDE).await
    })?;
    in_namespace(other, async |handle| {
        up(&handle, "lo").await?;
        let index = index(&handle, FAR).await?;
        let named = LinkUnspec::new_with_index(index).name(INSIDE.to_owned()).up().build();
        handle.link().set(named).execute().await.map_err(netlink("raising", FAR))?;
        address(&handle, INSIDE, &[(there, 24)]).await?;
        route(&handle, INSIDE).await
    })?;
    [one, other].into_iter().try_for_each(|namespace| wait_in_service(namespace, INSIDE))
}

/// Waits until the link carries packets: a packet sent before that is lost without a word.
///
/// # Errors
/// When it takes too long.
pub fn wait_in_service(namespace: &Path, name: &str) -> Result<(), WorldError> {
    in_namespace(namespace, async |handle| {
        let deadline = crate::process::deadline(IN_SERVICE_WITHIN);
        while !in_service(&link(&handle, name).await?) {
            if Instant::now() > deadline {
                return Err(WorldError::NotInService(name.to_owned()));
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    })
}

/// Up, and forwarding if it is a port of the bridge.
fn in_service(link: &LinkMessage) -> bool {
    let up = link.attributes.contains(&LinkAttribute::OperState(State::Up));
    let infos = link
        .attributes
        .iter()
        .filter_map(|one| if let LinkAttribute::LinkInfo(infos) = one { Some(infos) } else { None });
    let closed = infos.flatten().any(|info| {
        let LinkInfo::PortData(InfoPortData::BridgePort(port)) = info else { return false };
        !port.contains(&InfoBridgePort::State(BridgePortState::Forwarding))
    });
    up && !closed
}

pub(super) async fn up(handle: &Handle, name: &str) -> Result<(), WorldError> {
    let message = LinkUnspec::new_with_name(name).up().build();
    handle.link().set(message).execute().await.map_err(netlink("raising", name))
}

pub(super) async fn address(handle: &Handle, name: &str, addresses: &[(IpAddr, u8)]) -> Result<(), WorldError> {
    let index = index(handle, name).await?;
    for (ip, bits) in addresses {
        let mut request = handle.address().add(index, *ip, *bits);
        // Usable at once: nobody else can have the address in a world of our own.
        request.message_mut().header.flags |= AddressHeaderFlags::Nodad;
        request.execute().await.map_err(netlink("addressing", name))?;
    }
    Ok(())
}

/// Every address is on the link.
pub(super) async fn route(handle: &Handle, name: &str) -> Result<(), WorldError> {
    let index = index(handle, name).await?;
    let v4 = RouteMessageBuilder::<Ipv4Addr>::new().output_interface(index).scope(RouteScope::Link).build();
    let v6 = RouteMessageBuilder::<Ipv6Addr>::new().output_interface(index).build();
    for message in [v4, v6] {
        handle.route().add(message).execute().await.map_err(netlink("routing", name))?;
    }
    Ok(())
}

pub(super) async fn index(handle: &Handle, name: &str) -> Result<u32, WorldError> {
    Ok(link(handle, name).await?.header.index)
}

async fn link(handle: &Handle, name: &str) -> Result<LinkMessage, WorldError> {
    let mut found = pin!(handle.link().get().match_name(name).execute());
    match found.next().await {
        Some(Ok(link)) => Ok(link),
        Some(Err(error)) => Err(netlink("finding", name)(error)),
        None => Err(WorldError::NoLink(name.to_owned())),
    }
}

pub(super) fn in_namespace<F>(namespace: &Path, work: impl FnOnce(Handle) -> F + Send) -> Result<(), WorldError>
where
    F: Future<Output = Result<(), WorldError>>,
{
    netns::inside(namespace, || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(file("starting a runtime in", namespace))?;
        runtime.block_on(async {
            let (connection, handle, _) = rtnetlink::new_connection().map_err(file("netlink in", namespace))?;
            let connection = tokio::spawn(connection);
            let done = work(handle).await;
            connection.abort();
            done
        })
    })
}

pub(super) fn netlink(action: &'static str, object: &str) -> impl FnOnce(rtnetlink::Error) -> WorldError {
    let object = object.to_owned();
    move |source| WorldError::Netlink { action, object, source: Box::new(source) }
}
