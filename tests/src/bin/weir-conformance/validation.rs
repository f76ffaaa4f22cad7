//! Lives: weir-conformance.
//! Called by: main, for manifests that must be accepted or refused.
//! May touch: nothing.
//! Never: takes a refusal for any reason but the parser's.

use crate::files::Manifest;
use crate::report::Outcome;

/// Reads one manifest.
pub fn check(manifest: &Manifest) -> Outcome {
    let mut outcome = Outcome { name: manifest.name.clone(), asked: 1, ..Outcome::default() };
    match weir_policy::parse(&manifest.name, &manifest.manifest) {
        Ok(_) if !manifest.accepted => outcome.failures.push(format!("accepted; must be refused: {}", manifest.why)),
        Err(faults) if manifest.accepted => {
            let faults: Vec<_> = faults.iter().map(ToString::to_string).collect();
            outcome.failures.push(format!("refused ({}); must be accepted: {}", faults.join("; "), manifest.why));
        }
        Ok(_) | Err(_) => {}
    }
    outcome
}
