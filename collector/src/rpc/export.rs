//! Lives: collector.
//! Called by: agents, one stream each.
//! May touch: the store, the queue of the export by OTLP.
//! Never: acknowledges what is not in the history, and on the disk where it is kept there; believes a node name its certificate contradicts.
//!
//! The first batch of a stream says which node it speaks for; the others must agree. A batch of another boot of the node is what an
//! earlier run of its agent left. With TLS, a certificate
//! that carries `spiffe://weir/node/NAME` may speak for that node only; one without such a name may speak for any.

use std::io;
use std::pin::Pin;
use std::sync::Arc;

use futures_util::Stream;
use futures_util::stream::unfold;
use tokio::task::spawn_blocking;
use tonic::{Request, Response, Status, Streaming};
use weir_proto::v1::flow_collector_server::FlowCollector;
use weir_proto::v1::{Ack, Batch, FlowRecord};
use weir_transport::Peer;

use super::{Service, stored};
use crate::nodes::{Order, Tally};
use crate::store;

/// Longest node name or boot id.
const MAX_NAME: usize = 253;

#[tonic::async_trait]
impl FlowCollector for Service {
    type ExportStream = Pin<Box<dyn Stream<Item = Result<Ack, Status>> + Send>>;

    async fn export(&self, request: Request<Streaming<Batch>>) -> Result<Response<Self::ExportStream>, Status> {
        let peer = request.extensions().get::<Peer>().cloned();
        let session = Session { service: self.clone(), peer, batches: request.into_inner(), sender: None };
        Ok(Response::new(Box::pin(unfold(Some(session), Session::step))))
    }
}

/// One stream.
struct Session {
    service: Service,
    peer: Option<Peer>,
    batches: Streaming<Batch>,
    sender: Option<Sender>,
}

/// The same records, not copied.
fn shared(records: &[(Arc<FlowRecord>, Tally)]) -> Vec<Arc<FlowRecord>> {
    records.iter().map(|(record, _)| Arc::clone(record)).collect()
}

/// Who a stream speaks for.
struct Sender {
    node: String,
    boot_id: String,
    /// Shows the node as connected for as long as the stream is open.
    _connected: store::Connected<FlowRecord>,
}

impl Session {
    /// Waits for a batch, takes it over and acknowledges it. After an error the stream is over.
    async fn step(session: Option<Self>) -> Option<(Result<Ack, Status>, Option<Self>)> {
        let mut session = session?;
        let batch = tokio::select! {
            batch = session.batches.message() => batch,
            () = session.service.stop.stopped() => return None,
        };
        let answer = match batch {
            Ok(Some(batch)) => session.keep(batch).await,
            Ok(None) => return None,
            Err(status) => Err(status),
        };
        match answer {
            Ok(ack) => Some((Ok(ack), Some(session))),
            Err(status) => {
                tracing::warn!(code = ?status.code(), reason = status.message(), "a stream of records ended");
                Some((Err(status), None))
            }
        }
    }

    /// Takes a batch over, and waits until it is durable.
    async fn keep(&mut self, batch: Batch) -> Result<Ack, Status> {
        let (ack, end) = self.take(batch)?;
        if !self.service.store.keeps() {
            return Ok(ack);
        }
        let store = Arc::clone(&self.service.store);
        let durable = spawn_blocking(move || store.make_durable(end)).await;
        match durable.map_err(io::Error::other).flatten() {
            Ok(()) => Ok(ack),
            Err(error) => Err(Status::unavailable(format!("the history cannot be written to the disk: {error}"))),
        }
    }

    /// Takes a batch over: what to answer, and up to which position all must be durable before.
    fn take(&mut self, batch: Batch) -> Result<(Ack, u64), Status> {
        let sender = self.sender_of(&batch)?;
        let (node, boot_id, sequence) = (sender.node.clone(), sender.boot_id.clone(), batch.sequence);
        if sequence == 0 {
            return Err(Status::invalid_argument("a batch has no sequence number; they begin at 1"));
        }
        let bytes = if self.service.store.keeps() { stored::bytes(&batch) } else { Vec::new() };
        let batch = stored::received(batch, bytes).map_err(|refused| Status::invalid_argument(refused.to_string()))?;
        let exported = self.service.otlp.as_ref().map(|queue| (queue, shared(&batch.records)));
        let taken = self.service.store.take(&node, &boot_id, batch);
        let taken = taken.map_err(|error| Status::unavailable(error.to_string()))?;
        match taken.order {
            Order::New { missing: 0 } => {}
            Order::New { missing } => tracing::warn!(node, boot_id, sequence, missing, "batches are missing"),
            Order::Duplicate => tracing::debug!(node, boot_id, sequence, "a batch came again"),
        }
        if let (Some((queue, records)), Order::New { .. }) = (exported, taken.order) {
            queue.push(records);
        }
        Ok((Ack { sequence: taken.acknowledge, boot_id }, taken.end))
    }

    /// Checks on whose behalf a batch comes; the first one decides the node.
    fn sender_of(&mut self, batch: &Batch) -> Result<&Sender, Status> {
        let sender = match self.sender.take() {
            Some(sender) if sender.node == batch.node && sender.boot_id == batch.boot_id => sender,
            Some(sender) if sender.node == batch.node => self.admit(batch)?,
            Some(sender) => {
                let message = format!("this stream speaks for node {}", sender.node);
                return Err(Status::invalid_argument(message));
            }
            None => {
                let sender = self.admit(batch)?;
                tracing::info!(
                    node = sender.node,
                    boot_id = sender.boot_id,
                    sequence = batch.sequence,
                    "a node connected"
                );
                sender
            }
        };
        Ok(self.sender.insert(sender))
    }

    fn admit(&self, batch: &Batch) -> Result<Sender, Status> {
        let legal = |name: &str| (1..=MAX_NAME).contains(&name.len()) && name.chars().all(|c| c.is_ascii_graphic());
        if !legal(&batch.node) || !legal(&batch.boot_id) {
            return Err(Status::invalid_argument("node and boot_id must be 1 to 253 printable ASCII characters"));
        }
        if let Some(certified) = self.peer.as_ref().and_then(Peer::node).filter(|node| *node != batch.node) {
            let message = format!("the certificate is for node {certified}, not {}", batch.node);
            return Err(Status::permission_denied(message));
        }
        let connected = self.service.store.connected(&batch.node, &batch.boot_id);
        Ok(Sender { node: batch.node.clone(), boot_id: batch.boot_id.clone(), _connected: connected })
    }
}
