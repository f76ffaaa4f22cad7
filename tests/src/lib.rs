//! Lives: weir-tests, the library of the live tests and the demo.
//! Called by: tests/tests/*, the binaries weir-probe and weir-demo.
//! May touch: what its worlds own (see `world`).
//! Never: anything of the host beyond that; every process it starts ends with its world.

pub mod assembled;
pub mod booted;
pub mod code;
pub mod compiled;
pub mod documents;
pub mod flood;
pub mod harness;
pub mod measured;
pub mod process;
pub mod report;
pub mod worker;
pub mod world;
