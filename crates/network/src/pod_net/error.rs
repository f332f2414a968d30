//! What can go wrong in the pod network.

use super::addresses::PoolError;
use crate::netlink;

/// A failed operation of the pod network.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel refused, or could not be asked.
    #[error(transparent)]
    Netlink(#[from] netlink::Error),
    /// No address could be given or remembered.
    #[error(transparent)]
    Addresses(#[from] PoolError),
    /// Another pod's interface has the name that follows from this pod's uid.
    #[error(
        "interface {interface} belongs to pod {other}; delete that pod, or remove the interface with `ip link del {interface}`"
    )]
    NameTaken {
        /// The interface.
        interface: String,
        /// The uid of the other pod.
        other: String,
    },
    /// An interface of somebody else's has the name that what a pod sends would be led through.
    #[error("interface {interface} is there and is none of Klynge's; remove it with `ip link del {interface}`")]
    BlockNameTaken {
        /// The interface.
        interface: String,
    },
    /// A host port is in use by another pod.
    #[error("host port {port} is in use by pod {other}; choose another hostPort or delete that pod")]
    HostPortTaken {
        /// The port.
        port: u16,
        /// The uid of the other pod.
        other: String,
    },
    /// An interface of somebody else's has the name of the encryption's.
    #[error(
        "interface {interface} is there and is neither WireGuard's nor a TUN device; remove it with `ip link del {interface}`"
    )]
    EncryptionNameTaken {
        /// The interface.
        interface: String,
    },
    /// The kernel has no WireGuard, and no TUN devices for the one in user space.
    #[error(
        "the kernel has no WireGuard ({kernel}) and no TUN devices for WireGuard in user space (/dev/net/tun: {user_space}), and nothing goes between nodes in plain when encryption is asked for: load a module (modprobe wireguard, or modprobe tun), or start without --encryption"
    )]
    NoWireguard {
        /// What the kernel says of its own.
        kernel: String,
        /// What it says of TUN devices.
        user_space: std::io::Error,
    },
    /// Nothing is encrypted on this node.
    #[error("this node has no key")]
    NoKey,
    /// The encryption in user space.
    #[error(transparent)]
    Tunnel(#[from] crate::wireguard::Error),
    /// The file of the private key.
    #[error("the key {}: {why}", path.display())]
    EncryptionKey {
        /// The file.
        path: std::path::PathBuf,
        /// What is wrong.
        why: String,
    },
    /// An interface of somebody else's has the name of a tunnel.
    #[error("interface {interface} is there and is no VXLAN interface; remove it with `ip link del {interface}`")]
    TunnelNameTaken {
        /// The interface.
        interface: String,
    },
}
