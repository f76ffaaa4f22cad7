//! Lives: host.
//! Called by: `fields`, for every plain word where a text belongs.
//! May touch: nothing.
//! Never: sides with one version of YAML: a word that any of them takes for something else is not a text.

/// Whether YAML 1.1 or 1.2 readers take the plain word for something that is no text.
pub fn other_type(text: &str) -> bool {
    let word = text.to_ascii_lowercase();
    if matches!(word.as_str(), "true" | "false" | "yes" | "no" | "on" | "off" | ".inf" | "-.inf" | "+.inf" | ".nan") {
        return true;
    }
    let digits = word.trim_start_matches(['+', '-']).replace('_', "");
    let based =
        |prefix: &str, radix| digits.strip_prefix(prefix).is_some_and(|rest| u64::from_str_radix(rest, radix).is_ok());
    let numeric = digits.starts_with(|c: char| c.is_ascii_digit() || c == '.') && digits.parse::<f64>().is_ok();
    numeric || based("0x", 16) || based("0o", 8) || based("0b", 2) || sexagesimal(&digits)
}

/// YAML 1.1 counts in sixties where it sees colons: `22:30` is 1350 to its readers.
fn sexagesimal(digits: &str) -> bool {
    let (whole, _) = digits.split_once('.').unwrap_or((digits, ""));
    let mut parts = whole.split(':');
    let number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    let first = parts.next().is_some_and(number);
    let mut rest = parts.peekable();
    first && rest.peek().is_some() && rest.all(|part| number(part) && part.len() <= 2 && part < "60")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_any_reader_of_yaml_takes_for_a_number_or_truth_value_is_no_text() {
        let others = [
            "yes",
            "No",
            "ON",
            "off",
            "True",
            "0",
            "-1",
            "+1",
            "0777",
            "0o17",
            "0x1F",
            "0b101",
            "1_000",
            "1e3",
            "6.02e23",
            ".5",
            "5.",
            "-.5",
            ".inf",
            "-.INF",
            "+.Inf",
            ".NaN",
            "22:30",
            "1:59:59",
            "190:20:30.15",
            "99999999999999999999",
        ];
        let texts = [
            "web",
            "a1",
            "1a",
            "v1.2.3",
            "1.2.3",
            "y",
            "yess",
            "e3",
            "0xg",
            "10.0.0.1",
            "10.0.0.0/8",
            "22:60",
            "1:234",
            "fd00::2",
            "2026-12-24T18:00:00Z",
            "-",
            ".",
            "inf",
            "nan",
            "a:1",
        ];
        for word in others {
            assert!(other_type(word), "{word}");
        }
        for word in texts {
            assert!(!other_type(word), "{word}");
        }
    }
}
