//! Lives: ctl.
//! Called by: `render` and verbs.
//! May touch: nothing.
//! Never: lets text from the network steer the terminal.

use std::borrow::Cow;

use anstyle::{AnsiColor, Style};

use crate::view::Verdict;

/// No style.
pub const PLAIN: Style = Style::new();
/// Headings.
pub const BOLD: Style = Style::new().bold();
/// Less important.
pub const DIM: Style = Style::new().dimmed();
/// Well.
pub const GOOD: Style = AnsiColor::Green.on_default();
/// Refused or failed.
pub const BAD: Style = AnsiColor::Red.on_default().bold();
/// Odd but working.
pub const ODD: Style = AnsiColor::Yellow.on_default();

/// The style of a verdict.
pub const fn verdict(verdict: Verdict) -> Style {
    match verdict {
        Verdict::Allow => GOOD,
        Verdict::Deny => BAD,
        Verdict::Audit => ODD,
        Verdict::Unknown => DIM,
    }
}

/// The style of a word that says whether something works.
pub fn state(word: &str) -> Style {
    match word {
        "attached" | "connected" | "native" | "yes" => GOOD,
        "waiting" | "connecting" | "generic" => ODD,
        "failed" | "no" => BAD,
        _ => PLAIN,
    }
}

/// A text in a style.
pub fn paint(style: Style, text: &str) -> String {
    format!("{style}{text}{style:#}")
}

/// Text from elsewhere, with control characters made visible: a process may call itself anything.
pub fn clean(text: &str) -> Cow<'_, str> {
    match text.chars().any(char::is_control) {
        true => {
            let visible = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
            Cow::Owned(text.chars().map(visible).collect())
        }
        false => Cow::Borrowed(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_shown_not_obeyed() {
        for (text, shown) in [("curl", "curl"), ("a\x1b[31mb", "a\\u{1b}[31mb"), ("a\nb", "a\\nb"), ("é", "é")] {
            assert_eq!(clean(text), shown);
        }
    }
}
