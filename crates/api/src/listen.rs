//! Listening on an address, or on all that the host has.

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};
use tokio::net::TcpListener;

/// Connections that wait to be accepted; the kernel's own limit (net.core.somaxconn) may be lower.
const BACKLOG: i32 = 1024;

/// Listens. An unspecified address of either family (0.0.0.0, ::) means all addresses of both, as upstream's `--bind-address`; on a host without
/// IPv6 those of IPv4.
///
/// # Errors
/// What the system says: a taken port, or an address that is not the host's.
pub async fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    if !address.ip().is_unspecified() {
        return TcpListener::bind(address).await;
    }
    match both_families(address.port()) {
        Err(error) if error.kind() != io::ErrorKind::AddrInUse && address.is_ipv4() => TcpListener::bind(address).await,
        bound => bound,
    }
}

/// The address of who connected: of an IPv4 client its own, however the socket puts it.
#[must_use]
pub fn client_address(peer: SocketAddr) -> IpAddr {
    peer.ip().to_canonical()
}

fn both_families(port: u16) -> io::Result<TcpListener> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::INET6, SocketType::STREAM, flags, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    // Whatever net.ipv6.bindv6only says.
    sockopt::set_ipv6_v6only(&socket, false)?;
    rustix::net::bind(&socket, &SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port))?;
    rustix::net::listen(&socket, BACKLOG)?;
    TcpListener::from_std(socket.into())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use tokio::net::TcpStream;

    #[tokio::test]
    async fn all_addresses_are_those_of_both_families() {
        for any in ["0.0.0.0:0", "[::]:0"] {
            let listener = listen(any.parse().unwrap()).await.unwrap();
            let port = listener.local_addr().unwrap().port();
            for host in ["127.0.0.1", "::1"] {
                let host: IpAddr = host.parse().unwrap();
                let _client = TcpStream::connect(SocketAddr::new(host, port)).await.unwrap();
                let (_, peer) = listener.accept().await.unwrap();
                assert_eq!(client_address(peer), host, "{any}");
            }
            assert_eq!(
                listen(SocketAddr::new([0, 0, 0, 0].into(), port)).await.unwrap_err().kind(),
                io::ErrorKind::AddrInUse
            );
        }
        let own = listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
        assert!(
            TcpStream::connect(SocketAddr::new(Ipv6Addr::LOCALHOST.into(), own.local_addr().unwrap().port()))
                .await
                .is_err()
        );
    }
}
