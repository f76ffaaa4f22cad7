//! Lives: host. The reference: what documents mean, written to be read rather than to be fast.
//! Called by: `weirctl explain` and the tests with a whole question; `compile` with one cell at a time.
//! May touch: nothing but its arguments.
//! Never: caches, indexes or shortcuts; whatever is clever belongs into `compile`.

mod explain;
mod judge;
mod peer;
mod resolve;
mod service;
mod tiers;
mod words;

pub use explain::{Answer, End, Explanation, NoSuchWorkload, Question, evaluate, evaluate_service};
pub use judge::{Bound, Local, Outcome, RulePlace, bind, isolating_sockets, judge, judge_unmatched, selects};
pub use peer::{Member, NodeEnd, PeerEnd, block_holds, entity_of, loopback, peer_matches, port_matches};
pub use resolve::resolve;
pub use words::rule_name;
