//! What a Service of type LoadBalancer asks for, and what it holds.

use std::collections::BTreeSet;
use std::net::IpAddr;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Service;

use crate::meta;
use crate::view::Key;

/// Addresses of pools.
pub(super) const POOL_CLASS: &str = "klynge.io/pool";
/// The nodes' own addresses.
pub(super) const NODE_CLASS: &str = "klynge.io/node";
/// The addresses that the Service wants, one per family.
const ADDRESSES: &str = "klynge.io/load-balancer-ips";
/// The pool that it wants.
const POOL: &str = "klynge.io/load-balancer-pool";
/// Services with the same value may share an address.
const SHARE: &str = "klynge.io/allow-shared-ip";

/// Where a Service's addresses come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    Pools,
    Nodes,
}

/// A port as far as two Services may collide at it.
pub(super) type Port = (String, i32);

/// What one Service asks for.
#[derive(Debug)]
pub(super) struct Wish<'a> {
    pub(super) service: &'a Service,
    pub(super) key: Key,
    pub(super) source: Source,
    /// Whether IPv6, in the Service's order.
    pub(super) families: Vec<bool>,
    /// Whether it takes all families or nothing.
    pub(super) all_families: bool,
    /// The addresses it wants; empty for any.
    pub(super) addresses: Result<Vec<IpAddr>, String>,
    pub(super) pool: Option<&'a str>,
    share: Option<&'a str>,
    pub(super) ports: BTreeSet<Port>,
    /// Whether only nodes with endpoints of it may take its traffic.
    pub(super) is_local: bool,
}

pub(super) fn is_load_balancer(service: &Service) -> bool {
    service.spec.as_ref().and_then(|spec| spec.type_.as_deref()) == Some("LoadBalancer")
}

/// Whether its traffic keeps to nodes with endpoints.
pub(super) fn is_local(service: &Service) -> bool {
    service.spec.as_ref().and_then(|spec| spec.external_traffic_policy.as_deref()) == Some("Local")
}

/// Whether the Service is of a class that somebody else serves.
pub(super) fn is_foreign(service: &Service) -> bool {
    let class = service.spec.as_ref().and_then(|spec| spec.load_balancer_class.as_deref());
    class.is_some_and(|class| class != POOL_CLASS && class != NODE_CLASS)
}

/// The addresses in the status.
pub(super) fn held(service: &Service) -> Vec<IpAddr> {
    let ingress = service.status.as_ref().and_then(|status| status.load_balancer.as_ref()?.ingress.as_ref());
    ingress.into_iter().flatten().filter_map(|one| one.ip.as_ref()?.parse().ok()).collect()
}

impl<'a> Wish<'a> {
    /// None for a Service that gets nothing from us. `without_class` serves those that name no class, if anything of ours does.
    pub(super) fn of(service: &'a Service, without_class: Option<Source>) -> Option<Self> {
        if !is_load_balancer(service) || is_foreign(service) || meta::is_deleting(&service.metadata) {
            return None;
        }
        let spec = service.spec.as_ref()?;
        let source = match spec.load_balancer_class.as_deref() {
            Some(NODE_CLASS) => Source::Nodes,
            Some(_) => Source::Pools,
            None => without_class?,
        };
        let families: Vec<bool> = spec.ip_families.iter().flatten().map(|family| family == "IPv6").collect();
        let annotation =
            |key: &str| meta::annotation(&service.metadata, key).map(str::trim).filter(|text| !text.is_empty());
        let port = |port: &k8s_openapi::api::core::v1::ServicePort| {
            (port.protocol.clone().unwrap_or_else(|| "TCP".into()), port.port)
        };
        let families = if families.is_empty() { vec![false] } else { families };
        Some(Self {
            service,
            key: Key::of(&service.metadata),
            source,
            all_families: spec.ip_family_policy.as_deref() == Some("RequireDualStack"),
            addresses: wanted(annotation(ADDRESSES), spec.load_balancer_ip.as_deref(), &families),
            families,
            pool: annotation(POOL),
            share: annotation(SHARE),
            ports: spec.ports.iter().flatten().map(port).collect(),
            is_local: is_local(service),
        })
    }

    /// The order in which Services that wait are served, and in which holders keep what they have.
    pub(super) fn age(&self) -> (Option<Timestamp>, &Key) {
        (self.service.metadata.creation_timestamp.as_ref().map(|time| time.0), &self.key)
    }

    pub(super) fn name(&self) -> String {
        format!("{}/{}", self.key.namespace, self.key.name)
    }

    /// A port that both have.
    fn common_port(&self, other: &Self) -> Option<Port> {
        self.ports.intersection(&other.ports).next().cloned()
    }

    /// Whether both may have one address.
    ///
    /// # Errors
    /// A sentence that says why not.
    pub(super) fn shares(&self, other: &Self) -> Result<(), String> {
        if self.share.is_none() || self.share != other.share {
            return Err(format!(
                "belongs to Service {} (to share it, give both the same annotation {SHARE})",
                other.name()
            ));
        }
        if let Some((protocol, port)) = self.common_port(other) {
            return Err(format!("cannot be shared with Service {}: both have port {port}/{protocol}", other.name()));
        }
        let selector = |wish: &Self| wish.service.spec.as_ref().and_then(|spec| spec.selector.clone());
        if (self.is_local || other.is_local) && (self.is_local != other.is_local || selector(self) != selector(other)) {
            return Err(format!(
                "cannot be shared with Service {}: with externalTrafficPolicy Local both need it and the same selector",
                other.name()
            ));
        }
        Ok(())
    }
}

fn wanted(annotation: Option<&str>, field: Option<&str>, families: &[bool]) -> Result<Vec<IpAddr>, String> {
    let field = field.filter(|text| !text.is_empty());
    let texts: Vec<&str> = annotation.or(field).into_iter().flat_map(|text| text.split(',')).map(str::trim).collect();
    let mut found: Vec<IpAddr> = Vec::new();
    for text in texts.into_iter().filter(|text| !text.is_empty()) {
        let address: IpAddr = text.parse().map_err(|_| format!("{text:?} is no address"))?;
        if found.iter().any(|other| other.is_ipv4() == address.is_ipv4()) {
            return Err("more than one address of a family is wanted".into());
        }
        if !families.contains(&address.is_ipv6()) {
            return Err(format!("{address} is wanted, but spec.ipFamilies has not its family"));
        }
        found.push(address);
    }
    if annotation.is_some() && field.is_some_and(|field| !found.iter().any(|one| one.to_string() == field)) {
        return Err(format!("spec.loadBalancerIP and the annotation {ADDRESSES} want different addresses"));
    }
    Ok(found)
}
