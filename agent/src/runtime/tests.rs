//! Lives: weir-agent, tests of how the agent ends.
//! Called by: `cargo test`.
//! May touch: a temporary directory with a socket and state.
//! Never: asks a real kernel. The whole agent is tested through its API in `rpc::whole_tests`.

use super::*;
use crate::testing::Fake;

#[test]
fn a_subsystem_that_ends_early_ends_the_agent_and_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let text = format!(
        "cgroupRoot: /w\nstateDir: {0}\ngrpc: {{socket: {{path: {0}/a.sock}}}}\ncollector: {{address: none}}\n",
        dir.path().display()
    );
    let config = crate::config::read("t.yaml", &text).unwrap();
    let fake = Fake::default();
    fake.inner().break_wait = true;
    let never = std::future::pending::<Result<(), RunError>>();
    let error = run_on(&config, runtime(None).unwrap(), fake.datapath(), fake, never).unwrap_err();
    assert!(
        matches!(&error, RunError::Ended { name: "telemetry", reason } if reason.contains("told to fail")),
        "{error}"
    );
}
