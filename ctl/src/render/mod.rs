//! Lives: ctl.
//! Called by: verbs.
//! May touch: the writer it is given.
//! Never: decides whether there is colour: it always styles, and the stream strips styles where no terminal shows them.

pub mod compact;
pub mod output;
pub mod rows;
pub mod status;
pub mod style;
pub mod table;
pub mod time;
