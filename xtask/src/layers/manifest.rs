//! Lives: xtask, the arrows as Cargo.toml files draw them.
//! Called by: layers.
//! May touch: manifests, read-only.
//! Never: judges by a dependency's local name when `package` says what it is.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use toml::{Table, Value};

use super::{Finding, LAYERS, Layer, Scope};

/// Members of the workspace that no table speaks of.
pub fn unknown_members(root: &Path) -> Result<Vec<Finding>> {
    let file = Path::new("Cargo.toml");
    let Some((text, table)) = read(&root.join(file))? else { return Ok(Vec::new()) };
    let members = table.get("workspace").and_then(|workspace| workspace.get("members")).and_then(Value::as_array);
    let unknown = members.into_iter().flatten().filter_map(Value::as_str);
    let unknown = unknown.filter(|member| LAYERS.iter().all(|layer| layer.folder != *member));
    let finding = |member: &str| {
        let line = line_of(&text, &format!("\"{member}\""));
        Finding::new(file, line, format!("{member} has no layer"), "decide its arrows in xtask/src/layers/mod.rs")
    };
    Ok(unknown.map(finding).collect())
}

/// Checks one crate's dependencies of every kind, for every target.
pub fn check(root: &Path, layer: &Layer) -> Result<Vec<Finding>> {
    let file = Path::new(layer.folder).join("Cargo.toml");
    let Some((text, table)) = read(&root.join(&file))? else { return Ok(Vec::new()) };
    let mut findings = Vec::new();
    let name = table.get("package").and_then(|package| package.get("name")).and_then(Value::as_str);
    if name != Some(layer.package) {
        // The arrows are written with package names: one that nobody has would never be found pointing anywhere.
        let what = format!("the package is not called {}", layer.package);
        findings.push(Finding::new(
            &file,
            line_of(&text, "name"),
            what,
            "bring it and xtask/src/layers/mod.rs together",
        ));
    }
    for (key, package) in dependencies(&table) {
        if let Some((what, remedy)) = wrong(layer, &package) {
            let what = format!("{} depends on {package}, {what}", layer.package);
            findings.push(Finding::new(&file, line_of(&text, &key), what, remedy));
        }
    }
    Ok(findings)
}

/// Why a dependency is wrong and what to do instead.
fn wrong(layer: &Layer, package: &str) -> Option<(&'static str, &'static str)> {
    let ours = package == layer.package || LAYERS.iter().any(|other| other.package == package);
    if ours && package != layer.package && !layer.may_use.contains(&package) {
        return Some(("against the arrows", "move what is needed to a crate both may use"));
    }
    if package == "aya" && layer.kernel_api == Scope::Nowhere {
        return Some(("which only agent/src/kernel names", "ask the agent for it"));
    }
    if layer.pure && matches!(package, "tokio" | "tonic" | "prost") {
        return Some(("but does no I/O", "do it in the caller and hand the result in"));
    }
    None
}

/// All (local name, package) pairs.
fn dependencies(manifest: &Table) -> Vec<(String, String)> {
    const KINDS: [&str; 3] = ["dependencies", "dev-dependencies", "build-dependencies"];
    let targets = manifest.get("target").and_then(Value::as_table).into_iter().flat_map(Table::values);
    let places = targets.filter_map(Value::as_table).chain([manifest]);
    let tables = places.flat_map(|place| KINDS.iter().filter_map(|kind| place.get(*kind).and_then(Value::as_table)));
    let entries = tables.flat_map(Table::iter);
    let package = |(key, value): (&String, &Value)| {
        let named = value.get("package").and_then(Value::as_str);
        (key.clone(), named.unwrap_or(key).to_owned())
    };
    entries.map(package).collect()
}

/// Where a dependency is declared, on a line of its own or as the end of a table's heading.
fn line_of(text: &str, key: &str) -> usize {
    let declares = |line: &str| {
        let line = line.trim_start();
        line.strip_prefix(key).is_some_and(|rest| rest.starts_with(['.', ' ', '=', ',']))
            || line.contains(&format!(".{key}]"))
    };
    let number = text.lines().position(declares).or_else(|| text.lines().position(|line| line.contains(key)));
    number.map_or(1, |index| index + 1)
}

fn read(path: &Path) -> Result<Option<(String, Table)>> {
    if !path.is_file() {
        return Ok(None);
    }
    let text = fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    let table = text.parse().with_context(|| format!("reading {}", path.display()))?;
    Ok(Some((text, table)))
}
