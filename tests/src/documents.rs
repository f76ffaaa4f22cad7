//! Lives: weir-tests, the documents that describe a world's services to Weir.
//! Called by: live tests and the demo, which add policies of their own.
//! May touch: nothing.
//! Never: names an address that `world::Who` does not give.

use crate::world::Who;

/// The services as workloads of namespace "shop", each labelled `app: NAME`.
#[must_use]
pub fn workloads() -> String {
    Who::ALL.into_iter().filter(|who| who.managed()).map(workload).collect()
}

/// One of them.
#[must_use]
pub fn workload(who: Who) -> String {
    let (name, v4, v6) = (who.name(), who.v4(), who.v6());
    format!(
        "---\n\
         apiVersion: weir.dev/v1alpha1\n\
         kind: Workload\n\
         metadata: {{name: {name}, namespace: shop, labels: {{app: {name}}}}}\n\
         spec:\n\
         \x20 cgroup: {name}\n\
         \x20 addresses: [{v4}, \"{v6}\"]\n"
    )
}

/// A document of namespace "shop": its kind, name, and spec as YAML (indented lines, or one flow mapping).
#[must_use]
pub fn document(kind: &str, name: &str, spec: &str) -> String {
    let scope = if kind == "AddressSet" { "" } else { ", namespace: shop" };
    format!("---\napiVersion: weir.dev/v1alpha1\nkind: {kind}\nmetadata: {{name: {name}{scope}}}\nspec: {spec}\n")
}
