//! Mirrors Endpoints that somebody made by hand into EndpointSlices, which is what node networking reads.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{EndpointAddress, Endpoints};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::action::{Action, Plan};
use crate::controller::{Change, Controller};
use crate::meta;
use crate::service_pods;
use crate::view::{Key, Typed, View};

const SERVICE_NAME: &str = "kubernetes.io/service-name";
const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
const MANAGER: &str = "endpointslicemirroring-controller.k8s.io";
const SKIP: &str = "endpointslice.kubernetes.io/skip-mirror";
const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";
const ENDPOINTS_MAX: usize = 100;
/// Upstream's limit of addresses that are mirrored per subset; the rest is left out.
const ADDRESSES_MAX: usize = 1_000;

/// The EndpointSlice mirroring controller. Its keys are Endpoints.
#[derive(Debug)]
pub struct EndpointSliceMirroringController;

impl Controller for EndpointSliceMirroringController {
    const NAME: &'static str = "endpointslicemirroring-controller";
    type Memory = ();

    fn keys(_view: &View, change: Change<'_>) -> Vec<Key> {
        let keys = change.sides().filter_map(|side| match side {
            Typed::Endpoints(endpoints) => Some(Key::of(&endpoints.metadata)),
            Typed::Service(service) => Some(Key::of(&service.metadata)),
            Typed::EndpointSlice(slice) if meta::label(&slice.metadata, MANAGED_BY) == Some(MANAGER) => {
                Some(Key::new(meta::namespace(&slice.metadata), meta::label(&slice.metadata, SERVICE_NAME)?))
            }
            _ => None,
        });
        keys.collect()
    }

    fn plan(view: &View, key: &Key, _memory: &mut (), _now: Timestamp) -> Plan {
        let service = format!("{}/{}", key.namespace, key.name);
        let existing = view.endpoint_slices.indexed(&service);
        let existing: Vec<Arc<EndpointSlice>> =
            existing.filter(|slice| meta::label(&slice.metadata, MANAGED_BY) == Some(MANAGER)).cloned().collect();
        let wanted = view.endpoints.at(key).filter(|endpoints| is_mirrored(view, key, endpoints));
        let Some(endpoints) = wanted else {
            return Plan::of(existing.iter().map(|slice| Action::delete(&**slice)).collect());
        };
        Plan::of(reconcile(endpoints, existing))
    }
}

fn is_mirrored(view: &View, key: &Key, endpoints: &Endpoints) -> bool {
    let Some(service) = view.services.at(key) else { return false };
    // The API server keeps the slice of its own Service itself.
    let own = key.namespace == "default" && key.name == "kubernetes";
    !own && service_pods::selector(service).is_none()
        && meta::label(&endpoints.metadata, SKIP) != Some("true")
        && meta::annotation(&endpoints.metadata, LEADER).is_none()
        && !meta::is_deleting(&endpoints.metadata)
}

type Group = (String, Vec<(String, i32, String)>);

fn group_of(family: &str, ports: &[EndpointPort]) -> Group {
    let key = |port: &EndpointPort| {
        (port.name.clone().unwrap_or_default(), port.port.unwrap_or(0), port.protocol.clone().unwrap_or_default())
    };
    (family.to_owned(), ports.iter().map(key).collect())
}

fn reconcile(endpoints: &Endpoints, existing: Vec<Arc<EndpointSlice>>) -> Vec<Action> {
    let mut wanted: BTreeMap<Group, (Vec<EndpointPort>, Vec<Endpoint>)> = BTreeMap::new();
    for subset in endpoints.subsets.iter().flatten() {
        let port = |port: &k8s_openapi::api::core::v1::EndpointPort| EndpointPort {
            name: Some(port.name.clone().unwrap_or_default()),
            protocol: Some(port.protocol.clone().unwrap_or_else(|| "TCP".into())),
            port: Some(port.port),
            app_protocol: port.app_protocol.clone(),
        };
        let ports: Vec<EndpointPort> = subset.ports.iter().flatten().map(port).collect();
        let ready = subset.addresses.iter().flatten().map(|address| (address, true));
        let not_ready = subset.not_ready_addresses.iter().flatten().map(|address| (address, false));
        for (address, is_ready) in ready.chain(not_ready).take(ADDRESSES_MAX) {
            let family = if address.ip.contains(':') { "IPv6" } else { "IPv4" };
            let entry = wanted.entry(group_of(family, &ports)).or_insert_with(|| (ports.clone(), Vec::new()));
            entry.1.push(endpoint(address, is_ready));
        }
    }
    let mut by_group: BTreeMap<Group, Vec<Arc<EndpointSlice>>> = BTreeMap::new();
    for slice in existing {
        let group = group_of(&slice.address_type, slice.ports.as_deref().unwrap_or_default());
        by_group.entry(group).or_default().push(slice);
    }
    let mut actions = Vec::new();
    for (group, (ports, all)) in wanted {
        let mut known = by_group.remove(&group).unwrap_or_default().into_iter();
        for chunk in all.chunks(ENDPOINTS_MAX) {
            let old = known.next();
            let slice = slice(endpoints, &group.0, &ports, chunk, old.as_deref());
            match old {
                None => actions.push(Action::create(&slice).action()),
                Some(old) if *old != slice => actions.push(Action::update(&slice)),
                Some(_) => {}
            }
        }
        actions.extend(known.map(|surplus| Action::delete(&*surplus)));
    }
    actions.extend(by_group.into_values().flatten().map(|slice| Action::delete(&*slice)));
    actions
}

fn endpoint(address: &EndpointAddress, ready: bool) -> Endpoint {
    Endpoint {
        addresses: vec![address.ip.clone()],
        conditions: Some(EndpointConditions { ready: Some(ready), ..EndpointConditions::default() }),
        hostname: address.hostname.clone(),
        node_name: address.node_name.clone(),
        target_ref: address.target_ref.clone(),
        ..Endpoint::default()
    }
}

fn slice(
    endpoints: &Endpoints,
    family: &str,
    ports: &[EndpointPort],
    content: &[Endpoint],
    known: Option<&EndpointSlice>,
) -> EndpointSlice {
    let name = meta::name(&endpoints.metadata);
    let mut labels = endpoints.metadata.labels.clone().unwrap_or_default();
    labels.insert(SERVICE_NAME.into(), name.into());
    labels.insert(MANAGED_BY.into(), MANAGER.into());
    let metadata = match known {
        Some(known) => ObjectMeta { labels: Some(labels), ..known.metadata.clone() },
        None => ObjectMeta {
            generate_name: Some(meta::name_prefix(name)),
            namespace: endpoints.metadata.namespace.clone(),
            labels: Some(labels),
            owner_references: Some(vec![meta::controller_reference(endpoints)]),
            ..ObjectMeta::default()
        },
    };
    EndpointSlice {
        metadata,
        address_type: family.into(),
        endpoints: Some(content.to_vec()),
        ports: Some(ports.to_vec()),
    }
}
