//! Lives: ctl.
//! Called by: `observe -o table`.
//! May touch: the writer it is given.
//! Never: waits for the last record to know a width; columns have fixed ones and a longer value pushes the rest.

use std::io::{self, Write};

use jiff::tz::TimeZone;

use super::compact::{shown, staged};
use super::style::{BOLD, clean, paint, verdict};
use super::time::full;
use crate::view::{Direction, End, Kind, Record};

/// Columns and their widths; the last one is as wide as it needs.
const COLUMNS: [(&str, usize); 11] = [
    ("TIME", 19),
    ("NODE", 10),
    ("VERDICT", 7),
    ("HOOK", 11),
    ("FROM", 28),
    ("TO", 28),
    ("PROTO", 6),
    ("REASON", 22),
    ("COUNT", 7),
    ("PROCESS", 20),
    ("RULE", 0),
];

/// Writes records as rows, below a heading.
#[derive(Debug)]
pub struct Rows {
    zone: TimeZone,
    headed: bool,
}

impl Rows {
    /// Nothing written yet.
    pub const fn new(zone: TimeZone) -> Self {
        Self { zone, headed: false }
    }

    /// The zone times are shown in.
    pub const fn zone(&self) -> &TimeZone {
        &self.zone
    }

    /// Writes a record, and before the first one the heading.
    pub fn write(&mut self, out: &mut dyn Write, record: &Record) -> io::Result<()> {
        if !self.headed {
            self.headed = true;
            let heading = pad(COLUMNS.map(|(name, _)| name.to_owned()));
            writeln!(out, "{}", paint(BOLD, heading.join("  ").trim_end()))?;
        }
        let mut cells = pad(cells(record, &self.zone));
        if let Some(cell) = cells.get_mut(2) {
            *cell = paint(verdict(record.verdict), cell);
        }
        writeln!(out, "{}", cells.join("  ").trim_end())
    }
}

fn pad(cells: [String; 11]) -> [String; 11] {
    let mut widths = COLUMNS.iter().map(|(_, width)| *width);
    cells.map(|cell| {
        let width = widths.next().unwrap_or(0);
        format!("{cell:width$}")
    })
}

fn cells(record: &Record, zone: &TimeZone) -> [String; 11] {
    let end = |end: &Option<End>| end.as_ref().map_or_else(|| "-".to_owned(), |end| shown(end, record.has_ports));
    let (local, remote) = (end(&record.local), end(&record.remote));
    let (from, to) = if record.direction == Direction::Ingress { (remote, local) } else { (local, remote) };
    let word = match record.kind {
        Kind::Verdict | Kind::Unknown => record.verdict.name(),
        Kind::Close => "close",
        Kind::Loss => "loss",
        Kind::Cut => "cut",
        Kind::Adopted => "adopted",
        Kind::Progress => "progress",
    };
    let reason = if record.kind == Kind::Loss { &record.loss_cause } else { &record.reason };
    let process = record.process.as_ref().map(|process| format!("{} {}", process.pid, clean(&process.command)));
    [
        full(record.time, zone),
        clean(&record.node).into_owned(),
        word.to_owned(),
        clean(&record.hook).into_owned(),
        from,
        to,
        record.protocol.clone(),
        clean(reason).into_owned(),
        record.count.to_string(),
        process.unwrap_or_else(|| "-".to_owned()),
        [clean(format!("{} {}", record.policy, record.rule).trim()).into_owned(), staged(record)]
            .join(" ")
            .trim()
            .to_owned(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::Verdict;

    #[test]
    fn rows_line_up_below_one_heading() {
        let record = Record {
            time: "2026-11-21T23:04:05Z".parse().unwrap(),
            node: "node-1".to_owned(),
            verdict: Verdict::Deny,
            hook: "connect".to_owned(),
            reason: "default".to_owned(),
            policy: "Policy/shop/db".to_owned(),
            rule: "default ingress".to_owned(),
            count: 2,
            ..Record::default()
        };
        let mut rows = Rows::new(TimeZone::UTC);
        let mut out = Vec::new();
        rows.write(&mut out, &record).unwrap();
        rows.write(&mut out, &Record { kind: Kind::Loss, loss_cause: "ring_full".to_owned(), ..record }).unwrap();
        let text = anstream::adapter::strip_str(&String::from_utf8(out).unwrap()).to_string();
        let lines: Vec<_> = text.lines().collect();
        let place = |line: &str, word: &str| line.find(word).unwrap();
        assert_eq!(lines.len(), 3);
        assert_eq!(place(lines[0], "VERDICT"), place(lines[1], "deny"));
        assert_eq!(place(lines[0], "REASON"), place(lines[1], "default"));
        assert_eq!(place(lines[0], "REASON"), place(lines[2], "ring_full"));
        assert_eq!(place(lines[0], "RULE"), place(lines[1], "Policy/shop/db default ingress"));
    }
}
