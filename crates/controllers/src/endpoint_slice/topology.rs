//! Topology aware routing (KEP-2433, annotation `service.kubernetes.io/topology-mode: Auto`): each zone is given as many endpoints as its share of
//! the CPUs asks for, its own first. Pure arithmetic over nodes and endpoints.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointHints, ForZone};

use super::ZONE;
use crate::meta;
use crate::view::View;

/// How much more than its share an endpoint may get.
const OVERLOAD: f64 = 0.2;
const CONTROL_PLANE: [&str; 2] = ["node-role.kubernetes.io/control-plane", "node-role.kubernetes.io/master"];

const INSUFFICIENT_NODES: &str =
    "Insufficient Node information: allocatable CPU or zone not specified on one or more nodes";
const INSUFFICIENT_ENDPOINTS: &str = "Insufficient number of endpoints";
const OVERLOADED: &str =
    "Unable to allocate minimum required endpoints to each zone without exceeding overload threshold";
const NO_ZONE: &str = "One or more endpoints do not have a zone specified";

/// The share of each zone.
pub(super) type Shares = BTreeMap<String, f64>;

/// What of a node the shares depend on: zone and CPUs in thousandths; none of a node that does not count.
pub(super) fn counts(node: &Node) -> Option<(&str, i64)> {
    let is_control_plane = CONTROL_PLANE.iter().any(|label| meta::label(&node.metadata, label).is_some());
    let status = node.status.as_ref();
    let mut conditions = status.into_iter().flat_map(|status| status.conditions.iter().flatten());
    let is_ready = conditions.any(|one| one.type_ == "Ready" && one.status == "True");
    let cpus = status.and_then(|status| scheduler::quantity::milli(status.allocatable.as_ref()?.get("cpu")?));
    (is_ready && !is_control_plane)
        .then(|| (meta::label(&node.metadata, ZONE).unwrap_or_default(), cpus.unwrap_or_default()))
}

/// The shares of zones; none where a node lacks its zone or CPUs, or there is but one zone.
pub(super) fn shares(view: &View) -> Option<Shares> {
    let mut cpus: BTreeMap<String, i64> = BTreeMap::new();
    for (zone, milli) in view.nodes.all().filter_map(|node| counts(node)) {
        if zone.is_empty() || milli <= 0 {
            return None;
        }
        *cpus.entry(zone.to_owned()).or_default() += milli;
    }
    let total: f64 = cpus.values().map(|milli| number(*milli)).sum();
    (cpus.len() >= 2).then(|| cpus.into_iter().map(|(zone, milli)| (zone, number(milli) / total)).collect())
}

/// Exact up to 2^53, which no cluster's CPUs reach.
#[expect(clippy::cast_precision_loss, reason = "see above")]
fn number(milli: i64) -> f64 {
    milli as f64
}

/// How many endpoints a zone gets.
struct Allocation {
    minimum: usize,
    maximum: usize,
    desired: f64,
}

#[expect(clippy::cast_precision_loss, reason = "endpoints of one Service are far fewer than 2^53")]
fn float(count: usize) -> f64 {
    count as f64
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a share of a count is between zero and it"
)]
fn allocations(shares: Option<&Shares>, endpoints: usize) -> Result<BTreeMap<&str, Allocation>, String> {
    let shares = shares.ok_or(INSUFFICIENT_NODES)?;
    let counted = |why: &str| format!("{why} ({endpoints} endpoints, {} zones)", shares.len());
    if shares.len() > endpoints {
        return Err(counted(INSUFFICIENT_ENDPOINTS));
    }
    let minimum = |share: f64| (share * float(endpoints) * (1.0 / (1.0 + OVERLOAD))).ceil();
    let least: usize = shares.values().map(|share| minimum(*share) as usize).sum();
    let spare = endpoints.checked_sub(least).ok_or_else(|| counted(OVERLOADED))?;
    let of = |share: f64| {
        let desired = (share * float(endpoints)).max(minimum(share));
        Allocation { minimum: minimum(share) as usize, maximum: minimum(share) as usize + spare, desired }
    };
    Ok(shares.iter().map(|(zone, share)| (zone.as_str(), of(*share))).collect())
}

/// Gives each ready endpoint the zone that it is for. `held` is the one that it was for so far: as long as all are within bounds nothing moves.
///
/// # Errors
/// Upstream's sentence that says why there are no hints; then there are none.
pub(super) fn assign(shares: Option<&Shares>, endpoints: &mut [(Option<String>, &mut Endpoint)]) -> Result<(), String> {
    for (_, endpoint) in endpoints.iter_mut() {
        endpoint.hints = None;
    }
    let is_ready = |endpoint: &Endpoint| endpoint.conditions.as_ref().and_then(|one| one.ready) == Some(true);
    let ready: Vec<&mut (Option<String>, &mut Endpoint)> =
        endpoints.iter_mut().filter(|(_, endpoint)| is_ready(endpoint)).collect();
    let allocations = allocations(shares, ready.len())?;
    let own: Option<Vec<String>> =
        ready.iter().map(|(_, endpoint)| endpoint.zone.clone().filter(|zone| !zone.is_empty())).collect();
    let own = own.ok_or(NO_ZONE)?;
    // As it is, with newcomers for their own zone.
    let mut chosen: Vec<String> =
        ready.iter().zip(&own).map(|(one, own)| one.0.as_ref().unwrap_or(own).clone()).collect();
    let is_within = |chosen: &[String]| {
        let known = chosen.iter().all(|zone| allocations.contains_key(zone.as_str()));
        let bounded = |(zone, allocation): (&&str, &Allocation)| {
            let count = chosen.iter().filter(|one| one.as_str() == *zone).count();
            (allocation.minimum..=allocation.maximum).contains(&count)
        };
        known && allocations.iter().all(bounded)
    };
    if !is_within(&chosen) {
        chosen = redistributed(&allocations, own);
    }
    for ((_, endpoint), zone) in ready.into_iter().zip(chosen) {
        endpoint.hints = Some(EndpointHints { for_nodes: None, for_zones: Some(vec![ForZone { name: zone }]) });
    }
    Ok(())
}

/// Zones with more endpoints than they need give some to those with fewer.
fn redistributed(allocations: &BTreeMap<&str, Allocation>, mut zones: Vec<String>) -> Vec<String> {
    let mut giving: BTreeMap<String, f64> = BTreeMap::new();
    let mut receiving: BTreeMap<String, f64> = BTreeMap::new();
    for (zone, allocation) in allocations {
        let over = float(zones.iter().filter(|one| one.as_str() == *zone).count()) - allocation.desired;
        let side = if over > 0.0 { &mut giving } else { &mut receiving };
        side.insert((*zone).to_owned(), over.abs());
    }
    // Zones without a share (nodes there are not ready) give all.
    for zone in zones.iter().filter(|zone| !allocations.contains_key(zone.as_str())) {
        *giving.entry(zone.clone()).or_default() += 1.0;
    }
    let most = |side: &BTreeMap<String, f64>| -> Option<(String, f64)> {
        side.iter().max_by(|one, other| one.1.total_cmp(other.1)).map(|(zone, amount)| (zone.clone(), *amount))
    };
    // Each step moves one endpoint, so that there are no more steps than endpoints.
    for _ in 0..zones.len() {
        let (Some((from, give)), Some((to, receive))) = (most(&giving), most(&receiving)) else { break };
        if give < 1.0 && receive < 1.0 || give < 0.5 || receive < 0.5 {
            break;
        }
        let Some(moved) = zones.iter_mut().find(|zone| **zone == from) else { break };
        moved.clone_from(&to);
        giving.insert(from, give - 1.0);
        receiving.insert(to, receive - 1.0);
    }
    zones
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use serde_json::json;

    fn shares(of: &[(&str, f64)]) -> Option<Shares> {
        Some(of.iter().map(|(zone, share)| ((*zone).to_owned(), *share)).collect())
    }

    /// Endpoints as `zone` or `zone>held`; a leading `-` makes one that is not ready.
    fn hints(shares: Option<&Shares>, endpoints: &str) -> Result<String, String> {
        let mut all: Vec<(Option<String>, Endpoint)> = endpoints
            .split_whitespace()
            .map(|word| {
                let (zone, held) =
                    word.split_once('>').map_or((word, None), |(zone, held)| (zone, Some(held.to_owned())));
                let endpoint = json!({"addresses": ["10.0.0.1"], "zone": zone.trim_start_matches('-'),
                    "conditions": {"ready": !zone.starts_with('-')}});
                (held, serde_json::from_value(endpoint).unwrap())
            })
            .collect();
        let mut given: Vec<(Option<String>, &mut Endpoint)> =
            all.iter_mut().map(|(held, endpoint)| (held.clone(), endpoint)).collect();
        assign(shares, &mut given)?;
        let word = |(_, endpoint): &(Option<String>, Endpoint)| match &endpoint.hints {
            Some(hints) => hints.for_zones.as_ref().unwrap()[0].name.clone(),
            None => "-".to_owned(),
        };
        Ok(all.iter().map(word).collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn each_zone_gets_its_share() {
        let halves = shares(&[("a", 0.5), ("b", 0.5)]);
        for (what, shares, endpoints, wanted) in [
            ("balanced", halves.clone(), "a a b b", "a a b b"),
            ("not ready", halves.clone(), "a -a b -b", "a - b -"),
            ("one side", halves.clone(), "a a a a", "b b a a"),
            ("a little more is fine", halves.clone(), "a a a a a a b b b b b", "a a a a a a b b b b b"),
            ("three zones", shares(&[("a", 0.25), ("b", 0.25), ("c", 0.5)]), "a a a a b b b b", "c c a a c c b b"),
            ("a zone without nodes", halves.clone(), "a a c c", "a a b b"),
            ("what is held stays", halves.clone(), "a>b a>a a>a a>b", "b a a b"),
            ("newcomers are for their own", halves.clone(), "a>a b>b a b", "a b a b"),
            ("what is held may be too little", halves, "a>a a>a a>a b>a", "b a a b"),
        ] {
            assert_eq!(hints(shares.as_ref(), endpoints), Ok(wanted.to_owned()), "{what}");
        }
    }

    #[test]
    fn without_enough_there_are_none() {
        let overloaded = format!("{OVERLOADED} (2 endpoints, 2 zones)");
        for (shares, endpoints, wanted) in [
            (None, "a b", INSUFFICIENT_NODES),
            (
                shares(&[("a", 0.4), ("b", 0.3), ("c", 0.3)]),
                "a b",
                "Insufficient number of endpoints (2 endpoints, 3 zones)",
            ),
            (shares(&[("a", 0.9), ("b", 0.1)]), "a b", overloaded.as_str()),
            (shares(&[("a", 0.5), ("b", 0.5)]), "a b a >a", NO_ZONE),
        ] {
            assert_eq!(hints(shares.as_ref(), endpoints), Err(wanted.to_owned()), "{endpoints}");
        }
    }
}
