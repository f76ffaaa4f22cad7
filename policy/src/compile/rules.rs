//! Lives: host.
//! Called by: `compiler`; the numbers stand in cells, limits and blocked prefixes, and come back in records.
//! May touch: nothing.
//! Never: gives two rules one number; changes the numbers of a document whose rules keep their names.

use std::{collections::BTreeMap, sync::Arc};

use weir_common::{image::MAX_RULES, verdict::Direction};

use super::{DIRECTIONS, compiled::RuleInfo, faults::Problems};
use crate::{
    evaluate::{RulePlace, rule_name},
    id::ResourceId,
    model::Policy,
};

/// The rules of everything in force here, by number.
#[derive(Clone, Debug)]
pub struct Rules {
    /// Rule by number; the first is none, and so are those given back.
    pub infos: Arc<Vec<RuleInfo>>,
    ranges: BTreeMap<ResourceId, Range>,
    /// Numbers given back, by length: first numbers.
    free: BTreeMap<u32, Vec<u32>>,
}

#[derive(Clone, Copy, Debug)]
struct Range {
    start: u32,
    len: u32,
}

impl Rules {
    pub fn new() -> Self {
        Self { infos: Arc::new(vec![RuleInfo::default()]), ranges: BTreeMap::new(), free: BTreeMap::new() }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.ranges.values().map(|range| range.len as usize).sum()
    }

    /// Numbers the rules of a policy: ingress and its default, then egress and its default.
    pub fn put_policy(&mut self, id: &ResourceId, policy: &Policy) {
        let names = DIRECTIONS.into_iter().flat_map(|direction| {
            let places = (0..policy.rules(direction).len()).map(RulePlace::At).chain([RulePlace::Default]);
            places.map(move |place| rule_name(policy, direction, place))
        });
        self.put(id, names.collect());
    }

    /// Numbers a document with one rule.
    pub fn put_single(&mut self, id: &ResourceId, rule: &str) -> u32 {
        self.put(id, vec![rule.to_owned()]);
        self.start(id)
    }

    /// Numbers a document with these rules: the first of them.
    pub fn put_several(&mut self, id: &ResourceId, rules: &[&str]) -> u32 {
        self.put(id, rules.iter().map(|rule| (*rule).to_owned()).collect());
        self.start(id)
    }

    /// Gives the numbers of a document back.
    pub fn remove(&mut self, id: &ResourceId) {
        let Some(range) = self.ranges.remove(id) else { return };
        self.free.entry(range.len).or_default().push(range.start);
    }

    /// The number of a policy's rule.
    pub fn number(&self, id: &ResourceId, policy: &Policy, direction: Direction, place: RulePlace) -> u32 {
        let before = match direction {
            Direction::Ingress => 0,
            Direction::Egress => policy.ingress.len() + 1,
        };
        let index = match place {
            RulePlace::At(index) => index,
            RulePlace::Default => policy.rules(direction).len(),
        };
        self.start(id) + number(before + index)
    }

    /// Notes that there are more rules than numbers.
    pub fn check(&self, problems: &mut Problems) {
        if self.infos.len() >= MAX_RULES as usize {
            let problem = format!("{} rules; there are numbers for {MAX_RULES}", self.infos.len());
            problems.of_all(problem, "use fewer rules");
        }
    }

    fn start(&self, id: &ResourceId) -> u32 {
        self.ranges.get(id).map_or(0, |range| range.start)
    }

    fn put(&mut self, id: &ResourceId, names: Vec<String>) {
        let len = number(names.len());
        if self.ranges.get(id).is_none_or(|range| range.len != len) {
            self.remove(id);
            let reused = self.free.get_mut(&len).and_then(Vec::pop);
            let start = reused.unwrap_or_else(|| {
                let infos = Arc::make_mut(&mut self.infos);
                let start = number(infos.len());
                infos.resize(infos.len() + names.len(), RuleInfo::default());
                start
            });
            self.ranges.insert(id.clone(), Range { start, len });
        }
        let start = self.start(id) as usize;
        let policy = id.to_string();
        for (offset, rule) in names.into_iter().enumerate() {
            let info = RuleInfo { policy: policy.clone(), rule };
            if self.infos.get(start + offset) != Some(&info)
                && let Some(slot) = Arc::make_mut(&mut self.infos).get_mut(start + offset)
            {
                *slot = info;
            }
        }
    }
}

/// Rules are far fewer than 2^32: more than 2^24 are refused.
fn number(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Kind;

    #[test]
    fn numbers_stay_while_the_rules_do_and_are_given_again_when_they_are_gone() {
        let id = |name: &str| ResourceId::new(Kind::AddressSet, "", name);
        let mut rules = Rules::new();
        assert_eq!([rules.put_single(&id("a"), "block"), rules.put_single(&id("b"), "block")], [1, 2]);
        assert_eq!(rules.put_single(&id("a"), "block"), 1);
        rules.remove(&id("a"));
        assert_eq!((rules.put_single(&id("c"), "limit"), rules.infos[1].rule.as_str()), (1, "limit"));
    }
}
