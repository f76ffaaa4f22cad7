//! Lives: xtask, the image's bill of materials.
//! Called by: `image`.
//! May touch: `cargo metadata`, git's log; the file it is given.
//! Never: lists what is not in the programs: procedural macros, build scripts' and tests' dependencies stay out.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::{PACKAGES, TARGET, git};
use crate::paths::Repo;
use crate::process;

/// The type of a crate's package URL.
const CARGO: &str = "cargo";

/// Writes CycloneDX 1.5.
pub fn write(repo: &Repo, file: &Path) -> Result<()> {
    let mut packages = BTreeMap::new();
    shipped(&metadata(repo, "Cargo.toml")?, &PACKAGES, &mut packages);
    // The kernel programs, which the agent carries, are a workspace of their own.
    shipped(&metadata(repo, "ebpf/Cargo.toml")?, &["weir-ebpf"], &mut packages);
    for (name, version, licence) in linked()? {
        let package = json!({"name": name, "version": version, "license": licence});
        packages.insert(
            purl(&package, "generic"),
            Package { component: component(&package, "generic"), uses: BTreeSet::new() },
        );
    }
    let mut time = git(repo);
    time.env("TZ", "UTC").args(["log", "-1", "--date=format-local:%Y-%m-%dT%H:%M:%SZ", "--format=%cd"]);
    let bill = bill(&packages, process::capture(&mut time)?.trim());
    let text = serde_json::to_string_pretty(&bill).context("writing the bill of materials")? + "\n";
    fs::write(file, text).with_context(|| format!("writing {}", file.display()))
}

/// What no manifest names and every static program holds: the standard library and the C library.
fn linked() -> Result<[(&'static str, String, &'static str); 2]> {
    let second = |text: String| text.split_whitespace().nth(1).map(str::to_owned);
    let rust = second(process::capture(process::clean("rustc").arg("--version"))?).context("rustc has no version")?;
    let libc = second(process::capture(process::clean("getconf").arg("GNU_LIBC_VERSION"))?);
    Ok([
        ("rust-std", rust, "MIT OR Apache-2.0"),
        ("glibc", libc.context("the C library has no version")?, "LGPL-2.1-or-later"),
    ])
}

fn metadata(repo: &Repo, manifest: &str) -> Result<Value> {
    let mut cargo = process::cargo(repo);
    cargo.args(["metadata", "--locked", "--format-version", "1", "--filter-platform", TARGET, "--manifest-path"]);
    let text = process::capture(cargo.arg(repo.root().join(manifest)))?;
    serde_json::from_str(&text).with_context(|| format!("reading the metadata of {manifest}"))
}

/// One package: what it is, and what it uses.
struct Package {
    component: Value,
    uses: BTreeSet<String>,
}

/// Follows normal dependencies from the packages named `roots`.
fn shipped(metadata: &Value, roots: &[&str], found: &mut BTreeMap<String, Package>) {
    let by_id: BTreeMap<&str, &Value> =
        list(metadata, "/packages").map(|package| (text(package, "/id"), package)).collect();
    let nodes: BTreeMap<&str, &Value> =
        list(metadata, "/resolve/nodes").map(|node| (text(node, "/id"), node)).collect();
    let is_root = |package: &&&Value| roots.contains(&text(package, "/name"));
    let mut open: Vec<&Value> = by_id.values().filter(is_root).copied().collect();
    while let Some(package) = open.pop() {
        let purl = purl(package, CARGO);
        if found.contains_key(&purl) {
            continue;
        }
        let node = nodes.get(text(package, "/id")).copied().unwrap_or(&Value::Null);
        let uses: Vec<&Value> = list(node, "/deps")
            .filter(|dep| list(dep, "/dep_kinds").any(|kind| kind.get("kind").is_some_and(Value::is_null)))
            .filter_map(|dep| by_id.get(text(dep, "/pkg")).copied())
            .filter(|package| !is_macro(package))
            .collect();
        let names = uses.iter().map(|package| self::purl(package, CARGO)).collect();
        found.insert(purl, Package { component: component(package, CARGO), uses: names });
        open.extend(uses);
    }
}

fn bill(packages: &BTreeMap<String, Package>, time: &str) -> Value {
    let components: Vec<&Value> = packages.values().map(|package| &package.component).collect();
    let dependencies: Vec<Value> =
        packages.iter().map(|(purl, package)| json!({"ref": purl, "dependsOn": package.uses})).collect();
    json!({
        "$schema": "http://cyclonedx.org/schema/bom-1.5.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {
            "timestamp": time,
            "component": {"type": "container", "name": "weir", "version": env!("CARGO_PKG_VERSION"), "bom-ref": "weir"},
        },
        "components": components,
        "dependencies": dependencies,
    })
}

fn component(package: &Value, kind: &str) -> Value {
    let mut component = json!({
        "type": "library",
        "name": text(package, "/name"),
        "version": text(package, "/version"),
        "purl": purl(package, kind),
        "bom-ref": purl(package, kind),
    });
    // `A/B` is how licences were joined before SPDX expressions.
    let licence = text(package, "/license").split('/').map(str::trim).collect::<Vec<_>>().join(" OR ");
    if let (false, Some(fields)) = (licence.is_empty(), component.as_object_mut()) {
        fields.insert("licenses".to_owned(), json!([{"expression": licence}]));
    }
    component
}

fn is_macro(package: &Value) -> bool {
    list(package, "/targets").any(|target| list(target, "/kind").any(|kind| kind == "proc-macro"))
}

fn purl(package: &Value, kind: &str) -> String {
    format!("pkg:{kind}/{}@{}", text(package, "/name"), text(package, "/version"))
}

fn text<'v>(value: &'v Value, path: &str) -> &'v str {
    value.pointer(path).and_then(Value::as_str).unwrap_or_default()
}

fn list<'v>(value: &'v Value, path: &str) -> impl Iterator<Item = &'v Value> {
    value.pointer(path).and_then(Value::as_array).into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_in_the_programs_is_listed_with_its_licence() {
        let package = |name: &str, kind: &str, licence: Value| json!({"id": name, "name": name, "version": "1.0.0", "license": licence, "targets": [{"kind": [kind]}]});
        let dep = |name: &str, kind: Value| json!({"pkg": name, "dep_kinds": [{"kind": kind}]});
        let metadata = json!({
            "packages": [package("root", "bin", json!("Apache-2.0")), package("used", "lib", json!("MIT/Apache-2.0")),
                         package("derive", "proc-macro", json!("MIT")), package("tested", "lib", json!("MIT")),
                         package("built", "lib", Value::Null)],
            "resolve": {"nodes": [{"id": "root", "deps": [dep("used", Value::Null), dep("derive", Value::Null),
                                                          dep("tested", json!("dev")), dep("built", json!("build"))]}]},
        });
        let mut packages = BTreeMap::new();
        shipped(&metadata, &["root"], &mut packages);
        let bill = bill(&packages, "2026-01-01T00:00:00Z");
        let names: Vec<&str> = list(&bill, "/components").map(|component| text(component, "/name")).collect();
        assert_eq!(names, ["root", "used"]);
        assert_eq!(bill["components"][1]["licenses"], json!([{"expression": "MIT OR Apache-2.0"}]));
        assert_eq!(
            bill["dependencies"][0],
            json!({"ref": "pkg:cargo/root@1.0.0", "dependsOn": ["pkg:cargo/used@1.0.0"]})
        );
    }
}
