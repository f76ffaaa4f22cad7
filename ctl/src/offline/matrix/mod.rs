//! Lives: ctl, the verb policy matrix.
//! Called by: `offline`.
//! May touch: the files named, standard output.
//! Never: shows a group's row as if it held for all of it when it holds for some.

mod json;
mod svg;
mod table;

use std::io::Write;

use clap::Args;
use weir_common::addr::Protocol;
use weir_policy::reach::{Cell, Group, GroupBy, PortSet, Reach, groups};
use weir_policy::{PortMatch, Resources};

use super::load::Inputs;
use crate::failure::{Failure, Outcome};
use crate::protocol::Port;
use crate::render::output::{self, remark};

const EXAMPLES: &str = "Examples:
  weirctl policy matrix -f policies/ -f cluster.yaml
  weirctl policy matrix -f . --port 5432/tcp --port 53/udp
  weirctl policy matrix -f . --group-by namespace
  weirctl policy matrix -f . --group-by labels team -o csv > teams.csv
  weirctl policy matrix -f . -o svg > matrix.svg

Rows open connections, columns are called. A cell lists what passes: tcp/80,443 udp/53, all, or - for nothing;
some: passes between some of the ends of the two groups only; ~ passes because the policy that denies it is in audit
mode; a dot: no policy has a say. A pod always reaches itself, and its own node always reaches it; neither is shown.
A workload with several addresses counts with its first.";

/// Arguments of policy matrix.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    #[command(flatten)]
    inputs: Inputs,
    /// Only this port: PORT/PROTOCOL; may be repeated. Without it, all that policies tell apart.
    #[arg(long = "port", value_name = "PORT[/PROTOCOL]")]
    ports: Vec<Port>,
    /// What makes a row: workload (those that no policy tells apart), namespace, or labels KEY (theirs or their namespace's).
    #[arg(long, value_name = "workload|namespace|labels KEY", num_args = 1..=2)]
    group_by: Vec<String>,
    /// Give every end a row of its own.
    #[arg(long, conflicts_with = "group_by")]
    expand: bool,
    /// Show what would be were staged policies enforced.
    #[arg(long)]
    staged: bool,
    /// How to show it.
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    output: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// For a terminal.
    Table,
    /// For a spreadsheet.
    Csv,
    /// For a program.
    Json,
    /// A picture.
    Svg,
}

/// Everything that is shown.
pub struct Matrix {
    /// The only ports asked about; `None`: all.
    pub ports: Option<Vec<Port>>,
    /// Whether staged policies count as enforced.
    pub staged: bool,
    /// How many ends there are.
    pub ends: usize,
    pub groups: Vec<Group>,
    /// For each group that opens, each group that is called.
    pub rows: Vec<Vec<Cell>>,
    /// The names of the ends of each group.
    pub members: Vec<Vec<String>>,
}

/// Runs it.
pub fn run(arguments: &Arguments) -> Result<Outcome, Failure> {
    let by = group_by(arguments)?;
    let resources = arguments.inputs.resources()?;
    if resources.workloads().next().is_none() {
        remark("the files describe no pod or workload, so every policy selects nothing; add them with -f");
    }
    let matrix = matrix(&resources, arguments, &by);
    let mut out = output::open();
    match arguments.output {
        Format::Table => table::write(&mut out, &matrix)?,
        Format::Csv => table::csv(&mut out, &matrix)?,
        Format::Json => output::json(&mut out, &json::Json::from(&matrix))?,
        Format::Svg => svg::write(&mut out, &matrix)?,
    }
    out.flush()?;
    Ok(Outcome::Done)
}

fn group_by(arguments: &Arguments) -> Result<GroupBy, Failure> {
    let words: Vec<_> = arguments.group_by.iter().map(String::as_str).collect();
    match words.as_slice() {
        [] if arguments.expand => Ok(GroupBy::Each),
        [] | ["workload"] => Ok(GroupBy::Alike),
        ["namespace"] => Ok(GroupBy::Namespace),
        ["labels" | "label", key] => Ok(GroupBy::Label((*key).to_owned())),
        ["labels" | "label"] => {
            Err(Failure::Usage("--group-by labels needs a KEY, as in --group-by labels team".to_owned()))
        }
        _ => {
            let given = words.join(" ");
            Err(Failure::Usage(format!("--group-by {given}: not known; write workload, namespace, or labels KEY")))
        }
    }
}

fn matrix(resources: &Resources, arguments: &Arguments, by: &GroupBy) -> Matrix {
    let context = arguments.inputs.reading.context();
    let reach = match arguments.staged {
        true => Reach::if_staged_were_enforced(resources, &context),
        false => Reach::of(resources, &context),
    };
    let groups = groups(&reach, by);
    let entry = |port: &Port| PortMatch { protocol: Protocol(port.protocol), ports: Some((port.port, port.port)) };
    let only = PortSet::of(&arguments.ports.iter().map(entry).collect::<Vec<_>>());
    let cell = |from: &Group, to: &Group| {
        let cell = reach.cell(from, to);
        if arguments.ports.is_empty() {
            return cell;
        }
        Cell {
            every: cell.every.intersection(&only),
            some: cell.some.intersection(&only),
            audited: cell.audited.intersection(&only),
            ..cell
        }
    };
    let rows = groups.iter().map(|from| groups.iter().map(|to| cell(from, to)).collect()).collect();
    let name = |member: &usize| reach.parties().get(*member).map(|party| party.who.to_string());
    let members = groups.iter().map(|group| group.members.iter().filter_map(name).collect()).collect();
    let ports = (!arguments.ports.is_empty()).then(|| arguments.ports.clone());
    Matrix { ports, staged: arguments.staged, ends: reach.parties().len(), groups, rows, members }
}

/// What a cell says.
pub fn words(cell: &Cell) -> String {
    if !cell.judged {
        return "\u{b7}".to_owned();
    }
    let mut words = vec![cell.every.to_string()];
    if cell.some != cell.every {
        let (more, total) = (cell.some.minus(&cell.every).to_string(), cell.some.to_string());
        let some = format!("some:{}", if total.len() < more.len() { total } else { more });
        if cell.every.is_empty() { words = vec![some] } else { words.push(some) }
    }
    if !cell.audited.is_empty() {
        words.push(format!("~{}", cell.audited));
    }
    words.join(" ")
}
