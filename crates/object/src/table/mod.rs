//! Tables as `kubectl get` prints them: columns, cells and the meta.k8s.io/v1 Table.

mod column;
mod render;

pub use column::{Cell, Column, SharedCell};
pub use render::{IncludeObject, age, default_columns, render};
