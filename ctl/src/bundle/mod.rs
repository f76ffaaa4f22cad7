//! Lives: ctl, what goes into a support bundle.
//! Called by: the verb support-bundle.
//! May touch: this host through `doctor` and `host`, the agent, the collector, the metrics page, the agent's log.
//! Never: reads what could be secret: it is not filtered out but not asked for. The log, which anybody may have written to, is
//!   filtered besides.

pub mod archive;
mod host;
mod log;
mod metrics;

use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Value, json};

use crate::cli::Connection;
use crate::doctor::{Host, Report, examine, running};
use crate::failure::Failure;
use crate::verbs::status;
use crate::view::Listing;

/// Longest member; what is beyond is cut off, and the manifest says so.
const LONGEST: usize = 16 << 20;

/// What is never in a bundle, for its manifest.
const LEFT_OUT: [&str; 7] = [
    "private keys and certificates: only their paths, and what doctor says of their times and modes",
    "environment variables of any process",
    "command lines of processes and of the kernel",
    "the text of the configuration file: configuration.json is what was understood of it, and only known keys",
    "entries of address sets: only how many there are",
    "comments of documents, and values of annotations that are not Weir's: only their names",
    "files of the state directory: the policy is what the agent answers",
];

/// A part of a bundle.
pub struct Member {
    pub name: &'static str,
    pub bytes: Vec<u8>,
}

/// A bundle before it is packed.
pub struct Bundle {
    pub node: String,
    pub members: Vec<Member>,
    /// Parts that could not be had, and why.
    pub missing: Vec<(&'static str, String)>,
}

/// Parts as they come in.
#[derive(Default)]
struct Parts {
    members: Vec<Member>,
    about: Vec<Value>,
    missing: Vec<(&'static str, String)>,
}

impl Parts {
    /// Notes a part, or why there is none.
    fn add(&mut self, name: &'static str, about: &str, part: Result<Vec<u8>, String>) {
        match part {
            Ok(mut bytes) => {
                let cut = bytes.len() > LONGEST;
                bytes.truncate(LONGEST);
                self.about.push(json!({"name": name, "bytes": bytes.len(), "about": about, "cutOff": cut}));
                self.members.push(Member { name, bytes });
            }
            Err(why) => self.missing.push((name, why)),
        }
    }

    fn json(&mut self, name: &'static str, about: &str, part: Result<impl Serialize, Failure>) {
        let part = part.and_then(|value| Ok(serde_json::to_vec_pretty(&value)?));
        self.add(name, about, part.map_err(|failure| failure.to_string()));
    }
}

/// Gathers everything that can be had.
pub async fn gather(of: &Host, log: Option<&Path>, connection: &Connection, now: Timestamp) -> Bundle {
    let mut parts = Parts::default();
    let round = status::ask(connection, Duration::ZERO).await;
    let node = round.as_ref().ok().map(|round| round.agent.node.clone());
    let running = round.as_ref().ok().map(|round| round.agent.version.clone());
    parts.json("status.json", "weirctl status -o json", round.as_ref().map(status::Round::json).map_err(again));
    parts.json("limits.json", "rate limits and what they let through", round.as_ref().map(limits).map_err(again));
    let report = examine(of).await;
    doctor(&mut parts, report.as_ref(), connection).await;
    let (resources, sets) = policy(connection).await;
    parts.add(
        "resources.yaml",
        "weirctl get all -o yaml, without comments, values of others' annotations and addresses of sets",
        resources,
    );
    parts.json("sets.json", "weirctl set list -o json", sets);
    let configuration = report.as_ref().map(|report| &report.facts.configuration);
    let at = configuration.ok().and_then(|all| all.pointer("/metrics/listen")?.as_str().map(str::to_owned));
    parts.add("metrics.txt", "the metrics page", metrics::page(at.as_deref()).await);
    let pid = report.as_ref().ok().and_then(|report| report.facts.agent_pid);
    let state_dir = configuration.ok().and_then(|all| all.get("stateDir")?.as_str().map(Path::new));
    let versions = json!({
        "weirctl": env!("CARGO_PKG_VERSION"),
        "agentProgram": report.as_ref().ok().map(|report| &report.version),
        "agentRunning": running,
    });
    parts.json(
        "host.json",
        "versions, kernel, settings, mounts, limits of the agent",
        Ok(host::facts(versions, pid, state_dir)),
    );
    parts.add("agent.log", "the end of the agent's log, redacted", log::tail(log).await);
    let node = node.or_else(|| report.ok().and_then(|report| report.node)).unwrap_or_else(|| "node".to_owned());
    finish(parts, node, now)
}

/// A failure that two parts share.
fn again(failure: &Failure) -> Failure {
    Failure::Refused(failure.to_string())
}

fn limits(round: &status::Round) -> impl Serialize {
    json!({"limits": round.agent.limits, "table": round.agent.limit_table})
}

async fn doctor(parts: &mut Parts, report: Result<&Report, &Failure>, connection: &Connection) {
    let report = match report {
        Ok(report) => report,
        Err(failure) => {
            let names = ["doctor.json", "configuration.json", "kernel.json"];
            return parts.missing.extend(names.map(|name| (name, failure.to_string())));
        }
    };
    let mut checks = report.checks.clone();
    checks.extend(running::checks(connection, &report.facts, &report.version).await);
    parts.json("doctor.json", "weirctl doctor -o json", Ok(json!({"checks": checks})));
    let facts = &report.facts;
    if facts.configuration.is_null() {
        parts
            .missing
            .push(("configuration.json", "the configuration is not usable; doctor.json says where".to_owned()));
    } else {
        parts.json("configuration.json", "the configuration in effect", Ok(&facts.configuration));
    }
    let kernel = json!({"interfaces": facts.interfaces, "programs": facts.programs, "links": facts.links});
    parts.json("kernel.json", "interfaces with their XDP programs, all programs and links in the kernel", Ok(kernel));
}

async fn policy(connection: &Connection) -> (Result<Vec<u8>, String>, Result<impl Serialize, Failure>) {
    let resources = match connection.agent() {
        Ok(mut agent) => agent.list("", "").await,
        Err(failure) => Err(failure),
    };
    let sets = match connection.sets() {
        Ok(mut sets) => sets.list().await,
        Err(failure) => Err(failure),
    };
    (resources.map(|listing| yaml(&listing)).map_err(|failure| failure.to_string()), sets)
}

/// The documents without what only people or other programs say in them, and those of address sets without their addresses.
fn yaml(listing: &Listing) -> Vec<u8> {
    let mut text = format!("# generation {}\n", listing.generation);
    for item in &listing.items {
        text.push_str("---\n");
        text.push_str(without_secrets(&item.yaml).trim_end());
        text.push('\n');
    }
    text.into_bytes()
}

/// Written anew, because comments say what they like. Of annotations the names stay, and the values of those that Weir reads.
fn without_secrets(yaml: &str) -> String {
    let Ok(mut document) = serde_saphyr::from_str::<Value>(yaml) else {
        return "# a document that cannot be read".to_owned();
    };
    let is_set = document.get("kind").is_some_and(|kind| kind == "AddressSet");
    if let Some(addresses) = document.pointer_mut("/spec/addresses").filter(|_| is_set) {
        let count = addresses.as_array().map_or(0, Vec::len);
        *addresses = Value::String(format!("{count} left out"));
    }
    if let Some(Value::Object(annotations)) = document.pointer_mut("/metadata/annotations") {
        for (_, value) in annotations.iter_mut().filter(|(name, _)| !name.starts_with("weir.dev/")) {
            *value = Value::String("left out".to_owned());
        }
    }
    serde_saphyr::to_string(&document).unwrap_or_else(|_| "# a document that cannot be shown".to_owned())
}

/// The manifest comes first.
fn finish(parts: Parts, node: String, now: Timestamp) -> Bundle {
    let Parts { mut members, about, missing } = parts;
    let missed: Vec<Value> = missing.iter().map(|(name, why)| json!({"name": name, "why": why})).collect();
    let manifest = json!({
        "created": now.to_string(),
        "node": node,
        "weirctl": env!("CARGO_PKG_VERSION"),
        "members": about,
        "missing": missed,
        "leftOut": LEFT_OUT,
    });
    let bytes = serde_json::to_vec_pretty(&manifest).unwrap_or_default();
    members.insert(0, Member { name: "manifest.json", bytes });
    Bundle { node, members, missing }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::Item;

    #[test]
    fn documents_are_kept_without_addresses_of_sets_comments_and_annotations() {
        let item = |kind: &str, yaml: &str| Item { kind: kind.to_owned(), yaml: yaml.to_owned(), ..Item::default() };
        let annotated = "kind: NetworkPolicy # SECRET\nmetadata:\n  name: web\n  annotations:\n    note: SECRET\n    \
                         kubectl.kubernetes.io/last-applied-configuration: '{\"password\":\"SECRET\"}'\n    \
                         weir.dev/on-change: drain\nspec: {}\n";
        let listing = Listing {
            generation: 7,
            items: vec![
                item("Policy", "kind: Policy\nspec: {addresses: [192.0.2.9]}\n"),
                item("AddressSet", "kind: AddressSet\nspec:\n  action: block\n  addresses: [192.0.2.1, 192.0.2.2]\n"),
                item("NetworkPolicy", annotated),
                item("Policy", "kind: {SECRET"),
            ],
        };
        let text = String::from_utf8(yaml(&listing)).unwrap();
        assert!(text.starts_with("# generation 7\n---\nkind: Policy\n"), "{text}");
        assert!(text.contains("2 left out") && text.contains("192.0.2.9") && text.contains("cannot be read"), "{text}");
        assert!(!text.contains("192.0.2.1") && !text.contains("192.0.2.2") && !text.contains("SECRET"), "{text}");
        assert!(text.contains("last-applied-configuration") && text.contains("drain") && text.contains("name: web"));
    }

    #[test]
    fn what_cannot_be_had_is_in_the_manifest_with_its_reason() {
        let mut parts = Parts::default();
        parts.add("a.json", "a thing", Ok(vec![b'x'; LONGEST + 1]));
        parts.add("b.json", "another", Err("nobody answers".to_owned()));
        let bundle = finish(parts, "n".to_owned(), Timestamp::UNIX_EPOCH);
        let manifest: Value = serde_json::from_slice(&bundle.members[0].bytes).unwrap();
        assert_eq!(manifest["missing"][0]["why"], "nobody answers");
        assert_eq!((&manifest["members"][0]["cutOff"], bundle.members[1].bytes.len()), (&Value::Bool(true), LONGEST));
    }
}
