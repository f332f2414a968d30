//! The sockets: packet sockets for ARP and for neighbour discovery, on all interfaces of a namespace, and one for multicast memberships.

use std::collections::BTreeSet;
use std::io;
use std::net::Ipv6Addr;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use rustix::net::{AddressFamily, Protocol, SocketFlags, SocketType, socket_with, sockopt};

use super::frame::{ETHERNET_ARP, ETHERNET_IPV6};
use crate::netlink::{Error, NetworkNamespace, Result, system};

/// Frames that are taken at one go, before time is looked at.
const FRAMES_PER_READ_MAX: usize = 256;
/// Any message of neighbour discovery that is of interest, and more than ARP has.
const FRAME_BYTES_MAX: usize = 1514;

/// A packet socket for one kind of frames.
pub(super) struct FrameSocket {
    descriptor: OwnedFd,
}

impl FrameSocket {
    /// For ARP.
    pub(super) fn arp(namespace: &NetworkNamespace) -> Result<Self> {
        Self::open(namespace, ETHERNET_ARP)
    }

    /// For solicitations and advertisements; the kernel drops all other IPv6 packets before they are copied.
    pub(super) fn neighbours(namespace: &NetworkNamespace) -> Result<Self> {
        let socket = Self::open(namespace, ETHERNET_IPV6)?;
        let (load, equal, result) = (0x30, 0x15, 0x06); // one byte; jump if equal; the verdict
        let step = |code: u16, jt: u8, jf: u8, k: u32| libc::sock_filter { code, jt, jf, k };
        let program = [
            step(load, 0, 0, 20), // the next header
            step(equal, 0, 4, 58),
            step(load, 0, 0, 54), // ICMPv6's type
            step(equal, 1, 0, 135),
            step(equal, 0, 1, 136),
            step(result, 0, 0, u32::MAX),
            step(result, 0, 0, 0),
        ];
        system::attach_filter(socket.as_fd(), &program)
            .map_err(|source| Error::system("filter neighbour discovery", source))?;
        Ok(socket)
    }

    fn open(namespace: &NetworkNamespace, kind: u16) -> Result<Self> {
        let protocol = std::num::NonZeroU32::new(u32::from(kind.to_be())).map(Protocol::from_raw);
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let descriptor = namespace
            .run(|| socket_with(AddressFamily::PACKET, SocketType::RAW, flags, protocol))?
            .map_err(|source| Error::system("open a packet socket", source))?;
        Ok(Self { descriptor })
    }

    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }

    pub(super) fn send(&self, interface: u32, frame: &[u8]) -> io::Result<()> {
        system::send_frame(self.as_fd(), interface, frame)
    }

    /// Gives what waits to `take`, with the interface that received it.
    pub(super) fn receive(&self, mut take: impl FnMut(u32, &[u8])) -> io::Result<()> {
        let mut buffer = [0; FRAME_BYTES_MAX];
        for _ in 0..FRAMES_PER_READ_MAX {
            match system::receive_frame(self.as_fd(), &mut buffer)? {
                Some((length, interface)) => take(interface, &buffer[..length.min(FRAME_BYTES_MAX)]),
                None => break,
            }
        }
        Ok(())
    }
}

/// Memberships in the groups that questions for IPv6 addresses are sent to: without them switches and interfaces keep those away.
pub(super) struct Memberships {
    descriptor: OwnedFd,
    joined: BTreeSet<(u32, Ipv6Addr)>,
}

impl Memberships {
    pub(super) fn open(namespace: &NetworkNamespace) -> Result<Self> {
        let descriptor = namespace
            .run(|| socket_with(AddressFamily::INET6, SocketType::DGRAM, SocketFlags::CLOEXEC, None))?
            .map_err(|source| Error::system("open a socket for IPv6 groups", source))?;
        Ok(Self { descriptor, joined: BTreeSet::new() })
    }

    /// Joins and leaves. What cannot be joined is told, and tried at the next change.
    pub(super) fn set(&mut self, wanted: &BTreeSet<(u32, Ipv6Addr)>) {
        for (interface, group) in self.joined.difference(wanted) {
            // An interface that is gone took its memberships with it.
            let _ = sockopt::set_ipv6_drop_membership(&self.descriptor, group, *interface);
        }
        let is_in = |(interface, group): &&(u32, Ipv6Addr)| {
            if self.joined.contains(&(*interface, *group)) {
                return true;
            }
            let outcome = sockopt::set_ipv6_add_membership(&self.descriptor, group, *interface);
            if let Err(error) = outcome {
                tracing::warn!(%error, %group, interface, "questions for an address may not arrive: its group cannot be joined \
                    (more than net.core.optmem_max has room for?)");
            }
            outcome.is_ok()
        };
        self.joined = wanted.iter().filter(is_in).copied().collect();
    }
}
