//! Lives: weir-tests, what a process has said so far.
//! Called by: running; one thread for each process that reports.
//! May touch: its log file.
//! Never: outlives the process's last writer.

use std::fs::File;
use std::io::{BufRead, Write};
use std::sync::{Condvar, Mutex, PoisonError};

use crate::report::Report;

#[derive(Debug, Default)]
pub struct Output {
    pub state: Mutex<Printed>,
    pub changed: Condvar,
}

#[derive(Debug, Default)]
pub struct Printed {
    pub lines: Vec<String>,
    pub reports: Vec<Report>,
    pub ended: bool,
}

impl Output {
    pub fn read(&self, lines: impl BufRead, mut log: File) {
        for line in lines.lines().map_while(Result::ok) {
            // The log is for people; losing a line of it must not stop a test.
            drop(writeln!(log, "{line}"));
            let mut printed = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            printed.reports.extend(serde_json::from_str::<Report>(&line));
            printed.lines.push(line);
            self.changed.notify_all();
        }
        self.close();
    }

    pub fn close(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).ended = true;
        self.changed.notify_all();
    }
}
