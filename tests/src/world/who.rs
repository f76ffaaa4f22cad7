//! Lives: weir-tests, who lives in a world, and where.
//! Called by: world while it is built; tests and the demo to name ends.
//! May touch: nothing.
//! Never: an address that differs between worlds; documents name them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Who lives in a world.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Who {
    /// The host of the services: bridge, agent, collector.
    Node,
    /// A service in a managed cgroup.
    Web,
    /// A service in a managed cgroup.
    Api,
    /// A service in a managed cgroup.
    Db,
    /// Somebody outside, of ill will in most stories.
    Client,
    /// Somebody outside who keeps to the rules.
    Polite,
}

impl Who {
    /// Everybody.
    pub const ALL: [Who; 6] = [Who::Node, Who::Web, Who::Api, Who::Db, Who::Client, Who::Polite];

    /// The name in namespaces, cgroups and interfaces.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Who::Node => "node",
            Who::Web => "web",
            Who::Api => "api",
            Who::Db => "db",
            Who::Client => "client",
            Who::Polite => "polite",
        }
    }

    /// Whether it lives in a cgroup that the agent manages.
    #[must_use]
    pub const fn managed(self) -> bool {
        matches!(self, Who::Web | Who::Api | Who::Db)
    }

    /// Its port on the node's bridge.
    #[must_use]
    pub fn interface(self) -> String {
        format!("v-{}", self.name())
    }

    const fn last_byte(self) -> u8 {
        match self {
            Who::Node => 1,
            Who::Web => 10,
            Who::Api => 20,
            Who::Db => 30,
            Who::Client => 100,
            Who::Polite => 200,
        }
    }

    /// Its IPv4 address, the same in every world.
    #[must_use]
    pub const fn v4(self) -> IpAddr {
        IpAddr::V4(Ipv4Addr::new(10, 77, 0, self.last_byte()))
    }

    /// Its IPv6 address, the same in every world. A /64 of its own for each, because limits count those as one client.
    #[must_use]
    pub const fn v6(self) -> IpAddr {
        IpAddr::V6(Ipv6Addr::new(0xfd77, 0, 0, self.last_byte() as u16, 0, 0, 0, 1))
    }

    /// The IPv4 address as seen through an IPv6 socket.
    #[must_use]
    pub const fn mapped(self) -> IpAddr {
        IpAddr::V6(Ipv4Addr::new(10, 77, 0, self.last_byte()).to_ipv6_mapped())
    }

    /// Further addresses, for tables of cases that speak of addresses of their own.
    #[must_use]
    pub const fn more(self) -> &'static [&'static str] {
        match self {
            Who::Node => &["10.0.0.1"],
            Who::Web => &["10.0.0.2", "fd00::2"],
            Who::Api => &["10.0.0.3", "fd00::3"],
            Who::Db => &["10.0.1.4", "fd00:1::4"],
            Who::Client => &["10.9.0.5", "fd00:9::5"],
            Who::Polite => &[
                "192.0.2.1",
                "2001:db8::1",
                "10.1.2.3",
                "10.9.8.7",
                "11.0.0.1",
                "192.0.2.7",
                "192.0.2.8",
                "198.51.100.2",
                "10.20.1.2",
            ],
        }
    }

    /// The bridge is one link: neighbours are reached directly, and so is every other address there may be.
    pub(super) fn addresses(self) -> Vec<(IpAddr, u8)> {
        let more = self.more().iter().filter_map(|address| address.parse::<IpAddr>().ok());
        let more = more.map(|address| (address, if address.is_ipv4() { 32 } else { 128 }));
        [(self.v4(), 24), (self.v6(), 48)].into_iter().chain(more).collect()
    }
}
