//! Lives: weir-agent, at its gRPC edge.
//! Called by: tonic, once per request about address sets.
//! May touch: the control handle.
//! Never: hands control a list of which a line is faulty, or that has not come to its end.

use std::{future::Future, pin::Pin, time::Duration};

use tokio::sync::mpsc;
use tokio_stream::{Stream, wrappers::ReceiverStream};
use tonic::{Request, Response, Status, Streaming};
use weir_policy::{
    Prefix,
    sets::{List, ListFault, entry},
};
use weir_proto::v1::{self, set_service_server::SetService};

use super::convert;
use crate::control::{
    ControlError,
    actor::Handle,
    sets::{MOST_ENTRIES, SetChange, SetEntry, SetView},
};

/// Longest time control may take to answer: a million prefixes take some seconds on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);
/// Longest time until the next piece of a list.
const NEXT_PIECE: Duration = Duration::from_secs(30);
/// Entries in one message.
const ENTRIES_AT_ONCE: usize = 1000;

/// `weir.v1.SetService`.
pub struct Sets {
    control: Handle,
}

impl Sets {
    /// A service in front of `control`.
    #[must_use]
    pub const fn new(control: Handle) -> Self {
        Self { control }
    }
}

async fn answer<T>(asked: impl Future<Output = Result<T, ControlError>>) -> Result<T, Status> {
    match tokio::time::timeout(PATIENCE, asked).await {
        Ok(answer) => answer.map_err(|error| convert::status(&error)),
        Err(_) => {
            Err(Status::deadline_exceeded("no answer in time; the request may still take effect, check with set list"))
        }
    }
}

#[tonic::async_trait]
impl SetService for Sets {
    async fn load(
        &self,
        request: Request<Streaming<v1::LoadSetRequest>>,
    ) -> Result<Response<v1::LoadSetResponse>, Status> {
        let mut pieces = request.into_inner();
        let Some(first) = next(&mut pieces).await? else {
            return Err(Status::invalid_argument("the stream is empty; its first message names the set"));
        };
        let (name, expires_in, allow_empty) = (first.name, first.expires_in_ns, first.allow_empty);
        let mut list = List::default();
        list.push(&first.text);
        let mut last = first.last;
        while !last {
            let Some(piece) = next(&mut pieces).await? else {
                return Err(Status::aborted("the list broke off before its end, nothing was changed; send it again"));
            };
            list.push(&piece.text);
            last = piece.last;
            if list.len() > MOST_ENTRIES {
                let words = format!("more than {MOST_ENTRIES} entries, nothing was changed; load less into one set");
                return Err(Status::resource_exhausted(words));
            }
        }
        let prefixes = match list.finish() {
            Ok(prefixes) => prefixes,
            Err((faults, more_faults)) => {
                let faults = faults.into_iter().map(fault).collect();
                return Ok(Response::new(v1::LoadSetResponse { faults, more_faults, ..Default::default() }));
            }
        };
        if prefixes.is_empty() && !allow_empty {
            let words =
                "the list has no entries, nothing was changed; say --allow-empty to take out all that was loaded";
            return Err(Status::invalid_argument(words));
        }
        let changed = answer(self.control.load_set(name, prefixes, expires_in)).await?;
        Ok(Response::new(v1::LoadSetResponse {
            entries: convert::count(changed.added),
            before: convert::count(changed.removed),
            warnings: changed.warnings,
            ..Default::default()
        }))
    }

    async fn change(&self, request: Request<v1::ChangeSetRequest>) -> Result<Response<v1::ChangeSetResponse>, Status> {
        let v1::ChangeSetRequest { name, add, remove, expires_in_ns } = request.into_inner();
        let (add, remove) = match (prefixes(&add), prefixes(&remove)) {
            (Ok(add), Ok(remove)) => (add, remove),
            (add, remove) => {
                let faults = [add, remove].into_iter().filter_map(Result::err).flatten().collect();
                return Ok(Response::new(v1::ChangeSetResponse { faults, ..Default::default() }));
            }
        };
        let change = SetChange { name, add, remove, expires_in: expires_in_ns };
        let changed = answer(self.control.change_set(change)).await?;
        Ok(Response::new(v1::ChangeSetResponse {
            added: convert::count(changed.added),
            removed: convert::count(changed.removed),
            warnings: changed.warnings,
            ..Default::default()
        }))
    }

    async fn list(&self, _: Request<v1::ListSetsRequest>) -> Result<Response<v1::ListSetsResponse>, Status> {
        let (sets, bytes) = answer(self.control.list_sets()).await?;
        let sets = sets.into_iter().map(view).collect();
        Ok(Response::new(v1::ListSetsResponse { sets, memory_bytes: convert::count(bytes) }))
    }

    type ShowStream = Pin<Box<dyn Stream<Item = Result<v1::ShowSetResponse, Status>> + Send>>;

    async fn show(&self, request: Request<v1::ShowSetRequest>) -> Result<Response<Self::ShowStream>, Status> {
        let v1::ShowSetRequest { name, address } = request.into_inner();
        let address = if address.is_empty() { None } else { Some(one(&address)?) };
        let entries = answer(self.control.show_set(name, address)).await?;
        let (sender, receiver) = mpsc::channel(4);
        // The task belongs to the stream: it ends with the last entry, or when nobody reads any more.
        tokio::spawn(async move {
            for entries in entries.chunks(ENTRIES_AT_ONCE) {
                let entries = entries.iter().map(shown).collect();
                if sender.send(Ok(v1::ShowSetResponse { entries })).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}

async fn next(pieces: &mut Streaming<v1::LoadSetRequest>) -> Result<Option<v1::LoadSetRequest>, Status> {
    let slow = |_| Status::deadline_exceeded("the next piece of the list did not come in time, nothing was changed");
    tokio::time::timeout(NEXT_PIECE, pieces.message()).await.map_err(slow)?
}

/// Entries that are named one by one. A fault's line is the entry's position.
fn prefixes(texts: &[String]) -> Result<Vec<Prefix>, Vec<v1::ListFault>> {
    let (mut prefixes, mut faults) = (Vec::new(), Vec::new());
    for (line, text) in (1..).zip(texts) {
        match entry(text.trim()) {
            Ok(found) => prefixes.extend(found),
            Err((problem, remedy)) => faults.push(v1::ListFault { line, value: text.clone(), problem, remedy }),
        }
    }
    if faults.is_empty() { Ok(prefixes) } else { Err(faults) }
}

/// One address or prefix.
fn one(text: &str) -> Result<Prefix, Status> {
    let wrong = |problem: &str, remedy: &str| Status::invalid_argument(format!("{text:?}: {problem}; {remedy}"));
    match entry(text) {
        Ok(found) => match found.as_slice() {
            [one] => Ok(*one),
            _ => Err(wrong("a range that is no prefix", "ask for one address or prefix")),
        },
        Err((problem, remedy)) => Err(wrong(&problem, &remedy)),
    }
}

fn fault(fault: ListFault) -> v1::ListFault {
    let ListFault { line, value, problem, remedy } = fault;
    v1::ListFault { line, value, problem, remedy }
}

fn view(set: SetView) -> v1::AddressSetStatus {
    v1::AddressSetStatus {
        name: set.name,
        action: if set.blocks { "block" } else { "allow" }.to_owned(),
        listed: convert::count(set.listed),
        loaded: convert::count(set.loaded),
        next_expiry_ns: set.next_expiry.unwrap_or(0),
        packets: set.count.packets,
        bytes: set.count.bytes,
    }
}

fn shown((prefix, expires_ns, listed): &SetEntry) -> v1::SetEntry {
    v1::SetEntry { prefix: prefix.to_string(), expires_ns: *expires_ns, listed: *listed }
}
