//! Lives: host.
//! Called by: the model, for `expiresAt`; `parse`, which reads it; the agent, which hands its clock in.
//! May touch: nothing.
//! Never: reads a clock.

use std::{fmt, str::FromStr};

use serde::{Serialize, Serializer};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// A point in time: nanoseconds since the Unix epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Timestamp(pub u64);

/// A text that is no point in time, or one that [`Timestamp`] does not reach: it lasts from 1970 to 2554.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a date and time with an offset (RFC 3339) from 1970 to 2554")]
pub struct NotATime;

impl Timestamp {
    /// Whether it is before the end of something; what has no end lasts.
    #[must_use]
    pub fn is_before(self, end: Option<Self>) -> bool {
        end.is_none_or(|end| self < end)
    }
}

impl FromStr for Timestamp {
    type Err = NotATime;

    fn from_str(text: &str) -> Result<Self, NotATime> {
        let time = OffsetDateTime::parse(text, &Rfc3339).map_err(|_| NotATime)?;
        u64::try_from(time.unix_timestamp_nanos()).map(Self).map_err(|_| NotATime)
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let written =
            OffsetDateTime::from_unix_timestamp_nanos(self.0.into()).ok().and_then(|time| time.format(&Rfc3339).ok());
        match written {
            Some(text) => f.write_str(&text),
            // Every value is a date before 2555, which has a written form.
            None => write!(f, "{} ns after 1970", self.0),
        }
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_read_in_any_offset_and_written_in_utc() {
        let rows = [
            ("1970-01-01T00:00:00Z", Some((0, "1970-01-01T00:00:00Z"))),
            ("2026-11-22T12:00:00+02:00", Some((1_795_341_600_000_000_000, "2026-11-22T10:00:00Z"))),
            ("2026-11-22T10:00:00.5Z", Some((1_795_341_600_500_000_000, "2026-11-22T10:00:00.5Z"))),
            ("2026-11-22T10:00:00", None),
            ("2026-11-22", None),
            ("2026-02-30T10:00:00Z", None),
            ("1969-12-31T23:59:59Z", None),
            ("2555-01-01T00:00:00Z", None),
            ("tomorrow", None),
        ];
        for (text, expected) in rows {
            let read: Option<Timestamp> = text.parse().ok();
            assert_eq!(
                read.map(|time| (time.0, time.to_string())),
                expected.map(|(ns, text)| (ns, text.to_owned())),
                "{text}"
            );
        }
    }

    #[test]
    fn the_end_itself_is_after_the_end() {
        let end = Some(Timestamp(5));
        assert_eq!([4, 5, 6].map(|now| Timestamp(now).is_before(end)), [true, false, false]);
        assert!(Timestamp(u64::MAX).is_before(None));
    }
}
