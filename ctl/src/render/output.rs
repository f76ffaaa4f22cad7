//! Lives: ctl.
//! Called by: verbs.
//! May touch: standard output and standard error.
//! Never: mixes answers (output) with remarks (error).

use std::io::{self, BufWriter, Write};

use anstream::AutoStream;
use serde::Serialize;

use crate::failure::Failure;

/// How to show an answer, where there is one way for people and one for programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// As sentences, a line for each thing.
    Text,
    /// One JSON object.
    Json,
}

/// The same where what people are shown is a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum TableFormat {
    /// Columns.
    Table,
    /// One JSON object.
    Json,
}

/// Standard output: buffered, and without styles unless it is a terminal (`NO_COLOR` and `CLICOLOR` are obeyed).
pub type Output = BufWriter<AutoStream<io::StdoutLock<'static>>>;

/// Opens standard output.
pub fn open() -> Output {
    BufWriter::new(anstream::stdout().lock())
}

/// Writes a value as JSON for people and programs, over several lines.
pub fn json(out: &mut dyn Write, value: &impl Serialize) -> Result<(), Failure> {
    serde_json::to_writer_pretty(&mut *out, value)?;
    Ok(writeln!(out)?)
}

/// Writes a value as JSON on one line.
pub fn json_line(out: &mut dyn Write, value: &impl Serialize) -> Result<(), Failure> {
    serde_json::to_writer(&mut *out, value)?;
    Ok(writeln!(out)?)
}

/// A remark; one that cannot be written is lost, since there is nobody to tell.
pub fn remark(text: &str) {
    let _lost = writeln!(anstream::stderr(), "{text}").is_err();
}
