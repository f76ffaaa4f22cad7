//! Lives: kernel; raw tracepoint `sock:inet_sock_set_state`, which every TCP socket passes that changes its state.
//! Called by: the kernel, in whatever runs there; loaded and attached only where the kernel tells where its parts lie.
//! May touch: the socket, by reading; the table of adopted connections, which it takes those out of that end; the event ring.
//! Never: tells of an end that `sock_ops` tells of; decides anything.
//!
//! Why: a socket that opened before the programs were there never asked `sock_ops` to hear of its end, and cannot be made to.

use aya_ebpf::{macros::raw_tracepoint, programs::RawTracePointContext};
use weir_common::{
    addr::Protocol,
    event::Totals,
    verdict::{Direction, Hook},
};

use crate::{
    emit::{self, Subject},
    maps,
    sock_ops::STATE_CB_FLAG,
    tracepoint::{argument, read, socket_place},
    who,
};

const TCP_CLOSE: u64 = 7;

#[raw_tracepoint(tracepoint = "inet_sock_set_state")]
pub fn adopted_close(ctx: RawTracePointContext) -> i32 {
    if argument(&ctx, 2) == TCP_CLOSE {
        let _ = closed(argument(&ctx, 0), argument(&ctx, 1) as u8);
    }
    0
}

#[inline(always)]
fn closed(socket: u64, old_state: u8) -> Option<()> {
    let cookie: u64 = read(socket, socket_place!(sock_cookie))?;
    // SAFETY: only the agent writes values, as a whole and before it tells of them; copied at once.
    let ends = *unsafe { maps::ADOPTED.get(cookie) }?;
    let _ = maps::ADOPTED.remove(cookie);
    // One of an agent before this one: older than this agent, but not than the programs.
    let callbacks: u8 = read(socket, socket_place!(tcp_callbacks))?;
    if callbacks & STATE_CB_FLAG as u8 != 0 {
        return None;
    }
    let egress = ends.direction == Direction::Egress as u8;
    let subject = Subject {
        hook: Hook::SockOps,
        direction: if egress { Direction::Egress } else { Direction::Ingress },
        local: who::of_socket(socket)?,
        local_addr: ends.local,
        remote_addr: ends.remote,
        local_port: ends.local_port,
        remote_port: ends.remote_port,
        protocol: Protocol::TCP,
        cookie,
        tcp_flags: 0,
        ifindex: 0,
    };
    let totals = Totals {
        bytes_acked: read(socket, socket_place!(tcp_bytes_acked))?,
        bytes_received: read(socket, socket_place!(tcp_bytes_received))?,
        segments_out: read(socket, socket_place!(tcp_segs_out))?,
        segments_in: read(socket, socket_place!(tcp_segs_in))?,
        // Kept times eight by the kernel.
        rtt_us: read::<u32>(socket, socket_place!(tcp_srtt_us))? >> 3,
        retransmits: read(socket, socket_place!(tcp_retransmits))?,
    };
    emit::closed(&subject, old_state, totals);
    Some(())
}
