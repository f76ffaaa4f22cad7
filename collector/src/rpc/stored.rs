//! Lives: collector.
//! Called by: `export`, for each batch; the store, for those on disk that it reads again.
//! May touch: nothing.
//! Never: unpacks what came packed, on the way to the disk: there it is as small as it came.

use std::sync::Arc;

use prost::Message;
use weir_proto::packed::{Malformed, unpack};
use weir_proto::v1::{Batch, FlowRecord};

use super::tally::tally;
use crate::nodes::Tally;
use crate::store::{self, BATCH, Kept};

/// What is wrong with a batch.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// Its packed records are no records.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// It says everything twice.
    #[error("a batch has both records and packed ones")]
    Twice,
}

/// What of a batch is kept on disk.
pub fn bytes(batch: &Batch) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(1 + batch.encoded_len());
    bytes.push(BATCH);
    batch.encode_raw(&mut bytes);
    bytes
}

/// A batch as it came, for the store, with its [`bytes`] where it is kept on disk: its records carry the name of their node.
pub fn received(batch: Batch, bytes: Vec<u8>) -> Result<store::Batch<FlowRecord>, Refused> {
    let (sequence, dropped_before) = (batch.sequence, batch.dropped_before);
    let records = match (batch.records.is_empty(), batch.packed.is_empty()) {
        (_, true) => batch.records,
        (true, false) => unpack(&batch.packed)?,
        (false, false) => return Err(Refused::Twice),
    };
    let newest_ns = records.iter().map(|record| record.time_ns.max(record.end_ns)).max().unwrap_or_default();
    let named = |mut record: FlowRecord| -> (Arc<FlowRecord>, Tally) {
        record.node.clone_from(&batch.node);
        let tally = tally(&record);
        (Arc::new(record), tally)
    };
    let records = records.into_iter().map(named).collect();
    Ok(store::Batch { sequence, dropped_before, records, newest_ns, bytes })
}

/// Reads what [`bytes`] has made of a batch, without its first byte.
pub fn kept(bytes: &[u8]) -> Option<Kept<FlowRecord>> {
    let wire = Batch::decode(bytes).ok()?;
    let (node, boot_id) = (wire.node.clone(), wire.boot_id.clone());
    Some(Kept { node, boot_id, batch: received(wire, Vec::new()).ok()? })
}
