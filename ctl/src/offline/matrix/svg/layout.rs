//! Lives: ctl.
//! Called by: the picture of `policy matrix`.
//! May touch: nothing.
//! Never: lets a picture grow wider than a page; cells shrink, and their words go.

use weir_policy::reach::Cell;

use super::super::{Matrix, words};

/// Widest picture, in pixels.
const WIDTH: usize = 1600;
/// Narrowest, so that the legend fits.
const NARROWEST: usize = 760;
/// Margin around everything.
pub const MARGIN: usize = 24;
/// Room for title and subtitle.
const TITLE: usize = 60;
/// Room for the legend.
pub const LEGEND: usize = 56;
/// Width of a character of a label, and of the smaller ones in cells, rounded up.
const LETTER: usize = 8;
pub const SMALL: usize = 7;
/// Longest label, in characters; the whole name is in the tooltip.
pub const LABEL: usize = 34;

/// How a cell is filled: its class in the style sheet and its words in the legend.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Fill {
    Nothing,
    Few,
    Many,
    All,
    SomeFew,
    SomeMany,
    SomeAll,
    Audit,
    Silent,
}

impl Fill {
    pub const LEGEND: [(Self, &'static str); 7] = [
        (Self::Nothing, "nothing passes"),
        (Self::Few, "some ports"),
        (Self::Many, "most ports"),
        (Self::All, "all ports"),
        (Self::SomeFew, "striped: between some of the ends"),
        (Self::Audit, "audit: passes, would be denied"),
        (Self::Silent, "no policy has a say"),
    ];

    pub const fn class(self) -> &'static str {
        match self {
            Self::Nothing => "no",
            Self::Few => "few",
            Self::Many => "many",
            Self::All => "all",
            Self::SomeFew => "some-few",
            Self::SomeMany => "some-many",
            Self::SomeAll => "some-all",
            Self::Audit => "audit",
            Self::Silent => "silent",
        }
    }

    /// With only some ports asked about, those are "all".
    pub fn of(cell: &Cell, asked: usize) -> Self {
        let striped = cell.every != cell.some;
        match cell.some.size() {
            _ if !cell.judged => Self::Silent,
            _ if !cell.audited.is_empty() => Self::Audit,
            0 => Self::Nothing,
            most if most >= asked => {
                if striped {
                    Self::SomeAll
                } else {
                    Self::All
                }
            }
            most if most * 2 > asked => {
                if striped {
                    Self::SomeMany
                } else {
                    Self::Many
                }
            }
            _ => {
                if striped {
                    Self::SomeFew
                } else {
                    Self::Few
                }
            }
        }
    }
}

/// Where everything stands.
pub struct Layout {
    labels: usize,
    /// Room for the labels above the columns, which run upwards.
    heads: usize,
    pub cell: (usize, usize),
    /// Whether cells are wide enough to say what they say.
    pub worded: bool,
    pub width: usize,
    pub height: usize,
}

impl Layout {
    pub fn of(matrix: &Matrix) -> Self {
        let rows = matrix.groups.len().max(1);
        let longest = matrix.groups.iter().map(|group| shortened(&group.name.short, LABEL).chars().count()).max();
        let labels = longest.unwrap_or(0) * LETTER + 16;
        let room = (WIDTH - 2 * MARGIN).saturating_sub(labels) / rows;
        let cells = || matrix.rows.iter().flatten();
        let wanted = cells().map(|cell| words(cell).chars().count()).max().unwrap_or(0).clamp(6, 22) * SMALL + 12;
        let worded = room >= 64;
        let cell = if worded { (room.min(wanted), 32) } else { (room.clamp(6, 26), room.clamp(6, 26)) };
        let width = 2 * MARGIN + labels + cell.0 * rows;
        Self {
            labels,
            heads: labels.min(LABEL * LETTER),
            cell,
            worded,
            width: width.max(NARROWEST),
            height: 2 * MARGIN + TITLE + labels + cell.1 * rows + LEGEND,
        }
    }

    pub const fn left(&self) -> usize {
        MARGIN + self.labels
    }

    pub const fn top(&self) -> usize {
        MARGIN + TITLE + self.heads
    }
}

/// A text cut to a length.
pub fn shortened(text: &str, most: usize) -> String {
    match text.chars().count() > most {
        true => text.chars().take(most.saturating_sub(1)).chain(['\u{2026}']).collect(),
        false => text.to_owned(),
    }
}
