//! The embedded engine: one directory, one log, one writer thread.

mod batch;
pub mod disk;
mod engine;
mod format;
mod lock;
mod log;
mod options;
mod queue;
mod record;
mod recover;
mod restore;
mod snapshot;
mod writer;

pub use engine::{Embedded, open};
pub use lock::{Lock, is_dying, lock, locked_by};
pub use options::{OpenError, Options};
pub use restore::{RestoreError, Restored, restore};
