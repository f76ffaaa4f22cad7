//! Lives: weir-journal, batches in files that are only appended to.
//! Called by: the agent's spool, the collector's history.
//! May touch: the folder it is told.
//! Never: knows what a batch is made of, or when one may go.
//!
//! A file is a [`Segment`] of frames; a frame is a header with checksums, and a batch. What was torn off by a crash is cut off, what was
//! damaged later is passed over and told.

#![forbid(unsafe_code)]

mod folder;
mod frame;
mod segment;

pub use folder::{newer, open_private, segments, sorted};
pub use frame::{FORMAT, Facts, HEADER, Header, MAX_BODY};
pub use segment::{EXTENSION, Found, Segment};
