//! OpenAPI documents: built from the schema data and the rows that are served, only when a client asks.
//!
//! Nothing is kept: a document of all kinds takes several megabytes, which an idle server should not hold. The caller
//! keeps the encoded bytes as long as it sees fit.

mod definitions;
mod descriptions;
mod gnostic;
mod operations;
mod paths;
mod served;
mod v2;
mod v3;

pub use gnostic::encode as v2_protobuf;
pub use served::{Served, ServedSubresource};
pub use v2::document as v2;
pub use v3::{document as v3, index as v3_index};
