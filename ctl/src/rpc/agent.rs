//! Lives: ctl.
//! Called by: verbs that speak to the agent.
//! May touch: the agent's API.
//! Never: retries; the person at the keyboard decides that.

use tonic::Streaming;
use tonic::transport::Channel;
use weir_policy::ResourceId;
use weir_proto::v1;
use weir_proto::v1::policy_service_client::PolicyServiceClient;
use weir_transport::Endpoint;

use super::{answer, convert, convert_status, failure};
use crate::failure::Failure;
use crate::files::Source;
use crate::view::{Agent, Changed, Explanation, Item, Listing, WatchEvent};

const SERVICE: &str = "the agent";

/// A connection to an agent.
pub struct AgentClient {
    client: PolicyServiceClient<Channel>,
    endpoint: Endpoint,
}

impl AgentClient {
    /// Through a channel that has not been used yet.
    pub fn new(channel: Channel, endpoint: Endpoint) -> Self {
        let client = PolicyServiceClient::new(channel).max_decoding_message_size(64 << 20);
        Self { client, endpoint }
    }

    /// Applies documents.
    pub async fn apply(&mut self, sources: Vec<Source>, dry_run: bool, replace_all: bool) -> Result<Changed, Failure> {
        let sources = sources.into_iter().map(|source| v1::Source { name: source.name, text: source.text }).collect();
        let call = self.client.apply(v1::ApplyRequest { sources, dry_run, replace_all });
        answer(SERVICE, &self.endpoint, call).await.map(convert::applied)
    }

    /// One resource.
    pub async fn get(&mut self, id: &ResourceId) -> Result<Listing, Failure> {
        let (kind, namespace, name) = (id.kind.name().to_owned(), id.namespace.clone(), id.name.clone());
        let call = self.client.get(v1::GetRequest { kind, namespace, name });
        let resource = answer(SERVICE, &self.endpoint, call).await?.resource.map(convert::item);
        let items: Vec<Item> = resource.into_iter().collect();
        Ok(Listing { generation: items.first().map_or(0, |item| item.generation), items })
    }

    /// All resources; empty words mean any.
    pub async fn list(&mut self, kind: &str, namespace: &str) -> Result<Listing, Failure> {
        let call = self.client.list(v1::ListRequest { kind: kind.to_owned(), namespace: namespace.to_owned() });
        answer(SERVICE, &self.endpoint, call).await.map(convert::listing)
    }

    /// Deletes all of them or none.
    pub async fn delete(&mut self, ids: &[ResourceId], dry_run: bool) -> Result<Changed, Failure> {
        let wire = |id: &ResourceId| v1::ResourceId {
            kind: id.kind.name().to_owned(),
            namespace: id.namespace.clone(),
            name: id.name.clone(),
        };
        let call = self.client.delete(v1::DeleteRequest { ids: ids.iter().map(wire).collect(), dry_run });
        answer(SERVICE, &self.endpoint, call).await.map(convert::deleted)
    }

    /// Asks for a verdict.
    pub async fn explain(&mut self, from: &str, to: &str, protocol: u8, port: u16) -> Result<Explanation, Failure> {
        let request = v1::ExplainRequest {
            from: from.to_owned(),
            to: to.to_owned(),
            protocol: u32::from(protocol),
            port: u32::from(port),
        };
        answer(SERVICE, &self.endpoint, self.client.explain(request)).await.map(convert::explanation)
    }

    /// The agent's state.
    pub async fn status(&mut self) -> Result<Agent, Failure> {
        let call = self.client.status(v1::StatusRequest {});
        answer(SERVICE, &self.endpoint, call).await.map(convert_status::agent)
    }

    /// Resources and their changes.
    pub async fn watch(&mut self, kind: &str) -> Result<Events, Failure> {
        let call = self.client.watch(v1::WatchRequest { kind: kind.to_owned() });
        let stream = answer(SERVICE, &self.endpoint, call).await?;
        Ok(Events { stream, endpoint: self.endpoint.clone() })
    }
}

/// An open watch.
pub struct Events {
    stream: Streaming<v1::WatchResponse>,
    endpoint: Endpoint,
}

impl Events {
    /// The next event; `None` when the agent has ended the watch.
    pub async fn next(&mut self) -> Result<Option<WatchEvent>, Failure> {
        let message = self.stream.message().await.map_err(|status| failure(SERVICE, &self.endpoint, &status))?;
        Ok(message.map(convert::event))
    }
}
