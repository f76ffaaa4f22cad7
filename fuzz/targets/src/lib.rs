//! Lives: host tests. What every fuzzer feeds and what must then hold.
//! Called by: `fuzz/fuzz_targets`, for libFuzzer; `tests/replay.rs`, for everything a fuzzer ever found.
//! May touch: the bytes it is handed.
//! Never: fails in any way but a panic, which is how a fuzzer hears of it.
#![expect(clippy::panic, reason = "a panic is how a fuzzer hears of a broken promise")]
#![expect(clippy::indexing_slicing, reason = "of JSON objects made on the lines before")]

mod cluster;
mod documents;
mod judge;
mod messages;
mod packets;

pub use documents::{kube, yaml};
pub use judge::compile;
pub use messages::proto;
pub use packets::packet;

/// A target: its name and what it does with bytes.
pub type Target = (&'static str, fn(&[u8]));

/// Every target; the names are those of the folders of seeds and of libFuzzer's programs.
pub const TARGETS: [Target; 5] =
    [("yaml", yaml), ("kube", kube), ("proto", proto), ("packet", packet), ("compile", compile)];
