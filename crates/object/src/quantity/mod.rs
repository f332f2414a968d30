//! Resource quantities: `500m`, `1Gi`, `1e3`.

mod canonical;
mod number;

pub use canonical::canonicalize;
pub use number::{Format, ParseError, Quantity};
