//! Lives: weir-agent, at its gRPC edge.
//! Called by: tonic, once per request.
//! May touch: the control handle.
//! Never: keeps state of its own; waits longer than [`PATIENCE`].

use std::{future::Future, pin::Pin, sync::Arc, time::Duration};

use tokio::sync::{broadcast::error::RecvError, mpsc};
use tokio_stream::{Stream, wrappers::ReceiverStream};
use tonic::{Request, Response, Status};
use weir_proto::v1::{self, policy_service_server::PolicyService};

use super::{Info, convert, status};
use crate::{
    control::{Apply, ChangeSet, ControlError, actor::Handle, explain::Ask, view},
    runtime::Stop,
};

/// Longest time control may take to answer.
const PATIENCE: Duration = Duration::from_secs(30);
/// Messages a watcher may be behind before it makes the next ones wait.
const WATCH_BUFFER: usize = 64;

/// `weir.v1.PolicyService`.
pub struct Service {
    control: Handle,
    info: Arc<Info>,
    stop: Stop,
}

impl Service {
    /// A service in front of `control`.
    #[must_use]
    pub fn new(control: Handle, info: Arc<Info>, stop: Stop) -> Self {
        Self { control, info, stop }
    }
}

/// Waits for control's answer, for a while.
async fn answer<T>(asked: impl Future<Output = Result<T, ControlError>>) -> Result<T, Status> {
    match tokio::time::timeout(PATIENCE, asked).await {
        Ok(answer) => answer.map_err(|error| convert::status(&error)),
        Err(_) => {
            Err(Status::deadline_exceeded("no answer in time; the request may still take effect, check with status"))
        }
    }
}

#[tonic::async_trait]
impl PolicyService for Service {
    async fn apply(&self, request: Request<v1::ApplyRequest>) -> Result<Response<v1::ApplyResponse>, Status> {
        let request = request.into_inner();
        let dry_run = request.dry_run;
        let sources = request.sources.into_iter().map(|source| (source.name, source.text)).collect();
        let applied = answer(self.control.apply(Apply { sources, dry_run, replace_all: request.replace_all })).await?;
        Ok(Response::new(convert::applied(applied, dry_run)))
    }

    async fn get(&self, request: Request<v1::GetRequest>) -> Result<Response<v1::GetResponse>, Status> {
        let request = request.into_inner();
        let id = convert::id(&request.kind, &request.namespace, &request.name)?;
        let view = answer(self.control.get(id)).await?;
        Ok(Response::new(v1::GetResponse { resource: Some(convert::resource(&view)) }))
    }

    async fn list(&self, request: Request<v1::ListRequest>) -> Result<Response<v1::ListResponse>, Status> {
        let request = request.into_inner();
        let namespace = Some(request.namespace).filter(|namespace| !namespace.is_empty());
        let listing = answer(self.control.list(convert::any_kind(&request.kind)?, namespace)).await?;
        let resources = listing.resources.iter().map(convert::resource).collect();
        Ok(Response::new(v1::ListResponse { resources, generation: listing.generation }))
    }

    async fn delete(&self, request: Request<v1::DeleteRequest>) -> Result<Response<v1::DeleteResponse>, Status> {
        let v1::DeleteRequest { ids, dry_run } = request.into_inner();
        let ids = ids.iter().map(|id| convert::id(&id.kind, &id.namespace, &id.name)).collect::<Result<_, _>>()?;
        let applied = answer(self.control.delete(ids, dry_run)).await?;
        Ok(Response::new(convert::deleted(&applied, dry_run)))
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<v1::WatchResponse, Status>> + Send>>;

    async fn watch(&self, request: Request<v1::WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let kind = convert::any_kind(&request.into_inner().kind)?;
        let watch = answer(self.control.watch(kind)).await?;
        let (sender, receiver) = mpsc::channel(WATCH_BUFFER);
        // The task belongs to the stream: it ends when the watcher goes away, falls behind, or the agent stops.
        let stop = self.stop.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = stop.wait() => {}
                () = sender.closed() => {}
                () = feed(watch, kind, &sender) => {}
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn explain(&self, request: Request<v1::ExplainRequest>) -> Result<Response<v1::ExplainResponse>, Status> {
        let request = request.into_inner();
        let number = |what: &str| Status::invalid_argument(format!("the {what} is out of range"));
        let ask = Ask {
            from: request.from,
            to: request.to,
            protocol: request.protocol.try_into().map_err(|_| number("protocol"))?,
            port: request.port.try_into().map_err(|_| number("port"))?,
        };
        Ok(Response::new(convert::explained(answer(self.control.explain(ask)).await?)))
    }

    async fn status(&self, _: Request<v1::StatusRequest>) -> Result<Response<v1::StatusResponse>, Status> {
        let (status, node_only) = (answer(self.control.status()).await?, answer(self.control.node_only()).await?);
        Ok(Response::new(status::response(&status, &node_only, &self.info)))
    }
}

type Watcher = mpsc::Sender<Result<v1::WatchResponse, Status>>;

/// Sends the listing, then every change, until the watcher is gone or too far behind.
async fn feed(mut watch: view::Watch, kind: Option<weir_policy::Kind>, watcher: &Watcher) {
    let generation = watch.listing.generation;
    for view in &watch.listing.resources {
        let id = view.resource.id();
        let change = v1::Change {
            action: "created".to_owned(),
            kind: id.kind.name().to_owned(),
            namespace: id.namespace.clone(),
            name: id.name.clone(),
        };
        let resource = Some(convert::resource(view));
        let message = v1::WatchResponse { change: Some(change), resource, generation, synced: false };
        if watcher.send(Ok(message)).await.is_err() {
            return;
        }
    }
    let synced = v1::WatchResponse { generation, synced: true, ..v1::WatchResponse::default() };
    if watcher.send(Ok(synced)).await.is_err() {
        return;
    }
    loop {
        match watch.changes.recv().await {
            Ok(changes) => {
                if pass_on(&changes, kind, watcher).await.is_err() {
                    return;
                }
            }
            Err(RecvError::Lagged(_)) => {
                let behind =
                    Status::data_loss("too far behind: changes were missed; watch again to begin with all resources");
                let _ = watcher.send(Err(behind)).await;
                return;
            }
            Err(RecvError::Closed) => return,
        }
    }
}

async fn pass_on(changes: &ChangeSet, kind: Option<weir_policy::Kind>, watcher: &Watcher) -> Result<(), ()> {
    let generation = changes.generation;
    for (change, resource) in
        changes.changes.iter().filter(|(change, _)| kind.is_none_or(|kind| kind == change.id.kind))
    {
        let resource = resource.clone().map(|resource| convert::resource(&view::ResourceView { resource, generation }));
        let message = v1::WatchResponse { change: Some(convert::change(change)), resource, generation, synced: true };
        watcher.send(Ok(message)).await.map_err(drop)?;
    }
    Ok(())
}
