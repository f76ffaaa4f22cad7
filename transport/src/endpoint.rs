//! Lives: transport.
//! Called by: configuration files and command lines that name a service.
//! May touch: nothing.
//! Never: resolves a name.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::TransportError;

/// Where a service is reached.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub enum Endpoint {
    /// `unix:/path`: a socket on this host.
    Unix(PathBuf),
    /// `https://host:port`: mutual TLS 1.3.
    Tls {
        /// DNS name or IP address.
        host: String,
        /// TCP port.
        port: u16,
    },
    /// `http://host:port`: no protection at all; needs `insecure`.
    Plain {
        /// DNS name or IP address.
        host: String,
        /// TCP port.
        port: u16,
    },
}

impl FromStr for Endpoint {
    type Err = TransportError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let fault = |problem| TransportError::Endpoint { text: text.to_owned(), problem };
        if let Some(path) = text.strip_prefix("unix:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            return match path.starts_with('/') {
                true => Ok(Self::Unix(PathBuf::from(path))),
                false => Err(fault("the path of a socket must be absolute")),
            };
        }
        if let Some(rest) = text.strip_prefix("https://") {
            return host_port(rest).map(|(host, port)| Self::Tls { host, port }).map_err(fault);
        }
        if let Some(rest) = text.strip_prefix("http://") {
            return host_port(rest).map(|(host, port)| Self::Plain { host, port }).map_err(fault);
        }
        Err(fault("it does not say how to connect"))
    }
}

fn host_port(text: &str) -> Result<(String, u16), &'static str> {
    let text = text.strip_suffix('/').unwrap_or(text);
    let (host, port) = text.rsplit_once(':').ok_or("the port is missing")?;
    let port = port.parse().ok().filter(|port| *port != 0).ok_or("the port is not a number from 1 to 65535")?;
    let host = match host.strip_prefix('[') {
        Some(inner) => inner.strip_suffix(']').ok_or("the bracket is not closed")?,
        None if host.contains(':') => return Err("an IPv6 address is written in brackets"),
        None => host,
    };
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':');
    match host.is_empty() || !host.chars().all(legal) {
        true => Err("the host is not a name or an address"),
        false => Ok((host.to_owned(), port)),
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scheme, host, port) = match self {
            Self::Unix(path) => return write!(f, "unix:{}", path.display()),
            Self::Tls { host, port } => ("https", host, port),
            Self::Plain { host, port } => ("http", host, port),
        };
        match host.contains(':') {
            true => write!(f, "{scheme}://[{host}]:{port}"),
            false => write!(f, "{scheme}://{host}:{port}"),
        }
    }
}

impl TryFrom<String> for Endpoint {
    type Error = TransportError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Endpoint> for String {
    fn from(endpoint: Endpoint) -> Self {
        endpoint.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good_addresses_are_read_and_written_back() {
        for (text, written) in [
            ("unix:/run/weir/agent.sock", "unix:/run/weir/agent.sock"),
            ("unix:///run/weir/agent.sock", "unix:/run/weir/agent.sock"),
            ("https://node-1.example:7443", "https://node-1.example:7443"),
            ("https://[2001:db8::1]:7443/", "https://[2001:db8::1]:7443"),
            ("http://127.0.0.1:80", "http://127.0.0.1:80"),
        ] {
            assert_eq!(text.parse::<Endpoint>().unwrap().to_string(), written, "{text}");
        }
    }

    #[test]
    fn bad_addresses_say_what_is_wrong() {
        for (text, problem) in [
            ("unix:agent.sock", "absolute"),
            ("unix:", "absolute"),
            ("https://host", "port is missing"),
            ("https://host:0", "1 to 65535"),
            ("https://host:70000", "1 to 65535"),
            ("https://2001:db8::1:7443", "brackets"),
            ("https://[::1:7443", "bracket is not closed"),
            ("https://:7443", "not a name"),
            ("https://a b:7443", "not a name"),
            ("http://user@host:80", "not a name"),
            ("/run/weir/agent.sock", "how to connect"),
            ("tcp://host:1", "how to connect"),
        ] {
            let fault = text.parse::<Endpoint>().unwrap_err().to_string();
            assert!(fault.contains(problem) && fault.contains(text), "{text}: {fault}");
        }
    }
}
