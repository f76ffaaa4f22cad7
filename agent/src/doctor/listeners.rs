//! Lives: weir-agent, `--doctor`: where the agent listens and where it sends.
//! Called by: `doctor`.
//! May touch: binds the configured ports for a moment where no agent runs; knocks at Unix sockets and at the collector.
//! Never: sends a byte; removes a socket.

use std::{
    io,
    net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs as _},
    os::unix::{fs::FileTypeExt as _, net::UnixStream},
    path::Path,
    time::Duration,
};

use weir_transport::Endpoint;

use super::{Check, others::Running};
use crate::config::{Collector, Config};

/// Longest wait for the collector.
const PATIENCE: Duration = Duration::from_secs(1);

pub(super) fn checks(config: &Config, running: &Running) -> Vec<Check> {
    let mut checks = Vec::new();
    let ports = [
        ("grpc.tcp.listen", config.grpc.tcp.as_ref().map(|tcp| tcp.listen)),
        ("metrics.listen", config.metrics.map(|metrics| metrics.listen)),
    ];
    let ports: Vec<(&'static str, SocketAddr)> = ports.into_iter().filter_map(|(name, at)| Some((name, at?))).collect();
    if let Some(pid) = running.pid() {
        let has = format!("process {pid}, the running agent, has it");
        checks.push(Check::skipped("grpc.socket", has.clone()));
        checks.extend(ports.into_iter().map(|(name, _)| Check::skipped(name, has.clone())));
    } else {
        checks.push(socket(&config.grpc.socket));
        checks.extend(ports.into_iter().map(|(name, at)| port(name, at)));
    }
    checks.push(collector(config.collector.as_ref()));
    checks
}

fn port(name: &'static str, at: SocketAddr) -> Check {
    match TcpListener::bind(at) {
        Ok(_) => Check::ok(name, format!("{at} is free")),
        Err(error) => Check::fail(
            name,
            format!("{at} cannot be listened on: {error}"),
            format!("`ss -ltnp` shows who has it; stop it, or write another address and port for {name}"),
        ),
    }
}

fn socket(path: &Path) -> Check {
    const NAME: &str = "grpc.socket";
    let shown = path.display();
    match path.symlink_metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Check::ok(NAME, format!("{shown} is free")),
        Err(error) => Check::fail(NAME, format!("{shown}: {error}"), "correct the permissions of its directory"),
        Ok(file) if !file.file_type().is_socket() => {
            Check::fail(NAME, format!("{shown} is there and no socket"), "remove it, or write another grpc.socket.path")
        }
        Ok(_) => match UnixStream::connect(path) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                Check::ok(NAME, format!("{shown} was left behind and will be replaced"))
            }
            Err(error) => Check::warn(NAME, format!("{shown} is there: {error}"), "run the doctor as the agent's user"),
            Ok(_) => {
                Check::fail(NAME, format!("somebody answers at {shown}"), "stop it, or write another grpc.socket.path")
            }
        },
    }
}

fn collector(collector: Option<&Collector>) -> Check {
    const NAME: &str = "collector";
    let Some(Collector { address, .. }) = collector else {
        return Check::ok(NAME, "none is configured: decisions are counted, their records are not kept");
    };
    let reached = match address.parse() {
        Ok(Endpoint::Unix(path)) => UnixStream::connect(path).map(drop),
        Ok(Endpoint::Tls { host, port } | Endpoint::Plain { host, port }) => reach(&host, port),
        Err(error) => return Check::fail(NAME, error.to_string(), "correct collector.address"),
    };
    match reached {
        Ok(()) => Check::ok(NAME, format!("{address} answers")),
        Err(error) => Check::warn(
            NAME,
            format!("{address}: {error}"),
            "start it, or correct collector.address; until it answers, records wait in the agent's spool; what finds no room there is counted and told",
        ),
    }
}

fn reach(host: &str, port: u16) -> io::Result<()> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for at in (host, port).to_socket_addrs()? {
        match TcpStream::connect_timeout(&at, PATIENCE) {
            Ok(_) => return Ok(()),
            Err(error) => last = error,
        }
    }
    Err(last)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;
    use crate::doctor::Outcome;

    #[test]
    fn a_taken_port_is_named_and_a_free_one_is_free_afterwards() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = taken.local_addr().unwrap();
        let check = port("metrics.listen", at);
        assert!(check.outcome == Outcome::Fail && check.found.contains(&at.to_string()), "{check:?}");
        drop(taken);
        assert_eq!(port("metrics.listen", at).outcome, Outcome::Ok);
        TcpListener::bind(at).expect("left as it was");
    }

    #[test]
    fn a_socket_somebody_answers_at_fails_and_one_left_behind_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.sock");
        assert_eq!(socket(&path).outcome, Outcome::Ok);
        let listener = UnixListener::bind(&path).unwrap();
        assert_eq!(socket(&path).outcome, Outcome::Fail);
        drop(listener);
        assert!(socket(&path).found.contains("left behind") && path.exists());
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "").unwrap();
        assert_eq!(socket(&path).outcome, Outcome::Fail);
    }
}
