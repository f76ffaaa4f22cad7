//! Lives: weir-tests, a network behind somebody's back, and who knows whom on a link.
//! Called by: live tests of path MTU and neighbour discovery.
//! May touch: interfaces, routes and settings inside namespaces that the world made.
//! Never: a namespace that is not the world's.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};

use rtnetlink::packet_route::neighbour::{NeighbourAddress, NeighbourAttribute};
use rtnetlink::{LinkUnspec, LinkVeth, RouteMessageBuilder};
use tokio_stream::StreamExt;

use super::error::{WorldError, file};
use super::links::{address, in_namespace, index, netlink};
use super::{Who, World, netns};

/// Where the far end is.
pub const FAR: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(10, 88, 0, 2)), IpAddr::V6(Ipv6Addr::new(0xfd88, 0, 0, 0, 0, 0, 0, 2))];
/// Who passes on what is not its own asks for neighbours from its link-local address, and so does who answers by another interface;
/// interfaces here have none by themselves.
const ASKS: (IpAddr, u8) = (IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1)), 64);
const ROUTER: [(IpAddr, u8); 3] =
    [(IpAddr::V4(Ipv4Addr::new(10, 88, 0, 1)), 24), (IpAddr::V6(Ipv6Addr::new(0xfd88, 0, 0, 0, 0, 0, 0, 1)), 64), ASKS];

impl World {
    /// Lays a wire between `router` and `far` that carries packets of `mtu` bytes in the direction of `far`, and tells `near` to
    /// reach [`FAR`] by way of `router`. Answers come by the bridge.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn hop(&self, near: Who, router: Who, far: Who, mtu: u32) -> Result<(), WorldError> {
        let namespace = self.netns(router);
        let target = fs::File::open(&namespace).map_err(file("opening", &namespace))?;
        in_namespace(&self.netns(far), async |handle| {
            let pair = LinkVeth::new("far", "hop").up().build();
            handle.link().add(pair).execute().await.map_err(netlink("adding", "far"))?;
            let away = LinkUnspec::new_with_name("hop").setns_by_fd(target.as_raw_fd()).build();
            handle.link().set(away).execute().await.map_err(netlink("moving", "hop"))?;
            address(&handle, super::links::INSIDE, &[ASKS]).await?;
            address(&handle, "far", &FAR.map(|addr| (addr, if addr.is_ipv4() { 24 } else { 64 }))).await
        })?;
        in_namespace(&namespace, async |handle| {
            let narrow = LinkUnspec::new_with_name("hop").mtu(mtu).up().build();
            handle.link().set(narrow).execute().await.map_err(netlink("raising", "hop"))?;
            address(&handle, "hop", &ROUTER).await
        })?;
        in_namespace(&self.netns(near), async |handle| {
            let index = index(&handle, super::links::INSIDE).await?;
            let (IpAddr::V4(v4), IpAddr::V6(v6)) = (router.v4(), router.v6()) else { return Ok(()) };
            let v4 = RouteMessageBuilder::<Ipv4Addr>::new()
                .destination_prefix(Ipv4Addr::new(10, 88, 0, 0), 24)
                .gateway(v4)
                .output_interface(index)
                .build();
            let v6 = RouteMessageBuilder::<Ipv6Addr>::new()
                .destination_prefix(Ipv6Addr::new(0xfd88, 0, 0, 0, 0, 0, 0, 0), 64)
                .gateway(v6)
                .output_interface(index)
                .build();
            for message in [v4, v6] {
                handle.route().add(message).execute().await.map_err(netlink("routing", "hop"))?;
            }
            Ok(())
        })?;
        set(&namespace, &["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"], "1")?;
        set(&self.netns(far), &["net/ipv4/conf/all/rp_filter", "net/ipv4/conf/far/rp_filter"], "0")
    }

    /// Whether `who` has found out the hardware address behind an address.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn knows(&self, who: Who, address: IpAddr) -> Result<bool, WorldError> {
        let found = AtomicBool::new(false);
        in_namespace(&self.netns(who), async |handle| {
            let mut all = pin!(handle.neighbours().get().execute());
            while let Some(neighbour) = all.next().await {
                let attributes = neighbour.map_err(netlink("listing", "neighbours"))?.attributes;
                let ours = attributes.iter().any(|one| match (one, address) {
                    (NeighbourAttribute::Destination(NeighbourAddress::Inet(found)), IpAddr::V4(wanted)) => {
                        *found == wanted
                    }
                    (NeighbourAttribute::Destination(NeighbourAddress::Inet6(found)), IpAddr::V6(wanted)) => {
                        *found == wanted
                    }
                    _ => false,
                });
                let answered = attributes.iter().any(|one| matches!(one, NeighbourAttribute::LinkLayerAddress(_)));
                found.fetch_or(ours && answered, Ordering::Relaxed);
            }
            Ok(())
        })?;
        Ok(found.into_inner())
    }
}

fn set(namespace: &Path, keys: &[&str], value: &str) -> Result<(), WorldError> {
    netns::inside(namespace, || {
        keys.iter().try_for_each(|key| {
            let path = Path::new("/proc/sys").join(key);
            fs::write(&path, value).map_err(file("writing", &path))
        })
    })
}
