//! What the end-to-end tests share: an API in memory at the client's seam, and a machine with a real runtime and network.

mod machine;
mod memory_api;

pub(crate) use machine::{IMAGE, TestMachine, until};
pub(crate) use memory_api::MemoryApi;
