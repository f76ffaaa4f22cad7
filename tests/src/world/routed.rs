//! Lives: weir-tests, the wires of a fabric: a router in the middle, every place on a wire of its own.
//! Called by: fabric.
//! May touch: interfaces, addresses and routes inside namespaces that the fabric made.
//! Never: resolves neighbours: addresses move from place to place, and a cache that remembers the last one would lose packets.
//!
//! Both ends of a wire have the same hardware address and ask nobody for one (NOARP): whatever is put on it arrives.

use std::fs::{self, File};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsRawFd;
use std::path::Path;

use rtnetlink::packet_route::address::AddressHeaderFlags;
use rtnetlink::packet_route::route::{RouteMessage, RouteScope};
use rtnetlink::{Handle, LinkUnspec, LinkVeth, RouteMessageBuilder};

use super::error::{WorldError, file};
use super::links::{INSIDE, in_namespace, index, netlink, route, up};
use super::netns;

/// Locally administered; the same everywhere, since no two places share a wire.
const HARDWARE: [u8; 6] = [2, 0, 0, 0, 0, 1];

/// Makes the namespace a router.
///
/// # Errors
/// What the kernel says.
pub fn router(namespace: &Path) -> Result<(), WorldError> {
    netns::inside(namespace, || {
        ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"].into_iter().try_for_each(|key| {
            let key = Path::new("/proc/sys").join(key);
            fs::write(&key, "1").map_err(file("writing", key))
        })
    })?;
    in_namespace(namespace, async |handle| up(&handle, "lo").await)
}

/// A wire from `namespace` (as [`INSIDE`]) to the router (as `outside`).
///
/// # Errors
/// What the kernel says.
pub fn wire(namespace: &Path, router: &Path, outside: &str) -> Result<(), WorldError> {
    let target = File::open(router).map_err(file("opening", router))?;
    in_namespace(namespace, async |handle| {
        up(&handle, "lo").await?;
        let pair = LinkVeth::new(INSIDE, outside).build();
        handle.link().add(pair).execute().await.map_err(netlink("adding", INSIDE))?;
        let away = LinkUnspec::new_with_name(outside).setns_by_fd(target.as_raw_fd()).build();
        handle.link().set(away).execute().await.map_err(netlink("moving", outside))?;
        raise(&handle, INSIDE).await
    })?;
    in_namespace(router, async |handle| raise(&handle, outside).await)?;
    in_namespace(namespace, async |handle| route(&handle, INSIDE).await)
}

async fn raise(handle: &Handle, name: &str) -> Result<(), WorldError> {
    let message = LinkUnspec::new_with_name(name).address(HARDWARE.to_vec()).arp(false).up().build();
    handle.link().set(message).execute().await.map_err(netlink("raising", name))
}

/// Takes addresses from a place and gives it others. Whoever loses its last address loses its routes with it.
///
/// # Errors
/// What the kernel says.
pub fn readdress(namespace: &Path, gone: &[IpAddr], new: &[IpAddr]) -> Result<(), WorldError> {
    in_namespace(namespace, async |handle| {
        let link = index(&handle, INSIDE).await?;
        for ip in gone {
            let message = handle.address().add(link, *ip, whole(ip)).message_mut().clone();
            handle.address().del(message).execute().await.map_err(netlink("unaddressing", INSIDE))?;
        }
        for ip in new {
            let mut request = handle.address().add(link, *ip, whole(ip)).replace();
            request.message_mut().header.flags |= AddressHeaderFlags::Nodad;
            request.execute().await.map_err(netlink("addressing", INSIDE))?;
        }
        for message in [
            RouteMessageBuilder::<Ipv4Addr>::new().output_interface(link).scope(RouteScope::Link).build(),
            RouteMessageBuilder::<Ipv6Addr>::new().output_interface(link).build(),
        ] {
            handle.route().add(message).replace().execute().await.map_err(netlink("routing", INSIDE))?;
        }
        Ok(())
    })
}

/// Whether an address is reached through a wire from now on, or no more.
#[derive(Clone, Debug)]
pub struct Way {
    pub to: IpAddr,
    pub by: String,
    pub open: bool,
}

/// Brings the router's routes in line.
///
/// # Errors
/// What the kernel says.
pub fn ways(router: &Path, ways: &[Way]) -> Result<(), WorldError> {
    in_namespace(router, async |handle| {
        for way in ways {
            let message = to(way.to, index(&handle, &way.by).await?);
            let (what, done) = if way.open {
                ("routing to", handle.route().add(message).replace().execute().await)
            } else {
                ("forgetting the way to", handle.route().del(message).execute().await)
            };
            done.map_err(netlink(what, &way.to.to_string()))?;
        }
        Ok(())
    })
}

fn to(ip: IpAddr, link: u32) -> RouteMessage {
    match ip {
        IpAddr::V4(v4) => {
            let route = RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(v4, 32);
            route.output_interface(link).scope(RouteScope::Link).build()
        }
        IpAddr::V6(v6) => {
            RouteMessageBuilder::<Ipv6Addr>::new().destination_prefix(v6, 128).output_interface(link).build()
        }
    }
}

const fn whole(ip: &IpAddr) -> u8 {
    if ip.is_ipv4() { 32 } else { 128 }
}
