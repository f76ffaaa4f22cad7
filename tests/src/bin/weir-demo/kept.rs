//! Lives: weir-demo, what --keep leaves running.
//! Called by: story, at its end.
//! May touch: the world, which is the person's from then on.
//! Never: leaves something that `weir-demo --remove` does not find.

use anyhow::Result;
use weir_tests::process::{Running, program};
use weir_tests::world::Who;

use crate::story::{POLICY, Stage, UPDATE, WORKLOADS};

/// Callers that give `observe --follow` something to show, for a day at most.
const CALLS: [(Who, &str); 3] = [
    (Who::Web, "tcp-connect-loop --to 10.77.0.30:5432 --rate 1 --bytes 500 --seconds 86400"),
    (Who::Web, "tcp-connect-loop --to 10.77.0.20:8080 --rate 0.5 --seconds 86400"),
    (Who::Client, "tcp-connect-loop --to 10.77.0.30:5432 --rate 0.2 --seconds 86400"),
];

/// Starts some traffic, says what to try, and lets go of everything.
pub fn leave(stage: Stage) -> Result<()> {
    let world = stage.harness.world();
    for (name, text) in [("workloads.yaml", WORKLOADS), ("policy.yaml", POLICY), ("update.yaml", UPDATE)] {
        world.write(name, text)?;
    }
    for (who, line) in CALLS {
        Running::start_daemon("caller", world.probe_line(who, line), world.folder())?.leave();
    }
    let (ctl, demo) = (program("weirctl"), program("weir-demo"));
    println!(
        "\nEverything runs on. To play with it:\n\
         \n  export WEIR_AGENT=unix:{agent} WEIR_COLLECTOR=unix:{collector}\n\
         \x20 alias weirctl={ctl}\n\
         \x20 cd {folder}\n\
         \n  weirctl status\n\
         \x20 weirctl observe --follow\n\
         \x20 weirctl observe --verdict deny --last 20\n\
         \x20 weirctl explain --from shop/web --to shop/api --port 8080/tcp\n\
         \x20 weirctl apply -f policy.yaml      the way back\n\
         \x20 weirctl apply -f update.yaml      and forth\n\
         \n{step}\n\
         \nTo remove all of it: {demo} --remove",
        agent = stage.harness.agent_socket().display(),
        collector = stage.harness.collector_socket().display(),
        ctl = ctl.display(),
        folder = world.folder().display(),
        step = world.step_inside(),
        demo = demo.display(),
    );
    let Stage { web, api, db, harness } = stage;
    [web, api, db].into_iter().for_each(Running::leave);
    Ok(harness.keep()?)
}
