//! Lives: weir-probe, what every verb that tries once has in common.
//! Called by: the verbs.
//! May touch: standard output.
//! Never: decides what a try is.

use std::io;
use std::time::Instant;

use anyhow::Result;
use weir_tests::report::{Attempt, Report, error_name};

use crate::milliseconds;

/// Tries once, and prints what became of it.
pub fn report(body: impl FnOnce(&mut Attempt) -> io::Result<()>) -> Result<()> {
    let start = Instant::now();
    let mut attempt = Attempt { pid: std::process::id(), ..Attempt::default() };
    let outcome = body(&mut attempt);
    attempt.elapsed_ms = milliseconds(start.elapsed());
    attempt.result = outcome.map_or_else(|error| error_name(&error), |()| "ok".to_owned());
    Ok(Report::Attempt(attempt).print()?)
}

/// What is exchanged, unless a verb has its own idea.
pub const WORDS: &[u8] = b"weir-probe";
