//! Lives: collector.
//! Called by: `config` and `main`.
//! May touch: standard error.
//! Never: writes to standard output, which belongs to answers.

use std::io::IsTerminal;

use serde::Deserialize;
use tracing_subscriber::EnvFilter;

/// How to log.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct LogConfig {
    /// error, warn, info, debug or trace; or a filter such as "info,weir_collector=debug".
    pub level: String,
    /// One line of text or one JSON object for each event.
    pub format: LogFormat,
}

/// How an event is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "camelCase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// For machines.
    Json,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { level: "info".to_owned(), format: LogFormat::Text }
    }
}

impl LogConfig {
    /// Every fault of the section.
    #[must_use]
    pub fn faults(&self, field: &str) -> Vec<String> {
        // A lone word that is no level would be read as the name of a module, and everything else be silenced.
        let lone = !self.level.contains(['=', ',']);
        if lone && self.level.parse::<tracing::level_filters::LevelFilter>().is_err() {
            return vec![format!("{field}.level: not one of off, error, warn, info, debug, trace ({})", self.level)];
        }
        match EnvFilter::builder().parse(&self.level) {
            Ok(_) => Vec::new(),
            Err(error) => vec![format!("{field}.level: {error} ({})", self.level)],
        }
    }

    /// Sends events to standard error from now on.
    pub fn start(&self) {
        let filter = EnvFilter::builder().parse_lossy(&self.level);
        let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        let log = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colour).with_writer(std::io::stderr);
        let started = match self.format {
            LogFormat::Text => log.try_init(),
            LogFormat::Json => log.json().try_init(),
        };
        if let Err(error) = started {
            tracing::debug!(error, "a logger was there already");
        }
    }
}
