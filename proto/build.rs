//! Lives: build time only.
//! Called by: cargo, before it compiles this crate.
//! May touch: the .proto files and `OUT_DIR`.
//! Never: needs `protoc`; protox compiles the files in Rust.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    let files = protox::compile(["weir/v1/flow.proto", "weir/v1/policy.proto", "weir/v1/sets.proto"], ["proto"])?;
    tonic_prost_build::configure().compile_fds(files)?;
    Ok(())
}
