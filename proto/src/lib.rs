//! Lives: every Weir process that talks gRPC.
//! Called by: the `rpc` modules of agent, collector and ctl, and nothing else of them.
//! May touch: nothing; generated from `proto/weir/v1/*.proto`, where each field is documented, but for `packed`.
//! Never: edited by hand or re-exported by another crate.

pub mod packed;

/// The `weir.v1` messages, clients and servers.
#[allow(
    missing_docs,
    clippy::all,
    clippy::indexing_slicing,
    reason = "generated code; its documentation is in the .proto files"
)]
pub mod v1 {
    tonic::include_proto!("weir.v1");
}
