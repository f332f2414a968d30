//! Service addresses and node ports: claimed as keys in the very transaction that writes the Service, so that two
//! Services can never hold the same one, and released in the transaction that takes them away.

use super::commit;
use super::metadata::{self, cause};
use crate::core::{Call, Core};
use crate::random;
use object::{Cause, Map, Status, Value, meta, time};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use store::{Change, Expect, Key, Operation};

/// The bucket of claimed addresses: upstream's IPAddress objects.
const ADDRESSES: &str = "ipaddresses.networking.k8s.io";
/// The bucket of claimed node ports: ours alone, seen by nobody else.
const NODE_PORTS: &str = "klynge-node-ports";
/// Upstream's default --service-node-port-range.
const NODE_PORT_FIRST: u16 = 30_000;
const NODE_PORT_LAST: u16 = 32_767;
/// The first part of the range is left to those who choose a port themselves.
const NODE_PORT_STATIC: u64 = 86;
/// Random picks before the range is searched from end to end.
const PICKS_MAX: u32 = 64;
/// Addresses looked at in that search.
const SEARCH_MAX: u128 = 65_536;

/// A range of addresses in CIDR notation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressRange {
    base: u128,
    bits: u32,
    prefix: u32,
}

impl AddressRange {
    /// Reads `10.96.0.0/12` or its IPv6 form.
    ///
    /// # Errors
    /// A sentence that says what is wrong.
    pub fn parse(text: &str) -> Result<Self, String> {
        let fault = || format!("{text} is no address range such as 10.96.0.0/12");
        let (address, prefix) = text.split_once('/').ok_or_else(fault)?;
        let address: IpAddr = address.parse().map_err(|_| fault())?;
        let prefix: u32 = prefix.parse().map_err(|_| fault())?;
        let (number, bits) = number(address);
        if prefix > bits || bits - prefix < 4 {
            return Err(format!("{text} is too small for Services: at least 16 addresses are needed"));
        }
        let host = bits - prefix;
        let mask = if host >= 128 { 0 } else { u128::MAX << host };
        Ok(AddressRange { base: number & mask, bits, prefix })
    }

    fn size(&self) -> u128 {
        1_u128.checked_shl(self.bits - self.prefix).unwrap_or(u128::MAX)
    }

    /// Upstream's number of usable addresses: neither the first nor (for IPv4) the last.
    fn usable(&self) -> u128 {
        let size = self.size().min(1 << 64);
        if self.bits == 32 { size - 2 } else { size - 1 }
    }

    /// The address `offset` after the base; the first usable one has offset 1.
    #[must_use]
    pub fn nth(&self, offset: u128) -> IpAddr {
        let number = self.base.saturating_add(offset);
        if self.bits == 32 { IpAddr::V4(Ipv4Addr::from(number as u32)) } else { IpAddr::V6(Ipv6Addr::from(number)) }
    }

    /// Whether an address is a usable one of the range.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        let (number, bits) = number(address);
        bits == self.bits && number > self.base && number - self.base <= self.usable()
    }

    /// `IPv4` or `IPv6`.
    #[must_use]
    pub fn family(&self) -> &'static str {
        if self.bits == 32 { "IPv4" } else { "IPv6" }
    }

    /// Addresses that automatic allocation leaves to those who choose one themselves, as long as others are free.
    fn static_band(&self) -> u128 {
        (self.usable() / 16).clamp(16, 256).min(self.usable())
    }
}

impl std::fmt::Display for AddressRange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.nth(0), self.prefix)
    }
}

fn number(address: IpAddr) -> (u128, u32) {
    match address {
        IpAddr::V4(address) => (u128::from(u32::from(address)), 32),
        IpAddr::V6(address) => (u128::from(address), 128),
    }
}

/// What a write of a Service claims and releases.
pub(crate) struct Claims<'a> {
    core: &'a Arc<Core>,
    operations: Vec<Operation>,
}

fn is_service(call: &Call<'_>) -> bool {
    call.scope.row.bucket == "services"
}

pub(super) fn kind_of(service: &Value) -> &str {
    service.str_at(&["spec", "type"]).filter(|kind| !kind.is_empty()).unwrap_or("ClusterIP")
}

pub(super) fn has_address(service: &Value) -> bool {
    kind_of(service) != "ExternalName"
}

pub(super) fn has_node_ports(service: &Value) -> bool {
    match kind_of(service) {
        "NodePort" => true,
        "LoadBalancer" => {
            service.at(&["spec", "allocateLoadBalancerNodePorts"]).and_then(Value::as_bool).unwrap_or(true)
        }
        _ => false,
    }
}

pub(super) fn address_of(service: &Value) -> &str {
    service.str_at(&["spec", "clusterIP"]).filter(|text| !text.is_empty()).unwrap_or_else(|| {
        let list = service.at(&["spec", "clusterIPs"]).and_then(Value::as_array).unwrap_or_default();
        list.first().and_then(Value::as_str).unwrap_or_default()
    })
}

/// Every node port of a Service with its protocol and the field it stands in.
pub(super) fn node_ports(service: &Value) -> Vec<(u16, String, String)> {
    let ports = service.at(&["spec", "ports"]).and_then(Value::as_array).unwrap_or_default();
    let mut found: Vec<(u16, String, String)> = ports
        .iter()
        .enumerate()
        .filter_map(|(at, port)| {
            let number = u16::try_from(port.i64_at(&["nodePort"])?).ok().filter(|number| *number > 0)?;
            let protocol = port.str_at(&["protocol"]).unwrap_or("TCP").to_owned();
            Some((number, protocol, format!("spec.ports[{at}].nodePort")))
        })
        .collect();
    if let Some(number) = service.i64_at(&["spec", "healthCheckNodePort"]).and_then(|number| u16::try_from(number).ok())
        && number > 0
    {
        found.push((number, "TCP".to_owned(), "spec.healthCheckNodePort".to_owned()));
    }
    found
}

pub(super) fn wants_health_port(service: &Value) -> bool {
    kind_of(service) == "LoadBalancer" && service.str_at(&["spec", "externalTrafficPolicy"]) == Some("Local")
}

fn port_key(number: u16, protocol: &str) -> Key {
    Key::new(NODE_PORTS, &format!("{number}/{protocol}"))
}

impl<'a> Claims<'a> {
    pub(crate) fn new(core: &'a Arc<Core>) -> Self {
        Claims { core, operations: Vec::new() }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.operations.is_empty()
    }

    pub(crate) fn into_operations(self) -> Vec<Operation> {
        self.operations
    }

    /// Claims what a new Service needs, and fills it in.
    pub(crate) fn create(&mut self, call: &Call<'_>, service: &mut Value) -> Result<(), Status> {
        if !is_service(call) {
            return Ok(());
        }
        self.claim_address(call, service)?;
        self.claim_ports(call, service, &[])
    }

    /// Claims what an updated Service needs beyond the old one's, and releases what it no longer has.
    pub(crate) fn update(&mut self, call: &Call<'_>, old: &Value, new: &mut Value) -> Result<(), Status> {
        if !is_service(call) {
            return Ok(());
        }
        let before = address_of(old).to_owned();
        if !has_address(new) {
            self.release_address(&before);
            for member in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
                new.remove(&["spec", member]);
            }
        } else if before.is_empty() || address_of(new) != before {
            self.release_address(&before);
            self.claim_address(call, new)?;
        }
        let held = node_ports(old);
        self.claim_ports(call, new, &held)?;
        let kept = node_ports(new);
        for (number, protocol, _) in held {
            if !kept.iter().any(|one| one.0 == number && one.1 == protocol) {
                self.release_port(number, &protocol);
            }
        }
        Ok(())
    }

    /// Releases all that a Service holds.
    pub(crate) fn delete(&mut self, service: &Value) {
        self.release_address(address_of(service));
        for (number, protocol, _) in node_ports(service) {
            self.release_port(number, &protocol);
        }
    }

    fn release_address(&mut self, address: &str) {
        if address.parse::<IpAddr>().is_ok() {
            self.push(Key::new(ADDRESSES, address), Expect::Any, Change::Delete(None));
        }
    }

    fn release_port(&mut self, number: u16, protocol: &str) {
        self.push(port_key(number, protocol), Expect::Any, Change::Delete(None));
    }

    fn push(&mut self, key: Key, expect: Expect, change: Change) {
        if !self.operations.iter().any(|operation| operation.key == key) {
            self.operations.push(Operation { key, expect, change });
        }
    }

    fn is_free(&self, key: &Key) -> bool {
        let claimed = self.operations.iter().any(|one| one.key == *key && matches!(one.change, Change::Put(_)));
        !claimed && self.core.store.get(key).is_none()
    }

    fn claim_address(&mut self, call: &Call<'_>, service: &mut Value) -> Result<(), Status> {
        if !has_address(service) {
            return Ok(());
        }
        let range = self.core.service_range;
        if service.str_at(&["spec", "ipFamilyPolicy"]) == Some("RequireDualStack") {
            let message = "Invalid value: \"RequireDualStack\": this cluster is not configured for dual-stack services";
            return Err(invalid(call, service, "FieldValueInvalid", "spec.ipFamilyPolicy", message.to_owned()));
        }
        let given = address_of(service).to_owned();
        let address = match given.as_str() {
            "None" => "None".to_owned(),
            "" => self.pick_address(range)?.to_string(),
            text => {
                let shown = format!("Invalid value: [\"{text}\"]: failed to allocate IP {text}:");
                let refuse = |why: String| Err(invalid(call, service, "FieldValueInvalid", "spec.clusterIPs", why));
                let Some(address) = text.parse::<IpAddr>().ok().filter(|address| range.contains(*address)) else {
                    return refuse(format!(
                        "{shown} the provided IP ({text}) is not in the valid range. The range of valid IPs is {range}"
                    ));
                };
                if !self.is_free(&Key::new(ADDRESSES, &address.to_string())) {
                    return refuse(format!("{shown} provided IP is already allocated"));
                }
                address.to_string()
            }
        };
        service.set(&["spec", "clusterIP"], address.as_str().into());
        service.set(&["spec", "clusterIPs"], vec![Value::from(address.as_str())].into());
        service.set(&["spec", "ipFamilies"], vec![Value::from(range.family())].into());
        if service.str_at(&["spec", "ipFamilyPolicy"]).is_none_or(str::is_empty) {
            service.set(&["spec", "ipFamilyPolicy"], "SingleStack".into());
        }
        if address != "None" {
            let object = address_object(call, service, &address, range.family());
            let key = Key::new(ADDRESSES, &address);
            self.push(key, Expect::Absent, Change::Put(commit::template(&object)));
        }
        Ok(())
    }

    fn pick_address(&self, range: AddressRange) -> Result<IpAddr, Status> {
        let free = |offset: u128| {
            let address = range.nth(offset);
            self.is_free(&Key::new(ADDRESSES, &address.to_string())).then_some(address)
        };
        let band = range.static_band();
        let dynamic = range.usable() - band;
        let bound = u64::try_from(dynamic).unwrap_or(u64::MAX);
        for _ in 0..PICKS_MAX {
            if let Some(address) = free(1 + band + u128::from(random::below(bound))).filter(|_| bound > 0) {
                return Ok(address);
            }
        }
        let search = (band + 1..=range.usable()).chain(1..=band).take(SEARCH_MAX as usize);
        search
            .into_iter()
            .find_map(free)
            .ok_or_else(|| Status::internal("failed to allocate a serviceIP: range is full"))
    }

    fn claim_ports(
        &mut self,
        call: &Call<'_>,
        service: &mut Value,
        held: &[(u16, String, String)],
    ) -> Result<(), Status> {
        if !has_node_ports(service) {
            return Ok(());
        }
        for (number, protocol, field) in node_ports(service) {
            if held.iter().any(|one| one.0 == number && one.1 == protocol) {
                continue;
            }
            let refuse = |why: &str| {
                let message = format!("Invalid value: {number}: {why}");
                Err(invalid(call, service, "FieldValueInvalid", &field, message))
            };
            if !(NODE_PORT_FIRST..=NODE_PORT_LAST).contains(&number) {
                return refuse(&format!(
                    "provided port is not in the valid range. The range of valid ports is {NODE_PORT_FIRST}-{NODE_PORT_LAST}"
                ));
            }
            let key = port_key(number, &protocol);
            if !self.is_free(&key) {
                return refuse("provided port is already allocated");
            }
            self.push(key, Expect::Absent, Change::Put(commit::template(&port_owner(service))));
        }
        let wanting = service.at(&["spec", "ports"]).and_then(Value::as_array).unwrap_or_default().len();
        for at in 0..wanting {
            let number = self.fill_port(service, at)?;
            if let Some((key, owner)) = number {
                self.push(key, Expect::Absent, Change::Put(owner));
            }
        }
        if wants_health_port(service) && service.i64_at(&["spec", "healthCheckNodePort"]).unwrap_or(0) == 0 {
            let number = self.pick_port()?;
            service.set(&["spec", "healthCheckNodePort"], i64::from(number).into());
            let owner = commit::template(&port_owner(service));
            self.push(port_key(number, "TCP"), Expect::Absent, Change::Put(owner));
        }
        Ok(())
    }

    fn fill_port(&self, service: &mut Value, at: usize) -> Result<Option<(Key, store::Template)>, Status> {
        let owner = commit::template(&port_owner(service));
        // Ports of one Service with the same number and different protocols share a node port, as upstream's do.
        let ports = service.at(&["spec", "ports"]).and_then(Value::as_array).unwrap_or_default();
        let Some(port) = ports.get(at) else { return Ok(None) };
        if port.i64_at(&["nodePort"]).unwrap_or(0) > 0 {
            return Ok(None);
        }
        let protocol = port.str_at(&["protocol"]).unwrap_or("TCP").to_owned();
        let twin = ports
            .iter()
            .find(|one| one.i64_at(&["port"]) == port.i64_at(&["port"]) && one.i64_at(&["nodePort"]).unwrap_or(0) > 0);
        let shared = twin
            .and_then(|one| u16::try_from(one.i64_at(&["nodePort"])?).ok())
            .filter(|number| self.is_free(&port_key(*number, &protocol)));
        let number = match shared {
            Some(number) => number,
            None => self.pick_port()?,
        };
        if let Some(port) =
            service.at_mut(&["spec", "ports"]).and_then(Value::as_array_mut).and_then(|all| all.get_mut(at))
        {
            port.set(&["nodePort"], i64::from(number).into());
        }
        Ok(Some((port_key(number, &protocol), owner)))
    }

    fn pick_port(&self) -> Result<u16, Status> {
        let total = u64::from(NODE_PORT_LAST - NODE_PORT_FIRST) + 1;
        let free = |offset: u64| {
            let number = NODE_PORT_FIRST + u16::try_from(offset).unwrap_or(0);
            ["TCP", "UDP", "SCTP"].iter().all(|protocol| self.is_free(&port_key(number, protocol))).then_some(number)
        };
        let picks = (0..PICKS_MAX).map(|_| NODE_PORT_STATIC + random::below(total - NODE_PORT_STATIC));
        let search = (NODE_PORT_STATIC..total).chain(0..NODE_PORT_STATIC);
        picks
            .chain(search)
            .find_map(free)
            .ok_or_else(|| Status::internal("failed to allocate a nodePort: range is full"))
    }
}

fn invalid(call: &Call<'_>, service: &Value, reason: &str, field: &str, message: String) -> Status {
    let causes: Vec<Cause> = vec![cause(reason, field, message)];
    Status::invalid(&call.scope.gvk(), metadata::text(service, "name"), causes)
}

/// Who holds a node port, for people who look into a backup.
fn port_owner(service: &Value) -> Value {
    let mut owner = Value::default();
    owner.set(&["service"], format!("{}/{}", meta::namespace(service), meta::name(service)).into());
    owner
}

fn address_object(call: &Call<'_>, service: &Value, address: &str, family: &str) -> Value {
    let mut object = Value::default();
    object.set(&["apiVersion"], "networking.k8s.io/v1".into());
    object.set(&["kind"], "IPAddress".into());
    object.set(&["metadata", "name"], address.into());
    object.set(&["metadata", "uid"], random::uid().into());
    object.set(&["metadata", "creationTimestamp"], time::format_rfc3339(call.now).into());
    let labels: Map =
        [("ipaddress.kubernetes.io/ip-family", family), ("ipaddress.kubernetes.io/managed-by", "ipallocator.k8s.io")]
            .into_iter()
            .collect();
    object.set(&["metadata", "labels"], labels.into());
    let parent: Map = [
        ("group", ""),
        ("resource", "services"),
        ("namespace", meta::namespace(service)),
        ("name", meta::name(service)),
    ]
    .into_iter()
    .filter(|member| !member.1.is_empty())
    .collect();
    object.set(&["spec", "parentRef"], parent.into());
    object
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn ranges_know_their_usable_addresses() {
        let range = AddressRange::parse("10.96.0.0/12").unwrap();
        assert_eq!((range.nth(1).to_string(), range.nth(10).to_string()), ("10.96.0.1".into(), "10.96.0.10".into()));
        for (address, inside) in [
            ("10.96.0.0", false),
            ("10.96.0.1", true),
            ("10.111.255.254", true),
            ("10.111.255.255", false),
            ("10.112.0.1", false),
            ("::1", false),
        ] {
            assert_eq!(range.contains(address.parse().unwrap()), inside, "{address}");
        }
        assert_eq!(range.static_band(), 256);
        assert_eq!(AddressRange::parse("10.0.0.0/24").unwrap().static_band(), 16);
        assert_eq!(AddressRange::parse("fd00::/108").unwrap().family(), "IPv6");
        for bad in ["10.0.0.0", "10.0.0.0/31", "x/8", "10.0.0.0/40"] {
            assert!(AddressRange::parse(bad).is_err(), "{bad}");
        }
    }
}
