//! The system calls of the encryption in user space that need `unsafe`: attaching TUN devices, and datagrams that the kernel splits and
//! joins (UDP_SEGMENT, UDP_GRO).

use std::io;
use std::mem::MaybeUninit;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd as _, BorrowedFd};

/// linux/if_tun.h
const TUN_SET_INTERFACE: libc::c_ulong = 0x4004_54ca;
pub(super) const TUN_SET_PERSISTENT: libc::c_ulong = 0x4004_54cb;
pub(super) const TUN_SET_OFFLOAD: libc::c_ulong = 0x4004_54d0;
const IS_TUN: i16 = 0x0001;
const WITHOUT_INFORMATION: i16 = 0x1000;
const WITH_HEADER: i16 = 0x4000;
/// struct ifreq: a name, and a union of 24 bytes that begins with the flags.
const REQUEST_BYTES: usize = 40;
const NAME_BYTES: usize = 16;

/// Attaches an open /dev/net/tun to the device of this name in the namespace that it was opened in; makes it where it is not there.
pub(super) fn attach(tun: BorrowedFd<'_>, name: &str) -> io::Result<()> {
    let mut request = [0_u8; REQUEST_BYTES];
    let room = request.get_mut(..name.len()).filter(|_| name.len() < NAME_BYTES);
    room.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?.copy_from_slice(name.as_bytes());
    let flags = (IS_TUN | WITHOUT_INFORMATION | WITH_HEADER).to_ne_bytes();
    if let Some(field) = request.get_mut(NAME_BYTES..NAME_BYTES + flags.len()) {
        field.copy_from_slice(&flags);
    }
    // SAFETY: the request is as long as struct ifreq and live for the call, which reads and writes no more than that.
    let result = unsafe { libc::ioctl(tun.as_raw_fd(), TUN_SET_INTERFACE as _, request.as_mut_ptr()) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Sets what a TUN device is told by a number.
pub(super) fn set_tun(tun: BorrowedFd<'_>, request: libc::c_ulong, value: libc::c_ulong) -> io::Result<()> {
    // SAFETY: these requests take their argument as a number and touch no memory of ours.
    let result = unsafe { libc::ioctl(tun.as_raw_fd(), request as _, value) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Room for one control message with a number in it, aligned as the kernel wants it.
#[repr(C, align(8))]
struct Control([u8; 64]);

/// Sends a datagram, or with `segment` as many as the bytes hold of that length (the last may be shorter). Waits for room in the
/// socket's buffer.
pub(super) fn send(socket: BorrowedFd<'_>, bytes: &[u8], segment: Option<u16>, to: SocketAddr) -> io::Result<()> {
    let (name, name_length) = raw_address(to);
    let mut part = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    let mut control = Control([0; 64]);
    // SAFETY: msghdr is plain numbers and pointers, for which zero is a value.
    let mut message: libc::msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
    message.msg_name = std::ptr::from_ref(&name).cast_mut().cast();
    message.msg_namelen = name_length;
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    if let Some(segment) = segment {
        let length = u32::try_from(size_of::<u16>()).map_err(io::Error::other)?;
        message.msg_control = control.0.as_mut_ptr().cast();
        // SAFETY: a computation on numbers.
        message.msg_controllen = unsafe { libc::CMSG_SPACE(length) } as _;
        // SAFETY: the control buffer is live, aligned and longer than the one header and number that are written into it.
        unsafe {
            let header = libc::CMSG_FIRSTHDR(&raw const message);
            (*header).cmsg_level = libc::SOL_UDP;
            (*header).cmsg_type = libc::UDP_SEGMENT;
            (*header).cmsg_len = libc::CMSG_LEN(length) as _;
            libc::CMSG_DATA(header).cast::<u16>().write_unaligned(segment);
        }
    }
    // SAFETY: all that the message points to is live for the call, which only reads it.
    let sent = unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const message, libc::MSG_NOSIGNAL) };
    if sent >= 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// What was received at once.
pub(super) struct Received {
    /// How many bytes of the buffer.
    pub(super) length: usize,
    /// How long each datagram in it is; the last may be shorter.
    pub(super) segment: usize,
    pub(super) from: SocketAddr,
}

/// Receives what waits; None where nothing does. What did not fit the buffer is left out.
pub(super) fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<Option<Received>> {
    // SAFETY: sockaddr_storage is plain numbers, for which zero is a value.
    let mut name: libc::sockaddr_storage = unsafe { MaybeUninit::zeroed().assume_init() };
    let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    let mut control = Control([0; 64]);
    // SAFETY: as above.
    let mut message: libc::msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
    message.msg_name = (&raw mut name).cast();
    message.msg_namelen = u32::try_from(size_of::<libc::sockaddr_storage>()).map_err(io::Error::other)?;
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.0.as_mut_ptr().cast();
    message.msg_controllen = control.0.len() as _;
    // SAFETY: all that the message points to is live and writable for the call, which writes no more than the lengths that it is told.
    let received = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, libc::MSG_DONTWAIT) };
    let Ok(length) = usize::try_from(received) else {
        return match io::Error::last_os_error() {
            error if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            error => Err(error),
        };
    };
    let mut segment = length;
    // SAFETY: the kernel has written the control buffer and its length; the headers lie within it, and so does the number of one whose
    // length says so.
    unsafe {
        let mut header = libc::CMSG_FIRSTHDR(&raw const message);
        while !header.is_null() {
            let is_number = (*header).cmsg_len as usize >= libc::CMSG_LEN(4) as usize;
            if (*header).cmsg_level == libc::SOL_UDP && (*header).cmsg_type == libc::UDP_GRO && is_number {
                let told = libc::CMSG_DATA(header).cast::<libc::c_int>().read_unaligned();
                segment = usize::try_from(told).unwrap_or(length);
            }
            header = libc::CMSG_NXTHDR(&raw const message, header);
        }
    }
    Ok(address(&name).map(|from| Received { length, segment: segment.max(1), from }))
}

fn raw_address(address: SocketAddr) -> (libc::sockaddr_storage, libc::socklen_t) {
    // SAFETY: sockaddr_storage is plain numbers, for which zero is a value.
    let mut name: libc::sockaddr_storage = unsafe { MaybeUninit::zeroed().assume_init() };
    let length = match address {
        SocketAddr::V4(address) => {
            let raw = libc::sockaddr_in {
                sin_family: libc::AF_INET as _,
                sin_port: address.port().to_be(),
                sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(address.ip().octets()) },
                sin_zero: [0; 8],
            };
            // SAFETY: a sockaddr_storage is longer than a sockaddr_in and at least as strictly aligned.
            unsafe { (&raw mut name).cast::<libc::sockaddr_in>().write(raw) };
            size_of::<libc::sockaddr_in>()
        }
        SocketAddr::V6(address) => {
            let raw = libc::sockaddr_in6 {
                sin6_family: libc::AF_INET6 as _,
                sin6_port: address.port().to_be(),
                sin6_flowinfo: 0,
                sin6_addr: libc::in6_addr { s6_addr: address.ip().octets() },
                sin6_scope_id: address.scope_id(),
            };
            // SAFETY: a sockaddr_storage is longer than a sockaddr_in6 and at least as strictly aligned.
            unsafe { (&raw mut name).cast::<libc::sockaddr_in6>().write(raw) };
            size_of::<libc::sockaddr_in6>()
        }
    };
    (name, u32::try_from(length).unwrap_or_default())
}

fn address(name: &libc::sockaddr_storage) -> Option<SocketAddr> {
    match i32::from(name.ss_family) {
        libc::AF_INET => {
            // SAFETY: the family says that a sockaddr_in is there, which is shorter and no more strictly aligned.
            let raw = unsafe { std::ptr::from_ref(name).cast::<libc::sockaddr_in>().read() };
            let address = Ipv4Addr::from(raw.sin_addr.s_addr.to_ne_bytes());
            Some(SocketAddr::new(IpAddr::V4(address), u16::from_be(raw.sin_port)))
        }
        libc::AF_INET6 => {
            // SAFETY: the family says that a sockaddr_in6 is there, which is shorter and no more strictly aligned.
            let raw = unsafe { std::ptr::from_ref(name).cast::<libc::sockaddr_in6>().read() };
            let address = Ipv6Addr::from(raw.sin6_addr.s6_addr);
            Some(SocketAddr::new(IpAddr::V6(address), u16::from_be(raw.sin6_port)))
        }
        _ => None,
    }
}
