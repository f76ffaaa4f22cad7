//! Lives: ctl's tests.
//! Called by: `world`, which serves it.
//! May touch: nothing.
//! Never: a policy engine; it answers by rote, so that tests know every word.

use std::pin::Pin;

use tokio_stream::{Stream, iter};
use tonic::{Request, Response, Status};
use weir_proto::v1::policy_service_server::PolicyService;
use weir_proto::v1::{
    ApplyRequest, ApplyResponse, BlockedConnection, Change, ConnectionStatus, Counter, DeleteRequest, DeleteResponse,
    Direction, DoomedConnection, ExplainRequest, ExplainResponse, ExporterStatus, Fault, GetRequest, GetResponse,
    InterfaceStatus, LimitStatus, LimitTable, ListRequest, ListResponse, NodeOnlyStatus, Resource, StatusRequest,
    StatusResponse, Verdict, WatchRequest, WatchResponse, WorkloadStatus, explain_response::Side,
};

/// Refuses documents that hold the word "bad".
#[derive(Debug)]
pub struct FakeAgent;

fn change(action: &str, kind: &str, namespace: &str, name: &str) -> Change {
    let [action, kind, namespace, name] = [action, kind, namespace, name].map(str::to_owned);
    Change { action, kind, namespace, name }
}

fn policy(name: &str) -> Resource {
    Resource {
        kind: "Policy".to_owned(),
        namespace: "shop".to_owned(),
        name: name.to_owned(),
        yaml: format!("apiVersion: weir.dev/v1alpha1\nkind: Policy\nmetadata:\n  name: {name}\n  namespace: shop\n"),
        generation: 3,
    }
}

fn fault(source: &str, line: u32) -> Fault {
    Fault {
        source: source.to_owned(),
        line,
        column: 5,
        field: "spec.mode".to_owned(),
        value: "bad".to_owned(),
        problem: "unknown mode".to_owned(),
        remedy: "write enforce or audit".to_owned(),
    }
}

#[tonic::async_trait]
impl PolicyService for FakeAgent {
    async fn apply(&self, request: Request<ApplyRequest>) -> Result<Response<ApplyResponse>, Status> {
        let ApplyRequest { sources, dry_run, replace_all } = request.into_inner();
        let bad = sources.iter().filter(|source| source.text.contains("bad"));
        let faults: Vec<_> = bad.flat_map(|source| [fault(&source.name, 7), fault(&source.name, 9)]).collect();
        if !faults.is_empty() {
            return Ok(Response::new(ApplyResponse { generation: 7, faults, dry_run, ..ApplyResponse::default() }));
        }
        let mut changes: Vec<_> = sources.iter().map(|s| change("created", "Policy", "shop", s.text.trim())).collect();
        changes.push(change("unchanged", "AddressSet", "", "blocked"));
        if replace_all {
            changes.push(change("deleted", "Workload", "shop", "old"));
        }
        let warnings = vec!["policy api selects nothing".to_owned()];
        let generation = if dry_run { 7 } else { 8 };
        let doomed = DoomedConnection {
            workload: "shop/api".to_owned(),
            connection: "TCP 10.0.0.2:40000 -> 10.0.0.3:80".to_owned(),
            direction: Direction::Ingress.into(),
            reason: "default".to_owned(),
            policy: "Policy/shop/api".to_owned(),
            rule: "default ingress".to_owned(),
        };
        let (would_cut, would_cut_count) = if dry_run { (vec![doomed], 5) } else { (Vec::new(), 0) };
        let faults = Vec::new();
        Ok(Response::new(ApplyResponse { generation, changes, faults, warnings, dry_run, would_cut, would_cut_count }))
    }

    async fn get(&self, request: Request<GetRequest>) -> Result<Response<GetResponse>, Status> {
        let GetRequest { kind, namespace, name } = request.into_inner();
        match (kind.as_str(), namespace.as_str(), name.as_str()) {
            ("Policy", "shop", "api") => Ok(Response::new(GetResponse { resource: Some(policy("api")) })),
            _ => Err(Status::not_found(format!("{kind}/{namespace}/{name} does not exist"))),
        }
    }

    async fn list(&self, request: Request<ListRequest>) -> Result<Response<ListResponse>, Status> {
        let request = request.into_inner();
        let resources = match (request.kind.as_str(), request.namespace.as_str()) {
            ("" | "Policy", "" | "shop") => vec![policy("api"), policy("database")],
            _ => Vec::new(),
        };
        Ok(Response::new(ListResponse { resources, generation: 7 }))
    }

    async fn delete(&self, request: Request<DeleteRequest>) -> Result<Response<DeleteResponse>, Status> {
        let DeleteRequest { ids, dry_run } = request.into_inner();
        if let Some(id) = ids.iter().find(|id| id.name == "missing") {
            return Err(Status::not_found(format!("{}/{}/{} does not exist", id.kind, id.namespace, id.name)));
        }
        let changes = ids.iter().map(|id| change("deleted", &id.kind, &id.namespace, &id.name)).collect();
        Ok(Response::new(DeleteResponse { generation: 9, changes, dry_run, ..DeleteResponse::default() }))
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<WatchResponse, Status>> + Send>>;

    async fn watch(&self, _: Request<WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let created = WatchResponse {
            change: Some(change("created", "Policy", "shop", "api")),
            resource: Some(policy("api")),
            generation: 3,
            synced: false,
        };
        let synced = WatchResponse { generation: 7, synced: true, ..WatchResponse::default() };
        let deleted = WatchResponse {
            change: Some(change("deleted", "AddressSet", "", "blocked")),
            generation: 8,
            ..WatchResponse::default()
        };
        Ok(Response::new(Box::pin(iter([created, synced, deleted].map(Ok)))))
    }

    async fn explain(&self, request: Request<ExplainRequest>) -> Result<Response<ExplainResponse>, Status> {
        let request = request.into_inner();
        let verdict = match (request.to.as_str(), request.protocol, request.port) {
            ("shop/db", 6, 5432) => Verdict::Allow,
            ("shop/db", 17, 53) => Verdict::Audit,
            ("shop/db", _, _) => Verdict::Deny,
            (unknown, _, _) => return Err(Status::invalid_argument(format!("no workload is called {unknown}"))),
        };
        let side = |direction: &str| Side {
            verdict: verdict.into(),
            reason: "rule".to_owned(),
            policy: "Policy/shop/db".to_owned(),
            rule: format!("{direction}[0]"),
            why: "the rule matches".to_owned(),
            judged: true,
            ..Side::default()
        };
        Ok(Response::new(ExplainResponse {
            verdict: verdict.into(),
            generation: 7,
            egress: Some(side("egress")),
            ingress: Some(side("ingress")),
            limits: vec!["RateLimit/shop/db".to_owned()],
        }))
    }

    async fn status(&self, _: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        let counter = |hook: &str, verdict: &str, decided, lost| Counter {
            hook: hook.to_owned(),
            verdict: verdict.to_owned(),
            reason: "default".to_owned(),
            decided,
            recorded: decided - lost,
            lost,
            quiet: 0,
        };
        Ok(Response::new(StatusResponse {
            node: "node-1".to_owned(),
            version: "0.1.0".to_owned(),
            abi_version: 3,
            generation: 7,
            generation_time_ns: 1_795_302_245_000_000_000,
            start_ns: 1_795_302_000_000_000_000,
            enforcing: true,
            pinned: true,
            repairs: 0,
            sealed: true,
            landlock: "full".to_owned(),
            unknown_workloads: "allow".to_owned(),
            unselected_workloads: "allow".to_owned(),
            workloads: vec![WorkloadStatus {
                workload: "shop/web".to_owned(),
                identity: 256,
                cgroup: "web".to_owned(),
                state: "attached".to_owned(),
                addresses: words(&["10.0.0.2", "fd00::2"]),
                hooks: words(&["connect", "ingress"]),
                ..WorkloadStatus::default()
            }],
            interfaces: vec![InterfaceStatus {
                name: "eth0".to_owned(),
                mode: "native".to_owned(),
                packets_seen: 10,
                packets_passed: 9,
                packets_dropped: 1,
                refuses: words(&["martian", "ethertype"]),
                ..InterfaceStatus::default()
            }],
            counters: vec![counter("connect", "deny", 10, 2), counter("connect", "allow", 90, 0)],
            limits: vec![LimitStatus {
                limit: "RateLimit/shop/api".to_owned(),
                passed_packets: 5,
                ..LimitStatus::default()
            }],
            limit_table: Some(LimitTable { slots: 1024, busy_permille: 100, crowded_permille: 10 }),
            exporter: Some(ExporterStatus {
                collector: "unix:/run/weir/collector.sock".to_owned(),
                state: "connected".to_owned(),
                queue_capacity: 65536,
                records_sent: 98,
                records_acknowledged: 98,
                boot_id: "boot".to_owned(),
                ..ExporterStatus::default()
            }),
            resources: [("Policy".to_owned(), 2), ("Workload".to_owned(), 1)].into(),
            cgroup_root: "/sys/fs/cgroup/weir".to_owned(),
            connections: Some(connections()),
            node_only: vec![node_only("kube-system/proxy", "kubepods/pod1", 2), node_only("", ".", 30)],
        }))
    }
}

fn node_only(pod: &str, cgroup: &str, processes: u64) -> NodeOnlyStatus {
    NodeOnlyStatus { pod: pod.to_owned(), cgroup: cgroup.to_owned(), processes }
}

/// Something of everything.
fn connections() -> ConnectionStatus {
    ConnectionStatus {
        known: 12,
        cut: 3,
        adopted: 2,
        draining: 1,
        blocked: vec![BlockedConnection {
            workload: "shop/web".to_owned(),
            connection: "TCP 10.0.0.2:40000 -> 10.0.0.4:5432".to_owned(),
            rule: "Policy/shop/web default egress".to_owned(),
            waited_ns: 1_500_000_000,
        }],
        clean_generation: 0,
        swept_ns: 1_795_302_245_000_000_000,
        sweep_ns: 2_500_000,
        sockets: 30,
        namespaces: 4,
    }
}
