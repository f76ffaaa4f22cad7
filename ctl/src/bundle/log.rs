//! Lives: ctl, the agent's log for a support bundle.
//! Called by: `bundle`.
//! May touch: the file it is given, else journalctl.
//! Never: copies a line whole that speaks of a secret. A secret that no word announces cannot be known.

use std::io;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt, SeekFrom};
use tokio::process::Command;
use tokio::time::timeout;

/// How much of a log is kept: its end.
const LONGEST: u64 = 1 << 20;
/// Longest wait for journalctl.
const PATIENCE: Duration = Duration::from_secs(15);
/// Lines asked of it.
const LINES: &str = "2000";
/// Words after which the rest of a line is not shown.
const SECRET: [&str; 14] = [
    "password",
    "passwd",
    "pwd",
    "secret",
    "token",
    "authorization",
    "bearer",
    "credential",
    "cookie=",
    "cookie:",
    "api_key",
    "api-key",
    "apikey",
    "private_key",
];
const REDACTED: &str = "[redacted]";

/// The end of the log. What may be the rest of something that began before it is not shown.
pub async fn tail(file: Option<&Path>) -> Result<Vec<u8>, String> {
    let text = match file {
        Some(path) => end_of(path).await.map_err(|error| format!("{}: {error}", path.display()))?,
        None => journal().await?,
    };
    Ok(redacted(&text).into_bytes())
}

async fn end_of(path: &Path) -> io::Result<String> {
    let mut file = File::open(path).await?;
    let length = file.metadata().await?.len();
    let start = length.saturating_sub(LONGEST);
    file.seek(SeekFrom::Start(start)).await?;
    let mut bytes = Vec::new();
    file.take(LONGEST).read_to_end(&mut bytes).await?;
    let text = String::from_utf8_lossy(&bytes).into_owned();
    // The first line may have lost the word that announces a secret.
    Ok(if start == 0 { text } else { text.split_once('\n').map(|(_, rest)| rest.to_owned()).unwrap_or_default() })
}

async fn journal() -> Result<String, String> {
    const HINT: &str = "name the agent's log with --log";
    let mut command = Command::new("journalctl");
    command.args(["--unit", "weir-agent", "--no-pager", "--quiet", "--output", "short-iso", "--lines", LINES]);
    command.stdin(Stdio::null()).kill_on_drop(true);
    match timeout(PATIENCE, command.output()).await {
        Err(_) => Err(format!("journalctl did not end; {HINT}")),
        Ok(Err(error)) => Err(format!("journalctl: {error}; {HINT}")),
        Ok(Ok(output)) if !output.status.success() => Err(format!("journalctl: {}; {HINT}", output.status)),
        Ok(Ok(output)) if output.stdout.is_empty() => {
            Err(format!("the journal has nothing of the unit weir-agent; {HINT}"))
        }
        Ok(Ok(output)) => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
    }
}

fn redacted(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut in_pem = false;
    for line in text.lines() {
        let (begin, end) = (line.rfind("-----BEGIN "), line.rfind("-----END "));
        if begin.is_none() && end.is_some() && !in_pem {
            // It began before the log does: everything so far is of it.
            out.clear();
            out.push_str(&format!("{REDACTED}\n"));
        } else if begin.is_some() && !in_pem {
            let before = line.split("-----BEGIN ").next().unwrap_or_default();
            out.push_str(&format!("{}{REDACTED}\n", without_secrets(before)));
        } else if !in_pem {
            out.push_str(&without_secrets(line));
            out.push('\n');
        }
        in_pem = match (begin, end) {
            (Some(begin), Some(end)) => begin > end,
            (Some(_), None) => true,
            (None, Some(_)) => false,
            (None, None) => in_pem,
        };
    }
    out
}

fn without_secrets(line: &str) -> String {
    let lower = line.to_ascii_lowercase();
    // ASCII in lower case: places are the same in both.
    let end = SECRET.iter().filter_map(|word| Some(lower.find(word)? + word.len())).min();
    let (kept, cut) = match end.and_then(|end| line.get(..end)) {
        Some(kept) => (kept, format!(" {REDACTED}")),
        None => (line, String::new()),
    };
    format!("{}{cut}", without_users(kept))
}

/// What stands before the host of an address: `https://name:password@host`.
fn without_users(line: &str) -> String {
    let mut out = String::with_capacity(line.len());
    let mut rest = line;
    while let Some((before, after)) = rest.split_once("://") {
        out.push_str(before);
        out.push_str("://");
        let authority = after.find(|c: char| c.is_whitespace() || matches!(c, '/' | '"' | '\'')).unwrap_or(after.len());
        rest = match after.get(..authority).and_then(|authority| authority.rfind('@')) {
            Some(at) => {
                out.push_str(REDACTED);
                after.get(at..).unwrap_or_default()
            }
            None => after,
        };
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_announces_a_secret_is_cut_and_the_rest_stays() {
        for (line, shown) in [
            ("INFO enforcing generation=7", "INFO enforcing generation=7\n"),
            ("sent Authorization: Bearer CANARY", "sent Authorization [redacted]\n"),
            ("{\"Password\":\"CANARY\",\"n\":1}", "{\"Password [redacted]\n"),
            ("to https://me:CANARY@host:1/x and http://b", "to https://[redacted]@host:1/x and http://b\n"),
            ("é token=CANARY", "é token [redacted]\n"),
            ("key -----BEGIN PRIVATE KEY-----\nCANARY\n-----END PRIVATE KEY-----\nafter", "key [redacted]\nafter\n"),
            ("-----BEGIN X-----CANARY-----END X-----\nafter", "[redacted]\nafter\n"),
            ("-----BEGIN X-----\nCANARY", "[redacted]\n"),
            ("AAAA\nCANARY\n-----END PRIVATE KEY-----\nafter", "[redacted]\nafter\n"),
            ("password=CANARY -----BEGIN X-----", "password [redacted][redacted]\n"),
            ("-----BEGIN X-----\nA\n-----END X----- -----BEGIN Y-----\nCANARY\n-----END Y-----\nz", "[redacted]\nz\n"),
            ("x-api-key: CANARY", "x-api-key [redacted]\n"),
            ("Set-Cookie: CANARY; socket cookie 7", "Set-Cookie: [redacted]\n"),
            ("socket cookie 7", "socket cookie 7\n"),
        ] {
            assert_eq!(redacted(line), shown);
        }
    }
}
