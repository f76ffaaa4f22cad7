//! Lives: weir-agent, control.
//! Called by: `store` and `set_store`, for the first line of each file of the state directory.
//! May touch: nothing.
//! Never: takes a file of a later format for a damaged one, or for one of this format.
//!
//! A file begins with what it is, its format, and the rest: `# weir-agent: WHAT, format 2, REST`. Where no format is said it is 1.

/// The format that is written here, and the only one that is read.
pub const KNOWN: u32 = 1;

/// A file of a format that a later version writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "it is of format {found}, which a later version of Weir writes, and this agent knows format {KNOWN}: start an agent of that version \
     again, or move the file away. The file is as it was, and what is in force stays"
)]
pub struct Newer {
    /// What it says.
    pub found: u32,
}

/// Looks at the first line of a file that begins with `what`.
///
/// # Errors
/// It is of a later format.
pub fn check(text: &str, what: &str) -> Result<(), Newer> {
    let first = text.lines().next().unwrap_or_default();
    let said = first
        .strip_prefix(what)
        .and_then(|rest| rest.strip_prefix(", format ")?.split(',').next()?.trim().parse().ok());
    said.filter(|found| *found > KNOWN).map_or(Ok(()), |found| Err(Newer { found }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_later_format_is_found_in_the_first_line_and_nowhere_else() {
        let rows = [
            ("# weir-agent: it, save 7", Ok(())),
            ("# weir-agent: it, format 1, save 7", Ok(())),
            ("# weir-agent: it, format 2, save 7\nrest", Err(Newer { found: 2 })),
            ("# weir-agent: it, format 30", Err(Newer { found: 30 })),
            ("# weir-agent: it, format x", Ok(())),
            ("\n# weir-agent: it, format 2", Ok(())),
            ("", Ok(())),
        ];
        for (text, expected) in rows {
            assert_eq!(check(text, "# weir-agent: it"), expected, "{text}");
        }
    }
}
