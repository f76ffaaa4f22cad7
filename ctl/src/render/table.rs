//! Lives: ctl.
//! Called by: verbs that show rows.
//! May touch: the writer it is given.
//! Never: cuts a value. Our own rather than a library's because cells carry styles and widths must not count those.

use std::io::{self, Write};

use anstyle::Style;

use super::style::{BOLD, PLAIN, clean};

/// Rows below a heading.
#[derive(Debug)]
pub struct Table {
    columns: Vec<String>,
    rows: Vec<Vec<(String, Style)>>,
}

impl Table {
    /// An empty table. A column whose name begins with ">" is aligned to the right.
    pub fn new(columns: &[&str]) -> Self {
        Self::with_columns(columns.iter().map(|name| (*name).to_owned()).collect())
    }

    /// The same with columns that are only known now.
    pub const fn with_columns(columns: Vec<String>) -> Self {
        Self { columns, rows: Vec::new() }
    }

    /// Adds a row without styles.
    pub fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.styled(cells.map(|cell| (cell, PLAIN)));
    }

    /// Adds a row.
    pub fn styled<const N: usize>(&mut self, cells: [(String, Style); N]) {
        self.push(cells.to_vec());
    }

    /// Adds a row of as many cells as there are columns.
    pub fn push(&mut self, cells: Vec<(String, Style)>) {
        self.rows.push(cells.into_iter().map(|(text, style)| (clean(&text).into_owned(), style)).collect());
    }

    /// Whether there is no row.
    pub const fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Writes heading and rows; columns are as wide as their widest cell, and one without any content is left out.
    pub fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        let used =
            |column: &usize| self.rows.iter().filter_map(|row| row.get(*column)).any(|(text, _)| !text.is_empty());
        let used: Vec<_> = (0..self.columns.len()).filter(used).collect();
        let heading: Vec<_> = self.columns.iter().map(|name| (name.trim_start_matches('>').to_owned(), BOLD)).collect();
        let width = |column: usize| {
            let cells = self.rows.iter().chain([&heading]).filter_map(|row| row.get(column));
            cells.map(|(text, _)| text.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<_> = (0..self.columns.len()).map(width).collect();
        [&heading].into_iter().chain(&self.rows).try_for_each(|row| {
            let cells = used.iter().filter_map(|column| {
                let (text, style) = row.get(*column)?;
                Some(Cell {
                    text,
                    style,
                    right: self.columns.get(*column)?.starts_with('>'),
                    width: *widths.get(*column)?,
                })
            });
            line(out, &cells.collect::<Vec<_>>())
        })
    }
}

/// A cell and its place.
struct Cell<'a> {
    text: &'a str,
    style: &'a Style,
    right: bool,
    width: usize,
}

fn line(out: &mut dyn Write, cells: &[Cell<'_>]) -> io::Result<()> {
    for (index, Cell { text, style, right, width }) in cells.iter().enumerate() {
        let gap = width.saturating_sub(text.chars().count());
        let last = index + 1 == cells.len();
        match (right, last) {
            (true, _) => write!(out, "{:gap$}{style}{text}{style:#}", "")?,
            (false, true) => write!(out, "{style}{text}{style:#}")?,
            (false, false) => write!(out, "{style}{text}{style:#}{:gap$}", "")?,
        }
        out.write_all(if last { b"\n" } else { b"  " })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::render::style::BAD;

    #[test]
    fn columns_are_aligned_and_styles_take_no_room() {
        let mut table = Table::new(&["NAME", ">COUNT", "EMPTY", "DETAIL"]);
        table.row(["a", "1", "", "x"].map(str::to_owned));
        let [name, count, empty, detail] = ["longer", "1000000", "", ""].map(str::to_owned);
        table.styled([(name, BAD), (count, BAD), (empty, PLAIN), (detail, PLAIN)]);
        let mut out = Vec::new();
        table.write(&mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert!(text.contains("\x1b["), "cells are styled");
        let expected = "NAME      COUNT  DETAIL\na             1  x\nlonger  1000000  \n";
        assert_eq!(anstream::adapter::strip_str(&text).to_string(), expected);
    }
}
