//! Lives: weir-agent, tests of the whole agent through its API, over a kernel in memory.
//! Called by: `cargo test`.
//! May touch: a temporary directory with sockets and state.
//! Never: asks a real kernel.

use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tonic::{Code, transport::Channel};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};
use weir_common::{
    event::Kind,
    verdict::{Direction, Hook, Reason, Verdict},
};
use weir_proto::v1::{self, policy_service_client::PolicyServiceClient};

use crate::{
    datapath::Merged,
    runtime::{RunError, run_on, runtime},
    testing::{Fake, event},
};

const WEB: &str = "apiVersion: weir.dev/v1alpha1\nkind: Workload\nmetadata: {name: web, labels: {app: web}}\n\
                   spec: {cgroup: web, addresses: [10.0.0.1]}\n";

struct Running {
    dir: tempfile::TempDir,
    fake: Fake,
    end: Option<oneshot::Sender<()>>,
    thread: std::thread::JoinHandle<Result<(), RunError>>,
}

fn start() -> Running {
    let dir = tempfile::tempdir().unwrap();
    let text = format!(
        "node: n1\ncgroupRoot: {0}\nstateDir: {0}/state\ngrpc: {{socket: {{path: {0}/agent.sock}}}}\n\
         collector: {{address: 'unix:{0}/collector.sock'}}\n",
        dir.path().display()
    );
    let config = crate::config::read("t.yaml", &text).unwrap();
    let fake = Fake::default();
    let (end, ended) = oneshot::channel::<()>();
    let (datapath, events) = (fake.datapath(), fake.clone());
    let thread = std::thread::spawn(move || {
        let ended = async move {
            let _ = ended.await;
            Ok(())
        };
        run_on(&config, runtime(None)?, datapath, events, ended)
    });
    Running { dir, fake, end: Some(end), thread }
}

impl Running {
    async fn client(&self) -> PolicyServiceClient<Channel> {
        let address = format!("unix:{}/agent.sock", self.dir.path().display()).parse().unwrap();
        let channel = weir_transport::connect(&address, None, false).unwrap();
        let mut client = PolicyServiceClient::new(channel);
        let ready = async {
            loop {
                match client.status(v1::StatusRequest {}).await {
                    Ok(status) if status.get_ref().enforcing => return,
                    Ok(_) | Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(10), ready).await.unwrap();
        client
    }

    fn stop(mut self) -> (Result<(), RunError>, Duration, Fake) {
        let begin = Instant::now();
        let _ = self.end.take().unwrap().send(());
        let result = self.thread.join().unwrap();
        (result, begin.elapsed(), self.fake)
    }
}

fn apply(text: &str) -> v1::ApplyRequest {
    let sources = vec![v1::Source { name: "web.yaml".into(), text: text.into() }];
    v1::ApplyRequest { sources, ..v1::ApplyRequest::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn policy_is_served_and_the_counters_of_status_agree() {
    let agent = start();
    let mut client = agent.client().await;
    let applied = client.apply(apply(WEB)).await.unwrap().into_inner();
    assert_eq!((applied.generation, applied.changes.len(), applied.faults.len()), (2, 1, 0));
    let refused = client.apply(apply(&WEB.replace("spec", "sepc"))).await.unwrap().into_inner();
    assert!(refused.generation == 2 && refused.faults.iter().all(|fault| fault.source == "web.yaml" && fault.line > 0));
    let id = v1::ResourceId { kind: "workloads".into(), namespace: String::new(), name: "web".into() };
    let got =
        client.get(v1::GetRequest { kind: id.kind.clone(), namespace: "default".into(), name: id.name.clone() }).await;
    assert!(got.unwrap().into_inner().resource.unwrap().yaml.contains("10.0.0.1"));
    let missing =
        client.get(v1::GetRequest { kind: "Policy".into(), namespace: String::new(), name: "x".into() }).await;
    assert_eq!(missing.unwrap_err().code(), Code::NotFound);
    let bad = client.list(v1::ListRequest { kind: "Ingress".into(), namespace: String::new() }).await;
    assert_eq!(bad.unwrap_err().code(), Code::InvalidArgument);

    for cookie in 0..300 {
        agent.fake.decide(event(Kind::Verdict, Hook::SockOps, Direction::Egress, cookie));
        let denied = weir_common::event::Event {
            verdict: Verdict::Deny as u8,
            reason: Reason::Default as u8,
            ..event(Kind::Verdict, Hook::Ingress, Direction::Ingress, cookie)
        };
        agent.fake.decide(denied);
    }
    {
        let mut inner = agent.fake.inner();
        let xdp = (Hook::Xdp, Verdict::Deny, Reason::Blocklist);
        inner.merged.push_back(Merged { overflow: vec![(xdp.0, xdp.1, xdp.2, 17)], ..Merged::default() });
        let cell =
            crate::datapath::CounterCell { hook: xdp.0, verdict: xdp.1, reason: xdp.2, decided: 25, lost: 3, quiet: 5 };
        inner.counters.push(cell);
    }
    let settled = async {
        loop {
            let status = client.status(v1::StatusRequest {}).await.unwrap().into_inner();
            if status.counters.iter().all(|c| c.decided == c.recorded + c.lost + c.quiet) {
                return status;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let status = tokio::time::timeout(Duration::from_secs(5), settled).await.unwrap();
    assert_eq!(status.counters.iter().map(|c| c.decided).sum::<u64>(), 625);
    assert_eq!(status.interfaces[0].refuses, ["martian"]);
    let exporter = status.exporter.unwrap();
    assert_eq!((exporter.records_lost, exporter.records_sent, exporter.state.as_str()), (0, 0, "connecting"));
    assert!(exporter.records_queued >= 601, "{}", exporter.records_queued);
    assert_eq!((status.node.as_str(), status.generation, status.resources.get("Workload")), ("n1", 2, Some(&1)));
    assert_eq!(status.workloads[0].state, "attached");
    assert_eq!((status.interfaces[0].packets_seen, status.interfaces[0].packets_dropped), (5, 2));

    let deleted = client.delete(v1::DeleteRequest { ids: vec![id], dry_run: false }).await.unwrap().into_inner();
    assert_eq!((deleted.generation, deleted.changes[0].action.as_str()), (3, "deleted"));
    let (result, took, _) = agent.stop();
    result.unwrap();
    assert!(took < Duration::from_secs(2), "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn health_is_serving_while_the_policy_is_in_the_kernel() {
    let agent = start();
    drop(agent.client().await);
    let address = format!("unix:{}/agent.sock", agent.dir.path().display()).parse().unwrap();
    let mut client = HealthClient::new(weir_transport::connect(&address, None, false).unwrap());
    let ask = |service: &str| HealthCheckRequest { service: service.to_owned() };
    for service in ["", "weir.v1.PolicyService"] {
        assert_eq!(client.check(ask(service)).await.unwrap().into_inner().status(), ServingStatus::Serving);
    }
    assert_eq!(client.check(ask("weir.v1.Nothing")).await.unwrap_err().code(), Code::NotFound);
    let mut unknown = client.watch(ask("weir.v1.Nothing")).await.unwrap().into_inner();
    assert_eq!(unknown.message().await.unwrap().unwrap().status(), ServingStatus::ServiceUnknown);
    let mut watch = client.watch(ask("")).await.unwrap().into_inner();
    assert_eq!(watch.message().await.unwrap().unwrap().status(), ServingStatus::Serving);
    agent.fake.inner().fail_counters = true;
    assert_eq!(watch.message().await.unwrap().unwrap().status(), ServingStatus::NotServing);
    let (result, _, _) = agent.stop();
    result.unwrap();
    assert!(!matches!(watch.message().await, Ok(Some(_))), "the stream ends with the agent");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watcher_sees_the_snapshot_then_the_change_and_ends_with_the_agent() {
    let agent = start();
    let mut client = agent.client().await;
    client.apply(apply(WEB)).await.unwrap();
    let mut watch = client.watch(v1::WatchRequest { kind: String::new() }).await.unwrap().into_inner();
    let first = watch.message().await.unwrap().unwrap();
    assert_eq!((first.change.unwrap().action, first.synced, first.generation), ("created".to_owned(), false, 2));
    let synced = watch.message().await.unwrap().unwrap();
    assert!(synced.synced && synced.change.is_none());
    client.apply(apply(&WEB.replace("10.0.0.1", "10.0.0.7"))).await.unwrap();
    let changed = watch.message().await.unwrap().unwrap();
    assert_eq!((changed.change.unwrap().action, changed.generation), ("changed".to_owned(), 3));
    let (result, took, fake) = agent.stop();
    result.unwrap();
    assert!(took < Duration::from_secs(2), "{took:?}");
    assert!(fake.inner().dropped, "stopping drops the kernel side, which detaches");
    assert!(!matches!(watch.message().await, Ok(Some(_))));
}
