//! The kinds of events.k8s.io.

mod event;

use crate::Resource;

/// The rows, in the order of discovery.
pub(crate) fn rows() -> Vec<Resource> {
    vec![event::row()]
}
