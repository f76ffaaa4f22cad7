//! Lives: weir-agent, runtime.
//! Called by: `runtime`, while it waits for the end.
//! May touch: the porter's process.
//! Never: ends before the porter does.

use std::{process::Child, time::Duration};

use super::RunError;

/// How often it is looked at. A sealed agent cannot start another one, and without it connections in other namespaces are not cut, so
/// the agent ends and is started again; what is in force stays.
const LOOK: Duration = Duration::from_millis(500);

/// Waits for the porter's end, and says how it came.
pub(super) async fn ended(mut porter: Child) -> RunError {
    loop {
        match porter.try_wait() {
            Ok(None) => tokio::time::sleep(LOOK).await,
            Ok(Some(status)) => return RunError::Ended { name: "porter", reason: status.to_string() },
            Err(error) => return RunError::Ended { name: "porter", reason: error.to_string() },
        }
    }
}
