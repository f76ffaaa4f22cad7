//! Lives: ctl.
//! Called by: `weirctl set`.
//! May touch: the agent's API.
//! Never: holds a list whole: it is read from its file as it is sent.

use std::io::{self, Read};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use weir_proto::v1;
use weir_proto::v1::set_service_client::SetServiceClient;
use weir_transport::Endpoint;

use super::{answer, answer_within, convert::time, failure};
use crate::failure::Failure;
use crate::view::{AddressSets, SetChanged, SetEntry, SetFault, SetStatus};

const SERVICE: &str = "the agent";
/// Longest wait until a list is in force: the agent reads it and makes tables of it.
const LOADED: Duration = Duration::from_secs(180);
/// Bytes of a list in one message.
const PIECE: usize = 256 * 1024;

/// A connection to an agent, for its address sets.
pub struct SetClient {
    client: SetServiceClient<Channel>,
    endpoint: Endpoint,
}

impl SetClient {
    /// Through a channel that has not been used yet.
    pub fn new(channel: Channel, endpoint: Endpoint) -> Self {
        Self { client: SetServiceClient::new(channel), endpoint }
    }

    /// Loads what `list` says into a set, in place of what was loaded before.
    pub async fn load(
        &mut self,
        name: &str,
        source: &str,
        list: impl Read + Send + 'static,
        expires_in: Duration,
        allow_empty: bool,
    ) -> Result<SetChanged, Failure> {
        let (sender, receiver) = mpsc::channel(4);
        let first = v1::LoadSetRequest {
            name: name.to_owned(),
            expires_in_ns: nanoseconds(expires_in),
            allow_empty,
            ..v1::LoadSetRequest::default()
        };
        let reader = tokio::task::spawn_blocking(move || send(first, list, &sender));
        let call = self.client.load(ReceiverStream::new(receiver));
        let answered = answer_within(LOADED, SERVICE, &self.endpoint, call).await;
        // Of a list that could not be read the agent has refused what came.
        if let Ok(Err(error)) = reader.await {
            return Err(Failure::Usage(format!("{source}: {error}; nothing was loaded")));
        }
        let v1::LoadSetResponse { entries, before, faults, more_faults, warnings } = answered?;
        let faults = faults.into_iter().map(fault).collect();
        Ok(SetChanged { added: entries, removed: before, faults, more_faults, warnings })
    }

    /// Adds and takes out single entries.
    pub async fn change(
        &mut self,
        name: &str,
        add: Vec<String>,
        remove: Vec<String>,
        expires_in: Duration,
    ) -> Result<SetChanged, Failure> {
        let request =
            v1::ChangeSetRequest { name: name.to_owned(), add, remove, expires_in_ns: nanoseconds(expires_in) };
        let changed = answer(SERVICE, &self.endpoint, self.client.change(request)).await?;
        let v1::ChangeSetResponse { added, removed, faults, warnings } = changed;
        let faults = faults.into_iter().map(fault).collect();
        Ok(SetChanged { added, removed, faults, more_faults: 0, warnings })
    }

    /// All sets.
    pub async fn list(&mut self) -> Result<AddressSets, Failure> {
        let listed = answer(SERVICE, &self.endpoint, self.client.list(v1::ListSetsRequest {})).await?;
        Ok(AddressSets { sets: listed.sets.into_iter().map(status).collect(), memory_bytes: listed.memory_bytes })
    }

    /// The entries of a set, handed to `each` as they come; of one address, those that hold it.
    pub async fn show(
        &mut self,
        name: &str,
        address: &str,
        mut each: impl FnMut(SetEntry) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let request = v1::ShowSetRequest { name: name.to_owned(), address: address.to_owned() };
        let mut stream = answer(SERVICE, &self.endpoint, self.client.show(request)).await?;
        while let Some(message) = stream.message().await.map_err(|status| failure(SERVICE, &self.endpoint, &status))? {
            for entry in message.entries {
                each(SetEntry { prefix: entry.prefix, expires: time(entry.expires_ns), listed: entry.listed })?;
            }
        }
        Ok(())
    }
}

/// Sends a list piece by piece. On an error no piece says that it is the last, by which the agent knows.
fn send(first: v1::LoadSetRequest, mut list: impl Read, to: &mpsc::Sender<v1::LoadSetRequest>) -> io::Result<()> {
    // The first piece is read before anything is sent, so that a folder or such never reaches the agent.
    let mut message = v1::LoadSetRequest { text: piece(&mut list)?, ..first };
    loop {
        let text = piece(&mut list)?;
        message.last = text.is_empty();
        let last = message.last;
        // Where nobody takes it, the agent has answered already, or is gone; its answer tells which.
        if to.blocking_send(message).is_err() || last {
            return Ok(());
        }
        message = v1::LoadSetRequest { text, ..v1::LoadSetRequest::default() };
    }
}

fn piece(list: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    list.take(PIECE as u64).read_to_end(&mut text)?;
    Ok(text)
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn fault(wire: v1::ListFault) -> SetFault {
    SetFault { line: wire.line, value: wire.value, problem: wire.problem, remedy: wire.remedy }
}

fn status(wire: v1::AddressSetStatus) -> SetStatus {
    SetStatus {
        name: wire.name,
        action: wire.action,
        listed: wire.listed,
        loaded: wire.loaded,
        next_expiry: time(wire.next_expiry_ns),
        packets: wire.packets,
        bytes: wire.bytes,
    }
}
