//! Ordered revisions: the embedded store engine and its watch window.
//!
//! [`Store`] is what the API server sees: an ordered sequence of revisions over keys and bytes, with compare-and-set
//! transactions, consistent lists, and watches that resume from any retained revision. [`embedded`] is the engine
//! behind it on one server. The design and its reasons: `docs/decisions/0003-store.md`.

mod contract;
pub mod embedded;
mod entry;
mod state;
mod tree;
mod types;
mod watch;
mod window;

pub use contract::{BackupError, List, Status, Store, StoreStopped};
pub use entry::{DecodedBudget, Entry, Slots};
pub use types::{
    Change, CommitError, Committed, Compacted, Event, EventKind, Expect, Key, Operation, Revision, Template,
    Transaction,
};
pub use watch::{Batch, Lost, WatchError, Watcher};
pub use window::WindowLimits;
