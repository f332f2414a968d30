//! What can go wrong when programming Services.

use crate::netlink;

/// A failed change of the Service rules. The wanted state is kept, and the next change starts from a full resynchronisation.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel refused, or could not be asked.
    #[error("cannot program Services: {0}")]
    Netlink(#[from] netlink::Error),
    /// The thread that programs Services is gone.
    #[error("cannot program Services: their thread has ended; restart the agent")]
    Ended,
}
