//! Lives: kernel and host.
//! Called by: `decide`, the kernel programs, and whoever shows a record to a person.
//! May touch: nothing.
//! Never: renumbered; the numbers are part of the ABI and of stored records. Add at the end and raise `ABI_VERSION`.

use crate::addr::Protocol;

/// Declares an enum with fixed numbers, its name as text, and the way back from a byte.
macro_rules! numbered {
    ($(#[$meta:meta])* $name:ident { $($(#[$vmeta:meta])* $variant:ident = $value:literal => $text:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum $name { $($(#[$vmeta])* $variant = $value,)+ }

        impl $name {
            /// Every value, in order of its number.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The word used in YAML, metrics, output and docs.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }

            /// The value a byte of a record stands for; `None` for a number this version does not know.
            #[must_use]
            pub const fn from_u8(byte: u8) -> Option<Self> {
                match byte { $($value => Some(Self::$variant),)+ _ => None }
            }
        }
    };
}

numbered! {
    /// What was decided. `Audit` passes the traffic and records that it would have been denied.
    Verdict {
        /// The traffic passes.
        Allow = 1 => "allow",
        /// The traffic is refused.
        Deny = 2 => "deny",
        /// The traffic passes, and is recorded as one that enforcement would deny.
        Audit = 3 => "audit",
    }
}

impl Reason {
    /// The last of those that cells of policies hold, in four bits. What comes after it is no policy's to say.
    pub const LAST_OF_CELLS: Self = Self::CallerMismatch;
}

impl Verdict {
    /// Whether the traffic goes on.
    #[inline(always)]
    #[must_use]
    pub const fn passes(self) -> bool {
        !matches!(self, Self::Deny)
    }
}

numbered! {
    /// Why. Names follow Hubble's drop reasons where one matches.
    Reason {
        /// A rule of a policy says so; the record names it.
        Rule = 1 => "rule",
        /// No rule matched and the policy set's default for the direction applies.
        Default = 2 => "default",
        /// No policy selects the workload for this direction.
        NoPolicy = 3 => "no_policy",
        /// The local workload is not known; the configured default for unknown workloads applies.
        UnknownWorkload = 4 => "unknown_workload",
        /// A reply to traffic that was allowed when it was opened.
        Reply = 5 => "reply",
        /// The client used up its packets per second.
        RateLimitPackets = 6 => "rate_limit_packets",
        /// The client used up its bytes per second.
        RateLimitBytes = 7 => "rate_limit_bytes",
        /// The client used up its new connections per second.
        RateLimitConnections = 8 => "rate_limit_connections",
        /// The source address is in an address set that blocks.
        Blocklist = 9 => "blocklist",
        /// The packet's headers contradict themselves or its length; fails closed.
        Malformed = 10 => "malformed",
        /// A socket of a kind the policy does not allow (raw, SCTP, MPTCP).
        SocketType = 11 => "socket_type",
        /// The policy tables could not be read; fails closed.
        NoTables = 12 => "no_tables",
        /// The workload sent from an address that is not its own, or spoke for one.
        Spoofed = 13 => "spoofed",
        /// The calling task and the socket belong to different workloads (a socket that was passed on, a process that was moved).
        /// Allowed: both policies allow it. Denied: the named rule of the caller's refuses what the socket's allows.
        CallerMismatch = 14 => "caller_mismatch",
        /// The sender has chosen the packet's route: what would be judged is where it goes next, and not where it ends.
        SourceRoute = 15 => "source_route",
        /// A first fragment that does not hold the headers, or a later one that begins within them.
        TinyFragment = 16 => "tiny_fragment",
        /// More VLAN tags or IPv6 extension headers than are looked through.
        ExtDepth = 17 => "ext_depth",
        /// An IPv6 fragment header in a packet in one piece, or behind another one.
        FragNested = 18 => "frag_nested",
        /// A fragment whose first was not seen to pass, or too long ago.
        FragUnknown = 19 => "frag_unknown",
        /// A first fragment that gives the fragments of another datagram's identification another port.
        FragOverlap = 20 => "frag_overlap",
        /// The workload spoke for neighbours or routers that it is not: ARP, neighbour and router advertisements, redirects.
        NdSpoof = 21 => "nd_spoof",
        /// The source address is none that a packet on a wire can come from.
        Martian = 22 => "martian",
        /// TCP flags that no TCP sends together.
        TcpFlags = 23 => "tcp_flags",
        /// A frame that is neither IP nor ARP, or hides which it is.
        Ethertype = 24 => "ethertype",
        /// Address sets that allow are asked about such packets, and none of them holds the source address.
        NotListed = 25 => "not_listed",
        /// A SYN that was answered by a cookie, in the listener's place; the connection is judged when the client completes it.
        SynCookie = 26 => "syn_cookie",
        /// The kernel dropped the packet, for a reason of its own that the record names: Weir let it pass, or was not asked.
        Kernel = 27 => "kernel",
    }
}

numbered! {
    /// Where in the kernel it was decided.
    Hook {
        /// XDP, on an interface.
        Xdp = 1 => "xdp",
        /// `connect()` on a TCP or UDP socket.
        Connect = 2 => "connect",
        /// `sendto()`/`sendmsg()` on an unconnected UDP socket.
        Sendmsg = 3 => "sendmsg",
        /// `socket()`.
        SockCreate = 4 => "sock_create",
        /// After a successful `bind()`.
        PostBind = 5 => "post_bind",
        /// A packet arriving at a workload's socket.
        Ingress = 6 => "ingress",
        /// A packet leaving a workload's socket.
        Egress = 7 => "egress",
        /// A TCP socket's life: about to connect, closed.
        SockOps = 8 => "sock_ops",
        /// An opening that arrives in a workload's network namespace, before a socket is looked up for it.
        SkLookup = 9 => "sk_lookup",
        /// A packet leaving a workload, on the node's end of its interface.
        FromWorkload = 10 => "from_workload",
        /// A packet going to a workload, on the node's end of its interface.
        ToWorkload = 11 => "to_workload",
        /// Anywhere in the kernel, which dropped a workload's packet by itself.
        Kernel = 12 => "kernel",
    }
}

numbered! {
    /// How a denial reaches the one that opened.
    Refusal {
        /// The call fails with EPERM.
        Eperm = 1 => "eperm",
        /// The kernel answers: a reset, or an ICMP port unreachable, which the call reports as ECONNREFUSED.
        Refused = 2 => "refused",
        /// Nothing comes back.
        Silence = 3 => "silence",
    }
}

impl Hook {
    /// How a denial at this hook reaches the one that opened.
    #[must_use]
    pub const fn refusal(self, protocol: Protocol) -> Refusal {
        if matches!(self, Self::Connect | Self::Sendmsg | Self::SockCreate | Self::PostBind) {
            Refusal::Eperm
        } else if matches!(self, Self::SkLookup) {
            Refusal::Refused
        } else if matches!(self, Self::Egress) && protocol.0 != Protocol::TCP.0 {
            // The kernel hands the verdict on a datagram back to the call that sends it.
            Refusal::Eperm
        } else {
            Refusal::Silence
        }
    }
}

numbered! {
    /// Which way the connection runs, seen from the local workload.
    Direction {
        /// The peer opened it.
        Ingress = 1 => "ingress",
        /// The local workload opened it.
        Egress = 2 => "egress",
    }
}

impl Direction {
    /// 0 for ingress, 1 for egress: the order of the halves in the tables.
    #[inline(always)]
    #[must_use]
    pub const fn index(self) -> u32 {
        self as u32 - 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_values_go_both_ways() {
        for reason in Reason::ALL {
            assert_eq!(Reason::from_u8(*reason as u8), Some(*reason));
        }
        for hook in Hook::ALL {
            assert_eq!(Hook::from_u8(*hook as u8), Some(*hook));
        }
        assert_eq!(Verdict::from_u8(0), None);
        assert_eq!(Direction::from_u8(9), None);
    }
}
