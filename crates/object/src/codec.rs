//! What every decoder shares: limits, the decoded value with its duplicates, and the error.

use crate::Value;
use std::fmt;

/// Bounds on one document. Each is checked before memory is spent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The longest document in bytes.
    pub bytes: usize,
    /// How deep lists and maps (messages in protobuf) may be nested.
    pub depth: usize,
    /// How many values (scalars, lists and maps) a document may hold.
    pub nodes: usize,
}

impl Limits {
    /// For a request's body: upstream's 3 MiB, and a depth that no kind comes near to and that is safe for recursion.
    pub const REQUEST: Limits = Limits { bytes: 3 << 20, depth: 256, nodes: 1 << 20 };
}

impl Default for Limits {
    fn default() -> Self {
        Self::REQUEST
    }
}

/// A decoded document.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Decoded {
    /// The tree; of duplicate members the last one counts.
    pub value: Value,
    /// Paths such as `spec.containers[0].name` of members written more than once; at most [`DUPLICATES_MAX`].
    pub duplicates: Vec<String>,
}

/// How many duplicate members are reported.
pub const DUPLICATES_MAX: usize = 100;

/// Why a document can't be decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DecodeError {
    /// What is wrong, in upstream's words where it has any.
    pub message: String,
    /// The byte at which it was seen; 0 where unknown.
    pub offset: usize,
    /// True where a limit was reached: the document may be well-formed, but is refused (413 rather than 400).
    pub too_large: bool,
}

impl DecodeError {
    pub(crate) fn new(message: impl Into<String>, offset: usize) -> Self {
        DecodeError { message: message.into(), offset, too_large: false }
    }

    pub(crate) fn limit(message: impl Into<String>, offset: usize) -> Self {
        DecodeError { message: message.into(), offset, too_large: true }
    }

    pub(crate) fn size(found: usize, allowed: usize) -> Self {
        Self::limit(format!("the document has {found} bytes, the limit is {allowed}"), 0)
    }
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for DecodeError {}

/// Puts `segment` before the paths found since `from`: paths are built only where something was found, while unwinding.
pub(crate) fn prefix_paths(paths: &mut [String], from: usize, segment: &str) {
    for path in paths.iter_mut().skip(from) {
        let dot = if path.is_empty() || path.starts_with('[') { "" } else { "." };
        *path = format!("{segment}{dot}{path}");
    }
}
