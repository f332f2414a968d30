//! What can go wrong with cluster DNS.

use std::io;
use std::net::SocketAddr;

use super::name::NameError;
use crate::netlink;

/// Why cluster DNS could not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An address could not be listened on.
    #[error("cannot serve DNS on {address}: {source}; is another DNS server there?")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// A socket cannot be used.
    #[error("cannot serve DNS on a socket that was handed over: {0}")]
    Socket(io::Error),
    /// The process could not be started.
    #[error("cannot start the process of cluster DNS: {0}")]
    Process(#[from] io::Error),
    /// A thread could not be started.
    #[error("cannot start a DNS thread: {0}")]
    Thread(io::Error),
    /// The namespace could not be entered.
    #[error(transparent)]
    Netlink(#[from] netlink::Error),
    /// The cluster domain, or a stub domain, is no domain name.
    #[error(transparent)]
    Name(#[from] NameError),
}
