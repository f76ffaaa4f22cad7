//! Lives: collector.
//! Called by: `run`, once.
//! May touch: accepted connections, the store.
//! Never: decides anything about records; it translates between the wire and the store.

mod export;
mod filter;
mod observe;
pub mod otlp;
mod status;
mod stored;
mod tally;

use std::io;
use std::sync::Arc;

use tonic::transport::Error;
use weir_proto::v1::FlowRecord;
use weir_proto::v1::flow_collector_server::FlowCollectorServer;
use weir_proto::v1::flow_query_server::FlowQueryServer;
use weir_transport::Listeners;

use self::otlp::Queue;
use crate::archive::Archive;
use crate::supervisor::Stop;

/// The store, as the wire fills it.
pub type Store = crate::store::Store<FlowRecord>;

/// A store with what is on disk, too.
///
/// # Errors
/// The disk does not give it.
pub fn open(records: usize, archive: Archive) -> io::Result<Store> {
    Store::open(records, archive, stored::kept)
}

/// Largest batch accepted, bytes. A sender of good will stays far below.
const MAX_BATCH: usize = 8 << 20;

/// What both services share.
#[derive(Clone, Debug)]
struct Service {
    store: Arc<Store>,
    /// Where records go that are exported by OTLP too.
    otlp: Option<Arc<Queue>>,
    stop: Stop,
}

/// Serves until the stop signal; open streams end then too. Records go to the store, and to `otlp` where there is one.
///
/// # Errors
/// The server cannot go on.
pub async fn serve(
    listeners: Listeners,
    store: Arc<Store>,
    otlp: Option<Arc<Queue>>,
    mut stop: Stop,
) -> Result<(), Error> {
    let service = Service { store, otlp, stop: stop.clone() };
    weir_transport::server()
        .add_service(FlowCollectorServer::new(service.clone()).max_decoding_message_size(MAX_BATCH))
        .add_service(FlowQueryServer::new(service))
        .serve_with_incoming_shutdown(listeners, async move { stop.stopped().await })
        .await
}
