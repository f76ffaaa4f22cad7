//! Lives: the `weir-agent` process.
//! Called by: systemd, a container runtime, a person.
//! May touch: the command line, standard output and error, the exit code.
//! Never: does more than parse, run and report.

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use clap::Parser;
use weir_agent::{
    config::{self, Args, Config, Fault},
    doctor, kernel, logs, runtime,
};

/// Exit code for a configuration that is not usable.
const UNUSABLE: u8 = 2;

/// The whole of it, also of `next`.
pub fn main() -> ExitCode {
    let args = Args::parse();
    if args.porter {
        return match kernel::porter::serve() {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("weir-agent: the porter ends: {error}");
                ExitCode::FAILURE
            }
        };
    }
    if args.print_sample_config {
        print!("{}", config::sample());
        return ExitCode::SUCCESS;
    }
    if let Some(format) = &args.doctor {
        return examine(&args, format);
    }
    let config = match configuration(&args) {
        Ok(config) => config,
        Err(faults) => {
            let (count, plural) = (faults.len(), if faults.len() == 1 { "" } else { "s" });
            eprintln!("weir-agent: the configuration is not usable ({count} fault{plural}):");
            faults.iter().for_each(|fault| eprintln!("  {fault}"));
            return ExitCode::from(UNUSABLE);
        }
    };
    if args.detach {
        return detach(&config);
    }
    if args.check {
        println!("configuration of node {} is usable", config.node);
        return ExitCode::SUCCESS;
    }
    logs::start(&config.log);
    match runtime::run(&config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("weir-agent: {}", weir_transport::why(&error));
            ExitCode::FAILURE
        }
    }
}

fn detach(config: &Config) -> ExitCode {
    match runtime::detach(config) {
        Ok(done) => {
            println!("detached: {} links, {} XDP programs have their slots back", done.links, done.neighbours);
            if done.behind == 0 {
                return ExitCode::SUCCESS;
            }
            let behind = done.behind;
            eprintln!(
                "weir-agent: {behind} XDP programs are still behind Weir's: run this in the agent's network namespace"
            );
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("weir-agent: {}", weir_transport::why(&error));
            ExitCode::FAILURE
        }
    }
}

fn examine(args: &Args, format: &str) -> ExitCode {
    let report = doctor::examine(args);
    let shown =
        if format == "json" { serde_json::to_string(&report).map_err(Into::into) } else { Ok(report.to_string()) };
    // A reader that went away has seen enough.
    let written = shown.and_then(|text| io::stdout().write_all(text.as_bytes()));
    if report.passes() && written.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn configuration(args: &Args) -> Result<Config, Vec<Fault>> {
    let config = config::load(args)?;
    config::check_host(&config)?;
    Ok(config)
}
