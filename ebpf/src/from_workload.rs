//! Lives: kernel, TC (TCX from 6.6 on) at the ingress of the node's end of a workload's interface.
//! Called by: the kernel, once per frame the workload sends, whatever in it made the frame.
//! May touch: packet bytes through `bytes`, the tables, the reply table.
//! Never: changes a frame; believes a source address.
//!
//! Why here, when the socket's hooks judge: packets of AF_PACKET sockets, TUN devices, XDP sockets, of sockets made elsewhere,
//! and what the workload's own kernel forwards or answers pass no hook of its cgroup. Here everything does.

use aya_ebpf::{macros::classifier, programs::TcContext};
use weir_common::{
    packet::Packet,
    verdict::{Direction, Hook, Reason},
};

use crate::{
    bytes::{self, Headers, NOT_ARP, OWN},
    emit,
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
                return wire::refused(&subject, Reason::Spoofed, &packet);
            }
            wire::judge(ctx.skb.skb, &subject, &mut packet)
        }
        Headers::NotIp => match bytes::neighbour(ctx, local.workload) {
            OWN => Outcome::Passes,
            NOT_ARP => malformed(ctx, local, ifindex),
            _ => {
                let subject = wire::subject(Hook::FromWorkload, local, ifindex, &Packet::EMPTY);
                wire::refused(&subject, Reason::Spoofed, &packet)
            }
        },
        Headers::Malformed => malformed(ctx, local, ifindex),
    }
}

#[inline(always)]
fn malformed(ctx: &TcContext, local: weir_common::event::Local, ifindex: u32) -> Outcome {
    emit::malformed(local, Hook::FromWorkload, Direction::Egress, ifindex, ctx.len());
    Outcome::Denied
}
