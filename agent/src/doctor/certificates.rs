//! Lives: weir-agent, `--doctor`: the files of TLS.
//! Called by: `doctor`.
//! May touch: certificates and keys, reading.
//! Never: shows what is in them beside times.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

use weir_policy::Timestamp;
use weir_transport::{ClientTls, ServerTls, TransportError, Validity, validities};

use super::{Check, Outcome};
use crate::config::{Config, TlsFiles};

/// A certificate that ends within so many seconds is worth a warning.
const SOON: u64 = 7 * 24 * 3600;

pub(super) fn checks(config: &Config) -> Vec<Check> {
    let server = config.grpc.tcp.as_ref().and_then(|tcp| tcp.tls.as_ref());
    let client = config.collector.as_ref().and_then(|collector| collector.tls.as_ref());
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let server = server.map(|tls| {
        let loaded = ServerTls::load(&tls.certificate, &tls.key, &tls.ca).map(drop);
        check("grpc.tcp.tls", tls, loaded, now)
    });
    let client = client.map(|tls| {
        let loaded = ClientTls::load(&tls.certificate, &tls.key, &tls.ca, None).map(drop);
        check("collector.tls", tls, loaded, now)
    });
    server.into_iter().chain(client).collect()
}

/// `loaded`: what the agent's own way of reading them says, which also compares key and certificate.
fn check(name: &'static str, tls: &TlsFiles, loaded: Result<(), TransportError>, now: u64) -> Check {
    if let Err(error) = loaded {
        return Check::fail(
            name,
            weir_transport::why(&error),
            format!("correct the files of {name} or their permissions"),
        );
    }
    let mut worst = Outcome::Ok;
    let mut found = Vec::new();
    for (path, own) in [(&tls.certificate, true), (&tls.ca, false)] {
        let (outcome, said) = times(path, own, now);
        worst = worst.max(outcome);
        found.push(said);
    }
    let mut remedy = if worst == Outcome::Ok {
        String::new()
    } else {
        "renew what ends or has ended, or correct the clock".to_owned()
    };
    if let Some(mode) = fs::metadata(&tls.key).ok().map(|file| file.mode() & 0o777).filter(|mode| mode & 0o077 != 0) {
        worst = worst.max(Outcome::Warn);
        found.push(format!("others may read the key {} (mode {mode:04o})", tls.key.display()));
        let close = format!("chmod 0600 {}", tls.key.display());
        remedy = if remedy.is_empty() { close } else { format!("{remedy}; {close}") };
    }
    Check::new(name, worst, found.join("; "), remedy)
}

/// The first certificate of a file that stands out, or that ends first.
fn times(path: &Path, own: bool, now: u64) -> (Outcome, String) {
    let file = path.file_name().unwrap_or_default().to_string_lossy();
    let all: Vec<Validity> = validities(path).unwrap_or_default().into_iter().flatten().collect();
    let when = |seconds: u64| Timestamp(seconds.saturating_mul(1_000_000_000));
    let bad = |validity: &&Validity| now < validity.not_before || now > validity.not_after;
    if let Some(validity) = all.iter().find(bad) {
        // Of authorities one that has ended does no harm beside one that has not.
        let outcome = if own || all.iter().all(|one| bad(&one)) { Outcome::Fail } else { Outcome::Warn };
        let said = match now < validity.not_before {
            true => format!("{file} is not valid before {}", when(validity.not_before)),
            false => format!("{file} has ended at {}", when(validity.not_after)),
        };
        return (outcome, said);
    }
    match all.iter().map(|validity| validity.not_after).min() {
        Some(end) if end - now < SOON => (Outcome::Warn, format!("{file} ends at {}", when(end))),
        Some(end) => (Outcome::Ok, format!("{file} is valid until {}", when(end))),
        None => (Outcome::Warn, format!("{file}: its times cannot be read")),
    }
}
