//! Lives: weir-agent, configuration.
//! Called by: `sections`.
//! May touch: its section of the file and the flags.
//! Never: a default that differs from `options`.

use super::{
    BOOLEANS,
    layers::{Layers, Sources},
    tls::tls_files,
};
use crate::config::Collector;

/// `collector`: where records go; `None` for "none".
pub fn collector(reader: &mut Sources, section: &Layers<'_>) -> Option<Collector> {
    let address = section.read(reader, |reader, section| {
        let text = reader.text(section, "address")?;
        let known = ["unix:/", "https://", "http://"].iter().any(|scheme| text.starts_with(scheme)) || text == "none";
        if !known {
            let remedy = "write unix:/PATH, https://HOST:PORT, http://HOST:PORT or none";
            reader.fault("collector.address", section.get("address"), "is no address of a collector", remedy);
        }
        known.then_some(text)
    });
    let address = address.unwrap_or_else(|| "unix:/run/weir/collector.sock".to_owned());
    let insecure =
        section.read(reader, |reader, section| reader.choice(section, "insecure", BOOLEANS)).unwrap_or(false);
    let below = section.below(reader, "tls");
    let server_name = below.read(reader, |reader, section| reader.text(section, "serverName"));
    let tls = section.has("tls").then(|| tls_files(reader, &below, "ca")).flatten();
    if address.starts_with("https://") && !section.has("tls") {
        reader.file.fault(
            "collector.tls",
            section.file.get("address"),
            "is missing for an https address",
            "give certificate, key and ca",
        );
    }
    if address.starts_with("http://") && !insecure {
        let remedy = "use https with tls, or set collector.insecure: true to send records in the clear";
        reader.file.fault("collector.address", section.file.get("address"), "http is not protected", remedy);
    }
    (address != "none").then_some(Collector { address, tls, server_name, insecure })
}
