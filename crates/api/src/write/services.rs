//! Service addresses and node ports: claimed as keys in the very transaction that writes the Service, so that two
//! Services can never hold the same one, and released in the transaction that takes them away.

use super::address_range::AddressRange;
use super::metadata::{self, cause};
use super::{commit, service_families};
use crate::core::{Call, Core};
use crate::random;
use object::{Cause, Map, Status, Value, meta, time};
use std::net::IpAddr;
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
        self.claim_addresses(call, service, None)?;
        self.claim_ports(call, service, &[])
    }

    /// Claims what an updated Service needs beyond the old one's, and releases what it no longer has.
    pub(crate) fn update(&mut self, call: &Call<'_>, old: &Value, new: &mut Value) -> Result<(), Status> {
        if !is_service(call) {
            return Ok(());
        }
        if has_address(new) {
            self.claim_addresses(call, new, Some(old))?;
        } else {
            for member in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
                new.remove(&["spec", member]);
            }
        }
        let kept = service_families::addresses(new);
        for address in service_families::addresses(old).iter().filter(|address| !kept.contains(address)) {
            self.release_address(address);
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
        for address in service_families::addresses(service) {
            self.release_address(&address);
        }
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

    /// Settles the families of a Service and claims an address of each that it does not hold yet.
    fn claim_addresses(&mut self, call: &Call<'_>, service: &mut Value, old: Option<&Value>) -> Result<(), Status> {
        if !has_address(service) {
            return Ok(());
        }
        let configured: Vec<&'static str> = self.core.own_service_ranges().iter().map(AddressRange::family).collect();
        let causes = service_families::settle(service, old, &configured);
        if !causes.is_empty() {
            return Err(Status::invalid(&call.scope.gvk(), metadata::text(service, "name"), causes));
        }
        let mut addresses = service_families::addresses(service);
        if addresses.first().is_some_and(|first| first == "None") {
            service.set(&["spec", "clusterIP"], "None".into());
            service.set(&["spec", "clusterIPs"], vec![Value::from("None")].into());
            return Ok(());
        }
        let held = old.map(service_families::addresses).unwrap_or_default();
        let families = service_families::families(service);
        addresses.resize(families.len(), String::new());
        for (at, family) in families.iter().enumerate() {
            if held.contains(&addresses[at]) {
                continue;
            }
            let ranges: Vec<AddressRange> =
                self.core.service_ranges().into_iter().filter(|range| range.family() == family).collect();
            let address = match addresses[at].as_str() {
                "" => self.pick_address(&ranges)?,
                text => {
                    let shown = Value::from(addresses.iter().map(|one| Value::from(one.as_str())).collect::<Vec<_>>());
                    let shown = String::from_utf8_lossy(&object::json::encode(&shown)).into_owned();
                    let refuse = |why: &str| {
                        let message = format!("Invalid value: {shown}: failed to allocate IP {text}: {why}");
                        invalid(call, service, "FieldValueInvalid", "spec.clusterIPs", message)
                    };
                    let address = text.parse::<IpAddr>().ok();
                    let address = address.filter(|address| ranges.iter().any(|range| range.contains(*address)));
                    let outside = || refuse("the provided network does not match the current range");
                    let address = address.ok_or_else(outside)?;
                    if !self.is_free(&Key::new(ADDRESSES, &address.to_string())) {
                        return Err(refuse("provided IP is already allocated"));
                    }
                    address
                }
            };
            addresses[at] = address.to_string();
            let object = address_object(call, service, &addresses[at], family);
            let key = Key::new(ADDRESSES, &addresses[at]);
            self.push(key, Expect::Absent, Change::Put(commit::template(&object)));
        }
        service.set(&["spec", "clusterIP"], addresses[0].as_str().into());
        service.set(
            &["spec", "clusterIPs"],
            addresses.iter().map(|one| Value::from(one.as_str())).collect::<Vec<_>>().into(),
        );
        Ok(())
    }

    /// A free address of the first range that has one.
    fn pick_address(&self, ranges: &[AddressRange]) -> Result<IpAddr, Status> {
        ranges
            .iter()
            .find_map(|range| self.pick_of(*range))
            .ok_or_else(|| Status::internal("failed to allocate a serviceIP: range is full"))
    }

    fn pick_of(&self, range: AddressRange) -> Option<IpAddr> {
        let free = |offset: u128| {
            let address = range.nth(offset);
            self.is_free(&Key::new(ADDRESSES, &address.to_string())).then_some(address)
        };
        let band = range.static_band();
        let dynamic = range.usable() - band;
        let bound = u64::try_from(dynamic).unwrap_or(u64::MAX);
        for _ in 0..PICKS_MAX {
            if let Some(address) = free(1 + band + u128::from(random::below(bound))).filter(|_| bound > 0) {
                return Some(address);
            }
        }
        (band + 1..=range.usable()).chain(1..=band).take(SEARCH_MAX as usize).find_map(free)
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
