//! Endpoints, the older form that some clients still read.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    EndpointAddress, EndpointPort, EndpointSubset, Endpoints, ObjectReference, Pod, Service,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::action::{Action, Event, Plan};
use crate::controller::{Change, Controller};
use crate::meta;
use crate::pods;
use crate::service_pods;
use crate::view::{Key, Typed, View};

const ADDRESSES_MAX: usize = 1_000;
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";
const MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";
const MANAGER: &str = "endpoint-controller";

/// The Endpoints controller.
#[derive(Debug)]
pub struct EndpointsController;

impl Controller for EndpointsController {
    const NAME: &'static str = "endpoint-controller";
    type Memory = ();

    fn keys(view: &View, change: Change<'_>) -> Vec<Key> {
        let mut keys = service_pods::services_concerned(view, change);
        for side in change.sides() {
            if let Typed::Endpoints(endpoints) = side {
                keys.push(Key::of(&endpoints.metadata));
            }
        }
        keys
    }

    fn plan(view: &View, key: &Key, _memory: &mut (), _now: Timestamp) -> Plan {
        let known = view.endpoints.at(key);
        let Some(service) = view.services.at(key) else {
            // Endpoints made by hand are nobody's but their maker's.
            let ours = known.filter(|known| meta::label(&known.metadata, MANAGED_BY) == Some(MANAGER));
            return Plan::of(ours.map(|known| Action::delete(&**known)).into_iter().collect());
        };
        let Some(selector) = service_pods::selector(service) else { return Plan::nothing() };
        let mut backends = service_pods::backends(view, service, &selector);
        let tolerates_not_ready = service_pods::publishes_not_ready(service);
        backends.retain(|pod| tolerates_not_ready || !meta::is_deleting(&pod.metadata));
        backends.sort_by(|left, right| left.metadata.name.cmp(&right.metadata.name));
        let truncated = backends.len() > ADDRESSES_MAX;
        backends.truncate(ADDRESSES_MAX);
        let subsets = subsets(service, backends.iter().map(|pod| &**pod), tolerates_not_ready);
        let mut labels = service.metadata.labels.clone().unwrap_or_default();
        labels.insert(MANAGED_BY.into(), MANAGER.into());
        if service_pods::is_headless(service) {
            labels.insert(service_pods::HEADLESS.into(), String::new());
        }
        let mut annotations = known.and_then(|known| known.metadata.annotations.clone()).unwrap_or_default();
        annotations.remove(OVER_CAPACITY);
        if truncated {
            annotations.insert(OVER_CAPACITY.into(), "truncated".into());
        }
        let subsets = (!subsets.is_empty()).then_some(subsets);
        let mut metadata = known.map_or_else(ObjectMeta::default, |known| known.metadata.clone());
        metadata.name = Some(key.name.clone());
        metadata.namespace = Some(key.namespace.clone());
        metadata.labels = Some(labels);
        metadata.annotations = (!annotations.is_empty()).then_some(annotations);
        let wanted = Endpoints { metadata, subsets };
        match known {
            Some(known) if **known == wanted => Plan::nothing(),
            Some(_) => Plan::of(vec![Action::update(&wanted)]),
            None => {
                let failure = Event::warning(
                    &**service,
                    "FailedToCreateEndpoint",
                    format!("Failed to create endpoint for service {}/{}: {{error}}", key.namespace, key.name),
                );
                Plan::of(vec![Action::create(&wanted).with_events(None, Some(failure)).action()])
            }
        }
    }
}

type PortKey = Vec<(Option<String>, i32, Option<String>)>;

fn subsets<'a>(
    service: &Service,
    backends: impl Iterator<Item = &'a Pod>,
    tolerates_not_ready: bool,
) -> Vec<EndpointSubset> {
    let mut by_ports: BTreeMap<PortKey, EndpointSubset> = BTreeMap::new();
    for pod in backends {
        let Some(address) = service_pods::address(pod, false).or_else(|| service_pods::address(pod, true)) else {
            continue;
        };
        let ports = ports(service, pod);
        let key: PortKey = ports.iter().map(|port| (port.name.clone(), port.port, port.protocol.clone())).collect();
        let subset = by_ports.entry(key).or_insert_with(|| EndpointSubset {
            ports: (!ports.is_empty()).then_some(ports),
            ..EndpointSubset::default()
        });
        let address = EndpointAddress {
            ip: address.into(),
            hostname: service_pods::hostname(pod, service),
            node_name: Some(pods::node_name(pod).to_owned()).filter(|name| !name.is_empty()),
            target_ref: Some(ObjectReference {
                kind: Some("Pod".into()),
                namespace: pod.metadata.namespace.clone(),
                name: pod.metadata.name.clone(),
                uid: pod.metadata.uid.clone(),
                ..ObjectReference::default()
            }),
        };
        let list = if tolerates_not_ready || pods::is_ready(pod) {
            &mut subset.addresses
        } else {
            &mut subset.not_ready_addresses
        };
        list.get_or_insert_default().push(address);
    }
    by_ports.into_values().collect()
}

fn ports(service: &Service, pod: &Pod) -> Vec<EndpointPort> {
    let ports = service.spec.iter().flat_map(|spec| spec.ports.iter().flatten());
    let resolved = ports.filter_map(|port| {
        Some(EndpointPort {
            name: port.name.clone().filter(|name| !name.is_empty()),
            protocol: Some(port.protocol.clone().unwrap_or_else(|| "TCP".into())),
            port: service_pods::target_port(port, pod)?,
            app_protocol: port.app_protocol.clone(),
        })
    });
    resolved.collect()
}
