//! Lives: host. The reference: what documents mean, written to be read rather than to be fast.
//! Called by: `weirctl`, the agent and the tests with whole questions; `compile` with one cell at a time.
//! May touch: nothing but its arguments.
//! Never: caches or shortcuts; whatever is clever belongs into `compile`.
//!
//! Where each part of the Kubernetes API is given its meaning, in our words beside the code:
//!
//! | API | here |
//! |---|---|
//! | NetworkPolicy `podSelector`; ClusterNetworkPolicy `subject` | `subject::selects` |
//! | `policyTypes`, and what leaving it out means | `parse::kube::netpol::types`, `Policy::isolates` |
//! | isolation, additive rules, "allowed if some rule matches" | `tiers::isolated` |
//! | `tier`, and what happens after each | `tiers::tiers` |
//! | `priority`, order of rules, Accept, Deny, Pass | `tiers::ordered` |
//! | a rule's `from` / `to` and `ports` / `protocols` | `rule::rule_matches` |
//! | `protocol`, `port`, `endPort`, `destinationPort` | `rule::port_matches` |
//! | named ports, `destinationNamedPort` | `rule::name_matches` |
//! | `podSelector`, `namespaceSelector`, `namespaces`, `pods` | `peer::member_matches` |
//! | `ipBlock`, `networks` | `peer::block_holds` |
//! | `nodes`, peers of later versions | `peer::peer_matches`, `parse::kube::cluster::closed` |
//! | label selectors and their operators | `model::Selector` |
//! | the own node, the own address | `judge::beyond` |
//! | a pod that calls itself by a Service | `judge::ways`, `tiers::tiers` |
//! | pods in their host's network | `resolve::resolve` |
//! | Services and what is behind them | `service::backends`, `explain::evaluate_service` |
//! | both ends must agree; replies | `explain::explain` |

mod entity;
mod explain;
mod judge;
mod modes;
mod outcome;
mod peer;
mod question;
mod resolve;
mod rule;
mod service;
mod subject;
mod tiers;
mod words;

pub use entity::{entity_matches, loopback};
pub use explain::{evaluate, evaluate_service};
pub use judge::{Local, judge, judge_as, judge_staged, judge_unmatched, ways};
pub use modes::Trial;
pub use outcome::{Deciding, OneWay, Outcome, RulePlace, worst};
pub use peer::{Itself, Member, NodeEnd, PeerEnd, peer_matches};
pub use question::{Answer, End, Explanation, NoSuchWorkload, Question, Staged};
pub use resolve::resolve;
pub use rule::port_matches;
pub use service::{Called, backends, is_behind};
pub use subject::{Bound, bind, isolating_sockets, selects};
pub use words::rule_name;
