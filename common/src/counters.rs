//! Lives: kernel and host.
//! Called by: every kernel program that reaches a verdict; the agent when it reads the counters back.
//! May touch: nothing; it only computes an index.
//! Never: two cells for one (hook, verdict, reason).

use crate::verdict::{Hook, Reason, Verdict};

const VERDICTS: u32 = 4;
const REASONS: u32 = 32;

/// Cells in a counter map: 16 hooks, 4 verdicts, 32 reasons.
pub const CELLS: usize = 16 * (VERDICTS * REASONS) as usize;

/// Cells that count decisions: [`CELLS`] for those of which records are made, then as many for those of which none is.
pub const DECISIONS: usize = 2 * CELLS;

/// Among events that found no room, the cell that counts closes and all else that is no decision: that of no verdict, which no decision has.
pub const CLOSES: u32 = Hook::SockOps as u32 * VERDICTS * REASONS;

/// Among decisions that found no room in the merge tables, the cell that counts all of them: that of no hook. Whoever looks at it need not look
/// at the others.
pub const ANY: u32 = 0;

/// The same decision's cell among those of which no record is made.
#[inline(always)]
#[must_use]
pub const fn quiet(cell: u32) -> u32 {
    cell + CELLS as u32
}

/// The cell that counts `verdict` for `reason` at `hook`.
#[inline(always)]
#[must_use]
pub const fn cell(hook: Hook, verdict: Verdict, reason: Reason) -> u32 {
    (hook as u32 * VERDICTS + verdict as u32) * REASONS + reason as u32
}

/// What a cell counts; `None` for a cell no program writes.
#[must_use]
pub const fn describe(cell: u32) -> Option<(Hook, Verdict, Reason)> {
    let reason = Reason::from_u8((cell % REASONS) as u8);
    let verdict = Verdict::from_u8((cell / REASONS % VERDICTS) as u8);
    let hook = Hook::from_u8((cell / REASONS / VERDICTS) as u8);
    match (hook, verdict, reason) {
        (Some(hook), Some(verdict), Some(reason)) => Some((hook, verdict, reason)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_decision_is_counted_where_closes_or_sums_are() {
        assert_eq!((describe(CLOSES), describe(ANY)), (None, None));
        assert!((CLOSES as usize) < CELLS);
    }

    #[test]
    fn every_combination_has_its_own_cell_and_is_described_back() {
        for hook in Hook::ALL {
            for verdict in Verdict::ALL {
                for reason in Reason::ALL {
                    let index = cell(*hook, *verdict, *reason);
                    assert!((index as usize) < CELLS);
                    assert_eq!(describe(index), Some((*hook, *verdict, *reason)));
                }
            }
        }
    }
}
