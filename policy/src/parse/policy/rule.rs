//! Lives: host.
//! Called by: `policy`, once per direction.
//! May touch: the list of faults.
//! Never: reads a rule that says less than was written.

use weir_common::verdict::Direction;

use super::{
    super::{
        faults::Faults,
        fields::{Field, Fields},
        scalars,
    },
    peer::peer,
    ports::ports,
};
use crate::model::{Action, Rule, Tier};

/// The rules of a direction.
pub fn rules(
    fields: &Fields<'_>,
    direction: Direction,
    tier: Option<Tier>,
    namespace: &str,
    faults: &mut Faults,
) -> Vec<Rule> {
    let items = fields.get(direction.name()).map(|list| list.list(faults)).unwrap_or_default();
    items.iter().filter_map(|item| rule(item, direction, tier, namespace, faults)).collect()
}

fn rule(
    field: &Field<'_>,
    direction: Direction,
    tier: Option<Tier>,
    namespace: &str,
    faults: &mut Faults,
) -> Option<Rule> {
    let side = match direction {
        Direction::Ingress => "from",
        Direction::Egress => "to",
    };
    let fields = field.fields(faults, &["name", "action", side, "ports", "expiresAt", "log"])?;
    let name = fields.get("name").and_then(|name| scalars::label(&name, faults));
    let action = fields.get("action").map_or(Some(Action::Allow), |field| action(&field, tier, faults));
    let peers = fields.get(side).map(|list| list.list(faults)).unwrap_or_default();
    let peers = peers.iter().filter_map(|item| peer(item, namespace, faults)).collect();
    let (ports, named_ports) = ports(&fields, faults);
    let expires_at = scalars::expiry(&fields, faults);
    let log = fields.get("log").and_then(|field| field.truth(faults)).unwrap_or(true);
    Some(Rule { name, action: action?, peers, ports, named_ports, expires_at, log })
}

fn action(field: &Field<'_>, tier: Option<Tier>, faults: &mut Faults) -> Option<Action> {
    let action = field.word(faults, Action::WORDS)?;
    if action == Action::Pass && tier == Some(Tier::Namespace) {
        let remedy = "write allow, deny or refuse, or make it a policy of tier admin or baseline";
        field.fault(faults, "the namespace tier has nothing to pass to: whom it isolates, it decides about", remedy);
        return None;
    }
    Some(action)
}
