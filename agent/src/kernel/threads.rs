//! Lives: agent, user space.
//! Called by: `revoke`'s hands, each for its own thread.
//! May touch: the calling thread's priority.
//! Never: fails; a thread that may not be raised works as it is.

use nix::libc;

/// How much a hurried thread goes before others of the agent's cgroup: about thirty times their share.
const NICE: libc::c_int = -15;

/// Lets the calling thread go before others, where the agent may (CAP_SYS_NICE). For work that is short and that somebody waits for:
/// every connection that is cut makes records, and those who read them would take the processor from who cuts the next.
pub fn hurry() {
    #[expect(
        unsafe_code,
        reason = "the call has no safe form in nix; it takes three numbers, and 0 means the calling thread"
    )]
    // SAFETY: no memory is handed over.
    let raised = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICE) } == 0;
    if !raised {
        tracing::debug!("a thread that cuts connections has no priority over others");
    }
}
