//! What can go wrong when policies are programmed.

use crate::netlink;

/// A failed change of the rules. The wanted state is kept, and the next change begins with a rebuild.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel refused, or could not be asked.
    #[error("cannot program network policies: {0}")]
    Netlink(#[from] netlink::Error),
    /// The thread that programs policies could not do it just now.
    #[error("cannot program network policies: {0}")]
    Failed(String),
    /// No list of policies has come yet, and none is kept on the disk.
    #[error("network policies are not known yet: the API server has not been reached since this node began")]
    Unknown,
    /// The thread that programs policies is gone.
    #[error("cannot program network policies: their thread has ended; restart the agent")]
    Ended,
}
