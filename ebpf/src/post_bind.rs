//! Lives: kernel, `post_bind4` and `post_bind6` of each workload's cgroup.
//! Called by: the kernel, in the task that called `bind()`, after the port is taken.
//! May touch: the socket's address and port.
//! Never: refuses; it exists to name the process behind a listener, which no packet hook can (DESIGN.md D10).

use aya_ebpf::{bindings::bpf_sock, macros::cgroup_sock, programs::SockContext};
use weir_common::{
    addr::{Addr, Port, Protocol},
    event::Kind,
    verdict::{Direction, Hook},
};

use crate::{
    bytes,
    connect::ALLOW,
    emit::{self, Caller, Subject},
    task::Task,
    who,
};

#[cgroup_sock(post_bind4)]
pub fn post_bind4(ctx: SockContext) -> i32 {
    // SAFETY: 4-byte load of a context field that post_bind4 may read.
    let ip = unsafe { (&raw const (*ctx.sock).src_ip4).read_volatile() };
    report(&ctx, Addr::v4(ip.to_ne_bytes()))
}

#[cgroup_sock(post_bind6)]
pub fn post_bind6(ctx: SockContext) -> i32 {
    // SAFETY: 4-byte loads of a context field that post_bind6 may read.
    let addr = unsafe {
        let base = (&raw const (*ctx.sock).src_ip6).cast::<u32>();
        bytes::addr_of_words(
            base.read_volatile(),
            base.add(1).read_volatile(),
            base.add(2).read_volatile(),
            base.add(3).read_volatile(),
        )
    };
    report(&ctx, addr)
}

#[inline(always)]
fn report(ctx: &SockContext, local_addr: Addr) -> i32 {
    let sock: *const bpf_sock = ctx.sock;
    // SAFETY: 4-byte loads of context fields; `src_port` is in host order.
    let (port, protocol) =
        unsafe { ((&raw const (*sock).src_port).read_volatile(), (&raw const (*sock).protocol).read_volatile()) };
    let subject = Subject {
        hook: Hook::PostBind,
        direction: Direction::Ingress,
        local: who::attached(),
        local_addr,
        remote_addr: Addr::UNSPECIFIED,
        local_port: Port::new(port as u16),
        remote_port: Port([0; 2]),
        protocol: Protocol(protocol as u8),
        cookie: bytes::cookie(ctx),
        tcp_flags: 0,
        ifindex: 0,
    };
    let caller = Caller::of(Task::current());
    emit::named(Kind::Bound, &subject, &caller);
    ALLOW
}
