//! Lives: weir-bench. How fast texts are read and questions answered.
//! Called by: the measurement of one size.
//! May touch: this process's CPU clock.
//! Never: times the making of texts and questions.

use std::net::IpAddr;

use anyhow::{Context, Result};
use fastrand::Rng;
use serde::{Deserialize, Serialize};
use weir_common::{
    addr::{Addr, Protocol},
    decide::{Image, Query},
    verdict::Direction,
};
use weir_policy::{Compiled, End, Question, Resources, addr, evaluate};

use super::{clock::timed, compile::refused};
use crate::{
    cluster::{Cluster, Document},
    here::context,
};

/// How many of each in a second of CPU time.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Speed {
    /// Documents of policies, as JSON.
    pub json_policies: f64,
    /// Documents of policies, as YAML.
    pub yaml_policies: f64,
    /// Documents of pods, as JSON.
    pub json_pods: f64,
    /// Bytes of YAML.
    pub yaml_bytes: f64,
    /// Questions to the reference evaluator.
    pub questions: f64,
    /// Decisions by the compiled tables, as the kernel makes them.
    pub decisions: f64,
}

const DOCUMENTS: usize = 2_000;
const QUESTIONS: usize = 2_000;
const DECISIONS: usize = 2_000_000;

/// Measures on one cluster and its tables.
///
/// # Errors
/// A document is refused, the cluster is empty, or the system tells no time.
pub fn speed(cluster: &Cluster, resources: &Resources, compiled: &Compiled) -> Result<Speed> {
    let policies: Vec<&Document> = cluster.policies.iter().take(DOCUMENTS).collect();
    let yaml: Vec<String> = policies.iter().map(|document| document.yaml()).collect();
    let json: Vec<String> = policies.iter().map(|document| document.json()).collect();
    let pods: Vec<String> = cluster.pods.iter().take(DOCUMENTS).map(|pod| pod.document().json()).collect();
    let yaml_policies = parse(&yaml)?;
    let bytes: usize = yaml.iter().map(String::len).sum();
    Ok(Speed {
        json_policies: parse(&json)?,
        yaml_policies,
        json_pods: parse(&pods)?,
        yaml_bytes: yaml_policies * per(bytes, yaml.len()),
        questions: questions(cluster, resources)?,
        decisions: decisions(cluster, compiled)?,
    })
}

/// Documents a second.
fn parse(texts: &[String]) -> Result<f64> {
    let read = || texts.iter().try_fold(0, |sum, text| weir_policy::parse("bench", text).map(|read| sum + read.len()));
    let (time, count) = timed(read)?;
    Ok(per_second(count.map_err(|faults| refused(&faults))?, time))
}

fn questions(cluster: &Cluster, resources: &Resources) -> Result<f64> {
    let mut rng = Rng::with_seed(7);
    let mut pod = || rng.choice(&cluster.pods).map(|pod| End::Workload(pod.id())).context("there is no pod");
    let asked = (0..QUESTIONS).map(|_| Ok(Question { from: pod()?, to: pod()?, protocol: Protocol::TCP, port: 8080 }));
    let asked: Vec<Question> = asked.collect::<Result<_>>()?;
    let context = context();
    let (time, answers) =
        timed(|| asked.iter().filter(|question| evaluate(resources, &context, question).is_ok()).count())?;
    Ok(per_second(answers, time))
}

fn decisions(cluster: &Cluster, compiled: &Compiled) -> Result<f64> {
    let image = Image::open(compiled).context("the image does not open")?;
    let here: Vec<u32> = compiled.local().iter().map(|workload| workload.identity).collect();
    let remotes: Vec<Addr> = cluster
        .pods
        .iter()
        .flat_map(|pod| [addr(IpAddr::V4(pod.addresses.0)), addr(IpAddr::V6(pod.addresses.1))])
        .collect();
    let mut rng = Rng::with_seed(9);
    let asked = (0..10_000).map(|_| {
        let local = *rng.choice(&here).context("no pod runs here")?;
        let remote = *rng.choice(&remotes).context("no pod has an address")?;
        let direction = if rng.bool() { Direction::Ingress } else { Direction::Egress };
        Ok(Query { local, direction, remote, protocol: Protocol::TCP, port: 8080 })
    });
    let asked: Vec<Query> = asked.collect::<Result<_>>()?;
    let judge = || asked.iter().cycle().take(DECISIONS).map(|query| u64::from(image.decide(query).rule)).sum::<u64>();
    let (time, sum) = timed(judge)?;
    std::hint::black_box(sum);
    Ok(per_second(DECISIONS, time))
}

#[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
fn per(count: usize, of: usize) -> f64 {
    count as f64 / of.max(1) as f64
}

fn per_second(count: usize, time: std::time::Duration) -> f64 {
    per(count, 1) / time.as_secs_f64().max(1e-9)
}
