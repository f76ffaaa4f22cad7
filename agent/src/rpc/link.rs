//! Lives: weir-agent, between the exporter's thread and status.
//! Called by: `export`, which sets it; `status`, which shows it.
//! May touch: its own memory.
//! Never: holds its lock while waiting for something.

use std::sync::{Mutex, PoisonError};

/// The state of the stream, for people.
#[derive(Debug)]
pub struct Link {
    collector: String,
    state: Mutex<LinkState>,
}

/// See [`Link`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkState {
    /// connected, connecting or disabled.
    pub word: &'static str,
    /// Why it is not connected.
    pub detail: String,
}

impl Link {
    /// A link to `collector`; `None` when no collector is configured.
    #[must_use]
    pub fn new(collector: Option<String>) -> Self {
        let word = if collector.is_some() { "connecting" } else { "disabled" };
        Self { collector: collector.unwrap_or_default(), state: Mutex::new(LinkState { word, detail: String::new() }) }
    }

    /// The collector's address.
    #[must_use]
    pub fn collector(&self) -> &str {
        &self.collector
    }

    /// The state now.
    #[must_use]
    pub fn state(&self) -> LinkState {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set(&self, word: &'static str, detail: String) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = LinkState { word, detail };
    }
}
