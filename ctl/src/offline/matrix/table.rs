//! Lives: ctl.
//! Called by: `policy matrix`, for people and for spreadsheets.
//! May touch: the writer it is given.
//! Never: repeats long names over columns: those bear the numbers of the rows.

use std::io::Write;

use anstyle::Style;
use weir_policy::reach::Cell;

use super::{Matrix, words};
use crate::failure::Failure;
use crate::render::style::{BOLD, DIM, GOOD, ODD, PLAIN};
use crate::render::table::Table;

/// Writes it for a terminal.
pub fn write(out: &mut dyn Write, matrix: &Matrix) -> Result<(), Failure> {
    let numbers = (1..=matrix.groups.len()).map(|number| number.to_string());
    let mut table =
        Table::with_columns([">#".to_owned(), "FROM \\ TO".to_owned()].into_iter().chain(numbers).collect());
    for (number, (group, row)) in matrix.groups.iter().zip(&matrix.rows).enumerate() {
        let heading = [((number + 1).to_string(), DIM), (group.name.short.clone(), BOLD)];
        table.push(heading.into_iter().chain(row.iter().map(|cell| (words(cell), style(cell)))).collect());
    }
    Ok(table.write(out)?)
}

fn style(cell: &Cell) -> Style {
    if !cell.audited.is_empty() {
        ODD
    } else if cell.every.is_all() {
        GOOD
    } else if cell.some.is_empty() {
        DIM
    } else {
        PLAIN
    }
}

/// Writes it for a spreadsheet: one line for each group that opens, one column for each that is called.
pub fn csv(out: &mut dyn Write, matrix: &Matrix) -> Result<(), Failure> {
    let mut writer = csv::Writer::from_writer(out);
    let names = matrix.groups.iter().map(|group| group.name.short.as_str());
    writer.write_record(["from \\ to"].into_iter().chain(names)).map_err(std::io::Error::from)?;
    for (group, row) in matrix.groups.iter().zip(&matrix.rows) {
        let cells = row.iter().map(words);
        let record = [group.name.short.clone()].into_iter().chain(cells);
        writer.write_record(record).map_err(std::io::Error::from)?;
    }
    Ok(writer.flush()?)
}
