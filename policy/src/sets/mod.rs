//! Lives: host. Address sets: their entries, and the images that the kernel looks addresses up in (`weir_common::sets`).
//! Called by: the agent, which owns the entries and copies the images into maps; the tests, which look up in the same images.
//! May touch: nothing.
//! Never: drops an entry because a table is full: tables grow; reads a clock.
//!
//! ```text
//! entries of all sets ─► items in order of prefix ─► sweep: who holds what ─► records ─► leaves ─► v4 or v6 image
//! one entry more or less ─► the same for what lies in its prefix ─► stores into the image in force, the last one makes it seen
//! ```

mod entries;
mod list;
mod loaded;
mod memory;
mod records;
mod scope;
mod sweep;
mod v4;
mod v6;

pub use entries::{Entries, Expiry, NEVER, Source};
pub use list::{List, ListFault, entry};
pub use loaded::{Loaded, LoadedSet};
pub use memory::{Full, Memory};
pub use scope::{PortScope, Scope};
pub use v4::V4;
pub use v6::V6;
