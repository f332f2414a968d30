//! The host's interfaces to its own networks.

use crate::netlink::{AddressInfo, LinkAddress, LinkInfo, NetworkNamespace, Result, Rtnetlink};
use crate::{POD_INTERFACE_PREFIX, Prefix};

/// An interface that announces addresses of its subnets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Interface {
    pub(super) index: u32,
    pub(super) link: LinkAddress,
    pub(super) subnets: Vec<Prefix>,
}

/// The subnets of a host's own networks: where it can be asked for addresses by Ethernet.
///
/// # Errors
/// Those of netlink.
pub fn subnets(namespace: &NetworkNamespace) -> Result<Vec<Prefix>> {
    let found = look(&mut Rtnetlink::open_in(namespace)?)?;
    let mut subnets: Vec<Prefix> = found.into_iter().flat_map(|interface| interface.subnets).collect();
    subnets.sort_unstable();
    subnets.dedup();
    Ok(subnets)
}

/// The interfaces as they are now.
pub(super) fn look(rtnetlink: &mut Rtnetlink) -> Result<Vec<Interface>> {
    let links = rtnetlink.links()?;
    Ok(compile(&links, &rtnetlink.addresses()?))
}

/// Ours lead to pods; one without an Ethernet address, or without neighbours on its subnet, has nobody to tell.
fn compile(links: &[LinkInfo], addresses: &[AddressInfo]) -> Vec<Interface> {
    let of = |link: &LinkInfo| {
        let usable = link.is_up && link.name != "lo" && !link.name.starts_with(POD_INTERFACE_PREFIX);
        let address = link.address.filter(|address| usable && *address != [0; 6])?;
        let own = addresses.iter().filter(|one| one.interface == link.index && one.is_global);
        let shared = own.filter(|one| one.prefix_length < if one.address.is_ipv4() { 31 } else { 127 });
        let subnets: Vec<Prefix> = shared.map(|one| Prefix::new(one.address, one.prefix_length)).collect();
        (!subnets.is_empty()).then_some(Interface { index: link.index, link: address, subnets })
    };
    links.iter().filter_map(of).collect()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn only_interfaces_to_networks_count() {
        let link = |index: u32, name: &str, is_up: bool, address: Option<LinkAddress>| LinkInfo {
            index,
            name: name.to_owned(),
            alias: String::new(),
            mtu_bytes: 1500,
            address,
            is_up,
            kind: String::new(),
            vxlan: None,
        };
        let some = Some([2, 0, 0, 0, 0, 1]);
        let links = [
            link(1, "lo", true, Some([0; 6])),
            link(2, "eth0", true, some),
            link(3, "kly123", true, some),
            link(4, "eth1", false, some),
            link(5, "tun0", true, None),
            link(6, "eth2", true, some),
        ];
        let address = |interface: u32, text: &str, prefix_length: u8, is_global: bool| AddressInfo {
            interface,
            address: text.parse().unwrap(),
            prefix_length,
            is_global,
        };
        let addresses = [
            address(1, "127.0.0.1", 8, true),
            address(2, "192.0.2.1", 24, true),
            address(2, "2001:db8::1", 64, true),
            address(2, "fe80::1", 64, false),
            address(3, "10.42.0.1", 24, true),
            address(4, "198.51.100.1", 24, true),
            address(5, "203.0.113.1", 24, true),
            address(6, "203.0.113.9", 32, true),
        ];
        let found = compile(&links, &addresses);
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].index, found[0].subnets.len()), (2, 2));
        assert_eq!(found[0].subnets[0].to_string(), "192.0.2.0/24");
    }
}
