//! Lives: kernel, TC (TCX from 6.6 on) at the ingress of the node's end of a workload's interface.
//! Called by: the kernel, once per frame the workload sends, whatever in it made the frame.
//! May touch: packet bytes through `bytes`, the tables, the reply table.
//! Never: changes a frame; believes a source address.
//!
//! Why here, when the socket's hooks judge: packets of AF_PACKET sockets, TUN devices, XDP sockets, of sockets made elsewhere,
//! and what the workload's own kernel forwards or answers pass no hook of its cgroup. Here everything does.

use aya_ebpf::{macros::classifier, programs::TcContext};
use weir_common::{
    event::Local,
    packet::Packet,
    verdict::{Hook, Reason},
};

use crate::{
    bytes::{self, Headers, NOT_ARP, OWN},
    wire::{self, Outcome},
};

#[classifier]
pub fn from_workload(ctx: TcContext) -> i32 {
    try_from(&ctx).action()
}

#[inline(always)]
fn try_from(ctx: &TcContext) -> Outcome {
    let local = wire::workload_of(ctx);
    bytes::gather(ctx.skb.skb);
    let ifindex = wire::interface(ctx);
    let mut packet = Packet::EMPTY;
    match bytes::tc_headers(ctx, &mut packet) {
        Headers::Read => {
            let subject = wire::subject(Hook::FromWorkload, local, ifindex, &packet);
            if bytes::source(ctx, &packet, local.workload) != OWN {
                let reason = if packet.tells_the_link() { Reason::NdSpoof } else { Reason::Spoofed };
                return wire::refused(ctx.skb.skb, &subject, reason, &packet);
            }
            wire::judge(ctx.skb.skb, &subject, &mut packet)
        }
        read => {
            let Some(reason) = refusal(ctx, local, read) else { return Outcome::Passes };
            wire::refused(ctx.skb.skb, &wire::subject(Hook::FromWorkload, local, ifindex, &packet), reason, &packet)
        }
    }
}

/// Why what is no IP packet to judge is refused; ARP passes if the workload speaks for itself.
#[inline(always)]
fn refusal(ctx: &TcContext, local: Local, read: Headers) -> Option<Reason> {
    match read {
        Headers::Read => None,
        Headers::NotIp => Some(Reason::Ethertype),
        Headers::Refused(reason) => Some(reason),
        Headers::Arp => match bytes::neighbour(ctx, local.workload) {
            OWN => None,
            NOT_ARP => Some(Reason::Malformed),
            _ => Some(Reason::NdSpoof),
        },
    }
}
