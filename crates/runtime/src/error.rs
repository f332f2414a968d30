//! What can go wrong, said once: the operation that failed, its cause, and for containers upstream's own sentences.

use std::path::{Path, PathBuf};

/// The result of this crate's operations.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Every error of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A system call or file operation failed.
    #[error("{operation}: {source}")]
    Io {
        /// What was tried, with the path.
        operation: String,
        /// Why it failed.
        source: std::io::Error,
    },
    /// A file of ours is damaged or from a newer version.
    #[error("{path}: {reason}")]
    State {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The machine lacks something that containers need.
    #[error("{0}")]
    Unsupported(String),
    /// A request that cannot be right, whatever the machine.
    #[error("{0}")]
    Invalid(String),
    /// Nothing of that name is here.
    #[error("{0} not found")]
    NotFound(String),
    /// The pod's shim is gone, or went away during the request.
    #[error("the pod's shim does not answer: {0}")]
    ShimLost(String),
    /// The shim refused a request.
    #[error("{operation}: {source}")]
    Refused {
        /// What was asked.
        operation: &'static str,
        /// Its answer.
        source: std::io::Error,
    },
    /// A container's process, or that of an exec, could not be started.
    #[error("{message}")]
    Start {
        /// Upstream's sentence.
        message: String,
        /// The exit code that an exec reports: 127 not found, 126 not executable, 128 anything else.
        exit_code: i32,
        /// Whose failure it is.
        fault: StartFault,
    },
    /// An image could not be had.
    #[error(transparent)]
    Image(#[from] crate::images::ImageError),
}

/// Whether trying a start again unchanged makes sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartFault {
    /// What the specification and the image ask for cannot be: its command, working directory, user, or a volume's place.
    /// The container was made; upstream counts this as a run that ended at once.
    Specification,
    /// Our preparations failed, such as a control group or a namespace: it is no run, and another try may succeed.
    SetUp,
}

impl Error {
    pub(crate) fn io(operation: impl Into<String>, source: impl Into<std::io::Error>) -> Error {
        Error::Io { operation: operation.into(), source: source.into() }
    }
}

/// Adds what was tried to an I/O error.
pub(crate) trait Context<T> {
    fn context(self, operation: &str, path: &Path) -> Result<T>;
}

impl<T, E: Into<std::io::Error>> Context<T> for std::result::Result<T, E> {
    fn context(self, operation: &str, path: &Path) -> Result<T> {
        self.map_err(|error| Error::io(format!("{operation} {}", path.display()), error))
    }
}
