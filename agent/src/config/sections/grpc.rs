//! Lives: weir-agent, configuration.
//! Called by: `sections`.
//! May touch: its section of the file and the flags.
//! Never: a default that differs from `options`.

use std::{net::SocketAddr, path::PathBuf};

use super::{
    BOOLEANS,
    layers::{Layers, Sources},
    tls::tls_files,
};
use crate::config::{Grpc, Tcp};

/// `grpc`: where the API listens.
pub fn grpc(reader: &mut Sources, section: &Layers<'_>) -> Grpc {
    let socket = section.below(reader, "socket");
    let path = socket.read(reader, |reader, section| reader.path(section, "path"));
    let uids = socket.read(reader, |reader, section| reader.list(section, "allowedUids", "a user id such as 0"));
    let tcp = section.has("tcp").then(|| section.below(reader, "tcp")).and_then(|tcp| listen(reader, &tcp));
    Grpc {
        socket: path.unwrap_or_else(|| PathBuf::from("/run/weir/agent.sock")),
        allowed_uids: uids.unwrap_or_else(|| vec![0]),
        tcp,
    }
}

fn listen(reader: &mut Sources, section: &Layers<'_>) -> Option<Tcp> {
    let listen: Option<SocketAddr> = section.read(reader, |reader, section| {
        reader.parsed(section, "listen", "is no address and port", "write ADDRESS:PORT, such as 0.0.0.0:7443")
    });
    if !section.has("listen") {
        reader.file.fault("grpc.tcp.listen", None, "is missing", "write ADDRESS:PORT, such as 0.0.0.0:7443");
    }
    let insecure =
        section.read(reader, |reader, section| reader.choice(section, "insecure", BOOLEANS)).unwrap_or(false);
    let tls_below = section.below(reader, "tls");
    let tls = section.has("tls").then(|| tls_files(reader, &tls_below, "clientCa")).flatten();
    if section.has("tls") == insecure {
        let problem = if insecure {
            "tls and insecure: true contradict each other"
        } else {
            "has neither tls nor insecure: true"
        };
        reader.file.fault(
            "grpc.tcp",
            section.file.get("insecure"),
            problem,
            "give the three tls files and leave insecure out",
        );
    }
    Some(Tcp { listen: listen?, tls })
}
