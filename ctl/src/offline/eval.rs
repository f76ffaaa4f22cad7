//! Lives: ctl, the verb policy eval.
//! Called by: `offline`.
//! May touch: the files named, standard output.
//! Never: judges by itself; the reference evaluator does, the one that policies are compiled by.

use std::io::Write;

use clap::Args;
use serde::Serialize;
use weir_common::verdict::Verdict;
use weir_policy::Explanation;

use super::ask::ask_all;
use super::ends::{self, ENDS, Named, VALUE};
use super::explained;
use super::load::Inputs;
use crate::failure::{Failure, Outcome};
use crate::protocol::Port;
use crate::render::output::{self, Format};
use crate::render::style::{clean, paint};

const EXAMPLES: &str = "Examples:
  weirctl policy eval -f policies/ -f cluster.yaml --from shop/web --to data/db --port 5432/tcp
  weirctl policy eval -f . --from shop/web --to svc:data/db --port 5432
  weirctl policy eval -f . --from shop/app=web --to data/app=db --port 5432
  weirctl policy eval -f . --from node:worker-1 --to shop/web --port 80
  weirctl policy eval -f . --from shop/web --to 203.0.113.9 --port icmp
  weirctl policy eval -f . --from a --to b --port 80 --at 2027-01-01T00:00:00Z

Exit codes: 0 allowed (also by a policy in audit mode), 4 denied; 1 refused, 2 usage.";

/// Arguments of policy eval.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES, after_long_help = format!("{ENDS}\n\n{EXAMPLES}"))]
pub struct Arguments {
    #[command(flatten)]
    inputs: Inputs,
    /// Who opens the connection: NAMESPACE/NAME, NAMESPACE/KEY=VALUE, an address, or node:NAME.
    #[arg(long, value_name = VALUE)]
    from: String,
    /// To whom: as --from, or svc:NAMESPACE/NAME.
    #[arg(long, value_name = VALUE)]
    to: String,
    /// PORT/PROTOCOL (tcp when left out), TYPE/icmp, or a protocol without ports; icmp alone is a ping.
    #[arg(long, value_name = "PORT[/PROTOCOL]")]
    port: Port,
    /// How to show the answer.
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    output: Format,
}

#[derive(Serialize)]
struct Json<'a> {
    from: &'a str,
    to: &'a str,
    port: String,
    /// How many connections that is.
    asked: usize,
    /// How many of them have this verdict; the others have a milder one.
    alike: usize,
    #[serde(flatten)]
    explanation: explained::Json<'a>,
}

/// Runs it.
pub fn run(arguments: &Arguments) -> Result<Outcome, Failure> {
    let Arguments { inputs, from, to, port, .. } = arguments;
    let resources = inputs.resources()?;
    let find = |flag: &str, text: &str| -> Result<Vec<Named>, Failure> {
        ends::find_all(&resources, text).map_err(|bad| Failure::Refused(clean(&format!("{flag} {bad}")).into_owned()))
    };
    let (opens, called) = (find("--from", from)?, find("--to", to)?);
    let asked = ask_all(&resources, &inputs.reading.context(), (&opens, &called), *port);
    let answers = asked.into_iter().map(|(question, answer)| Ok((question, answer.map_err(Failure::Refused)?)));
    let Strictest { question, explanation, alike, asked } = strictest(answers.collect::<Result<Vec<_>, Failure>>()?)?;
    let mut out = output::open();
    match arguments.output {
        Format::Text => {
            let verdict = paint(explained::style(explanation.verdict), &explanation.verdict.name().to_uppercase());
            match asked {
                1 => writeln!(out, "{verdict} {} -> {} {port}", clean(from), clean(to))?,
                _ => {
                    writeln!(
                        out,
                        "{verdict} {} -> {} {port}: {alike} of {asked} connections, such as",
                        clean(from),
                        clean(to)
                    )?;
                    writeln!(out, "  {}", clean(&question))?;
                }
            }
            explained::text(&mut out, &explanation)?;
        }
        Format::Json => {
            let explanation = explained::Json::from(&explanation);
            output::json(&mut out, &Json { from, to, port: port.to_string(), asked, alike, explanation })?;
        }
    }
    out.flush()?;
    Ok(match explanation.verdict {
        Verdict::Allow | Verdict::Audit => Outcome::Done,
        Verdict::Deny => Outcome::Denied,
    })
}

/// The first of several answers that is the least open.
struct Strictest {
    question: String,
    explanation: Explanation,
    /// How many have its verdict.
    alike: usize,
    asked: usize,
}

fn strictest(answers: Vec<(String, Explanation)>) -> Result<Strictest, Failure> {
    let rank = |verdict: Verdict| match verdict {
        Verdict::Deny => 0,
        Verdict::Audit => 1,
        Verdict::Allow => 2,
    };
    let asked = answers.len();
    let verdicts: Vec<_> = answers.iter().map(|(_, explanation)| explanation.verdict).collect();
    let first = answers.into_iter().min_by_key(|(_, explanation)| rank(explanation.verdict));
    let nothing =
        || Failure::Refused("these ends are one and the same, so there is no connection between two".to_owned());
    let (question, explanation) = first.ok_or_else(nothing)?;
    let alike = verdicts.iter().filter(|verdict| **verdict == explanation.verdict).count();
    Ok(Strictest { question, explanation, alike, asked })
}
