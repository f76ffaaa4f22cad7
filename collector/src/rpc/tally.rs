//! Lives: collector.
//! Called by: `export`, for each record.
//! May touch: nothing.
//! Never: lets a record that is no decision into the sums of decisions.

use weir_proto::v1::{FlowRecord, RecordType, Verdict};

use crate::nodes::Tally;

/// What a record adds to the sums of its node.
pub fn tally(record: &FlowRecord) -> Tally {
    let what = || format!("{}/{}/{}", record.hook, verdict_word(record.verdict()), record.reason);
    match record.r#type() {
        RecordType::Verdict => Tally::Decision { what: what(), count: record.count },
        RecordType::Loss => Tally::Loss {
            cause: record.loss_cause.clone(),
            what: (!record.hook.is_empty()).then(what),
            count: record.count,
        },
        RecordType::Close | RecordType::Cut | RecordType::Adopted | RecordType::Progress | RecordType::Unspecified => {
            Tally::Nothing
        }
    }
}

pub const fn verdict_word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Allow => "allow",
        Verdict::Deny => "deny",
        Verdict::Audit => "audit",
        Verdict::Unspecified => "unspecified",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_decisions_and_losses_count() {
        let record = |kind: RecordType| FlowRecord {
            r#type: kind.into(),
            verdict: Verdict::Deny.into(),
            hook: "connect".to_owned(),
            reason: "default".to_owned(),
            loss_cause: "ring_full".to_owned(),
            count: 7,
            ..FlowRecord::default()
        };
        let decision = Tally::Decision { what: "connect/deny/default".to_owned(), count: 7 };
        let what = Some("connect/deny/default".to_owned());
        let loss = Tally::Loss { cause: "ring_full".to_owned(), what, count: 7 };
        for (kind, expected) in [
            (RecordType::Verdict, decision),
            (RecordType::Loss, loss),
            (RecordType::Close, Tally::Nothing),
            (RecordType::Cut, Tally::Nothing),
            (RecordType::Adopted, Tally::Nothing),
            (RecordType::Progress, Tally::Nothing),
            (RecordType::Unspecified, Tally::Nothing),
        ] {
            assert_eq!(tally(&record(kind)), expected, "{kind:?}");
        }
    }
}
