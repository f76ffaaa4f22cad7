//! Lives: host. The reference: what documents mean, written to be read rather than to be fast.
//! Called by: `weirctl explain` and the tests with a whole question; `compile` with one cell at a time.
//! May touch: nothing but its arguments.
//! Never: caches, indexes or shortcuts; whatever is clever belongs into `compile`.

mod entity;
mod explain;
mod judge;
mod peer;
mod resolve;
mod service;
mod tiers;
mod words;

pub use entity::{entity_matches, entity_of, entity_of_range, loopback};
pub use explain::{Answer, End, Explanation, NoSuchWorkload, Question, Staged, evaluate, evaluate_service};
pub use judge::{Bound, Local, Outcome, RulePlace, bind, isolating_sockets, judge, judge_staged, judge_unmatched};
pub use peer::{Member, NodeEnd, PeerEnd, block_holds, peer_matches, port_matches};
pub use resolve::resolve;
pub use service::is_behind;
pub use words::rule_name;
