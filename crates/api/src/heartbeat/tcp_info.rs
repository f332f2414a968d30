//! What the kernel knows of a connection's other end; the one call here that needs `unsafe`.

use std::io;
use std::os::fd::{AsFd, AsRawFd as _};
use std::time::Duration;

/// What TCP_INFO says.
#[derive(Clone, Copy, Debug)]
pub(super) struct TcpInfo {
    /// How long ago the other end's kernel acknowledged anything.
    pub(super) acknowledged_ago: Duration,
    /// The smoothed round-trip time.
    pub(super) round_trip: Duration,
}

/// Asks the kernel about a TCP socket.
pub(super) fn tcp_info(socket: &impl AsFd) -> io::Result<TcpInfo> {
    let mut info = std::mem::MaybeUninit::<libc::tcp_info>::zeroed();
    let mut length = libc::socklen_t::try_from(size_of::<libc::tcp_info>()).map_err(io::Error::other)?;
    let descriptor = socket.as_fd().as_raw_fd();
    // SAFETY: pointer and length describe one live tcp_info, and the descriptor is borrowed for the call.
    let result = unsafe {
        libc::getsockopt(descriptor, libc::IPPROTO_TCP, libc::TCP_INFO, info.as_mut_ptr().cast(), &raw mut length)
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: all of it was zeroed, and any bits are a valid tcp_info, which holds integers alone.
    let info = unsafe { info.assume_init() };
    Ok(TcpInfo {
        acknowledged_ago: Duration::from_millis(u64::from(info.tcpi_last_ack_recv)),
        round_trip: Duration::from_micros(u64::from(info.tcpi_rtt)),
    })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use std::io::Write as _;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn a_kernel_acknowledges_for_a_process_that_reads_nothing() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut ours = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let _theirs = listener.accept().unwrap();
        std::thread::sleep(Duration::from_millis(60));
        let before = tcp_info(&ours).unwrap().acknowledged_ago;
        ours.write_all(b"x").unwrap();
        let deadline = std::time::Instant::now() + Duration::from_secs(10);
        while tcp_info(&ours).unwrap().acknowledged_ago >= before {
            assert!(std::time::Instant::now() < deadline, "never acknowledged");
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}
