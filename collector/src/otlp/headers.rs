//! Lives: collector, the file of headers.
//! Called by: `rpc::otlp`, once, at the start.
//! May touch: that file.
//! Never: shows a value, which may be a secret, in an error or a log.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// Largest file that is read, bytes: receivers take no more in headers either.
const MAX_BYTES: u64 = 16 << 10;

/// A header; its name is in lower case.
#[derive(Clone, PartialEq, Eq)]
pub struct Header {
    /// Name.
    pub name: String,
    /// Value, perhaps a secret.
    pub value: String,
}

/// Why a file of headers cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum HeadersError {
    /// The file cannot be read.
    #[error("otlp.headersFile {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The error underneath.
        source: io::Error,
    },
    /// A line is no header.
    #[error("otlp.headersFile {}, line {line}: {problem}; write NAME: VALUE, one a line", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// Which, from 1.
        line: usize,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The file is too large.
    #[error("otlp.headersFile {}: larger than {MAX_BYTES} bytes; is it the right file?", path.display())]
    Large {
        /// The file.
        path: PathBuf,
    },
}

/// Reads the file. Empty lines, and those that begin with `#`, are passed over.
///
/// # Errors
/// The file cannot be read, or a line of it is no header that may be sent.
pub fn read(path: &Path) -> Result<Vec<Header>, HeadersError> {
    let fault = |source| HeadersError::Read { path: path.to_owned(), source };
    let mut text = String::new();
    fs::File::open(path).map_err(fault)?.take(MAX_BYTES + 1).read_to_string(&mut text).map_err(fault)?;
    if text.len() as u64 > MAX_BYTES {
        return Err(HeadersError::Large { path: path.to_owned() });
    }
    let lines = text.lines().enumerate().map(|(index, line)| (index + 1, line.trim()));
    let lines = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|(line, text)| header(text).map_err(|problem| HeadersError::Line { path: path.to_owned(), line, problem }))
        .collect()
}

fn header(line: &str) -> Result<Header, &'static str> {
    let (name, value) = line.split_once(':').ok_or("there is no colon")?;
    let (name, value) = (name.trim().to_ascii_lowercase(), value.trim());
    let legal = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_' | '.');
    if name.is_empty() || !name.chars().all(legal) {
        return Err("the name is not made of letters, digits, '-', '_' and '.'");
    }
    if name.starts_with("grpc-") || matches!(name.as_str(), "te" | "content-type" | "user-agent" | "host") {
        return Err("this header is gRPC's own");
    }
    if name.ends_with("-bin") {
        return Err("headers whose name ends with -bin are binary and cannot be given");
    }
    if value.is_empty() || !value.chars().all(|c| c == ' ' || c.is_ascii_graphic()) {
        return Err("the value is empty or not printable ASCII");
    }
    Ok(Header { name, value: value.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(text: &str) -> Result<Vec<(String, String)>, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), text).unwrap();
        let headers = read(file.path()).map_err(|error| error.to_string())?;
        Ok(headers.into_iter().map(|header| (header.name, header.value)).collect())
    }

    #[test]
    fn headers_are_read_line_by_line() {
        let headers = from("# who we are\n\nAuthorization: Bearer a:b c\r\n x-scope-orgid:shop\n").unwrap();
        let expected = [("authorization", "Bearer a:b c"), ("x-scope-orgid", "shop")];
        assert_eq!(headers, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
        assert!(from("").unwrap().is_empty());
    }

    #[test]
    fn a_bad_line_is_named_and_its_value_is_not_shown() {
        for (line, problem) in [
            ("hunter2", "no colon"),
            ("a b: hunter2", "the name"),
            (": hunter2", "the name"),
            ("grpc-timeout: hunter2", "gRPC's own"),
            ("Content-Type: hunter2", "gRPC's own"),
            ("key-bin: hunter2", "binary"),
            ("key: hunter2\u{7f}", "the value"),
            ("key:", "the value"),
        ] {
            let fault = from(&format!("good: one\n{line}\n")).unwrap_err();
            assert!(fault.contains("line 2") && fault.contains(problem) && !fault.contains("hunter2"), "{fault}");
        }
        assert!(from(&"a".repeat(20_000)).unwrap_err().contains("larger than"));
        assert!(read(Path::new("/no/such/file")).err().unwrap().to_string().contains("/no/such/file"));
    }
}
