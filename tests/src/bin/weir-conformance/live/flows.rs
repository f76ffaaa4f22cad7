//! Lives: weir-conformance, the records that reach the collector.
//! Called by: run, which looks for the record of each judgement.
//! May touch: `weirctl observe`, which it reads to its end.
//! Never: takes a record of another generation or node for the one that is looked for.

use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::net::IpAddr;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use anyhow::Result;
use weir_policy::Answer;
use weir_tests::harness::Record;
use weir_tests::process::{Running, program};

/// What tells one opening from another.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    pub node: String,
    pub generation: u64,
    pub direction: &'static str,
    /// "namespace/name" of the local end.
    pub workload: String,
    pub remote: IpAddr,
    pub port: u16,
    pub protocol: String,
}

/// A record that must be there, and what it must say. Several, if it may be about either address of a translated call: one must
/// be there, and none may say anything else.
#[derive(Clone, Debug)]
pub struct Wanted {
    pub one_of: Vec<(Key, Says)>,
    /// The question, for people.
    pub about: String,
}

/// What a record says of an opening.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Says {
    verdict: String,
    reason: String,
    policy: String,
    rule: String,
}

/// What became of a record that was looked for.
pub enum Found {
    Right,
    Missing(String),
    Wrong(String),
}

/// Every verdict that has come in so far.
pub struct Flows {
    _running: Running,
    seen: Arc<Mutex<HashMap<Key, Vec<Says>>>>,
}

impl Flows {
    /// Reads the collector's verdicts from now on.
    pub fn follow(collector: &Path, folder: &Path) -> Result<Flows> {
        let mut command = Command::new(program("weirctl"));
        command.env("WEIR_COLLECTOR", format!("unix:{}", collector.display()));
        command.args(["observe", "--follow", "--type", "verdict", "-o", "json"]);
        let (running, _, lines) = Running::start_talking("observe", command, folder)?;
        let seen = Arc::new(Mutex::new(HashMap::new()));
        let into = Arc::clone(&seen);
        thread::spawn(move || {
            let lines = BufReader::new(lines).lines().map_while(Result::ok);
            for record in lines.filter_map(|line| serde_json::from_str::<Record>(&line).ok()) {
                let Some(key) = key(&record) else { continue };
                let mut seen = into.lock().unwrap_or_else(PoisonError::into_inner);
                let said: &mut Vec<Says> = seen.entry(key).or_default();
                let says = Says::from(record);
                if !said.contains(&says) {
                    said.push(says);
                }
            }
        });
        Ok(Flows { _running: running, seen })
    }

    /// Looks for a record.
    pub fn find(&self, wanted: &Wanted) -> Found {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let mut missing = Vec::new();
        for (key, says) in &wanted.one_of {
            let Key { node, generation, direction, workload, remote, port, .. } = key;
            let end = format!(
                "{}: {direction} of {workload} on node {node}, generation {generation}, {remote} at port {port}",
                wanted.about
            );
            match seen.get(key).map(Vec::as_slice) {
                None | Some([]) => missing.push(format!("{end}: no record came; it must say {}", says.shown())),
                Some([only]) if only == says => {}
                Some(said) => {
                    let said: Vec<_> = said.iter().map(Says::shown).collect();
                    let (said, must) = (said.join(" and "), says.shown());
                    return Found::Wrong(format!("{end}: the record says {said}; it must say {must}"));
                }
            }
        }
        if missing.len() < wanted.one_of.len() { Found::Right } else { Found::Missing(missing.join("; or ")) }
    }
}

impl Says {
    /// What the record of this answer must say.
    pub fn of(answer: &Answer) -> Says {
        Says {
            verdict: answer.verdict.name().to_owned(),
            reason: answer.reason.name().to_owned(),
            policy: answer.policy.clone(),
            rule: answer.rule.clone(),
        }
    }

    fn shown(&self) -> String {
        let by = if self.policy.is_empty() { String::new() } else { format!(" by {} {}", self.policy, self.rule) };
        format!("{} ({}){by}", self.verdict, self.reason)
    }
}

impl From<Record> for Says {
    fn from(record: Record) -> Says {
        Says { verdict: record.verdict, reason: record.reason, policy: record.policy, rule: record.rule }
    }
}

fn key(record: &Record) -> Option<Key> {
    let (direction, port) = match record.direction.as_str() {
        "ingress" => ("ingress", record.local.port),
        "egress" => ("egress", record.remote.port),
        _ => return None,
    };
    Some(Key {
        node: record.node.clone(),
        generation: record.generation,
        direction,
        workload: record.local.workload.clone(),
        remote: record.remote.address?.to_canonical(),
        port,
        protocol: record.protocol.to_uppercase(),
    })
}
