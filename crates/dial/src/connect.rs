//! From a name to addresses, and from addresses to a connection.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::OnceCell;

/// An address that does not take the connection in this time is passed over.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// More addresses of one name than this are not tried.
const ADDRESSES_MAX: usize = 8;

/// Connects to the first of a host's addresses that answers.
///
/// # Errors
/// What the resolver said, or what the last address said.
pub async fn connect(host: &str, port: u16) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, format!("lookup {host}: no such host"));
    for address in resolve(host).await? {
        match tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(SocketAddr::new(address, port))).await {
            Ok(Ok(stream)) => {
                let _ = stream.set_nodelay(true); // only latency is at stake
                return Ok(stream);
            }
            Ok(Err(error)) => last = io::Error::new(error.kind(), format!("dial tcp {address}:{port}: {error}")),
            Err(_) => {
                let message = format!("dial tcp {address}:{port}: no connection in time");
                last = io::Error::new(io::ErrorKind::TimedOut, message);
            }
        }
    }
    Err(last)
}

/// The addresses of a host, at most eight, IPv4 first: hosts without a route for IPv6 are common.
///
/// # Errors
/// What the resolver said.
pub async fn resolve(host: &str) -> io::Result<Vec<IpAddr>> {
    if let Ok(address) = host.parse() {
        return Ok(vec![address]);
    }
    if host == "localhost" {
        return Ok(vec![IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)]);
    }
    static RESOLVER: OnceCell<hickory_resolver::TokioResolver> = OnceCell::const_new();
    let make = || async { hickory_resolver::TokioResolver::builder_tokio()?.build() };
    let resolver = RESOLVER.get_or_try_init(make).await.map_err(io::Error::other)?;
    let failed = |error| io::Error::new(io::ErrorKind::NotFound, format!("lookup {host}: {error}"));
    let found = resolver.lookup_ip(host).await.map_err(failed)?;
    let mut addresses: Vec<IpAddr> = found.iter().collect();
    addresses.sort_by_key(IpAddr::is_ipv6);
    addresses.truncate(ADDRESSES_MAX);
    Ok(addresses)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use tokio::net::TcpListener;

    #[tokio::test]
    async fn connects_by_name_and_says_which_address_refused() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        // localhost has an address of the other family too, where nobody listens.
        assert_eq!(connect("localhost", port).await.unwrap().peer_addr().unwrap().port(), port);
        drop(listener);
        let error = connect("127.0.0.1", port).await.unwrap_err();
        assert!(error.to_string().starts_with(&format!("dial tcp 127.0.0.1:{port}: ")), "{error}");
    }

    #[tokio::test]
    async fn names_of_the_hosts_file_are_known() {
        let hosts = std::fs::read_to_string("/etc/hosts").unwrap_or_default();
        let line = hosts.lines().find(|line| line.starts_with("127.0.1.1") || line.starts_with("127.0.0.1"));
        let Some(name) = line.and_then(|line| line.split_whitespace().last()) else { return };
        assert!(resolve(name).await.unwrap().iter().all(IpAddr::is_loopback), "{name}");
    }
}
