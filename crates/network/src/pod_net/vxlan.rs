//! The tunnel to nodes of other subnets: its interface, and who may send into it.
//!
//! Nothing is learnt or asked: each node's end has an Ethernet address and an address that follow from its pod range, so that the entries for
//! a peer can be made before it is there. Only packets from the peers' addresses are taken in, since VXLAN itself proves nothing.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::error::Error;
use super::peers::{HostView, Underlay, link_address};
use crate::netlink::{
    ChainSpec, DataType, Element, Expressions, Hook, LinkAddress, LinkInfo, MapValue, NftBatch, Register, RouteBatch,
    Rtnetlink, SetFlags, TypedSetSpec, Verdict, VxlanInfo,
};
use crate::prefix::address_bytes;

/// How the interfaces to other nodes begin, encrypted or not; packets that leave through them are recognised by it.
pub(crate) const TUNNEL_INTERFACE_PREFIX: &str = "klynge-";
/// The UDP port of the tunnel. Not 8472 (flannel, Cilium) nor 4789 (Calico, Docker's overlay networks): the kernel shares one port among
/// interfaces only while their flags agree. Unassigned by IANA, below NodePorts and ephemeral ports.
pub const TUNNEL_PORT: u16 = 8477;
/// The VXLAN network identifier: "kly". Flannel and Cilium use 1 and 2, Calico and Docker 4096 and the next.
pub const TUNNEL_IDENTIFIER: u32 = 0x006b_6c79;
/// The table (of the family of the packets outside) that says who may send into the tunnel.
pub const TUNNEL_TABLE: &str = "klynge-tunnel";

const SENDERS: &str = "senders";
const SCRATCH: Register = Register::new(0);
const PROTOCOL_UDP: u8 = 17;
/// IPv6 does not exist on links with smaller packets (RFC 8200).
pub(crate) const IPV6_MTU_BYTES_MIN: u32 = 1280;

/// Whether a link with packets of this size carries a family: IPv6 does not exist on links with smaller ones.
pub(crate) const fn carries(mtu_bytes: u32, is_ipv4: bool) -> bool {
    is_ipv4 || mtu_bytes >= IPV6_MTU_BYTES_MIN
}

impl Underlay {
    /// The tunnel's interface.
    pub(crate) const fn interface_name(self) -> &'static str {
        match self {
            Self::V4 => "klynge-vx",
            Self::V6 => "klynge-vx6",
        }
    }

    /// What the outer headers take from each packet: IP, UDP, VXLAN, and the inner Ethernet header.
    pub(crate) const fn overhead_bytes(self) -> u32 {
        match self {
            Self::V4 => 20 + 8 + 8 + 14,
            Self::V6 => 40 + 8 + 8 + 14,
        }
    }
}

/// A tunnel's interface as it is to be.
pub(crate) struct Tunnel {
    underlay: Underlay,
    link_address: LinkAddress,
    mtu_bytes: u32,
    vxlan: VxlanInfo,
    addresses: Vec<IpAddr>,
}

impl Tunnel {
    /// This node's end of a tunnel. `mtu_bytes_default` is the underlay's where no interface has the node's address.
    pub(crate) fn plan(underlay: Underlay, host: &HostView, mtu_bytes_default: u32) -> Self {
        let is_ipv4 = underlay == Underlay::V4;
        let unspecified = if is_ipv4 { IpAddr::V4(Ipv4Addr::UNSPECIFIED) } else { IpAddr::V6(Ipv6Addr::UNSPECIFIED) };
        let local = host.node_address(is_ipv4);
        let underlay_mtu_bytes = local.and_then(|local| host.mtu_of(local)).unwrap_or(mtu_bytes_default);
        Self {
            underlay,
            link_address: link_address(&host.pod_ranges).unwrap_or([0x0e, 0x6b, 0, 0, 0, 0]),
            mtu_bytes: underlay_mtu_bytes.saturating_sub(underlay.overhead_bytes()),
            vxlan: VxlanInfo {
                identifier: TUNNEL_IDENTIFIER,
                port: TUNNEL_PORT,
                local: local.unwrap_or(unspecified),
                is_learning: false,
            },
            addresses: [true, false].into_iter().filter_map(|is_ipv4| host.tunnel_address(is_ipv4)).collect(),
        }
    }

    /// The largest packet that it carries.
    pub(crate) const fn mtu_bytes(&self) -> u32 {
        self.mtu_bytes
    }

    /// Whether it carries a family.
    pub(crate) const fn carries(&self, is_ipv4: bool) -> bool {
        carries(self.mtu_bytes, is_ipv4)
    }

    /// What about the tunnel keeps pods from working, if anything does.
    pub(crate) fn problem(&self) -> Option<String> {
        let is_too_small = !self.carries(false) && self.addresses.iter().any(IpAddr::is_ipv6);
        is_too_small.then(|| {
            format!(
                "packets through the tunnel are limited to {} bytes, and IPv6 needs {IPV6_MTU_BYTES_MIN}, so that pods of nodes on other \
                 subnets are reached by IPv4 alone; raise the MTU between the nodes to {}",
                self.mtu_bytes,
                IPV6_MTU_BYTES_MIN + self.underlay.overhead_bytes()
            )
        })
    }

    /// Makes the interface what it is to be. Returns its number, and whether it is new and holds no entries.
    pub(crate) fn ensure(&self, rtnetlink: &mut Rtnetlink, links: &[LinkInfo]) -> Result<(u32, bool), Error> {
        let name = self.underlay.interface_name();
        if let Some(link) = links.iter().find(|link| link.name == name) {
            if link.kind != "vxlan" {
                return Err(Error::TunnelNameTaken { interface: name.to_owned() });
            }
            if self.matches(link) {
                let mut batch = RouteBatch::new();
                if link.mtu_bytes != self.mtu_bytes {
                    batch.set_mtu(link.index, self.mtu_bytes);
                }
                if !link.is_up {
                    batch.set_up(link.index);
                }
                batch.send(rtnetlink.socket())?;
                // An interface that was down has lost its routes.
                return Ok((link.index, !link.is_up));
            }
            let mut batch = RouteBatch::new();
            batch.delete_link(name);
            batch.send(rtnetlink.socket())?;
        }
        let mut batch = RouteBatch::new();
        batch.add_vxlan(name, self.link_address, self.mtu_bytes, &self.vxlan);
        batch.send(rtnetlink.socket())?;
        let index = rtnetlink.index_of(name)?;
        let mut batch = RouteBatch::new();
        batch.set_no_link_local(index);
        if let Err(error) = batch.send(rtnetlink.socket()) {
            // A kernel without IPv6 gives no such address anyway.
            tracing::debug!(%error, "the tunnel may get a link-local address");
        }
        let mut batch = RouteBatch::new();
        batch.set_up(index);
        batch.send(rtnetlink.socket())?;
        Ok((index, true))
    }

    /// Gives the interface its addresses; those that it has stay.
    pub(crate) fn add_addresses(&self, index: u32, batch: &mut RouteBatch) {
        for address in self.addresses.iter().filter(|address| self.carries(address.is_ipv4())) {
            batch.add_address(index, *address, if address.is_ipv4() { 32 } else { 128 });
        }
    }

    fn matches(&self, link: &LinkInfo) -> bool {
        let is_same = |found: &VxlanInfo| {
            (found.identifier, found.port, found.is_learning)
                == (self.vxlan.identifier, self.vxlan.port, self.vxlan.is_learning)
                && (found.local == self.vxlan.local
                    || found.local.is_unspecified() && self.vxlan.local.is_unspecified())
        };
        link.address == Some(self.link_address) && link.vxlan.as_ref().is_some_and(is_same)
    }
}

/// The tunnels' interfaces among all.
pub(crate) fn tunnel_links(links: &[LinkInfo]) -> impl Iterator<Item = (Underlay, &LinkInfo)> {
    Underlay::ALL.into_iter().filter_map(|underlay| {
        let link = links.iter().find(|link| link.name == underlay.interface_name() && link.kind == "vxlan")?;
        Some((underlay, link))
    })
}

/// Makes the table of senders anew.
pub(crate) fn add_filter(batch: &mut NftBatch, underlay: Underlay, senders: impl Iterator<Item = IpAddr>) {
    let family = underlay.family();
    batch.delete_table_if_exists(family, TUNNEL_TABLE);
    batch.add_table(family, TUNNEL_TABLE);
    let set = TypedSetSpec {
        name: SENDERS,
        key: &[DataType::address(family)],
        value: MapValue::None,
        flags: SetFlags::default(),
        size_max: None,
    };
    batch.add_typed_set(family, TUNNEL_TABLE, &set);
    batch.add_chain(family, TUNNEL_TABLE, &ChainSpec { name: "input", base: Some((Hook::Input, "filter", 0)) });
    let rule = Expressions::new()
        .match_protocol(PROTOCOL_UDP, SCRATCH)
        .match_destination_port(TUNNEL_PORT, SCRATCH)
        .load_source(family, SCRATCH)
        .contained(SENDERS, SCRATCH, true)
        .verdict(Verdict::Drop);
    batch.add_rule(family, TUNNEL_TABLE, "input", &rule);
    change_senders(batch, underlay, senders, true);
}

/// Lets packets from these addresses in, or no longer.
pub(crate) fn change_senders(
    batch: &mut NftBatch,
    underlay: Underlay,
    senders: impl Iterator<Item = IpAddr>,
    is_added: bool,
) {
    let elements: Vec<Element> = senders
        .map(|address| Element { key: address_bytes(address), key_end: None, value: None, verdict: None })
        .collect();
    if elements.is_empty() {
        return;
    }
    if is_added {
        batch.add_elements(underlay.family(), TUNNEL_TABLE, SENDERS, &elements);
    } else {
        batch.delete_elements(underlay.family(), TUNNEL_TABLE, SENDERS, &elements);
    }
}
