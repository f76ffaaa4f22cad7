//! Lives: ctl.
//! Called by: `policy matrix`, for programs.
//! May touch: nothing.
//! Never: leaves a program to parse words: ports are ranges with their protocol.

use serde::Serialize;
use weir_policy::reach::{Cell, Part, PortSet};

use super::Matrix;

/// The matrix.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Json<'a> {
    /// The only ports asked about; absent: all.
    #[serde(skip_serializing_if = "Option::is_none")]
    ports: Option<Vec<String>>,
    /// Whether staged policies count as enforced.
    staged: bool,
    groups: Vec<Group<'a>>,
    /// Cells between groups, by their places in `groups`; where no policy has a say there is none.
    cells: Vec<JsonCell>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Group<'a> {
    name: &'a str,
    ends: &'a [String],
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct JsonCell {
    from: usize,
    to: usize,
    /// What passes between every two ends, in words.
    ports: String,
    /// The same as ranges.
    every: Vec<Range>,
    /// What passes between some of them only.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    some: Vec<Range>,
    /// What passes only because a policy is in audit mode.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    audited: Vec<Range>,
}

/// Ports of a protocol, or all of it; the protocol may be `all`, or `others` for all that have no name.
#[derive(Serialize)]
struct Range {
    protocol: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    first: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last: Option<u16>,
}

impl<'a> From<&'a Matrix> for Json<'a> {
    fn from(matrix: &'a Matrix) -> Self {
        let group =
            |(group, ends): (&'a weir_policy::reach::Group, &'a Vec<String>)| Group { name: &group.name.short, ends };
        let cells = matrix.rows.iter().enumerate().flat_map(|(from, row)| {
            row.iter().enumerate().filter(|(_, cell)| cell.judged).map(move |(to, cell)| JsonCell::of(from, to, cell))
        });
        Self {
            ports: matrix.ports.as_ref().map(|ports| ports.iter().map(ToString::to_string).collect()),
            staged: matrix.staged,
            groups: matrix.groups.iter().zip(&matrix.members).map(group).collect(),
            cells: cells.collect(),
        }
    }
}

impl JsonCell {
    fn of(from: usize, to: usize, cell: &Cell) -> Self {
        let Cell { every, some, audited, .. } = cell;
        Self {
            from,
            to,
            ports: every.to_string(),
            every: ranges(every),
            some: ranges(&some.minus(every)),
            audited: ranges(audited),
        }
    }
}

fn ranges(set: &PortSet) -> Vec<Range> {
    let range = |Part { protocol, ports }| Range {
        protocol,
        first: ports.map(|(first, _)| first),
        last: ports.map(|(_, last)| last),
    };
    set.parts().into_iter().map(range).collect()
}
