//! Lives: transport.
//! Called by: the configuration of agent and collector, which embeds these sections.
//! May touch: nothing; files are opened later, once the whole configuration is known to be sound.
//! Never: stops at the first fault.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::{ClientTls, Endpoint, TransportError};

/// Where a service listens. At least one of the two is needed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ListenConfig {
    /// A Unix socket, for processes of this host.
    #[serde(default)]
    pub socket: Option<SocketConfig>,
    /// A TCP port, for the network.
    #[serde(default)]
    pub tcp: Option<TcpConfig>,
}

/// A Unix socket and who may use it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SocketConfig {
    /// Absolute path. A stale socket file there is replaced.
    pub path: PathBuf,
    /// User ids that may connect. Root and the user of the service itself always may.
    #[serde(default)]
    pub allowed_uids: Vec<u32>,
}

/// A TCP port: mutual TLS, or plain where `insecure` says so.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TcpConfig {
    /// Address and port, such as `0.0.0.0:7443`.
    pub listen: SocketAddr,
    /// Certificates. Required unless `insecure`.
    #[serde(default)]
    pub tls: Option<TlsFiles>,
    /// No TLS: anyone who reaches the port may do anything. For tests on a closed network.
    #[serde(default)]
    pub insecure: bool,
}

/// PEM files of a server.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TlsFiles {
    /// The server's certificate, followed by any intermediate ones.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// Authorities whose client certificates are accepted.
    pub client_ca: PathBuf,
}

/// A service to connect to.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ConnectConfig {
    /// `unix:/path`, `https://host:port`, or `http://host:port` with `insecure`.
    pub address: Endpoint,
    /// Certificates for `https`.
    #[serde(default)]
    pub tls: Option<ClientTlsFiles>,
    /// Accept an address that is not encrypted.
    #[serde(default)]
    pub insecure: bool,
}

/// PEM files of a client.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClientTlsFiles {
    /// The client's certificate, followed by any intermediate ones.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// Authorities that may sign the server's certificate.
    pub ca: PathBuf,
    /// Name expected in the server's certificate; the host of the address by default.
    #[serde(default)]
    pub server_name: Option<String>,
}

/// A service that is not Weir's: whoever it is, it need not know us by a certificate.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ForeignTlsFiles {
    /// Authorities that may sign the server's certificate.
    pub ca: PathBuf,
    /// A certificate to show if the server asks for one, followed by any intermediate ones.
    #[serde(default)]
    pub certificate: Option<PathBuf>,
    /// Its private key.
    #[serde(default)]
    pub key: Option<PathBuf>,
    /// Name expected in the server's certificate; the host of the address by default.
    #[serde(default)]
    pub server_name: Option<String>,
}

impl ListenConfig {
    /// Every fault of the section, each as `FIELD: problem`; empty when it is sound. `field` is the section's own path.
    #[must_use]
    pub fn faults(&self, field: &str) -> Vec<String> {
        let mut faults = Vec::new();
        if self.socket.is_none() && self.tcp.is_none() {
            faults.push(format!("{field}: nothing to listen on; set {field}.socket or {field}.tcp"));
        }
        if let Some(socket) = self.socket.as_ref().filter(|socket| !socket.path.is_absolute()) {
            faults.push(format!("{field}.socket.path: must be absolute ({})", socket.path.display()));
        }
        match self.tcp.as_ref().map(|tcp| (tcp.tls.is_some(), tcp.insecure)) {
            Some((false, false)) => {
                faults.push(format!("{field}.tcp: needs tls (or insecure: true on a closed network)"))
            }
            Some((true, true)) => faults.push(format!("{field}.tcp: tls and insecure exclude each other")),
            Some((true, false) | (false, true)) | None => {}
        }
        faults
    }
}

impl ConnectConfig {
    /// Every fault of the section, each as `FIELD: problem`; empty when it is sound.
    #[must_use]
    pub fn faults(&self, field: &str) -> Vec<String> {
        let security = Security { address: &self.address, tls: self.tls.is_some(), insecure: self.insecure };
        security.fault([field, "address"], "certificate, key and ca").into_iter().collect()
    }

    /// Reads the certificates, if any, and gives a channel; see [`crate::connect`].
    ///
    /// # Errors
    /// A file that cannot be used, or an address that needs what is not there.
    pub fn connect(&self) -> Result<tonic::transport::Channel, TransportError> {
        let tls = self.tls.as_ref().map(ClientTls::from_files).transpose()?;
        crate::connect(&self.address, tls.as_ref(), self.insecure)
    }
}

impl ForeignTlsFiles {
    /// Every fault of the section, each as `FIELD: problem`; empty when it is sound.
    #[must_use]
    pub fn faults(&self, field: &str) -> Vec<String> {
        match self.certificate.is_some() == self.key.is_some() {
            true => Vec::new(),
            false => vec![format!("{field}: certificate and key belong together; give both or neither")],
        }
    }
}

/// An address and what is said about its encryption.
#[derive(Clone, Copy, Debug)]
pub struct Security<'a> {
    /// The address.
    pub address: &'a Endpoint,
    /// Whether certificates are named.
    pub tls: bool,
    /// Whether it may go unencrypted.
    pub insecure: bool,
}

impl Security<'_> {
    /// What is wrong between them, if anything. `[section, key]` is where the address is written; `needed` is what `https`
    /// needs.
    #[must_use]
    pub fn fault(&self, [section, key]: [&str; 2], needed: &str) -> Option<String> {
        let address = self.address;
        match (address, self.tls, self.insecure) {
            (Endpoint::Tls { .. }, false, _) => Some(format!("{section}.tls: {address} needs {needed}")),
            (Endpoint::Plain { .. }, _, false) => {
                Some(format!("{section}.{key}: {address} is not encrypted; use https:// or say insecure: true"))
            }
            (Endpoint::Plain { .. }, true, true) => Some(format!("{section}: tls and insecure exclude each other")),
            (Endpoint::Tls { .. }, true, true) => Some(format!("{section}.insecure: has no meaning with https://")),
            (Endpoint::Unix(_) | Endpoint::Plain { .. } | Endpoint::Tls { .. }, _, _) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listen(text: &str) -> ListenConfig {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn all_faults_of_a_listen_section_are_reported_together() {
        for (text, expected) in [
            (r#"{}"#, vec!["nothing to listen on"]),
            (r#"{"socket":{"path":"/run/a.sock"}}"#, vec![]),
            (r#"{"socket":{"path":"a.sock"},"tcp":{"listen":"[::]:1"}}"#, vec!["must be absolute", "needs tls"]),
            (r#"{"tcp":{"listen":"[::]:1","insecure":true}}"#, vec![]),
        ] {
            let faults = listen(text).faults("grpc");
            assert_eq!(faults.len(), expected.len(), "{text}: {faults:?}");
            for (fault, part) in faults.iter().zip(expected) {
                assert!(fault.contains(part) && fault.starts_with("grpc"), "{fault}");
            }
        }
    }

    #[test]
    fn unknown_keys_are_refused() {
        let fault = serde_json::from_str::<ListenConfig>(r#"{"socket":{"path":"/a","mode":1}}"#).unwrap_err();
        assert!(fault.to_string().contains("unknown field `mode`"), "{fault}");
    }

    #[test]
    fn a_connection_off_the_host_is_encrypted_or_says_it_is_not() {
        for (text, sound) in [
            (r#"{"address":"unix:/run/c.sock"}"#, true),
            (r#"{"address":"https://c:7444"}"#, false),
            (r#"{"address":"http://c:7444"}"#, false),
            (r#"{"address":"http://c:7444","insecure":true}"#, true),
            (r#"{"address":"https://c:7444","tls":{"certificate":"a","key":"b","ca":"c"}}"#, true),
        ] {
            let config: ConnectConfig = serde_json::from_str(text).unwrap();
            assert_eq!(config.faults("collector").is_empty(), sound, "{text}");
            if !sound {
                assert!(config.connect().is_err(), "{text}");
            }
        }
    }
}
