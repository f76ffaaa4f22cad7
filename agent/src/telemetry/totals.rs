//! Lives: weir-agent, telemetry.
//! Called by: `join`, for each close.
//! May touch: nothing.
//! Never: promises more than plus or minus one byte: one of the paths below cannot be told from its neighbour.
//!
//! `tcp_sock.bytes_acked` counts the SYN (of the side that connects; an accepted child begins after it) and the own FIN once
//! the peer acknowledged it; `bytes_received` counts the peer's FIN once it arrived in order. Which of them happened shows in
//! the state the socket was in before it closed.

use weir_common::{event::Totals, verdict::Direction};

use super::record::Traffic;

/// TCP states as in `include/net/tcp_states.h`.
mod state {
    pub const SYN_SENT: u8 = 2;
    pub const FIN_WAIT2: u8 = 5;
    pub const CLOSE_WAIT: u8 = 8;
    pub const LAST_ACK: u8 = 9;
    pub const CLOSING: u8 = 11;
}

/// Payload and segments of a connection. `opened` says which side opened it.
#[must_use]
pub fn traffic(totals: &Totals, opened: Direction, old_state: u8) -> Traffic {
    let syn = u64::from(opened == Direction::Egress && old_state != state::SYN_SENT);
    let (own_fin, peer_fin) = fins(old_state);
    Traffic {
        bytes_sent: totals.bytes_acked.saturating_sub(syn + own_fin),
        bytes_received: totals.bytes_received.saturating_sub(peer_fin),
        packets_sent: u64::from(totals.segments_out),
        packets_received: u64::from(totals.segments_in),
        rtt_us: totals.rtt_us,
        retransmits: totals.retransmits,
    }
}

/// Whether the own FIN was acknowledged and the peer's received, as 1 or 0.
fn fins(old_state: u8) -> (u64, u64) {
    match old_state {
        // The own FIN is acknowledged. The peer's mostly arrived and moved the socket on to TIME_WAIT; an orphan whose
        // peer acknowledges first and closes later left before it: there the count is one short.
        state::FIN_WAIT2 | state::CLOSING | state::LAST_ACK => (1, 1),
        state::CLOSE_WAIT => (0, 1),
        _ => (0, 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn syn_and_fin_are_taken_off_by_role_and_path() {
        use Direction::{Egress, Ingress};
        // Role, state before, acknowledged, received, payload sent, payload received.
        let rows = [
            ("client closes first", Egress, 5, 102, 201, 100, 200),
            ("client closes last", Egress, 9, 102, 201, 100, 200),
            ("server closes first", Ingress, 5, 201, 101, 200, 100),
            ("server closes last", Ingress, 9, 201, 101, 200, 100),
            ("both at once", Egress, 11, 102, 201, 100, 200),
            ("client reset while open", Egress, 1, 101, 200, 100, 200),
            ("server reset while open", Ingress, 1, 200, 100, 200, 100),
            ("reset after the peer's FIN", Ingress, 8, 200, 101, 200, 100),
            ("reset with the own FIN on its way", Egress, 4, 101, 200, 100, 200),
            ("refused", Egress, 2, 0, 0, 0, 0),
            ("never accepted", Ingress, 3, 0, 0, 0, 0),
        ];
        for (name, role, old_state, bytes_acked, bytes_received, sent, received) in rows {
            let found = traffic(&Totals { bytes_acked, bytes_received, ..Totals::default() }, role, old_state);
            assert_eq!((found.bytes_sent, found.bytes_received), (sent, received), "{name}");
        }
    }
}
