//! Services and EndpointSlices as the plain data of the data plane. Pure.

use super::topology::{Hint, Place, prefer};
use crate::environment::LinkedService;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use network::Prefix;
use network::dns::{DnsEndpoint, DnsKind, DnsPort, DnsService};
use network::services::{Endpoint, ServicePort, ServiceState, TrafficPolicy, TransportProtocol};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

/// Services with one of these labels are not for kube-proxy (KEP-2447 and its predecessor), so not for us.
const LEFT_TO_OTHERS: [&str; 2] = ["service.kubernetes.io/service-proxy-name", "service.kubernetes.io/headless"];

/// From where a Service is looked at.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// Where this node is.
    pub place: Place,
    /// Nodes that cannot be reached while no server is heard: their endpoints are not used while others are ready.
    pub absent: Arc<BTreeSet<String>>,
}

impl View {
    fn is_absent(&self, endpoint: &k8s_openapi::api::discovery::v1::Endpoint) -> bool {
        !self.absent.is_empty() && endpoint.node_name.as_ref().is_some_and(|node| self.absent.contains(node))
    }
}

/// A Service with its slices by name.
#[derive(Clone, Debug, Default)]
pub struct ServiceObjects {
    /// The Service, where it is known.
    pub service: Option<Arc<Service>>,
    /// Its slices.
    pub slices: BTreeMap<String, Arc<EndpointSlice>>,
}

fn protocol(name: Option<&str>) -> TransportProtocol {
    match name {
        Some("UDP") => TransportProtocol::Udp,
        Some("SCTP") => TransportProtocol::Sctp,
        _ => TransportProtocol::Tcp,
    }
}

fn addresses(list: Option<&Vec<String>>) -> Vec<IpAddr> {
    list.into_iter().flatten().filter_map(|text| text.parse().ok()).collect()
}

fn cluster_ips(service: &Service) -> Vec<IpAddr> {
    let Some(spec) = &service.spec else { return Vec::new() };
    let all = addresses(spec.cluster_ips.as_ref());
    if all.is_empty() { spec.cluster_ip.iter().filter_map(|text| text.parse().ok()).collect() } else { all }
}

fn number(port: i32) -> Option<u16> {
    u16::try_from(port).ok().filter(|port| *port > 0)
}

/// What load balancing needs; None for a Service without cluster address (headless, ExternalName) or without the object.
#[must_use]
pub fn service_state(objects: &ServiceObjects, view: &View) -> Option<ServiceState> {
    let service = objects.service.as_ref()?;
    let labels = service.metadata.labels.as_ref();
    if LEFT_TO_OTHERS.iter().any(|label| labels.is_some_and(|labels| labels.contains_key(*label))) {
        return None;
    }
    let spec = service.spec.as_ref()?;
    let cluster_ips = cluster_ips(service);
    if cluster_ips.is_empty() || spec.type_.as_deref() == Some("ExternalName") {
        return None;
    }
    let ports = spec.ports.iter().flatten().filter_map(|port| {
        let wanted = port.name.as_deref().unwrap_or_default();
        let protocol = protocol(port.protocol.as_deref());
        let (mut endpoints, mut absent) = (Vec::new(), Vec::new());
        for slice in objects.slices.values() {
            let Some(target) = slice.ports.iter().flatten().find(|one| {
                one.name.as_deref().unwrap_or_default() == wanted && self::protocol(one.protocol.as_deref()) == protocol
            }) else {
                continue;
            };
            let Some(target) = target.port.and_then(number) else { continue };
            for endpoint in slice.endpoints.iter().flatten() {
                let conditions = endpoint.conditions.clone().unwrap_or_default();
                let ready = conditions.ready.unwrap_or(true);
                let ip = endpoint.addresses.iter().find_map(|text| text.parse().ok());
                let Some(ip) = ip else { continue };
                let hint = Hint::of(endpoint.hints.as_ref(), &view.place);
                let list = if view.is_absent(endpoint) { &mut absent } else { &mut endpoints };
                let endpoint = Endpoint {
                    ip,
                    port: target,
                    node_local: endpoint.node_name.as_deref() == Some(&view.place.node),
                    is_preferred: true,
                    ready,
                    serving: conditions.serving.unwrap_or(ready),
                    terminating: conditions.terminating.unwrap_or(false),
                };
                list.push((endpoint, hint));
            }
        }
        if !endpoints.iter().any(|(endpoint, _)| endpoint.ready) {
            endpoints.append(&mut absent);
        }
        prefer(&mut endpoints);
        Some(ServicePort {
            name: wanted.to_owned(),
            protocol,
            port: number(port.port)?,
            node_port: port.node_port.and_then(number),
            endpoints: endpoints.into_iter().map(|(endpoint, _)| endpoint).collect(),
        })
    });
    let policy = |text: Option<&str>| if text == Some("Local") { TrafficPolicy::Local } else { TrafficPolicy::Cluster };
    let ingress = service.status.as_ref().and_then(|status| status.load_balancer.as_ref()?.ingress.as_ref());
    // What a proxy balances arrives with an address of ours already (KEP-1860).
    let ingress = ingress.into_iter().flatten().filter(|one| one.ip_mode.as_deref() != Some("Proxy"));
    let affinity = spec.session_affinity.as_deref() == Some("ClientIP");
    let timeout = spec.session_affinity_config.as_ref().and_then(|config| config.client_ip.as_ref()?.timeout_seconds);
    Some(ServiceState {
        cluster_ips,
        external_ips: addresses(spec.external_ips.as_ref()),
        load_balancer_ips: ingress.filter_map(|one| one.ip.as_ref()?.parse().ok()).collect(),
        source_ranges: spec
            .load_balancer_source_ranges
            .iter()
            .flatten()
            .filter_map(|text| text.trim().parse::<Prefix>().ok())
            .collect(),
        ports: ports.collect(),
        external_policy: policy(spec.external_traffic_policy.as_deref()),
        internal_policy: policy(spec.internal_traffic_policy.as_deref()),
        affinity_timeout_s: affinity.then(|| timeout.and_then(|seconds| u32::try_from(seconds).ok()).unwrap_or(10_800)),
        health_check_node_port: spec.health_check_node_port.and_then(number),
    })
}

/// What cluster DNS needs; None without the object.
#[must_use]
pub fn dns_service(objects: &ServiceObjects, view: &View) -> Option<DnsService> {
    let service = objects.service.as_ref()?;
    let spec = service.spec.as_ref()?;
    let own_ports = || {
        let named = spec.ports.iter().flatten().filter_map(|port| {
            Some(DnsPort {
                name: port.name.clone().filter(|name| !name.is_empty())?,
                protocol: protocol(port.protocol.as_deref()),
                port: number(port.port)?,
            })
        });
        named.collect::<Vec<_>>()
    };
    if spec.type_.as_deref() == Some("ExternalName") {
        return Some(DnsService { kind: DnsKind::ExternalName(spec.external_name.clone()?), ports: own_ports() });
    }
    let cluster = cluster_ips(service);
    if !cluster.is_empty() {
        return Some(DnsService { kind: DnsKind::ClusterIps(cluster), ports: own_ports() });
    }
    let unready_too = spec.publish_not_ready_addresses.unwrap_or(false);
    let (mut endpoints, mut absent) = (Vec::new(), Vec::new());
    let mut ports: BTreeMap<(String, TransportProtocol), u16> = BTreeMap::new();
    for slice in objects.slices.values() {
        for port in slice.ports.iter().flatten() {
            if let (Some(name), Some(number)) =
                (port.name.clone().filter(|name| !name.is_empty()), port.port.and_then(number))
            {
                ports.insert((name, protocol(port.protocol.as_deref())), number);
            }
        }
        for endpoint in slice.endpoints.iter().flatten() {
            let ready = endpoint.conditions.as_ref().and_then(|conditions| conditions.ready).unwrap_or(true);
            if !(ready || unready_too) {
                continue;
            }
            let list = if view.is_absent(endpoint) { &mut absent } else { &mut endpoints };
            for ip in addresses(Some(&endpoint.addresses)) {
                list.push(DnsEndpoint { ip, hostname: endpoint.hostname.clone() });
            }
        }
    }
    if endpoints.is_empty() {
        endpoints = absent;
    }
    let ports = ports.into_iter().map(|((name, protocol), port)| DnsPort { name, protocol, port }).collect();
    Some(DnsService { kind: DnsKind::Headless(endpoints), ports })
}

/// What environment variables need; None for a Service without cluster address.
#[must_use]
pub fn linked_service(service: &Service) -> Option<LinkedService> {
    let spec = service.spec.as_ref()?;
    let cluster_ip = spec.cluster_ip.clone().filter(|ip| !ip.is_empty() && ip != "None")?;
    let ports = spec.ports.iter().flatten().filter_map(|port| {
        let protocol = port.protocol.clone().unwrap_or_else(|| "TCP".into());
        Some((port.name.clone().unwrap_or_default(), protocol, number(port.port)?))
    });
    Some(LinkedService { name: service.metadata.name.clone()?, cluster_ip, ports: ports.collect() })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use serde_json::json;

    fn objects(spec: serde_json::Value) -> ServiceObjects {
        let service = json!({"metadata": {"name": "web", "namespace": "d"}, "spec": spec});
        let slice = json!({"addressType": "IPv4", "metadata": {"name": "web-1"},
            "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
            "endpoints": [
                {"addresses": ["10.0.0.1"], "conditions": {"ready": true}, "nodeName": "n", "hostname": "web-0"},
                {"addresses": ["10.0.0.2"], "conditions": {"ready": false, "serving": true, "terminating": true}}]});
        ServiceObjects {
            service: Some(Arc::new(serde_json::from_value(service).unwrap())),
            slices: BTreeMap::from([("web-1".to_owned(), Arc::new(serde_json::from_value(slice).unwrap()))]),
        }
    }

    #[test]
    fn services_with_and_without_a_cluster_address() {
        let here = View { place: Place { node: "n".to_owned(), zone: String::new() }, ..View::default() };
        let ports = json!([{"name": "http", "port": 80, "targetPort": 8080, "nodePort": 30080}]);
        let normal = objects(json!({"clusterIP": "10.96.0.5", "clusterIPs": ["10.96.0.5"], "ports": ports,
            "externalTrafficPolicy": "Local", "sessionAffinity": "ClientIP"}));
        let state = service_state(&normal, &here).unwrap();
        assert_eq!((state.external_policy, state.affinity_timeout_s), (TrafficPolicy::Local, Some(10_800)));
        let port = &state.ports[0];
        assert_eq!((port.port, port.node_port), (80, Some(30080)));
        let seen: Vec<(bool, bool, bool, bool)> =
            port.endpoints.iter().map(|one| (one.node_local, one.ready, one.serving, one.terminating)).collect();
        assert_eq!(seen, [(true, true, true, false), (false, false, true, true)]);
        assert_eq!(dns_service(&normal, &here).unwrap().kind, DnsKind::ClusterIps(vec!["10.96.0.5".parse().unwrap()]));
        let mut balanced = (**normal.service.as_ref().unwrap()).clone();
        let ingress = json!([{"ip": "192.0.2.1", "ipMode": "VIP"}, {"ip": "192.0.2.2", "ipMode": "Proxy"}, {"ip": "192.0.2.3"}, {"hostname": "x"}]);
        balanced.status = Some(serde_json::from_value(json!({"loadBalancer": {"ingress": ingress}})).unwrap());
        let balanced = ServiceObjects { service: Some(Arc::new(balanced)), slices: BTreeMap::new() };
        let addresses = service_state(&balanced, &here).unwrap().load_balancer_ips;
        assert_eq!(addresses, ["192.0.2.1", "192.0.2.3"].map(|text| text.parse::<IpAddr>().unwrap()));
        let headless = objects(json!({"clusterIP": "None", "ports": ports}));
        assert!(
            service_state(&headless, &here).is_none() && linked_service(headless.service.as_ref().unwrap()).is_none()
        );
        let dns = dns_service(&headless, &here).unwrap();
        let only_ready = DnsEndpoint { ip: "10.0.0.1".parse().unwrap(), hostname: Some("web-0".into()) };
        assert_eq!(dns.kind, DnsKind::Headless(vec![only_ready]));
        assert_eq!(dns.ports[0].port, 8080);
        let external = objects(json!({"type": "ExternalName", "externalName": "example.org"}));
        assert_eq!(dns_service(&external, &here).unwrap().kind, DnsKind::ExternalName("example.org".into()));
    }

    #[test]
    fn endpoints_of_absent_nodes_are_left_out_while_others_are_ready() {
        let view = |absent: &[&str]| View {
            place: Place { node: "here".to_owned(), zone: String::new() },
            absent: Arc::new(absent.iter().map(|name| (*name).to_owned()).collect()),
        };
        let slice = json!({"addressType": "IPv4", "metadata": {"name": "web-1"}, "ports": [{"name": "", "port": 8080}],
            "endpoints": [
                {"addresses": ["10.0.0.1"], "conditions": {"ready": true}, "nodeName": "a"},
                {"addresses": ["10.0.0.2"], "conditions": {"ready": true}, "nodeName": "b"},
                {"addresses": ["10.0.0.3"], "conditions": {"ready": false}, "nodeName": "c"}]});
        for (absent, left) in [
            (&[][..], "1 2 3"),
            (&["a"], "2 3"),
            (&["a", "c"], "2"),
            (&["elsewhere"], "1 2 3"),
            // nobody else is ready: a host that was silent for a moment is better than nobody
            (&["a", "b"], "3 1 2"),
        ] {
            for cluster_ip in ["10.96.0.5", "None"] {
                let spec = json!({"clusterIP": cluster_ip, "clusterIPs": [cluster_ip], "ports": [{"port": 80}]});
                let service = json!({"metadata": {"name": "web", "namespace": "d"}, "spec": spec});
                let objects = ServiceObjects {
                    service: Some(Arc::new(serde_json::from_value(service).unwrap())),
                    slices: BTreeMap::from([(
                        "web-1".to_owned(),
                        Arc::new(serde_json::from_value(slice.clone()).unwrap()),
                    )]),
                };
                let last = |ip: IpAddr| ip.to_string().rsplit('.').next().unwrap().to_owned();
                let seen: Vec<String> = match service_state(&objects, &view(absent)) {
                    Some(state) => state.ports[0].endpoints.iter().map(|one| last(one.ip)).collect(),
                    None => match dns_service(&objects, &view(absent)).unwrap().kind {
                        DnsKind::Headless(all) => all.iter().map(|one| last(one.ip)).collect(),
                        _ => Vec::new(),
                    },
                };
                // names are given for ready ones only
                let wanted =
                    if cluster_ip == "None" { left.replace("3 ", "").replace(" 3", "") } else { left.to_owned() };
                assert_eq!(seen.join(" "), wanted, "{cluster_ip}, absent: {absent:?}");
            }
        }
    }
}
