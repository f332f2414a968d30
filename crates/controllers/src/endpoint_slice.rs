//! EndpointSlices of Services with a selector: at most a hundred endpoints each, moved as little as possible.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{ObjectReference, Pod, Service};
use k8s_openapi::api::discovery::v1::{
    Endpoint, EndpointConditions, EndpointHints, EndpointPort, EndpointSlice, ForNode, ForZone,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::action::{Action, Event, Plan};
use crate::controller::{Change, Controller};
use crate::meta;
use crate::pods;
use crate::service_pods;
use crate::view::{Key, Typed, View};

mod topology;

const ENDPOINTS_MAX: usize = 100;
const SERVICE_NAME: &str = "kubernetes.io/service-name";
const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
const MANAGER: &str = "endpointslice-controller.k8s.io";
const ZONE: &str = "topology.kubernetes.io/zone";
const TOPOLOGY_MODE: &str = "service.kubernetes.io/topology-mode";
const TOPOLOGY_AWARE_HINTS: &str = "service.kubernetes.io/topology-aware-hints";

/// How long what was told of hints is remembered, at least.
const REMEMBER: SignedDuration = SignedDuration::from_mins(5);

/// The EndpointSlice controller.
#[derive(Debug)]
pub struct EndpointSliceController;

/// What was told of topology aware hints, by address family: that they are made, or why not.
#[derive(Debug, Default)]
pub struct Memory {
    told: BTreeMap<String, Result<(), String>>,
}

impl Controller for EndpointSliceController {
    const NAME: &'static str = "endpointslice-controller";
    const COMPONENT: &'static str = "endpoint-slice-controller";
    type Memory = Memory;

    fn keys(view: &View, change: Change<'_>) -> Vec<Key> {
        let mut keys = service_pods::services_concerned(view, change);
        for side in change.sides() {
            if let Typed::EndpointSlice(slice) = side
                && meta::label(&slice.metadata, MANAGED_BY) == Some(MANAGER)
                && let Some(service) = meta::label(&slice.metadata, SERVICE_NAME)
            {
                keys.push(Key::new(meta::namespace(&slice.metadata), service));
            }
        }
        let shares = |side: Option<&Typed>| match side {
            Some(Typed::Node(node)) => topology::counts(node).map(|(zone, cpus)| (zone.to_owned(), cpus)),
            _ => None,
        };
        if shares(change.old) != shares(change.new) {
            let aware = view.services.all().filter(|service| is_topology_aware(service));
            keys.extend(aware.map(|service| Key::of(&service.metadata)));
        }
        keys
    }

    fn plan(view: &View, key: &Key, memory: &mut Memory, now: Timestamp) -> Plan {
        let Some(service) = view.services.at(key).filter(|service| !meta::is_deleting(&service.metadata)) else {
            return Plan::nothing();
        };
        let Some(selector) = service_pods::selector(service) else { return Plan::nothing() };
        let existing: Vec<Arc<EndpointSlice>> = view
            .endpoint_slices
            .indexed(&format!("{}/{}", key.namespace, key.name))
            .filter(|slice| {
                meta::label(&slice.metadata, MANAGED_BY) == Some(MANAGER) && !meta::is_deleting(&slice.metadata)
            })
            .cloned()
            .collect();
        let backends = service_pods::backends(view, service, &selector);
        let families =
            service.spec.as_ref().and_then(|spec| spec.ip_families.clone()).filter(|families| !families.is_empty());
        let families = families.unwrap_or_else(|| vec!["IPv4".into()]);
        let mut actions = Vec::new();
        for family in &families {
            let of_family: Vec<Arc<EndpointSlice>> =
                existing.iter().filter(|slice| slice.address_type == *family).cloned().collect();
            let hinted =
                of_family.iter().flat_map(|slice| slice.endpoints.iter().flatten()).any(|one| one.hints.is_some());
            let (reconciled, hints) = reconcile(view, service, family, &backends, of_family);
            actions.extend(reconciled);
            actions.extend(tell(service, family, hinted, hints, memory));
        }
        for slice in existing.iter().filter(|slice| !families.contains(&slice.address_type)) {
            actions.push(Action::delete(&**slice));
        }
        let mut plan = Plan::of(actions);
        if !memory.told.is_empty() {
            plan.requeue_at(now.checked_add(REMEMBER).unwrap_or(now));
        }
        plan
    }
}

/// Upstream's events about topology aware hints, where something about them changed. `hinted`: there were hints already.
fn tell(
    service: &Service,
    family: &str,
    hinted: bool,
    hints: Option<Result<(), String>>,
    memory: &mut Memory,
) -> Option<Action> {
    const ENABLED: &str = "TopologyAwareHintsEnabled";
    const DISABLED: &str = "TopologyAwareHintsDisabled";
    let said = |text: &str| format!("{text}, addressType: {family}");
    let known = match &hints {
        Some(hints) => memory.told.insert(family.to_owned(), hints.clone()),
        None => memory.told.remove(family),
    };
    let event = match (known, hints) {
        (known, Some(hints)) if known.as_ref() == Some(&hints) => return None,
        // A server that has just been started finds them made.
        (None, Some(Ok(()))) if hinted => return None,
        (_, Some(Ok(()))) => Event::normal(service, ENABLED, said("Topology Aware Hints has been enabled")),
        (_, Some(Err(why))) => Event::warning(service, DISABLED, said(&why)),
        (Some(Ok(())), None) => Event::warning(service, DISABLED, said("Topology Aware Hints has been disabled")),
        _ => return None,
    };
    Some(Action::Event(event))
}

/// Endpoints that are reached by the same ports share slices.
type PortsKey = Vec<(Option<String>, Option<String>, Option<i32>, Option<String>)>;

fn ports_key(ports: &[EndpointPort]) -> PortsKey {
    let mut key: PortsKey = ports
        .iter()
        .map(|port| (port.name.clone(), port.protocol.clone(), port.port, port.app_protocol.clone()))
        .collect();
    key.sort();
    key
}

fn reconcile(
    view: &View,
    service: &Service,
    family: &str,
    backends: &[Arc<Pod>],
    existing: Vec<Arc<EndpointSlice>>,
) -> (Vec<Action>, Option<Result<(), String>>) {
    let mut wanted: BTreeMap<PortsKey, (Vec<EndpointPort>, BTreeMap<String, Endpoint>)> = BTreeMap::new();
    for pod in backends {
        let Some(address) = service_pods::address(pod, family == "IPv6") else { continue };
        let ports = endpoint_ports(service, pod);
        let entry = wanted.entry(ports_key(&ports)).or_insert_with(|| (ports, BTreeMap::new()));
        entry.1.insert(meta::uid(&pod.metadata).to_owned(), endpoint(view, service, pod, address));
    }
    let hints = is_topology_aware(service).then(|| {
        let mut held = held_zones(&existing);
        let endpoints = wanted.values_mut().flat_map(|(_, endpoints)| endpoints.iter_mut());
        let mut endpoints: Vec<_> = endpoints.map(|(uid, endpoint)| (held.remove(uid), endpoint)).collect();
        topology::assign(topology::shares(view).as_ref(), &mut endpoints)
    });
    if wanted.is_empty() {
        // An empty slice says: this Service is known, and nothing stands behind it.
        wanted.insert(PortsKey::new(), (Vec::new(), BTreeMap::new()));
    }
    let mut by_ports: BTreeMap<PortsKey, Vec<Arc<EndpointSlice>>> = BTreeMap::new();
    for slice in existing {
        by_ports.entry(ports_key(slice.ports.as_deref().unwrap_or_default())).or_default().push(slice);
    }
    let mut actions = Vec::new();
    for (key, (ports, endpoints)) in wanted {
        let slices = by_ports.remove(&key).unwrap_or_default();
        actions.extend(pack(service, family, &ports, endpoints, &slices));
    }
    actions.extend(by_ports.into_values().flatten().map(|slice| Action::delete(&*slice)));
    (actions, hints)
}

/// The zone that each pod's endpoint is for, by uid.
fn held_zones(slices: &[Arc<EndpointSlice>]) -> BTreeMap<String, String> {
    let endpoints = slices.iter().flat_map(|slice| slice.endpoints.iter().flatten());
    let held = endpoints.filter_map(|endpoint| {
        let uid = endpoint.target_ref.as_ref()?.uid.clone()?;
        let zone = endpoint.hints.as_ref()?.for_zones.as_ref()?.first()?.name.clone();
        Some((uid, zone))
    });
    held.collect()
}

/// Keeps endpoints where they are, fills gaps, and only then opens new slices.
fn pack(
    service: &Service,
    family: &str,
    ports: &[EndpointPort],
    mut wanted: BTreeMap<String, Endpoint>,
    slices: &[Arc<EndpointSlice>],
) -> Vec<Action> {
    let mut contents: Vec<Vec<Endpoint>> = Vec::new();
    for slice in slices {
        let kept = slice.endpoints.iter().flatten().filter_map(|endpoint| {
            let uid = endpoint.target_ref.as_ref()?.uid.as_ref()?;
            wanted.remove(uid)
        });
        contents.push(kept.collect());
    }
    let mut new = wanted.into_values();
    // The fullest slice with room is filled first, so that few slices change and few stay half empty.
    let mut order: Vec<usize> = (0..contents.len()).collect();
    order.sort_by_key(|index| std::cmp::Reverse(contents[*index].len()));
    for index in order {
        let room = ENDPOINTS_MAX.saturating_sub(contents[index].len());
        contents[index].extend(new.by_ref().take(room));
    }
    let rest: Vec<Endpoint> = new.collect();
    let mut actions = Vec::new();
    let mut kept_one = !rest.is_empty() || contents.iter().any(|content| !content.is_empty());
    for (slice, content) in slices.iter().zip(contents) {
        if content.is_empty() && kept_one {
            actions.push(Action::delete(&**slice));
            continue;
        }
        kept_one = true;
        let update = with_content(service, family, ports, content, Some(slice));
        if update != **slice {
            actions.push(Action::update(&update));
        }
    }
    let mut chunks: Vec<Vec<Endpoint>> = rest.chunks(ENDPOINTS_MAX).map(<[Endpoint]>::to_vec).collect();
    if !kept_one {
        chunks.push(Vec::new());
    }
    for chunk in chunks {
        let failure = Event::warning(
            service,
            "FailedToUpdateEndpointSlices",
            format!(
                "Error updating Endpoint Slices for Service {}/{}: {{error}}",
                meta::namespace(&service.metadata),
                meta::name(&service.metadata)
            ),
        );
        actions.push(
            Action::create(&with_content(service, family, ports, chunk, None))
                .with_events(None, Some(failure))
                .action(),
        );
    }
    actions
}

fn with_content(
    service: &Service,
    family: &str,
    ports: &[EndpointPort],
    endpoints: Vec<Endpoint>,
    known: Option<&EndpointSlice>,
) -> EndpointSlice {
    let name = meta::name(&service.metadata);
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.insert(SERVICE_NAME.into(), name.into());
    labels.insert(MANAGED_BY.into(), MANAGER.into());
    if service_pods::is_headless(service) {
        labels.insert(service_pods::HEADLESS.into(), String::new());
    }
    let metadata = match known {
        Some(known) => ObjectMeta { labels: Some(labels), ..known.metadata.clone() },
        None => ObjectMeta {
            generate_name: Some(meta::name_prefix(name)),
            namespace: service.metadata.namespace.clone(),
            labels: Some(labels),
            owner_references: Some(vec![meta::controller_reference(service)]),
            ..ObjectMeta::default()
        },
    };
    // What the API stores as absent must compare equal to what is wanted empty.
    let optional = |was_none: bool, is_empty: bool| was_none && is_empty;
    let no_endpoints =
        optional(known.is_none_or(|known| known.endpoints.is_none()), endpoints.is_empty()) && known.is_some();
    let no_ports = optional(known.is_none_or(|known| known.ports.is_none()), ports.is_empty()) && known.is_some();
    EndpointSlice {
        metadata,
        address_type: family.into(),
        endpoints: (!no_endpoints).then_some(endpoints),
        ports: (!no_ports).then(|| ports.to_vec()),
    }
}

fn endpoint_ports(service: &Service, pod: &Pod) -> Vec<EndpointPort> {
    let ports = service.spec.iter().flat_map(|spec| spec.ports.iter().flatten());
    let resolved = ports.filter_map(|port| {
        let number = service_pods::target_port(port, pod)?;
        Some(EndpointPort {
            // An unnamed port has the empty name, which is what the API stores.
            name: Some(port.name.clone().unwrap_or_default()),
            protocol: Some(port.protocol.clone().unwrap_or_else(|| "TCP".into())),
            port: Some(number),
            app_protocol: port.app_protocol.clone(),
        })
    });
    resolved.collect()
}

fn endpoint(view: &View, service: &Service, pod: &Pod, address: &str) -> Endpoint {
    let serving = pods::is_ready(pod);
    let terminating = meta::is_deleting(&pod.metadata);
    let ready = service_pods::publishes_not_ready(service) || serving && !terminating;
    let node_name = Some(pods::node_name(pod)).filter(|name| !name.is_empty());
    let node = node_name.and_then(|name| view.nodes.get("", name));
    let zone = node.and_then(|node| meta::label(&node.metadata, ZONE)).map(str::to_owned);
    Endpoint {
        hints: if ready { hints(service, zone.as_deref(), node_name) } else { None },
        addresses: vec![address.to_owned()],
        conditions: Some(EndpointConditions {
            ready: Some(ready),
            serving: Some(serving),
            terminating: Some(terminating),
        }),
        hostname: service_pods::hostname(pod, service),
        node_name: node_name.map(str::to_owned),
        target_ref: Some(ObjectReference {
            kind: Some("Pod".into()),
            namespace: pod.metadata.namespace.clone(),
            name: pod.metadata.name.clone(),
            uid: pod.metadata.uid.clone(),
            ..ObjectReference::default()
        }),
        zone,
        ..Endpoint::default()
    }
}

/// Whether an annotation asks for hints by the zones' shares.
fn is_topology_aware(service: &Service) -> bool {
    [TOPOLOGY_MODE, TOPOLOGY_AWARE_HINTS]
        .iter()
        .any(|name| meta::annotation(&service.metadata, name).is_some_and(|mode| mode == "Auto" || mode == "auto"))
}

/// For whom a ready endpoint is, by spec.trafficDistribution: the nodes of its zone, or its node and then those of its zone. The annotation for
/// topology aware routing outranks the field.
fn hints(service: &Service, zone: Option<&str>, node: Option<&str>) -> Option<EndpointHints> {
    let is_aware = is_topology_aware(service);
    let distribution = service.spec.as_ref()?.traffic_distribution.as_deref().filter(|_| !is_aware)?;
    let for_zones = zone.map(|name| vec![ForZone { name: name.to_owned() }]);
    let for_nodes =
        node.filter(|_| distribution == "PreferSameNode").map(|name| vec![ForNode { name: name.to_owned() }]);
    (for_zones.is_some() || for_nodes.is_some()).then_some(EndpointHints { for_nodes, for_zones })
}
