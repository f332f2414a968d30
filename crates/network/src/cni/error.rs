//! What can go wrong with CNI plug-ins, in libcni's words where it has some.

use std::path::PathBuf;

/// A failed operation.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No configuration: pods cannot be attached yet.
    #[error("cni config uninitialized: {0}")]
    Uninitialized(String),
    /// A plug-in refused, or could not be run.
    #[error("plugin type=\"{kind}\" name=\"{network}\" failed ({command}): {why}")]
    Plugin {
        /// The plug-in.
        kind: String,
        /// The network's name.
        network: String,
        /// add or delete.
        command: &'static str,
        /// What went wrong.
        why: String,
    },
    /// The chain's result has no address for the pod.
    #[error("failed to find network info for sandbox: {0}")]
    NoAddress(String),
    /// The pod's network namespace is not usable.
    #[error("the pod's network namespace: {0}")]
    Namespace(String),
    /// The record of an attachment could not be written or read.
    #[error("the record {path} of what plug-ins attached: {why}")]
    Record {
        /// The file.
        path: PathBuf,
        /// What went wrong.
        why: String,
    },
    /// An id that plug-ins would not take.
    #[error(
        "the pod's uid {0:?} is no CNI container id: it begins with a letter or digit, and has letters, digits, '_', '.' and '-' only"
    )]
    Id(String),
}
