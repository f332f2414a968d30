//! Addresses that mean another host to everybody who asks for them.

use std::net::IpAddr;

/// Whether an address is a host's own or its neighbours' (loopback, link-local, unspecified, multicast, broadcast): nothing in the cluster is
/// found there.
pub(crate) fn is_of_host(address: IpAddr) -> bool {
    let address = address.to_canonical();
    let is_near = match address {
        IpAddr::V4(address) => address.is_link_local() || address.is_broadcast(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    is_near || address.is_loopback() || address.is_unspecified() || address.is_multicast()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_every_host_has_is_told_apart() {
        let of_host = |text: &str| text.parse().is_ok_and(is_of_host);
        for text in [
            "127.0.0.1",
            "::1",
            "::ffff:127.0.0.1",
            "169.254.169.254",
            "fe80::1",
            "0.0.0.0",
            "::",
            "224.0.0.1",
            "ff02::1",
            "255.255.255.255",
        ] {
            assert!(of_host(text), "{text}");
        }
        for text in ["10.0.0.1", "192.0.2.1", "2001:db8::1", "fd00::1"] {
            assert!(!of_host(text), "{text}");
        }
    }
}
