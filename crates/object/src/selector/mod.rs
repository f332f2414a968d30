//! Selectors: by labels and by fields.

pub mod fields;
mod label_syntax;
pub mod labels;
