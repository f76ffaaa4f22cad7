//! Lives: tests.
