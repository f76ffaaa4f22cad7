//! Lives: weir-bench. What pods are made from.
//! Called by: `cluster`; pods, services and policies speak of apps.
//! May touch: nothing.
//! Never: gives two apps of one namespace one name.

use std::collections::BTreeMap;

use fastrand::Rng;

use super::Size;

/// A deployment or stateful set: pods alike but for what changes with every replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct App {
    /// Its namespace.
    pub namespace: String,
    /// Its name, unique in the namespace.
    pub name: String,
    /// What it is to others: one of [`TIERS`].
    pub tier: &'static str,
    /// The port that its pods call `http`, or `sql` for databases.
    pub port: u16,
    /// Whether replicas have a name and number of their own rather than a hash.
    pub stateful: bool,
    /// How many pods it starts with.
    pub replicas: usize,
}

/// What apps are to each other.
pub const TIERS: [&str; 4] = ["web", "api", "worker", "db"];

/// The numbers behind one name differ from app to app.
const PORTS: [u16; 4] = [8080, 8080, 80, 3000];
const DATABASE: u16 = 5432;

/// Apps until there are enough pods; one and a half pods each, so that two of three pods have a label set of their own.
pub fn make(size: &Size, rng: &mut Rng) -> Vec<App> {
    let mut apps = Vec::new();
    let mut names: BTreeMap<usize, usize> = BTreeMap::new();
    let mut left = size.pods;
    while left > 0 {
        let namespace = skewed(size.namespaces, rng);
        let number = names.entry(namespace).or_default();
        let tier = TIERS.get(*number % TIERS.len()).copied().unwrap_or("web");
        let replicas = replicas(rng).min(left);
        apps.push(App {
            namespace: super::others::namespace_name(namespace),
            name: format!("{tier}-{number}"),
            tier,
            port: if tier == "db" { DATABASE } else { *rng.choice(&PORTS).unwrap_or(&DATABASE) },
            stateful: tier == "db",
            replicas,
        });
        *number += 1;
        left -= replicas;
    }
    apps
}

/// A few large namespaces and many small ones.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "a share of a count that is far below 2^52"
)]
pub fn skewed(count: usize, rng: &mut Rng) -> usize {
    let share = rng.f64();
    ((share * share * count as f64) as usize).min(count.saturating_sub(1))
}

/// One and a half on average: 70% have one, 15% two, 10% three, 5% four.
fn replicas(rng: &mut Rng) -> usize {
    match rng.u8(0..100) {
        0..70 => 1,
        70..85 => 2,
        85..95 => 3,
        _ => 4,
    }
}
