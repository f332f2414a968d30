//! Watches: a cursor into the store's window, narrowed to a selection, pulled by whoever reads it.

mod feed;

pub(crate) use feed::{Change, Feed, Item, WatchRequest};
