//! Lives: weir-agent, configuration.
//! Called by: `sections`.
//! May touch: its section of the file and the flags.
//! Never: a default that differs from `options`.

use super::layers::{Layers, Sources};
use crate::config::TlsFiles;

/// The three files of one side of mutual TLS.
pub fn tls_files(reader: &mut Sources, section: &Layers<'_>, ca: &str) -> Option<TlsFiles> {
    let mut file = |key: &str| {
        let path = section.read(reader, |reader, section| reader.path(section, key));
        if !section.has(key) {
            let field = section.file.field(key);
            reader.file.fault(
                &field,
                None,
                "is missing",
                "TLS here is always mutual: it takes a certificate, its key and the authorities",
            );
        }
        path
    };
    let (certificate, key, ca) = (file("certificate"), file("key"), file(ca));
    Some(TlsFiles { certificate: certificate?, key: key?, ca: ca? })
}
