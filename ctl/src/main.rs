//! Lives: nowhere yet.
fn main() {}
