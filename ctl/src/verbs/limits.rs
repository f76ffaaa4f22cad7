//! Lives: ctl, the verb limits.
//! Called by: `verbs`.
//! May touch: the agent.
//! Never: works out a number; the kernel counts, the agent estimates.

use std::io::Write;

use clap::Args;
use serde::Serialize;
use weir_policy::{Rate, Rates, Spec, parse};

use crate::cli::Connection;
use crate::failure::Failure;
use crate::render::output::{self, TableFormat};
use crate::render::style::{BAD, GOOD, PLAIN, clean};
use crate::render::table::Table;
use crate::view::{Agent, Item, LimitTable, Listing, SynProtection};

const EXAMPLES: &str = "Examples:
  weirctl limits
  weirctl limits -o json | jq '.limits[] | select(.exceededPackets > 0) | .limit'

EXCEEDED is what was dropped, or, under mode: audit, passed and recorded. The numbers of a limit begin with the limit, and go on when it is
edited. BUSY says how full the table of clients is, by a sample: a client both of whose places others use may look busier than it is.
SYN PROTECTION is on while new connections are opened by SYN cookies, and says why where it cannot be. ANSWERED are SYNs, COMPLETED the
connections that came of them; LEFT are SYNs that the listener's own stack got instead.";

/// Arguments of limits.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// How to show it.
    #[arg(short, long, value_enum, default_value_t = TableFormat::Table)]
    output: TableFormat,
}

/// Runs it.
pub async fn run(arguments: &Arguments, connection: &Connection) -> Result<(), Failure> {
    let mut agent = connection.agent()?;
    let listing = agent.list("RateLimit", "").await?;
    let status = agent.status().await?;
    let shown = Shown::of(&listing, &status);
    let mut out = output::open();
    match arguments.output {
        TableFormat::Table => shown.write(&mut out)?,
        TableFormat::Json => output::json(&mut out, &shown)?,
    }
    Ok(out.flush()?)
}

#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Shown {
    generation: u64,
    limits: Vec<Line>,
    /// Absent while there is no limit.
    table: Option<LimitTable>,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Line {
    limit: String,
    mode: String,
    client: String,
    aggregate: String,
    passed_packets: u64,
    passed_bytes: u64,
    exceeded_packets: u64,
    exceeded_bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    syn_protection: Option<SynProtection>,
}

impl Shown {
    fn of(listing: &Listing, agent: &Agent) -> Self {
        let line = |limit: &crate::view::Limit| {
            let item = listing.items.iter().find(|item| item.id() == limit.limit);
            let (mode, client, aggregate) = item.map(rule).unwrap_or_default();
            Line {
                limit: limit.limit.clone(),
                mode,
                client,
                aggregate,
                passed_packets: limit.passed_packets,
                passed_bytes: limit.passed_bytes,
                exceeded_packets: limit.exceeded_packets,
                exceeded_bytes: limit.exceeded_bytes,
                syn_protection: limit.syn_protection.clone(),
            }
        };
        let limits = agent.limits.iter().map(line).collect();
        Self { generation: agent.generation, limits, table: agent.limit_table.clone() }
    }

    fn write(&self, out: &mut dyn Write) -> Result<(), Failure> {
        if self.limits.is_empty() {
            output::remark("no rate limits");
            return Ok(());
        }
        let columns = ["LIMIT", "MODE", "CLIENT", "AGGREGATE", ">PASSED", ">BYTES", ">EXCEEDED", ">BYTES"];
        let mut table = Table::new(&columns);
        for line in &self.limits {
            let exceeded = if line.exceeded_packets > 0 { BAD } else { PLAIN };
            table.styled([
                (line.limit.clone(), PLAIN),
                (line.mode.clone(), PLAIN),
                (line.client.clone(), PLAIN),
                (line.aggregate.clone(), PLAIN),
                (line.passed_packets.to_string(), PLAIN),
                (line.passed_bytes.to_string(), PLAIN),
                (line.exceeded_packets.to_string(), exceeded),
                (line.exceeded_bytes.to_string(), exceeded),
            ]);
        }
        table.write(out)?;
        self.write_syn_protection(out)?;
        if let Some(LimitTable { slots, busy_permille, crowded_permille }) = &self.table {
            let percent = |permille: &u32| f64::from(*permille) / 10.0;
            let (busy, crowded) = (percent(busy_permille), percent(crowded_permille));
            writeln!(
                out,
                "\nclients: {slots} places, {busy:.1}% busy; {crowded:.1}% of clients may look busier than they are"
            )?;
        }
        Ok(())
    }

    fn write_syn_protection(&self, out: &mut dyn Write) -> Result<(), Failure> {
        let protected: Vec<_> =
            self.limits.iter().filter_map(|line| Some((&line.limit, line.syn_protection.as_ref()?))).collect();
        if protected.is_empty() {
            return Ok(());
        }
        writeln!(out)?;
        let mut table = Table::new(&["SYN PROTECTION", "WHEN", "STATE", ">ANSWERED", ">COMPLETED", "LEFT"]);
        for (limit, syn) in &protected {
            let when = match syn.threshold {
                0 => syn.protection.clone(),
                threshold => format!("{}, {threshold}/s", syn.protection),
            };
            let style = match syn.state.as_str() {
                "on" => GOOD,
                "cannot" => BAD,
                _ => PLAIN,
            };
            table.styled([
                ((*limit).clone(), PLAIN),
                (when, PLAIN),
                (syn.state.clone(), style),
                (syn.answered.to_string(), PLAIN),
                (syn.completed.to_string(), PLAIN),
                (left(syn), PLAIN),
            ]);
        }
        table.write(out)?;
        for (limit, syn) in protected.iter().filter(|(_, syn)| !syn.detail.is_empty()) {
            writeln!(out, "{limit}: {}", clean(&syn.detail))?;
        }
        Ok(())
    }
}

/// What went on to the stack instead, and why.
fn left(syn: &SynProtection) -> String {
    let parts = [
        (syn.left_no_cookie, "the kernel gave no cookie"),
        (syn.left_no_listener, "nobody listens"),
        (syn.left_elsewhere, "not an address of this namespace"),
        (syn.left_unusual, "unusual headers"),
        (syn.failed, "failed"),
    ];
    let words = parts.into_iter().filter(|(count, _)| *count > 0).map(|(count, why)| format!("{count} {why}"));
    words.collect::<Vec<_>>().join(", ")
}

/// What a limit's document says: its mode, the rates of one client, and of all.
fn rule(item: &Item) -> (String, String, String) {
    let parsed = parse("agent", &item.yaml).unwrap_or_default();
    let Some(Spec::RateLimit(limit)) = parsed.first().map(|resource| resource.spec()) else {
        return Default::default();
    };
    let mode = format!("{:?}", limit.mode).to_lowercase();
    (mode, rates(&limit.rates), limit.aggregate.as_ref().map(rates).unwrap_or_default())
}

/// As "1000 packets/s +100".
fn rates(rates: &Rates) -> String {
    let kinds = [(rates.packets, "packets"), (rates.bytes, "bytes"), (rates.connections, "connections")];
    let set = kinds.into_iter().filter_map(|(rate, what)| rate.map(|rate| (rate, what)));
    let words = set.map(|(Rate { per_second, burst }, what)| format!("{per_second} {what}/s +{burst}"));
    words.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::Limit;

    #[test]
    fn a_limit_is_shown_with_its_rates_and_what_it_counted() {
        let yaml = "apiVersion: weir.dev/v1alpha1\nkind: RateLimit\nmetadata: {name: api, namespace: shop}\nspec: {packets: \
                    {perSecond: 1000}, aggregate: {connections: {perSecond: 5, burst: 2}}, mode: audit}\n";
        let item = Item {
            kind: "RateLimit".into(),
            namespace: "shop".into(),
            name: "api".into(),
            yaml: yaml.into(),
            generation: 3,
        };
        let listing = Listing { generation: 7, items: vec![item] };
        let limit =
            Limit { limit: "RateLimit/shop/api".into(), passed_packets: 5, exceeded_packets: 2, ..Limit::default() };
        let table = LimitTable { slots: 1024, busy_permille: 500, crowded_permille: 250 };
        let agent = Agent { generation: 7, limits: vec![limit], limit_table: Some(table), ..Agent::default() };
        let mut out = Vec::new();
        Shown::of(&listing, &agent).write(&mut out).unwrap();
        let text = anstream::adapter::strip_str(&String::from_utf8(out).unwrap()).to_string();
        for part in ["audit", "1000 packets/s +100", "5 connections/s +2", "50.0% busy; 25.0% of clients"] {
            assert!(text.contains(part), "{part} is missing in\n{text}");
        }
    }
}
