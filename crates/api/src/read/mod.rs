//! Reads: one object, or a consistent page of a collection, straight from the store's shared entries.

mod components;
mod continuation;
mod list;
mod selection;

pub(crate) use list::{Listed, Page, entries, get, list, parse_revision, prefix, wait_for};
pub(crate) use selection::Selection;
