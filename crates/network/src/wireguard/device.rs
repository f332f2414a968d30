//! What the process works on, opened and held by the agent: the TUN device and the UDP sockets.

use std::fs::{File, OpenOptions};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt as _;

use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

use super::error::Error;
use super::system::{self, TUN_SET_OFFLOAD, TUN_SET_PERSISTENT, set_tun};
use crate::netlink::NetworkNamespace;
use crate::netlink::system::set_option;
use crate::process;

const TUN: &str = "/dev/net/tun";
/// What the kernel may leave to us: checksums, and long TCP segments; long UDP datagrams as well since Linux 6.2.
const OFFLOAD: libc::c_ulong = 0x01 | 0x02 | 0x04;
const OFFLOAD_UDP: libc::c_ulong = 0x20 | 0x40;
/// What may wait to be read: some milliseconds at ten gigabits.
const RECEIVE_BUFFER_BYTES: i32 = 4 << 20;

/// The TUN device and the sockets, IPv4 before IPv6.
pub(crate) struct Held {
    pub(super) tun: File,
    pub(super) sockets: Vec<UdpSocket>,
}

impl process::Held for Held {
    fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        std::iter::once(self.tun.as_fd()).chain(self.sockets.iter().map(AsFd::as_fd)).collect()
    }

    fn take(descriptors: Vec<OwnedFd>) -> io::Result<Self> {
        let mut all = descriptors.into_iter();
        let missing = || io::Error::new(io::ErrorKind::InvalidData, "no TUN device was handed over");
        let tun = File::from(all.next().ok_or_else(missing)?);
        Ok(Self { tun, sockets: all.map(UdpSocket::from).collect() })
    }

    fn try_clone(&self) -> io::Result<Self> {
        let sockets = self.sockets.iter().map(UdpSocket::try_clone).collect::<io::Result<_>>()?;
        Ok(Self { tun: self.tun.try_clone()?, sockets })
    }
}

/// Whether TUN devices can be made here; why not.
pub(crate) fn can_make() -> io::Result<()> {
    open_tun().map(drop)
}

fn open_tun() -> io::Result<File> {
    OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC).open(TUN)
}

impl Held {
    /// Opens all of it in a namespace.
    pub(super) fn open(namespace: &NetworkNamespace, interface: &str, port: u16) -> Result<Self, Error> {
        let open = || {
            let device = |source| Error::Device { interface: interface.to_owned(), source };
            let sockets = open_sockets(port).map_err(|source| Error::Port { port, source })?;
            let tun = open_tun().map_err(device)?;
            attach(&tun, interface).map_err(device)?;
            Ok(Self { tun, sockets })
        };
        namespace.run(open).map_err(|error| Error::Process(io::Error::other(error)))?
    }

    /// Makes the device again where others removed it: who reads it goes on as if it had been quiet.
    pub(super) fn attach_again(&self, interface: &str) -> io::Result<()> {
        attach(&self.tun, interface)
    }
}

/// Whether an error says that somebody else has what was asked for.
pub(super) fn is_taken(error: &Error) -> bool {
    match error {
        Error::Device { source, .. } | Error::Port { source, .. } => {
            matches!(source.kind(), io::ErrorKind::AddrInUse | io::ErrorKind::ResourceBusy)
        }
        _ => false,
    }
}

fn attach(tun: &File, interface: &str) -> io::Result<()> {
    system::attach(tun.as_fd(), interface)?;
    // It outlives whoever holds it: its routes stay, so that nothing takes another way.
    set_tun(tun.as_fd(), TUN_SET_PERSISTENT, 1)?;
    set_tun(tun.as_fd(), TUN_SET_OFFLOAD, OFFLOAD | OFFLOAD_UDP)
        .or_else(|_| set_tun(tun.as_fd(), TUN_SET_OFFLOAD, OFFLOAD))
}

/// A socket for each family that the host has.
fn open_sockets(port: u16) -> io::Result<Vec<UdpSocket>> {
    let four = open_socket(SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port));
    let six = open_socket(SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), port));
    let is_absent = |error: &io::Error| {
        matches!(error.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL | libc::EPROTONOSUPPORT))
    };
    match (four, six) {
        (Ok(four), Ok(six)) => Ok(vec![four, six]),
        (Ok(one), Err(error)) | (Err(error), Ok(one)) if is_absent(&error) => Ok(vec![one]),
        (Err(error), _) | (_, Err(error)) => Err(error),
    }
}

fn open_socket(address: SocketAddr) -> io::Result<UdpSocket> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = rustix::net::socket_with(family, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    let options = [
        // Outer packets may be cut into pieces: what is inside fits whatever the way can carry is the TUN device's matter.
        if address.is_ipv4() {
            (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DONT)
        } else {
            (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_DONT)
        },
        (libc::SOL_UDP, libc::UDP_GRO, 1),
        // Past the host's limit where we may.
        (libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, RECEIVE_BUFFER_BYTES),
    ];
    for (level, option, value) in options {
        // Without any of them it is slower, not wrong.
        if let Err(error) = set_option(socket.as_fd(), level, option, value) {
            tracing::debug!(option, %error, "an option of the encryption's socket cannot be set");
        }
    }
    rustix::net::bind(&socket, &address)?;
    Ok(UdpSocket::from(socket))
}
