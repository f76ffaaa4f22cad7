//! Lives: weir-agent, control.
//! Called by: `Control`, at start and about once a second.
//! May touch: the list of the host's interfaces.
//! Never: counts loopback addresses as the host's; they are an entity of their own.

use nix::ifaddrs::getifaddrs;
use weir_common::addr::Addr;

/// The host's own addresses, sorted; none when the kernel does not say.
pub fn addresses() -> Vec<Addr> {
    let interfaces = match getifaddrs() {
        Ok(interfaces) => interfaces,
        Err(error) => {
            tracing::warn!(error = %error, "the host's addresses could not be listed");
            return Vec::new();
        }
    };
    let mut addresses: Vec<Addr> = interfaces.filter_map(|interface| address(&interface.address?)).collect();
    addresses.sort_unstable();
    addresses.dedup();
    addresses
}

fn address(storage: &nix::sys::socket::SockaddrStorage) -> Option<Addr> {
    if let Some(v4) = storage.as_sockaddr_in() {
        let ip = v4.ip();
        return (!ip.is_loopback()).then(|| Addr::v4(ip.octets()));
    }
    let ip = storage.as_sockaddr_in6()?.ip();
    (!ip.is_loopback()).then(|| Addr::v6(ip.octets()))
}

#[cfg(test)]
mod tests {
    #[test]
    fn loopback_is_not_among_the_hosts_addresses() {
        let loopback = [weir_common::addr::Addr::v4([127, 0, 0, 1])];
        assert!(super::addresses().iter().all(|addr| !loopback.contains(addr)));
    }
}
