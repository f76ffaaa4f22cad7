//! Lives: weir-agent, `--doctor`: what the agent would put in force at its start.
//! Called by: `doctor`.
//! May touch: the last good policy in the state directory and the files of the policy directory, reading.
//! Never: shows a document or a value of one.

use std::collections::BTreeMap;

use weir_policy::{Fault, Resource, ResourceId, Spec, SynProtection};

use super::{Check, host, places_of};
use crate::{
    config::Config,
    control::{self, ControlError},
};

/// What was read.
pub(super) struct Documents {
    stored: Read,
    directory: Read,
}

/// The documents of one place; `None` where there is none.
type Read = Result<Option<Vec<Resource>>, Trouble>;

enum Trouble {
    Unreadable(ControlError),
    Faulty(Vec<Fault>),
}

impl Documents {
    /// What would be in force: the directory's go on top of the stored ones.
    fn all(&self) -> impl Iterator<Item = &Resource> {
        let each =
            [&self.stored, &self.directory].into_iter().filter_map(|read| read.as_ref().ok()?.as_ref()).flatten();
        let all: BTreeMap<&ResourceId, &Resource> = each.map(|resource| (resource.id(), resource)).collect();
        all.into_values()
    }

    /// How many workloads run in a cgroup of this node, as far as documents say so.
    pub(super) fn workloads(&self) -> usize {
        let local = |resource: &&Resource| {
            if let Spec::Workload(workload) = resource.spec() { workload.cgroup.is_some() } else { false }
        };
        self.all().filter(local).count()
    }
}

pub(super) fn read(config: &Config) -> Documents {
    let stored = control::stored_policy(&config.state_dir).map(|text| text.into_iter().collect());
    let directory = config.policy_dir.as_deref().map(control::policy_files);
    Documents { stored: parsed(Some(stored)), directory: parsed(directory) }
}

fn parsed(texts: Option<Result<Vec<(String, String)>, ControlError>>) -> Read {
    let texts = match texts {
        None => return Ok(None),
        Some(Ok(texts)) if texts.is_empty() => return Ok(None),
        Some(texts) => texts.map_err(Trouble::Unreadable)?,
    };
    let all = texts.iter().map(|(name, text)| (name.as_str(), text.as_str()));
    weir_policy::parse_all(all).map(Some).map_err(Trouble::Faulty)
}

pub(super) fn checks(documents: &Documents, config: &Config) -> Vec<Check> {
    let stored = check(
        "policy-stored",
        &documents.stored,
        "none yet",
        "correct policy.yaml in the stateDir, or move it away to start without",
    );
    let mut checks = vec![stored];
    if config.policy_dir.is_some() {
        let remedy = "weirctl policy check DIR shows each fault with its value";
        checks.push(check("policy-dir", &documents.directory, "no files", remedy));
    }
    checks.push(syn_cookies(documents));
    checks
}

fn check(name: &'static str, read: &Read, nothing: &str, remedy: &str) -> Check {
    match read {
        Ok(None) => Check::ok(name, nothing),
        Ok(Some(resources)) => Check::ok(name, format!("{} resources", resources.len())),
        Err(Trouble::Unreadable(error)) => Check::fail(name, weir_transport::why(error), remedy),
        Err(Trouble::Faulty(faults)) => Check::fail(name, places_of(faults), remedy),
    }
}

/// Whether the kernel gives SYN cookies where a limit asks for them.
fn syn_cookies(documents: &Documents) -> Check {
    const NAME: &str = "syn-cookies";
    let asked = documents.all().filter_map(|resource| {
        if let Spec::RateLimit(limit) = resource.spec() { Some(limit.syn_protection) } else { None }
    });
    let wanted: Vec<SynProtection> = asked.filter(|asked| *asked != SynProtection::Off).collect();
    let set = "sysctl -w net.ipv4.tcp_syncookies=2 in the agent's network namespace";
    match (host::syn_cookies(), wanted.is_empty()) {
        (found, true) => {
            let value = found.map_or_else(|| "not there".to_owned(), |value| value.to_string());
            Check::ok(NAME, format!("no limit asks for SYN protection (net.ipv4.tcp_syncookies is {value})"))
        }
        (Some(2), false) => Check::ok(NAME, "net.ipv4.tcp_syncookies is 2"),
        (Some(1), false) if !wanted.contains(&SynProtection::Always) => Check::warn(
            NAME,
            "net.ipv4.tcp_syncookies is 1: SYNs are answered only while a listener's queue is full",
            set,
        ),
        (Some(value), false) => Check::fail(
            NAME,
            format!(
                "limits ask for SYN protection, and net.ipv4.tcp_syncookies is {value}: the kernel gives no cookies"
            ),
            set,
        ),
        (None, false) => Check::fail(
            NAME,
            "limits ask for SYN protection, and the kernel has no SYN cookies",
            "boot a kernel with CONFIG_SYN_COOKIES=y",
        ),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::doctor::Outcome;

    #[test]
    fn what_would_keep_the_agent_from_starting_is_named_without_its_text() {
        let dir = tempfile::tempdir().unwrap();
        let text = format!("cgroupRoot: /w\nstateDir: {0}\npolicyDir: {0}/policy\n", dir.path().display());
        let config = crate::config::read("t.yaml", &text).unwrap();
        let seen = |name: &str| {
            let checks = checks(&read(&config), &config);
            checks.into_iter().find(|check| check.name == name).unwrap()
        };
        assert_eq!(seen("policy-stored").found, "none yet");
        assert_eq!(seen("policy-dir").outcome, Outcome::Fail, "it is not there");
        fs::create_dir(dir.path().join("policy")).unwrap();
        let document = "apiVersion: weir.dev/v1alpha1\nkind: Workload\nmetadata: {name: web}\nspec: {cgroup: web}\n";
        fs::write(dir.path().join("policy/a.yaml"), document).unwrap();
        fs::write(dir.path().join("policy.yaml"), document.replace("cgroup:", "CANARY:")).unwrap();
        assert_eq!(seen("policy-dir").found, "1 resources");
        assert_eq!(read(&config).workloads(), 1);
        let stored = seen("policy-stored");
        assert!(stored.outcome == Outcome::Fail && stored.found.contains("policy.yaml:4"), "{stored:?}");
        assert!(!stored.found.contains("CANARY"), "{stored:?}");
    }
}
