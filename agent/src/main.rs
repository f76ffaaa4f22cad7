//! Lives: the `weir-agent` process.
//! Called by: systemd, a container runtime, a person.
//! May touch: the command line, standard output and error, the exit code.
//! Never: does more than parse, run and report.

use std::process::ExitCode;

use clap::Parser;
use weir_agent::{
    config::{self, Args, Config, Fault},
    logs, runtime,
};

/// Exit code for a configuration that is not usable.
const UNUSABLE: u8 = 2;

fn main() -> ExitCode {
    let args = Args::parse();
    if args.print_sample_config {
        print!("{}", config::sample());
        return ExitCode::SUCCESS;
    }
    let config = match configuration(&args) {
        Ok(config) => config,
        Err(faults) => {
            eprintln!("weir-agent: the configuration is not usable ({} faults):", faults.len());
            faults.iter().for_each(|fault| eprintln!("  {fault}"));
            return ExitCode::from(UNUSABLE);
        }
    };
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

fn configuration(args: &Args) -> Result<Config, Vec<Fault>> {
    let config = config::load(args)?;
    config::check_host(&config)?;
    Ok(config)
}
