//! Lives: weir-agent, at its gRPC edge.
//! Called by: tonic, for whoever speaks `grpc.health.v1`: kubelet, load balancers, `grpc_health_probe`.
//! May touch: the control handle.
//! Never: says SERVING while the policy is not in the kernel; serves without the checks that the whole API has.

use std::{pin::Pin, time::Duration};

use tokio::sync::mpsc;
use tokio_stream::{Stream, wrappers::ReceiverStream};
use tonic::{Request, Response, Status};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse, health_check_response::ServingStatus, health_server};

use crate::{control::actor::Handle, runtime::Stop};

/// The services whose health can be asked for; "" is the whole agent.
const SERVICES: [&str; 2] = ["", "weir.v1.PolicyService"];
/// How often a watcher's answer is looked at.
const LOOK: Duration = Duration::from_secs(1);
/// Longest time control may take to answer before the agent counts as not serving.
const PATIENCE: Duration = Duration::from_secs(5);

/// `grpc.health.v1.Health`.
pub struct Health {
    control: Handle,
    stop: Stop,
}

impl Health {
    /// A service in front of `control`.
    #[must_use]
    pub fn new(control: Handle, stop: Stop) -> Self {
        Self { control, stop }
    }
}

type Answers = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

#[tonic::async_trait]
impl health_server::Health for Health {
    async fn check(&self, request: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        let service = request.into_inner().service;
        if !SERVICES.contains(&service.as_str()) {
            return Err(Status::not_found(format!(
                "no service {service:?} here; ask for {}",
                SERVICES.map(|name| format!("{name:?}")).join(" or ")
            )));
        }
        Ok(Response::new(answer(health(&self.control).await)))
    }

    type WatchStream = Answers;

    async fn watch(&self, request: Request<HealthCheckRequest>) -> Result<Response<Answers>, Status> {
        let known = SERVICES.contains(&request.into_inner().service.as_str());
        let (sender, receiver) = mpsc::channel(1);
        let (control, stop) = (self.control.clone(), self.stop.clone());
        // The task belongs to the stream: it ends when the watcher goes away or the agent stops.
        tokio::spawn(async move {
            tokio::select! {
                () = stop.wait() => {}
                () = tell(control, known, &sender) => {}
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}

/// Tells a watcher how it is, and then whenever that changes.
async fn tell(control: Handle, known: bool, watcher: &mpsc::Sender<Result<HealthCheckResponse, Status>>) {
    let mut told = None;
    while !watcher.is_closed() {
        // The protocol wants this word, and no error, of a service that may come later.
        let now = if known { health(&control).await } else { ServingStatus::ServiceUnknown };
        if told.replace(now) != Some(now) && watcher.send(Ok(answer(now))).await.is_err() {
            return;
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            () = watcher.closed() => {}
        }
    }
}

async fn health(control: &Handle) -> ServingStatus {
    match tokio::time::timeout(PATIENCE, control.status()).await {
        Ok(Ok(status)) if status.observed.enforcing => ServingStatus::Serving,
        Ok(_) | Err(_) => ServingStatus::NotServing,
    }
}

fn answer(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse { status: status.into() }
}
