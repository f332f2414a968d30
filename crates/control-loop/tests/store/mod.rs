//! The fake behind the client seam.

mod memory;

pub(crate) use memory::Store;
