//! Lives: ctl.
//! Called by: `policy eval` and `policy test`.
//! May touch: nothing.
//! Never: judges; the evaluator does. What it cannot answer is told with what to do about it.

use weir_common::addr::Protocol;
use weir_policy::{Context, Explanation, Question, ResourceId, Resources, Spec, evaluate, evaluate_service};

use crate::protocol::Port;

use super::ends::Named;

/// A question in words, and its answer.
pub type Asked = (String, Result<Explanation, String>);

/// Asks about every two of these ends. An end is not asked about itself unless it is the only one.
pub fn ask_all(resources: &Resources, context: &Context, (from, to): (&[Named], &[Named]), port: Port) -> Vec<Asked> {
    let pairs: Vec<_> = from.iter().flat_map(|from| to.iter().map(move |to| (from, to))).collect();
    let alone = pairs.len() == 1;
    let asked = pairs.into_iter().filter(|(from, to)| alone || from != to);
    asked.map(|ends| (format!("{} -> {} {port}", ends.0, ends.1), ask(resources, context, ends, port))).collect()
}

/// Asks the evaluator.
fn ask(
    resources: &Resources,
    context: &Context,
    (from, to): (&Named, &Named),
    port: Port,
) -> Result<Explanation, String> {
    let Named::End(from) = from else {
        return Err("a Service opens no connections; name a pod behind it as the end that opens".to_owned());
    };
    match to {
        Named::End(to) => {
            let question =
                Question { from: from.clone(), to: to.clone(), protocol: Protocol(port.protocol), port: port.port };
            evaluate(resources, context, &question).map_err(|missing| match resources.get(&missing.0) {
                Some(resource) if matches!(resource.spec(), Spec::Workload(_)) => {
                    format!("{} has no address; pods in their host's network count by it", missing.0)
                }
                Some(_) => no_backend(&missing.0, port),
                None => missing.to_string(),
            })
        }
        Named::Service(id) => evaluate_service(resources, context, from, id, (Protocol(port.protocol), port.port))
            .map_err(|missing| if missing.0 == *id { no_backend(id, port) } else { missing.to_string() }),
    }
}

fn no_backend(service: &ResourceId, port: Port) -> String {
    format!("nothing is behind {service} at its port {port}; check its ports and selector, and that pods match it")
}
