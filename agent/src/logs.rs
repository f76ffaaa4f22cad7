//! Lives: weir-agent.
//! Called by: `main`, once the configuration is known.
//! May touch: the process's log output (standard error).
//! Never: shows more than was asked for; libraries stay at WARN unless `RUST_LOG` says otherwise.

use tracing_subscriber::EnvFilter;

use crate::config::Log;

/// Starts logging.
pub fn start(log: &Log) {
    let filter = EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| EnvFilter::new(format!("{},h2=warn,hyper=warn,tower=warn,rustls=warn", log.level)));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    if log.json {
        builder.json().init();
    } else {
        builder.init();
    }
}
