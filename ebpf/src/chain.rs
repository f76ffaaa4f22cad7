//! Lives: kernel, XDP on managed interfaces whose slot was somebody else's first (`xdpNeighbour: chain`).
//! Called by: the driver or the stack call the front, which calls the program that judges, which calls the neighbour.
//! May touch: what `xdp` touches, and the arrays of programs.
//! Never: keeps a frame from the neighbour that Weir lets through, or shows it one that Weir drops or answers.
//!
//! ```text
//!   slot: xdp_front --> xdp_chained --pass--> the neighbour
//!             \-- where nothing judges ----------^
//! ```
//! Why a front: only a program that a link does not hold can take another's place without a moment in which neither is there, and
//! such a program stays in the slot when the agent ends. What judges stays with it, unless the agent was told `pin: false`.
//!
//! Two of each: programs that take frames in several buffers call no others than their like.

use aya_ebpf::{bindings::xdp_action::XDP_PASS, btf_maps::ProgramArray, macros::xdp, programs::XdpContext};
use weir_common::maps::MAX_EDGES;

use crate::{
    maps,
    xdp::{judge, place_of},
};

type Neighbours = ProgramArray<{ MAX_EDGES as usize }>;

#[xdp(frags)]
pub fn xdp_front_frags(ctx: XdpContext) -> u32 {
    front(&ctx, &maps::CHAINED_FRAGS, &maps::NEIGHBOURS_FRAGS)
}

#[xdp]
pub fn xdp_front(ctx: XdpContext) -> u32 {
    front(&ctx, &maps::CHAINED, &maps::NEIGHBOURS)
}

#[xdp(frags)]
pub fn xdp_chained_frags(ctx: XdpContext) -> u32 {
    chained(&ctx, &maps::NEIGHBOURS_FRAGS)
}

#[xdp]
pub fn xdp_chained(ctx: XdpContext) -> u32 {
    chained(&ctx, &maps::NEIGHBOURS)
}

#[inline(always)]
fn front(ctx: &XdpContext, judges: &ProgramArray<1>, neighbours: &Neighbours) -> u32 {
    // SAFETY: nothing here needs dropping; where there is no such program, the call returns.
    unsafe {
        judges.tail_call(ctx, 0);
        neighbours.tail_call(ctx, place_of(ctx.ingress_ifindex() as u32));
    }
    XDP_PASS
}

#[inline(always)]
fn chained(ctx: &XdpContext, neighbours: &Neighbours) -> u32 {
    let place = place_of(ctx.ingress_ifindex() as u32);
    let action = judge(ctx, place);
    if action == XDP_PASS {
        // SAFETY: as above.
        unsafe { neighbours.tail_call(ctx, place) };
    }
    action
}
