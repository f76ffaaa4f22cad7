//! Lives: host.
//! Called by: `kube`, to keep a document as it came.
//! May touch: nothing.
//! Never: writes what reads as another value: a quoted text stays quoted, a plain word stays plain.

use std::fmt::Write as _;

use super::yaml::{Node, Value};

/// The tree as YAML in flow style, without comments.
pub fn text(node: &Node) -> String {
    let mut out = String::new();
    write(node, &mut out);
    out.push('\n');
    out
}

fn write(node: &Node, out: &mut String) {
    match &node.value {
        Value::Scalar { text, plain } if *plain && is_plain(text) => out.push_str(text),
        Value::Scalar { text, plain: true } if text.is_empty() => out.push_str("null"),
        Value::Scalar { text, .. } => quoted(text, out),
        Value::List(items) => {
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                out.push_str(if index == 0 { "" } else { ", " });
                write(item, out);
            }
            out.push(']');
        }
        Value::Map(entries) => {
            out.push('{');
            for (index, (key, value)) in entries.iter().enumerate() {
                out.push_str(if index == 0 { "" } else { ", " });
                let mut name = String::new();
                quoted(&key.text, &mut name);
                // A longer key is one only behind a question mark (YAML 1.2.2, section 7.4.2).
                out.push_str(if name.chars().count() > LONGEST_KEY { "? " } else { "" });
                out.push_str(&name);
                out.push_str(": ");
                write(value, out);
            }
            out.push('}');
        }
    }
}

/// Characters of a key that readers recognise by the colon behind it, with some to spare.
const LONGEST_KEY: usize = 1000;

/// Words that mean the same inside braces without quotes; others are texts, and quotes do not change those.
fn is_plain(text: &str) -> bool {
    !text.is_empty()
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'+' | b'~'))
}

fn quoted(text: &str, out: &mut String) {
    out.push('"');
    for letter in text.chars() {
        match letter {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            letter if letter.is_control() || matches!(letter, '\u{2028}' | '\u{2029}' | '\u{feff}') => {
                // Writing into a string does not fail.
                let _ = write!(out, "\\U{:08x}", u32::from(letter));
            }
            letter => out.push(letter),
        }
    }
    out.push('"');
}
