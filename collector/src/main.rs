//! Lives: the binary weir-collector.
//! Called by: a service manager or a person.
//! May touch: the command line, the exit code.
//! Never: does the work itself; see `run`.

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use weir_collector::config::Config;
use weir_collector::flags::Flags;
use weir_collector::run::run;

fn main() -> ExitCode {
    let flags = Flags::parse();
    let config = match Config::read(&flags) {
        Ok(config) => config,
        Err(faults) => {
            eprintln!("weir-collector: the configuration is refused:\n{faults}");
            return ExitCode::from(2);
        }
    };
    if flags.check {
        println!("the configuration is sound");
        return ExitCode::SUCCESS;
    }
    config.log.start();
    match start(&config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{}", weir_transport::why(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

fn start(config: &Config) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let outcome = runtime.block_on(run(config));
    runtime.shutdown_timeout(Duration::from_secs(1));
    Ok(outcome?)
}
