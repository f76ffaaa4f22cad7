//! Lives: host.
//! Called by: `compile`; its numbers stand in cells, limits and blocked prefixes, and come back in records.
//! May touch: nothing.
//! Never: gives two rules one number, or a number that depends on what is selected where.

use std::collections::BTreeMap;

use weir_common::{image::MAX_RULES, verdict::Direction};

use super::{classes::DIRECTIONS, compiled::RuleInfo, faults::Problems};
use crate::{
    evaluate::{RulePlace, rule_name},
    id::{Kind, ResourceId},
    model::{Resources, Spec},
};

/// Every rule with its number.
pub struct Numbering {
    /// Rule by number; the first is none.
    pub rules: Vec<RuleInfo>,
    /// For each policy: the number of its first rule, and of its first egress rule.
    policies: BTreeMap<ResourceId, [u32; 2]>,
    /// For each policy and direction, how many rules there are before the default.
    counts: BTreeMap<ResourceId, [u32; 2]>,
    single: BTreeMap<ResourceId, u32>,
}

impl Numbering {
    pub fn of(resources: &Resources, problems: &mut Problems) -> Self {
        let rules = vec![RuleInfo::default()];
        let mut numbering = Self { rules, policies: BTreeMap::new(), counts: BTreeMap::new(), single: BTreeMap::new() };
        for resource in resources.iter() {
            match resource.spec() {
                Spec::Policy(policy) => {
                    let mut starts = [0; 2];
                    for (start, direction) in starts.iter_mut().zip(DIRECTIONS) {
                        *start = number(numbering.rules.len());
                        let places = (0..policy.rules(direction).len()).map(RulePlace::At).chain([RulePlace::Default]);
                        let names = places.map(|place| rule_name(policy, direction, place));
                        numbering.rules.extend(names.map(|rule| RuleInfo { policy: resource.id().to_string(), rule }));
                    }
                    numbering.policies.insert(resource.id().clone(), starts);
                    let counts = [number(policy.ingress.len()), number(policy.egress.len())];
                    numbering.counts.insert(resource.id().clone(), counts);
                }
                Spec::RateLimit(_) | Spec::AddressSet(_) => {
                    let rule = if resource.id().kind == Kind::RateLimit { "limit" } else { "block" };
                    numbering.single.insert(resource.id().clone(), number(numbering.rules.len()));
                    numbering.rules.push(RuleInfo { policy: resource.id().to_string(), rule: rule.to_owned() });
                }
                Spec::Workload(_) | Spec::Namespace | Spec::Node(_) | Spec::Service(_) | Spec::EndpointSlice(_) => {}
            }
        }
        if numbering.rules.len() >= MAX_RULES as usize {
            problems.of_all(
                format!("{} rules; there are numbers for {MAX_RULES}", numbering.rules.len()),
                "use fewer rules",
            );
        }
        numbering
    }

    /// The number of a policy's rule.
    pub fn rule(&self, policy: &ResourceId, direction: Direction, place: RulePlace) -> u32 {
        let side = direction.index() as usize;
        let of = |list: &BTreeMap<ResourceId, [u32; 2]>| {
            list.get(policy).and_then(|both| both.get(side)).copied().unwrap_or(0)
        };
        match place {
            RulePlace::At(index) => of(&self.policies) + number(index),
            RulePlace::Default => of(&self.policies) + of(&self.counts),
        }
    }

    /// The number of a rate limit's or address set's only rule.
    pub fn single(&self, id: &ResourceId) -> u32 {
        self.single.get(id).copied().unwrap_or(0)
    }
}

/// Rules are far fewer than 2^32: more than 2^24 are refused.
fn number(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}
