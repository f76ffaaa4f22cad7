//! Lives: ctl, the verb get.
//! Called by: `verbs`.
//! May touch: the agent.
//! Never: rewrites a document; what it prints can be applied again.

use std::io::Write;

use clap::Args;
use serde::Serialize;
use serde_json::Value;
use weir_policy::Kind;

use super::resource::{id, kind, whole};
use crate::cli::Connection;
use crate::failure::Failure;
use crate::render::output;
use crate::render::table::Table;
use crate::view::{Item, Listing};

const EXAMPLES: &str = "Examples:
  weirctl get policies
  weirctl get workloads -n shop
  weirctl get policy shop/api -o yaml
  weirctl get Policy/shop/api -o yaml
  weirctl get all -o yaml > backup.yaml";

/// Arguments of get.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// Workload, Policy, RateLimit, AddressSet, or all; or a whole name, KIND/NAME or KIND/NAMESPACE/NAME.
    #[arg(value_parser = wanted)]
    kind: Wanted,
    /// NAME, or NAMESPACE/NAME; without it, all of the kind.
    name: Option<String>,
    /// Only this namespace; for a NAME the default is "default".
    #[arg(short, long)]
    namespace: Option<String>,
    /// How to show them.
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    output: Format,
}

/// One kind, or any, or one resource by its whole name.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Wanted {
    All,
    Kind(Kind),
    One(String),
}

/// How to show resources.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    Table,
    Yaml,
    Json,
}

fn wanted(word: &str) -> Result<Wanted, String> {
    match word {
        all if all.eq_ignore_ascii_case("all") => Ok(Wanted::All),
        whole if whole.contains('/') => Ok(Wanted::One(whole.to_owned())),
        word => kind(word).map(Wanted::Kind),
    }
}

/// Runs it.
pub async fn run(arguments: &Arguments, connection: &Connection) -> Result<(), Failure> {
    let namespace = arguments.namespace.as_deref();
    let listing = match (&arguments.kind, &arguments.name) {
        (Wanted::All, Some(_)) => return Err(Failure::Usage("a NAME needs a KIND other than all".to_owned())),
        (Wanted::One(word), Some(name)) => {
            return Err(Failure::Usage(format!("{word} is a name already; {name} is one too many")));
        }
        (Wanted::One(word), None) => connection.agent()?.get(&whole(word, namespace)?).await?,
        (Wanted::All, None) => connection.agent()?.list("", namespace.unwrap_or_default()).await?,
        (Wanted::Kind(kind), None) => connection.agent()?.list(kind.name(), namespace.unwrap_or_default()).await?,
        (Wanted::Kind(kind), Some(name)) => connection.agent()?.get(&id(*kind, name, namespace)?).await?,
    };
    let mut out = output::open();
    match arguments.output {
        Format::Table => table(&mut out, &listing)?,
        Format::Yaml => yaml(&mut out, &listing)?,
        Format::Json => output::json(&mut out, &json(&listing)?)?,
    }
    Ok(out.flush()?)
}

fn table(out: &mut dyn Write, listing: &Listing) -> Result<(), Failure> {
    if listing.items.is_empty() {
        output::remark("no resources");
        return Ok(());
    }
    let mut table = Table::new(&["KIND", "NAMESPACE", "NAME", ">GENERATION"]);
    for Item { kind, namespace, name, generation, .. } in &listing.items {
        let namespace = if namespace.is_empty() { "-" } else { namespace };
        table.row([kind.clone(), namespace.to_owned(), name.clone(), generation.to_string()]);
    }
    Ok(table.write(out)?)
}

fn yaml(out: &mut dyn Write, listing: &Listing) -> Result<(), Failure> {
    for (index, item) in listing.items.iter().enumerate() {
        let separator = if index > 0 { "---\n" } else { "" };
        writeln!(out, "{separator}{}", item.yaml.trim_end())?;
    }
    Ok(())
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Json {
    generation: u64,
    items: Vec<JsonItem>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct JsonItem {
    /// Generation that last changed it.
    generation: u64,
    /// The document.
    resource: Value,
}

fn json(listing: &Listing) -> Result<Json, Failure> {
    let item = |item: &Item| match serde_saphyr::from_str(&item.yaml) {
        Ok(resource) => Ok(JsonItem { generation: item.generation, resource }),
        Err(error) => Err(Failure::Refused(format!("the agent's document of {} is not YAML: {error}", item.id()))),
    };
    Ok(Json { generation: listing.generation, items: listing.items.iter().map(item).collect::<Result<_, _>>()? })
}
