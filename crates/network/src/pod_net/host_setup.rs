//! Prepares the host once: forwarding, reverse path filters, a route for cluster addresses; and takes it all back.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use super::vxlan::IPV6_MTU_BYTES_MIN;
use crate::Prefix;
use crate::netlink::{Error, NetworkNamespace, ROUTE_PROTOCOL, Result, Route, RouteBatch, RouteInfo, Rtnetlink};

/// The ranges and addresses of a node's pod network.
#[derive(Clone, Debug)]
pub struct Options {
    /// The namespace of the host.
    pub namespace: NetworkNamespace,
    /// The node's pod ranges, at most one per family.
    pub pod_ranges: Vec<Prefix>,
    /// The ranges of all pods of the cluster: traffic between them keeps its source address.
    pub cluster_ranges: Vec<Prefix>,
    /// The ranges of cluster addresses: the host's own processes reach them also without a default route.
    pub service_ranges: Vec<Prefix>,
    /// The node's primary addresses, at most one per family: pods see them as the source of the host's connections.
    pub node_addresses: Vec<IpAddr>,
    /// Where allocations and the sysctls' former values are kept; none keeps them in memory only.
    pub directory: Option<PathBuf>,
    /// The largest packet; none takes that of the default route's interface.
    pub mtu_bytes: Option<u32>,
}

/// The MTU where there is no default route to take it from.
const MTU_BYTES_DEFAULT: u32 = 1500;

/// The MTU of new pods where packets to some nodes may have so many bytes. Pods with IPv6 addresses need what IPv6 does: what is too large
/// for a smaller tunnel is told to the sender on its way (IPv4), and is not carried there (IPv6).
pub(crate) fn pods_mtu(options: &Options, mtu_bytes: u32) -> u32 {
    let has_ipv6 = options.pod_ranges.iter().any(|range| range.network().is_ipv6());
    let least = if has_ipv6 { IPV6_MTU_BYTES_MIN } else { 0 };
    options.mtu_bytes.unwrap_or(mtu_bytes.max(least))
}

/// The MTU for pods' interfaces, as far as the way out decides it.
pub(crate) fn mtu(options: &Options, rtnetlink: &mut Rtnetlink) -> Result<u32> {
    if let Some(mtu_bytes) = options.mtu_bytes {
        return Ok(mtu_bytes);
    }
    let route = match rtnetlink.default_route(false)? {
        Some(route) => Some(route),
        None => rtnetlink.default_route(true)?,
    };
    let Some(interface) = route.and_then(|route| route.interface) else { return Ok(MTU_BYTES_DEFAULT) };
    let links = rtnetlink.links()?;
    Ok(links.into_iter().find(|link| link.index == interface).map_or(MTU_BYTES_DEFAULT, |link| link.mtu_bytes))
}

/// Sets the sysctls that routing between pods needs. The former values are kept for [`restore_sysctls`].
pub(crate) fn set_sysctls(options: &Options, rtnetlink: &mut Rtnetlink) -> Result<()> {
    let mut wanted = vec![("net/ipv4/ip_forward".to_owned(), "1"), ("net/ipv4/conf/all/forwarding".to_owned(), "1")];
    if options.pod_ranges.iter().any(|range| range.network().is_ipv6()) {
        // A forwarding host ignores router advertisements unless told otherwise, and would lose its own default route.
        if let Some(interface) = rtnetlink.default_route(true)?.and_then(|route| route.interface)
            && let Some(link) = rtnetlink.links()?.into_iter().find(|link| link.index == interface)
        {
            wanted.push((format!("net/ipv6/conf/{}/accept_ra", link.name), "2"));
        }
        wanted.push(("net/ipv6/conf/all/forwarding".to_owned(), "1"));
    }
    let changed = options.namespace.run(|| {
        let mut changed = Vec::new();
        for (name, value) in wanted {
            let old = crate::netlink::swap_sysctl(&name, value)?;
            if old != value {
                changed.push((name, old));
            }
        }
        Ok::<_, Error>(changed)
    })??;
    keep_former(options, changed)
}

/// Lets the host reach a pod's host ports at its own 127.0.0.1: else the kernel leads nothing of loopback over an interface. What a pod sends
/// to loopback addresses is dropped by the rules (CVE-2020-8558). The setting goes with the interface.
pub(crate) fn allow_loopback(options: &Options, interface: &str) -> Result<()> {
    if options.pod_ranges.iter().all(|range| range.network().is_ipv6()) {
        return Ok(());
    }
    let name = format!("net/ipv4/conf/{interface}/route_localnet");
    options.namespace.run(|| crate::netlink::swap_sysctl(&name, "1").map(drop))?
}

/// Makes strict reverse path filters loose, on interfaces given by name and whether they are the host's (then the former value is kept).
/// The stricter of an interface's own and the host's value holds for strict (1), but loose (2) on the interface outranks both.
pub(crate) fn loosen_reverse_path<'a>(
    options: &Options,
    interfaces: impl Iterator<Item = (&'a str, bool)> + Send,
) -> Result<()> {
    let changed = options.namespace.run(|| {
        let read = |interface: &str| {
            std::fs::read_to_string(format!("/proc/sys/net/ipv4/conf/{interface}/rp_filter")).unwrap_or_default()
        };
        let is_strict_everywhere = read("all").trim() == "1";
        let mut changed = Vec::new();
        for (interface, is_lasting) in interfaces {
            let own = read(interface);
            if own.trim() == "1" || is_strict_everywhere && own.trim() == "0" {
                let name = format!("net/ipv4/conf/{interface}/rp_filter");
                let old = crate::netlink::swap_sysctl(&name, "2")?;
                if is_lasting {
                    changed.push((name, old));
                }
            }
        }
        Ok::<_, Error>(changed)
    })??;
    keep_former(options, changed)
}

/// Adds to the file of former values. The first value seen is the host's own; later ones may be ours.
fn keep_former(options: &Options, changed: Vec<(String, String)>) -> Result<()> {
    if changed.is_empty() && former_path(options).is_none_or(|path| path.exists()) {
        return Ok(());
    }
    let mut former = read_former(options);
    for (name, old) in changed {
        former.entry(name).or_insert(old);
    }
    write_former(options, &former)
}

/// Puts the sysctls back to what they were.
pub(crate) fn restore_sysctls(options: &Options) -> Result<()> {
    let former = read_former(options);
    options.namespace.run(|| {
        for (name, value) in &former {
            if let Err(error) = crate::netlink::swap_sysctl(name, value) {
                tracing::warn!(%error, "a sysctl keeps its value");
            }
        }
    })?;
    if let Some(path) = former_path(options) {
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::System { operation: format!("remove {}", path.display()), source: error });
            }
            _ => {}
        }
    }
    Ok(())
}

#[derive(serde::Serialize, serde::Deserialize)]
struct Former {
    version: u32,
    values: BTreeMap<String, String>,
}

fn former_path(options: &Options) -> Option<PathBuf> {
    options.directory.as_ref().map(|directory| directory.join("sysctls.json"))
}

fn read_former(options: &Options) -> BTreeMap<String, String> {
    former_path(options)
        .and_then(|path| std::fs::read(path).ok())
        .and_then(|bytes| serde_json::from_slice::<Former>(&bytes).ok())
        .filter(|former| former.version == 1)
        .map(|former| former.values)
        .unwrap_or_default()
}

fn write_former(options: &Options, values: &BTreeMap<String, String>) -> Result<()> {
    let Some(path) = former_path(options) else { return Ok(()) };
    let fail = |source| Error::System { operation: format!("write {}", path.display()), source };
    let bytes =
        serde_json::to_vec(&Former { version: 1, values: values.clone() }).map_err(|error| fail(error.into()))?;
    let beside = path.with_extension("new");
    std::fs::write(&beside, bytes).and_then(|()| std::fs::rename(&beside, &path)).map_err(fail)
}

/// Routes the cluster addresses to the loopback interface: without a default route a process could not even send to them, and with this one
/// its packets carry the node's address. They are translated before they would arrive there.
pub(crate) fn service_routes(options: &Options, loopback: u32) -> Vec<Route> {
    let to_route = |range: &Prefix| {
        let source =
            options.node_addresses.iter().copied().find(|address| address.is_ipv4() == range.network().is_ipv4());
        Route { destination: *range, gateway: None, interface: Some(loopback), source, on_link: false }
    };
    options.service_ranges.iter().map(to_route).collect()
}

/// Brings the loopback interface up and makes the routes of cluster addresses. Packets for pods that no node has are refused: the way out
/// of the host leads to strangers.
pub(crate) fn add_service_routes(options: &Options, rtnetlink: &mut Rtnetlink) -> Result<()> {
    let loopback = loopback_index(rtnetlink)?;
    let mut batch = RouteBatch::new();
    batch.set_up(loopback);
    for route in service_routes(options, loopback) {
        batch.add_route(&route);
    }
    for range in &options.cluster_ranges {
        batch.add_unreachable(*range);
    }
    batch.send(rtnetlink.socket())
}

/// Takes every route back that carries our mark; also those of an older configuration.
pub(crate) fn remove_routes(rtnetlink: &mut Rtnetlink) -> Result<()> {
    let mut batch = RouteBatch::new();
    // A default route is the host's own, whoever made it.
    let is_ours = |route: &RouteInfo| route.protocol == ROUTE_PROTOCOL && route.destination.length() > 0;
    for route in rtnetlink.routes()?.into_iter().filter(is_ours) {
        batch.delete_route(&Route {
            destination: route.destination,
            gateway: route.gateway,
            interface: route.interface,
            source: None,
            on_link: false,
        });
    }
    for range in rtnetlink.unreachable_ranges()? {
        batch.delete_unreachable(range);
    }
    for outcome in batch.send_each(rtnetlink.socket())? {
        match outcome {
            Err(error) if !error.is_not_found() => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

fn loopback_index(rtnetlink: &mut Rtnetlink) -> Result<u32> {
    Ok(rtnetlink.links()?.into_iter().find(|link| link.name == "lo").map_or(1, |link| link.index))
}

/// An address that the host answers on, such as that of cluster DNS, on the loopback interface.
pub(crate) fn set_local_address(rtnetlink: &mut Rtnetlink, address: IpAddr, present: bool) -> Result<()> {
    debug_assert_ne!(address, IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    let loopback = loopback_index(rtnetlink)?;
    let length = if address.is_ipv4() { 32 } else { 128 };
    let mut batch = RouteBatch::new();
    if present {
        batch.set_up(loopback);
        batch.add_address(loopback, address, length);
    } else {
        batch.delete_address(loopback, address, length);
    }
    match batch.send(rtnetlink.socket()) {
        Err(error) if !present && error.is_not_found() => Ok(()),
        other => other,
    }
}
