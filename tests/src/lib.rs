//! Lives: nowhere yet.
