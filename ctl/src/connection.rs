//! Lives: ctl.
//! Called by: verbs.
//! May touch: certificate files.
//! Never: connects; that happens at the first call.

use weir_transport::{ClientTls, Endpoint, connect};

use crate::cli::Connection;
use crate::failure::Failure;
use crate::rpc::{AgentClient, CollectorClient, SetClient};

impl Connection {
    /// A client of the agent.
    pub fn agent(&self) -> Result<AgentClient, Failure> {
        let channel = connect(&self.agent, self.tls(&self.agent)?.as_ref(), self.insecure)?;
        Ok(AgentClient::new(channel, self.agent.clone()))
    }

    /// A client of the agent, for its address sets.
    pub fn sets(&self) -> Result<SetClient, Failure> {
        let channel = connect(&self.agent, self.tls(&self.agent)?.as_ref(), self.insecure)?;
        Ok(SetClient::new(channel, self.agent.clone()))
    }

    /// A client of the collector.
    pub fn collector(&self) -> Result<CollectorClient, Failure> {
        let channel = connect(&self.collector, self.tls(&self.collector)?.as_ref(), self.insecure)?;
        Ok(CollectorClient::new(channel, self.collector.clone()))
    }

    fn tls(&self, endpoint: &Endpoint) -> Result<Option<ClientTls>, Failure> {
        if !matches!(endpoint, Endpoint::Tls { .. }) {
            return Ok(None);
        }
        match (&self.tls_certificate, &self.tls_key, &self.tls_ca) {
            (Some(certificate), Some(key), Some(ca)) => {
                Ok(Some(ClientTls::load(certificate, key, ca, self.tls_server_name.as_deref())?))
            }
            _ => Err(Failure::Usage(format!("{endpoint} needs --tls-certificate, --tls-key and --tls-ca"))),
        }
    }
}
