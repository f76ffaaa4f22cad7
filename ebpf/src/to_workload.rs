//! Lives: kernel, TC (TCX from 6.6 on) at the egress of the node's end of a workload's interface.
//! Called by: the kernel, once per frame that is about to reach the workload.
//! May touch: packet bytes through `bytes`, the tables, the reply table.
//! Never: changes a frame; has the last word on what a socket is for: its own hooks judge that again, and record it.
//!
//! Why here, when the socket's hooks judge: echo requests are answered, closed ports refused and packets forwarded by the workload's
//! kernel without any socket, and a packet socket in there sees all that arrives.

use aya_ebpf::{macros::classifier, programs::TcContext};
use weir_common::{
    packet::Packet,
    verdict::{Hook, Reason},
};

use crate::{
    bytes::{self, Headers},
    wire::{self, Outcome},
};

#[classifier]
pub fn to_workload(ctx: TcContext) -> i32 {
    try_to(&ctx).action()
}

#[inline(always)]
fn try_to(ctx: &TcContext) -> Outcome {
    let local = wire::workload_of(ctx);
    bytes::gather(ctx.skb.skb);
    let ifindex = wire::interface(ctx);
    let mut packet = Packet::EMPTY;
    match bytes::tc_headers(ctx, &mut packet) {
        Headers::Read => {
            let subject = wire::subject(Hook::ToWorkload, local, ifindex, &packet);
            wire::judge(ctx.skb.skb, &subject, &mut packet)
        }
        Headers::Arp if bytes::is_arp(ctx) => Outcome::Passes,
        read => {
            let reason = match read {
                Headers::Refused(reason) => reason,
                Headers::Read | Headers::Arp => Reason::Malformed,
                Headers::NotIp => Reason::Ethertype,
            };
            wire::refused(ctx.skb.skb, &wire::subject(Hook::ToWorkload, local, ifindex, &packet), reason, &packet)
        }
    }
}
