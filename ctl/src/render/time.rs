//! Lives: ctl.
//! Called by: `render`, verbs, and the command line for `--since`.
//! May touch: the host's time zone.
//! Never: asks the clock where a test could not set it.

use std::time::Duration;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

/// Time of day with milliseconds, `23:04:05.123`.
pub fn of_day(time: Timestamp, zone: &TimeZone) -> String {
    time.to_zoned(zone.clone()).strftime("%H:%M:%S%.3f").to_string()
}

/// Date and time, `2026-11-21 23:04:05`.
pub fn full(time: Timestamp, zone: &TimeZone) -> String {
    time.to_zoned(zone.clone()).strftime("%Y-%m-%d %H:%M:%S").to_string()
}

/// A span in its two largest units: `5d 3h`, `2m 4s`, `1.250s`, `3ms`.
pub fn span(duration: SignedDuration) -> String {
    let seconds = duration.as_secs().max(0);
    let (days, hours, minutes) = (seconds / 86400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes, seconds) {
        (1.., ..) => format!("{days}d {hours}h"),
        (0, 1.., ..) => format!("{hours}h {minutes}m"),
        (0, 0, 1.., _) => format!("{minutes}m {}s", seconds % 60),
        (_, _, _, 1..) => format!("{seconds}.{:03}s", duration.subsec_millis()),
        _ => format!("{}ms", duration.subsec_millis().max(0)),
    }
}

/// A point in the past: `5m`, `1h30m`, `2d`, or a time such as `2026-11-21T23:00:00Z`.
pub fn since(text: &str, now: Timestamp) -> Result<Timestamp, String> {
    let fault =
        || format!("\"{text}\" is neither a span such as 30s, 5m, 1h30m, 2d nor a time such as 2026-11-21T23:00:00Z");
    if let Ok(time) = text.parse::<Timestamp>() {
        return Ok(time);
    }
    let span = text.parse::<SignedDuration>().ok().or_else(|| days(text)).ok_or_else(fault)?;
    match span.is_negative() {
        true => Err(fault()),
        false => now.checked_sub(span).map_err(|_| fault()),
    }
}

/// A length of time to come: `90s`, `1h30m`, `7d`.
pub fn span_of(text: &str) -> Result<Duration, String> {
    let span = text.parse::<SignedDuration>().ok().or_else(|| days(text));
    let span = span.and_then(|span| Duration::try_from(span).ok()).filter(|span| !span.is_zero());
    span.ok_or_else(|| format!("\"{text}\" is no span of time; write one such as 90s, 1h30m or 7d"))
}

/// Days have no fixed length in a calendar; here they are 24 hours.
fn days(text: &str) -> Option<SignedDuration> {
    let days: i64 = text.strip_suffix('d')?.trim().parse().ok()?;
    days.checked_mul(86400).map(SignedDuration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn times_are_shown_in_the_given_zone() {
        let time = at("2026-11-21T23:04:05.123456Z");
        assert_eq!(of_day(time, &TimeZone::UTC), "23:04:05.123");
        assert_eq!(full(time, &TimeZone::fixed(jiff::tz::offset(1))), "2026-11-22 00:04:05");
    }

    #[test]
    fn spans_show_their_two_largest_units() {
        for (millis, shown) in [
            (0, "0ms"),
            (3, "3ms"),
            (1250, "1.250s"),
            (124_000, "2m 4s"),
            (7_500_000, "2h 5m"),
            (443_000_000, "5d 3h"),
            (-5000, "0ms"),
        ] {
            assert_eq!(span(SignedDuration::from_millis(millis)), shown);
        }
    }

    #[test]
    fn since_is_a_span_back_or_a_time() {
        let now = at("2026-11-21T23:00:00Z");
        for (text, expected) in [
            ("30s", "2026-11-21T22:59:30Z"),
            ("5m", "2026-11-21T22:55:00Z"),
            ("1h30m", "2026-11-21T21:30:00Z"),
            ("2d", "2026-11-19T23:00:00Z"),
            ("2026-11-21T01:00:00+01:00", "2026-11-21T00:00:00Z"),
        ] {
            assert_eq!(since(text, now), Ok(at(expected)), "{text}");
        }
        for text in ["", "5", "m", "yesterday", "-5m", "99999999999999999d"] {
            assert!(since(text, now).is_err(), "{text}");
        }
    }
}
