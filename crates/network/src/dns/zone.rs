//! The zone of the cluster: what each name stands for, kept by Service so that a change touches one Service's names only.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use super::name::{Name, NameError};
use super::state::{DnsEndpoint, DnsKind, DnsService};
use crate::Prefix;
use crate::services::{ServiceKey, TransportProtocol};

/// The version of the DNS specification for Kubernetes that the zone follows.
pub(crate) const SPECIFICATION_VERSION: &str = "1.1.0";

/// What a name stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Record {
    A(Ipv4Addr),
    Aaaa(Ipv6Addr),
    Srv { port: u16, target: Arc<[u8]> },
    Alias(Arc<[u8]>),
}

/// A name of the zone. One without records exists because others lie below it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Node {
    pub(crate) records: Vec<Record>,
    children: u32,
}

impl Node {
    /// A name that stands for one address.
    pub(crate) fn of_address(address: IpAddr) -> Self {
        Self { records: vec![address_record(address)], children: 0 }
    }
}

/// The zone.
#[derive(Debug)]
pub struct Zone {
    domain: Name,
    services_name: Name,
    pods_name: Name,
    nodes: HashMap<Name, Node>,
    pointers: HashMap<IpAddr, Vec<Arc<[u8]>>>,
    services: HashMap<ServiceKey, DnsService>,
    reverse_ranges: Vec<Prefix>,
    serial: u32,
}

struct Records {
    names: Vec<(Name, Record)>,
    pointers: Vec<(IpAddr, Name)>,
}

impl Zone {
    /// An empty zone for a cluster domain. Addresses in `reverse_ranges` are the cluster's: PTR questions about others are forwarded.
    pub fn new(domain: &str, reverse_ranges: Vec<Prefix>, server_addresses: &[IpAddr]) -> Result<Self, NameError> {
        let domain = Name::parse(domain)?;
        let mut zone = Self {
            services_name: domain.child("svc")?,
            pods_name: domain.child("pod")?,
            nodes: HashMap::new(),
            pointers: HashMap::new(),
            services: HashMap::new(),
            reverse_ranges,
            serial: 1,
            domain,
        };
        // These names exist always.
        zone.nodes.insert(zone.domain.clone(), Node { records: Vec::new(), children: 1 });
        for name in [zone.services_name.clone(), zone.pods_name.clone(), zone.domain.child("dns-version")?] {
            zone.touch(&name).children += 1;
        }
        let server = zone.domain.child("dns")?.child("ns")?;
        for address in server_addresses {
            zone.add_record(&server, address_record(*address));
        }
        Ok(zone)
    }

    /// The cluster domain.
    #[must_use]
    pub const fn domain(&self) -> &Name {
        &self.domain
    }

    /// Sets or removes a Service. Names that DNS cannot hold (over 253 characters) are left out.
    pub fn set(&mut self, key: &ServiceKey, service: Option<DnsService>) {
        if self.services.get(key) == service.as_ref() {
            return;
        }
        if let Some(old) = self.services.remove(key) {
            let records = self.records(key, &old);
            for (name, record) in records.names {
                self.remove_record(&name, &record);
            }
            for (address, name) in records.pointers {
                if let Some(names) = self.pointers.get_mut(&address) {
                    if let Some(position) = names.iter().position(|other| other[..] == *name.wire()) {
                        names.remove(position);
                    }
                    if names.is_empty() {
                        self.pointers.remove(&address);
                    }
                }
            }
        }
        if let Some(new) = service {
            let records = self.records(key, &new);
            for (name, record) in records.names {
                self.add_record(&name, record);
            }
            for (address, name) in records.pointers {
                self.pointers.entry(address).or_default().push(name.wire().into());
            }
            self.services.insert(key.clone(), new);
        }
        self.serial = self.serial.wrapping_add(1);
    }

    /// The keys of all Services known.
    #[must_use]
    pub fn keys(&self) -> Vec<ServiceKey> {
        self.services.keys().cloned().collect()
    }

    pub(crate) fn find(&self, name: &[u8]) -> Option<&Node> {
        self.nodes.get(name)
    }

    pub(crate) const fn serial(&self) -> u32 {
        self.serial
    }

    /// The names of an address.
    pub(crate) fn names_of(&self, address: IpAddr) -> &[Arc<[u8]>] {
        self.pointers.get(&address).map(Vec::as_slice).unwrap_or_default()
    }

    /// Whether an address without a name is nevertheless the cluster's.
    pub(crate) fn owns_address(&self, address: IpAddr) -> bool {
        self.reverse_ranges.iter().any(|range| range.contains(address))
    }

    /// The address in a name such as 10-42-0-5.default.pod.cluster.local; also a whole branch that exists without records.
    pub(crate) fn pod_record(&self, name: &[u8]) -> Option<Option<IpAddr>> {
        let label_length = usize::from(*name.first()?);
        let label = name.get(1..=label_length)?;
        let namespace = super::name::parent(name)?;
        if namespace == self.pods_name.wire() {
            // namespace.pod.cluster.local: names lie below it.
            return Some(None);
        }
        if super::name::parent(namespace)? != self.pods_name.wire() {
            return None;
        }
        let text = std::str::from_utf8(label).ok()?;
        let v4 = text.replace('-', ".").parse().map(IpAddr::V4).ok();
        v4.or_else(|| text.replace('-', ":").parse().map(IpAddr::V6).ok()).map(Some)
    }

    fn records(&self, key: &ServiceKey, service: &DnsService) -> Records {
        let mut records = Records { names: Vec::new(), pointers: Vec::new() };
        let named = self.services_name.child(&key.namespace).and_then(|namespace| namespace.child(&key.name));
        let Ok(name) = named else { return records };
        match &service.kind {
            DnsKind::ClusterIps(addresses) => {
                for address in addresses {
                    records.names.push((name.clone(), address_record(*address)));
                    records.pointers.push((*address, name.clone()));
                }
                records.add_ports(service, &name, &[&name]);
            }
            DnsKind::Headless(endpoints) => {
                let mut targets: Vec<Name> = Vec::new();
                for endpoint in endpoints {
                    let Ok(own) = name.child(&endpoint_label(endpoint)) else { continue };
                    records.names.push((name.clone(), address_record(endpoint.ip)));
                    records.names.push((own.clone(), address_record(endpoint.ip)));
                    records.pointers.push((endpoint.ip, own.clone()));
                    targets.push(own);
                }
                targets.sort_unstable();
                targets.dedup();
                records.add_ports(service, &name, &targets.iter().collect::<Vec<_>>());
            }
            DnsKind::ExternalName(target) => {
                if let Ok(target) = Name::parse(target) {
                    records.names.push((name, Record::Alias(target.wire().into())));
                }
            }
        }
        records
    }

    fn touch(&mut self, name: &Name) -> &mut Node {
        if !self.nodes.contains_key(name)
            && let Some(parent) = name.parent()
            && super::name::is_within(parent.wire(), self.domain.wire())
        {
            self.touch(&parent).children += 1;
        }
        self.nodes.entry(name.clone()).or_default()
    }

    fn add_record(&mut self, name: &Name, record: Record) {
        self.touch(name).records.push(record);
    }

    fn remove_record(&mut self, name: &Name, record: &Record) {
        let mut current = name.clone();
        let Some(node) = self.nodes.get_mut(&current) else { return };
        if let Some(position) = node.records.iter().position(|other| other == record) {
            node.records.remove(position);
        }
        // Names that nothing needs any more go, up to the zone's own.
        while self.nodes.get(&current).is_some_and(|node| node.records.is_empty() && node.children == 0) {
            self.nodes.remove(&current);
            let Some(parent) = current.parent() else { return };
            let Some(node) = self.nodes.get_mut(&parent) else { return };
            node.children = node.children.saturating_sub(1);
            current = parent;
        }
    }
}

impl Records {
    fn add_ports(&mut self, service: &DnsService, name: &Name, targets: &[&Name]) {
        for port in service.ports.iter().filter(|port| !port.name.is_empty()) {
            let protocol = match port.protocol {
                TransportProtocol::Tcp => "_tcp",
                TransportProtocol::Udp => "_udp",
                TransportProtocol::Sctp => "_sctp",
            };
            let Ok(owner) = name.child(protocol).and_then(|name| name.child(&format!("_{}", port.name))) else {
                continue;
            };
            for target in targets {
                self.names.push((owner.clone(), Record::Srv { port: port.port, target: target.wire().into() }));
            }
        }
    }
}

fn address_record(address: IpAddr) -> Record {
    match address {
        IpAddr::V4(address) => Record::A(address),
        IpAddr::V6(address) => Record::Aaaa(address),
    }
}

/// An endpoint's own label: its hostname, or its address with dashes.
fn endpoint_label(endpoint: &DnsEndpoint) -> String {
    match &endpoint.hostname {
        Some(hostname) if !hostname.is_empty() => hostname.clone(),
        _ => endpoint.ip.to_string().replace(['.', ':'], "-"),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::dns::DnsPort;

    #[test]
    fn removing_a_service_leaves_nothing_of_it() {
        let mut zone = Zone::new("cluster.local", vec![], &["10.43.0.10".parse().unwrap()]).unwrap();
        let before = zone.nodes.len();
        let endpoint = |last: u8| DnsEndpoint {
            ip: IpAddr::from([10, 42, 0, last]),
            hostname: (last == 1).then(|| "db-0".to_owned()),
        };
        let ports = vec![DnsPort { name: "sql".to_owned(), protocol: TransportProtocol::Tcp, port: 5432 }];
        let (db, web) = (ServiceKey::new("prod", "db"), ServiceKey::new("prod", "web"));
        zone.set(
            &db,
            Some(DnsService { kind: DnsKind::Headless(vec![endpoint(1), endpoint(2)]), ports: ports.clone() }),
        );
        zone.set(&web, Some(DnsService { kind: DnsKind::ClusterIps(vec![IpAddr::from([10, 43, 0, 1])]), ports }));
        let find =
            |zone: &Zone, name: &str| zone.find(Name::parse(name).unwrap().wire()).map(|node| node.records.len());
        assert_eq!(find(&zone, "db.prod.svc.cluster.local"), Some(2));
        assert_eq!(find(&zone, "db-0.db.prod.svc.cluster.local"), Some(1));
        assert_eq!(find(&zone, "10-42-0-2.db.prod.svc.cluster.local"), Some(1));
        assert_eq!(find(&zone, "_sql._tcp.db.prod.svc.cluster.local"), Some(2));
        assert_eq!(find(&zone, "_tcp.db.prod.svc.cluster.local"), Some(0), "exists without records");
        zone.set(&db, None);
        assert_eq!(find(&zone, "_tcp.db.prod.svc.cluster.local"), None);
        assert_eq!(find(&zone, "prod.svc.cluster.local"), Some(0));
        zone.set(&web, None);
        assert_eq!(find(&zone, "prod.svc.cluster.local"), None);
        assert_eq!(zone.nodes.len(), before);
        assert!(zone.pointers.is_empty());
    }
}
