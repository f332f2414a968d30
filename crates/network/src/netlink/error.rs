//! What can go wrong when talking to the kernel over netlink, in words that say what failed and what to do.

use std::io;

/// The result of a netlink operation.
pub type Result<T> = std::result::Result<T, Error>;

/// A failed netlink operation.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel refused a request; `message` is its extended acknowledgement where it gave one.
    #[error("the kernel refused to {operation}: {source}{}", detail(message))]
    Refused {
        /// What was asked for, as a verb phrase.
        operation: String,
        /// The kernel's own words (NLMSGERR_ATTR_MSG), empty where there are none.
        message: String,
        /// The error number that the kernel returned.
        source: io::Error,
    },
    /// A system call on the socket or on a namespace failed.
    #[error("cannot {operation}: {source}")]
    System {
        /// What was being done, as a verb phrase.
        operation: String,
        /// The error of the system call.
        source: io::Error,
    },
    /// The kernel's answer did not have the shape that its protocol promises.
    #[error("malformed netlink answer while trying to {operation}: {reason}")]
    Malformed {
        /// What was being done.
        operation: String,
        /// Which part was wrong.
        reason: &'static str,
    },
    /// A message was larger than the protocol can carry.
    #[error("a netlink message is too large ({what}); reduce the number of elements in one change")]
    TooLarge {
        /// Which limit was met.
        what: &'static str,
    },
    /// The kernel did not answer in time.
    #[error("the kernel did not answer within {timeout_ms} ms while trying to {operation}")]
    TimedOut {
        /// What was being done.
        operation: String,
        /// How long the wait was.
        timeout_ms: u64,
    },
}

fn detail(message: &str) -> String {
    if message.is_empty() { String::new() } else { format!(" ({message})") }
}

impl Error {
    /// The kernel's error number, where the kernel gave one.
    #[must_use]
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Refused { source, .. } | Self::System { source, .. } => source.raw_os_error(),
            _ => None,
        }
    }

    /// Whether the object that was asked for does not exist.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(self.errno(), Some(libc::ENOENT | libc::ENODEV | libc::ESRCH | libc::EADDRNOTAVAIL))
    }

    /// Whether the object that was to be created is there already.
    #[must_use]
    pub fn is_exists(&self) -> bool {
        self.errno() == Some(libc::EEXIST)
    }

    pub(crate) fn system(operation: impl Into<String>, source: impl Into<io::Error>) -> Self {
        Self::System { operation: operation.into(), source: source.into() }
    }
}
