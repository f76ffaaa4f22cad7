//! Lives: collector, the export by OTLP: what of it does not touch the wire.
//! Called by: `config`; `rpc::otlp`, which does the rest.
//! May touch: the file of headers.
//! Never: names a generated type.

mod config;
mod headers;
pub mod names;

pub use config::OtlpConfig;
pub use headers::{Header, HeadersError, read};
