//! How a command fails: a sentence that says what to do, and an exit code that scripts can rely on.

use object::Status;
use std::fmt;
use std::process::ExitCode;

/// A failed command.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Exit code 1: the operation failed.
    Failed(String),
    /// Exit code 2: the command line is wrong (clap's own code for it).
    Usage(String),
    /// Exit code 3: the cluster cannot be reached.
    Unreachable(String),
    /// Exit code 4: what was asked for is not there.
    NotFound(String),
    /// Exit code 5: this needs root.
    NotRoot(String),
    /// Exit code 6: it did not happen in time.
    TimedOut(String),
    /// A command that was run for the user ended with this code, and has said why itself.
    Command(u8),
}

impl Failure {
    /// The exit code, as `klynge --help` documents it.
    pub(crate) fn code(&self) -> ExitCode {
        ExitCode::from(match self {
            Failure::Failed(_) => 1,
            Failure::Usage(_) => 2,
            Failure::Unreachable(_) => 3,
            Failure::NotFound(_) => 4,
            Failure::NotRoot(_) => 5,
            Failure::TimedOut(_) => 6,
            Failure::Command(code) => *code,
        })
    }

    /// Refuses unless the caller is root.
    pub(crate) fn unless_root(what: &str) -> Result<(), Failure> {
        if rustix::process::geteuid().is_root() {
            return Ok(());
        }
        Err(Failure::NotRoot(format!("{what} needs root (namespaces, mounts, nftables); run it with sudo")))
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Failure::Failed(text)
        | Failure::Usage(text)
        | Failure::Unreachable(text)
        | Failure::NotFound(text)
        | Failure::NotRoot(text)
        | Failure::TimedOut(text)) = self
        else {
            return Ok(());
        };
        f.write_str(text)
    }
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        match status.code {
            404 => Failure::NotFound(status.message),
            503 => Failure::Unreachable(status.message),
            _ => Failure::Failed(status.message),
        }
    }
}

impl From<String> for Failure {
    fn from(text: String) -> Self {
        Failure::Failed(text)
    }
}
