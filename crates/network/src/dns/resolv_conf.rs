//! Finds the host's resolvers: /etc/resolv.conf, or systemd-resolved's own list where that names only its stub.

use std::fs::File;
use std::io::Read as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

/// Resolvers used at most; glibc uses three.
const RESOLVERS_MAX: usize = 8;
/// A larger file is not read further.
const FILE_BYTES_MAX: u64 = 64 * 1024;

/// The host's resolvers and search domains.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostResolvers {
    /// Where to ask.
    pub servers: Vec<SocketAddr>,
    /// The search domains, which pods with dnsPolicy Default and ClusterFirst get as well.
    pub search: Vec<String>,
    /// The file that they are from.
    pub path: PathBuf,
}

/// Reads the host's resolvers from these files: the first that names one which is not systemd-resolved's stub, else the first.
#[must_use]
pub fn host_resolvers(paths: &[PathBuf]) -> HostResolvers {
    let mut first = None;
    for path in paths {
        let found = read(path);
        if found.servers.iter().any(|server| !is_stub(server.ip())) {
            return found;
        }
        if first.is_none() && !found.servers.is_empty() {
            first = Some(found);
        }
    }
    first.unwrap_or_default()
}

/// systemd-resolved listens on 127.0.0.53 (and .54). It answers the host well, and is asked directly where its own list is missing.
fn is_stub(address: IpAddr) -> bool {
    [IpAddr::V4(Ipv4Addr::new(127, 0, 0, 53)), IpAddr::V4(Ipv4Addr::new(127, 0, 0, 54))].contains(&address)
}

fn read(path: &Path) -> HostResolvers {
    let mut bytes = Vec::new();
    if let Err(error) = File::open(path).and_then(|file| file.take(FILE_BYTES_MAX).read_to_end(&mut bytes)) {
        tracing::debug!(path = %path.display(), %error, "no resolvers here");
    }
    HostResolvers { path: path.to_owned(), ..parse(&String::from_utf8_lossy(&bytes)) }
}

fn parse(text: &str) -> HostResolvers {
    let mut found = HostResolvers::default();
    for line in text.lines() {
        let mut words = line.split([' ', '\t']).filter(|word| !word.is_empty());
        match words.next() {
            Some("nameserver") => {
                // A link-local address may carry a zone, which a socket address cannot name portably: such a server is left out.
                if let Some(address) = words.next().and_then(|word| word.parse::<IpAddr>().ok())
                    && found.servers.len() < RESOLVERS_MAX
                {
                    found.servers.push(SocketAddr::new(address, 53));
                }
            }
            Some("search" | "domain") => {
                found.search = words
                    .take(32)
                    .map(|word| word.trim_end_matches('.').to_owned())
                    .filter(|word| !word.is_empty())
                    .collect()
            }
            _ => {}
        }
    }
    found
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn the_stub_gives_way_to_the_real_list() {
        let directory = tempfile::tempdir().unwrap();
        let paths = ["etc", "run"].map(|name| directory.path().join(name));
        std::fs::write(&paths[0], "nameserver 127.0.0.53\noptions edns0 trust-ad\nsearch corp.example.\n").unwrap();
        assert_eq!(host_resolvers(&paths).servers, ["127.0.0.53:53".parse().unwrap()], "better than none");
        std::fs::write(&paths[1], "# comment\nnameserver\t192.0.2.53\nnameserver fe80::1%eth0\nnameserver 2001:db8::53\nnameserver nonsense\n").unwrap();
        let found = host_resolvers(&paths);
        assert_eq!(found.servers, ["192.0.2.53:53".parse().unwrap(), "[2001:db8::53]:53".parse().unwrap()]);
        assert_eq!(found.path, paths[1]);
        std::fs::write(&paths[0], "nameserver 198.51.100.1\nsearch a.example b.example").unwrap();
        assert_eq!(host_resolvers(&paths).search, ["a.example", "b.example"]);
        assert_eq!(host_resolvers(&[]), HostResolvers::default());
    }
}
