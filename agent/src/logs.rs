//! Lives: weir-agent.
//! Called by: `main`, once the configuration is known.
//! May touch: the process's log output (standard error).
//! Never: shows more than was asked for; libraries stay at WARN unless `RUST_LOG` says otherwise.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

use crate::config::Log;

/// Libraries that would fill DEBUG with lines about themselves.
const QUIET: &str = "aya=warn,aya_obj=warn,h2=warn,hyper=warn,hyper_util=warn,rustls=warn,tonic=warn,tower=warn";

/// Starts logging.
pub fn start(log: &Log) {
    let configured = || EnvFilter::new(format!("{},{QUIET}", log.level));
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| configured());
    let colours = std::io::stderr().is_terminal();
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(colours);
    if log.json {
        builder.json().init();
    } else {
        builder.init();
    }
}
