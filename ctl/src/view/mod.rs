//! Lives: ctl.
//! Called by: `rpc`, which fills these from the wire; verbs and `render`, which show them; `-o json`, which is them.
//! May touch: nothing.
//! Never: renames a field lightly: scripts read the JSON.

mod policy;
mod record;
mod sets;
mod status;

pub use policy::{Change, Changed, Doomed, Explanation, Item, Listing, Side, WatchEvent};
pub use record::{Direction, End, Kind, Process, Record, Verdict};
pub use sets::{AddressSets, SetChanged, SetEntry, SetFault, SetStatus};
pub use status::{
    Agent, Blocked, Collector, Connections, Counter, Disk, Exporter, Interface, Limit, LimitTable, Node, NodeOnly,
    Otlp, SynProtection, Workload,
};
