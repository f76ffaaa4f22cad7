//! Lives: ctl, the verb explain.
//! Called by: `verbs`.
//! May touch: the agent.
//! Never: judges by itself; the agent answers from the generation in force.

use std::io::Write;

use clap::Args;

use crate::cli::Connection;
use crate::failure::{Failure, Outcome};
use crate::protocol::Port;
use crate::render::output::{self, Format};
use crate::render::style::{self, BOLD, DIM, clean, paint};
use crate::view::{Explanation, Side, Verdict};

const EXAMPLES: &str = "Examples:
  weirctl explain --from shop/web --to shop/db --port 5432/tcp
  weirctl explain --from 203.0.113.9 --to shop/web --port 443
  weirctl explain --from shop/web --to 2001:db8::1 --port icmpv6
  if weirctl explain --from web --to db --port 5432 > /dev/null; then echo open; fi

Exit codes: 0 allowed (also by a policy in audit mode), 4 denied; 1 refused, 2 usage, 3 no agent.";

/// Arguments of explain.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// Who opens the connection: NAMESPACE/NAME or NAME of a workload, or an address.
    #[arg(long, value_name = "WORKLOAD|ADDRESS")]
    from: String,
    /// To whom.
    #[arg(long, value_name = "WORKLOAD|ADDRESS")]
    to: String,
    /// PORT/PROTOCOL (tcp when left out), TYPE/icmp, or a protocol without ports; icmp alone is a ping.
    #[arg(long, value_name = "PORT[/PROTOCOL]")]
    port: Port,
    /// How to show the answer.
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    output: Format,
}

/// Runs it.
pub async fn run(arguments: &Arguments, connection: &Connection) -> Result<Outcome, Failure> {
    let Arguments { from, to, port, .. } = arguments;
    let explanation = connection.agent()?.explain(from, to, port.protocol, port.port).await?;
    let mut out = output::open();
    match arguments.output {
        Format::Text => text(&mut out, &format!("{from} -> {to} {port}"), &explanation)?,
        Format::Json => output::json(&mut out, &explanation)?,
    }
    out.flush()?;
    match explanation.verdict {
        Verdict::Allow | Verdict::Audit => Ok(Outcome::Done),
        Verdict::Deny => Ok(Outcome::Denied),
        Verdict::Unknown => Err(Failure::Refused("the agent gave no verdict".to_owned())),
    }
}

fn text(out: &mut dyn Write, question: &str, explanation: &Explanation) -> std::io::Result<()> {
    let verdict = paint(style::verdict(explanation.verdict), &explanation.verdict.name().to_uppercase());
    writeln!(out, "{verdict} {} (generation {})", clean(question), explanation.generation)?;
    for (direction, side) in [("egress", &explanation.egress), ("ingress", &explanation.ingress)] {
        if let Some(side) = side {
            self::side(out, direction, side)?;
        }
    }
    for limit in &explanation.limits {
        writeln!(out, "  limited  {}", clean(limit))?;
    }
    Ok(())
}

fn side(out: &mut dyn Write, direction: &str, side: &Side) -> std::io::Result<()> {
    let heading = paint(BOLD, &format!("{direction:7}"));
    if !side.judged {
        let why = if side.why.is_empty() { "not judged on this node" } else { &side.why };
        return writeln!(out, "  {heading}  {}", paint(DIM, &format!("-      {}", clean(why))));
    }
    let verdict = paint(style::verdict(side.verdict), &format!("{:5}", side.verdict.name()));
    let mut words = vec![side.reason.clone()];
    words.extend([&side.policy, &side.rule].into_iter().filter(|word| !word.is_empty()).cloned());
    writeln!(out, "  {heading}  {verdict}  {}", clean(&words.join(" ")))?;
    match side.why.is_empty() {
        true => Ok(()),
        false => writeln!(out, "                  {}", clean(&side.why)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_names_both_sides() {
        let judged = Side {
            judged: true,
            verdict: Verdict::Deny,
            reason: "default".to_owned(),
            policy: "Policy/shop/db".to_owned(),
            rule: "default ingress".to_owned(),
            why: "no rule matches".to_owned(),
            ..Side::default()
        };
        let explanation = Explanation {
            verdict: Verdict::Deny,
            generation: 7,
            egress: Some(Side::default()),
            ingress: Some(judged),
            limits: vec!["RateLimit/shop/api".to_owned()],
        };
        let mut out = Vec::new();
        text(&mut out, "shop/web -> shop/db 5432/tcp", &explanation).unwrap();
        let shown = anstream::adapter::strip_str(&String::from_utf8(out).unwrap()).to_string();
        let expected = "DENY shop/web -> shop/db 5432/tcp (generation 7)\n  egress   -      not judged on this node\n  \
                        ingress  deny   default Policy/shop/db default ingress\n                  no rule matches\n  \
                        limited  RateLimit/shop/api\n";
        assert_eq!(shown, expected);
    }
}
