//! Lives: weir-agent, runtime.
//! Called by: `runtime`, when the agent is ready and when it stops.
//! May touch: the service manager's socket, if `NOTIFY_SOCKET` names one (sd_notify(3)).
//! Never: fails the agent because nobody listens.

use std::os::{
    linux::net::SocketAddrExt,
    unix::net::{SocketAddr, UnixDatagram},
};

/// The agent enforces.
pub fn ready() {
    send("READY=1");
}

/// The agent begins to stop.
pub fn stopping() {
    send("STOPPING=1");
}

fn send(message: &str) {
    let Some(name) = std::env::var_os("NOTIFY_SOCKET") else { return };
    if let Err(error) = deliver(&name, message) {
        tracing::warn!(error = %error, "the service manager could not be notified");
    }
}

fn deliver(name: &std::ffi::OsStr, message: &str) -> std::io::Result<()> {
    let bytes = std::os::unix::ffi::OsStrExt::as_bytes(name);
    let address = match bytes.strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(name)?,
    };
    UnixDatagram::unbound()?.send_to_addr(message.as_bytes(), &address).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_message_arrives_at_a_path() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        deliver(path.as_os_str(), "READY=1").unwrap();
        let mut buffer = [0; 32];
        let length = socket.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"READY=1");
    }
}
