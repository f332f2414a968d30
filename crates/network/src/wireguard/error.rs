//! What can go wrong with the encryption in user space.

use std::io;

/// Why it could not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The TUN device.
    #[error("cannot make the TUN device {interface}: {source}; is another program using it?")]
    Device {
        /// Its name.
        interface: String,
        /// Why not.
        source: io::Error,
    },
    /// The port.
    #[error("cannot use UDP port {port} for encryption: {source}; is another program using it?")]
    Port {
        /// The port.
        port: u16,
        /// Why not.
        source: io::Error,
    },
    /// The private key is not the one that the process was started for.
    #[error("the private key is another one than the agent told of")]
    OtherKey,
    /// The private key cannot be read.
    #[error("the private key: {0}")]
    Key(String),
    /// The process.
    #[error("cannot start the process of the encryption: {0}")]
    Process(#[from] io::Error),
}
