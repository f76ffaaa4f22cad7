//! Lives: the `weir-agent-next` process: the agent with other layouts of events, maps and attach point storage.
//! Called by: tests of upgrades (`tests/tests/live/upgrades.rs`).
//! May touch: what `main` may.
//! Never: shipped; differs from the agent in anything but what the feature `next_layout` changes.

#[path = "main.rs"]
mod agent;

use std::process::ExitCode;

fn main() -> ExitCode {
    agent::main()
}
