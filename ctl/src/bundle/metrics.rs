//! Lives: ctl, the metrics page for a support bundle.
//! Called by: `bundle`.
//! May touch: the address that the agent's configuration names.
//! Never: waits or reads without an end.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Longest wait for the page.
const PATIENCE: Duration = Duration::from_secs(5);
/// Longest page.
const LONGEST: u64 = 32 << 20;

/// What the page says.
pub async fn page(at: Option<&str>) -> Result<Vec<u8>, String> {
    let at = at.ok_or_else(|| "no metrics.listen is known".to_owned())?;
    match timeout(PATIENCE, get(at)).await {
        Ok(Ok(answer)) => body(answer).map_err(|why| format!("{at}: {why}")),
        Ok(Err(error)) => Err(format!("{at}: {error}")),
        Err(_) => Err(format!("{at}: no answer within {PATIENCE:?}")),
    }
}

/// HTTP/1.0: the answer ends with the connection, and comes in one piece.
async fn get(at: &str) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(at).await?;
    stream.write_all(b"GET /metrics HTTP/1.0\r\nHost: weir\r\n\r\n").await?;
    let mut answer = Vec::new();
    stream.take(LONGEST).read_to_end(&mut answer).await?;
    Ok(answer)
}

fn body(answer: Vec<u8>) -> Result<Vec<u8>, String> {
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n").ok_or("not an answer of HTTP")?;
    let (head, body) = answer.split_at(end);
    let status = String::from_utf8_lossy(head).lines().next().unwrap_or_default().to_owned();
    match status.split(' ').nth(1) {
        Some("200") => Ok(body.get(4..).unwrap_or_default().to_vec()),
        _ => Err(status.chars().take(80).collect()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_good_answer_is_a_page() {
        assert_eq!(body(b"HTTP/1.0 200 OK\r\nA: b\r\n\r\nweir 1\n".to_vec()), Ok(b"weir 1\n".to_vec()));
        assert_eq!(body(b"HTTP/1.1 503 Not now\r\n\r\nx".to_vec()), Err("HTTP/1.1 503 Not now".to_owned()));
        assert!(body(b"SSH-2.0".to_vec()).is_err());
    }
}
