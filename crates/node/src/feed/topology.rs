//! Which endpoints a node prefers (spec.trafficDistribution, KEP-4444 and KEP-3015): what the hints of their EndpointSlices say, as upstream's
//! proxy reads them. Pure.

use k8s_openapi::api::discovery::v1::EndpointHints;
use network::services::Endpoint;

const ZONE_LABEL: &str = "topology.kubernetes.io/zone";

/// Where a node is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// Its name.
    pub node: String,
    /// Its zone; empty where it has none or is not known yet.
    pub zone: String,
}

impl Place {
    /// The place that a Node's labels say.
    #[must_use]
    pub fn of(node: &k8s_openapi::api::core::v1::Node) -> Self {
        let zone = node.metadata.labels.as_ref().and_then(|labels| labels.get(ZONE_LABEL));
        Self { node: node.metadata.name.clone().unwrap_or_default(), zone: zone.cloned().unwrap_or_default() }
    }
}

/// What an endpoint's hints say of a place.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Hint {
    has_nodes: bool,
    has_zones: bool,
    is_for_node: bool,
    is_for_zone: bool,
}

impl Hint {
    pub(super) fn of(hints: Option<&EndpointHints>, place: &Place) -> Self {
        let Some(hints) = hints else { return Self::default() };
        let nodes = hints.for_nodes.as_deref().unwrap_or_default();
        let zones = hints.for_zones.as_deref().unwrap_or_default();
        Self {
            has_nodes: !nodes.is_empty(),
            has_zones: !zones.is_empty(),
            is_for_node: nodes.iter().any(|node| node.name == place.node),
            is_for_zone: !place.zone.is_empty() && zones.iter().any(|zone| zone.name == place.zone),
        }
    }
}

/// Marks the endpoints of one port that this place uses: those of its node, else those of its zone, else all; and each only if every ready
/// endpoint of the family has such a hint and one of them is for this place.
pub(super) fn prefer(endpoints: &mut [(Endpoint, Hint)]) {
    for is_v6 in [false, true] {
        let of_family = |endpoint: &Endpoint| endpoint.ip.is_ipv6() == is_v6;
        let holds = |has: fn(&Hint) -> bool, fits: fn(&Hint) -> bool| {
            let mut ready = endpoints.iter().filter(|(endpoint, _)| endpoint.ready && of_family(endpoint)).peekable();
            let mut any = false;
            ready.peek().is_some()
                && ready.all(|(_, hint)| {
                    any |= fits(hint);
                    has(hint)
                })
                && any
        };
        let fits: fn(&Hint) -> bool = if holds(|hint| hint.has_nodes, |hint| hint.is_for_node) {
            |hint| hint.is_for_node
        } else if holds(|hint| hint.has_zones, |hint| hint.is_for_zone) {
            |hint| hint.is_for_zone
        } else {
            continue;
        };
        for (endpoint, hint) in endpoints.iter_mut().filter(|(endpoint, _)| of_family(endpoint)) {
            // Those that are not ready stay, as the last resort that they are without hints.
            endpoint.is_preferred = !endpoint.ready || fits(hint);
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn check(endpoints: &[(&str, bool, &[&str], &[&str])], place: (&str, &str), wanted: &[bool]) {
        let place = Place { node: place.0.to_owned(), zone: place.1.to_owned() };
        let mut list: Vec<_> = endpoints
            .iter()
            .map(|(ip, ready, nodes, zones)| {
                let named =
                    |names: &[&str]| names.iter().map(|name| serde_json::json!({"name": name})).collect::<Vec<_>>();
                let hints: EndpointHints =
                    serde_json::from_value(serde_json::json!({"forNodes": named(nodes), "forZones": named(zones)}))
                        .unwrap();
                let endpoint = Endpoint { ready: *ready, ..Endpoint::ready(ip.parse().unwrap(), 80) };
                (endpoint, Hint::of(Some(&hints), &place))
            })
            .collect();
        prefer(&mut list);
        let preferred: Vec<bool> = list.iter().map(|(endpoint, _)| endpoint.is_preferred).collect();
        assert_eq!(preferred, wanted, "{endpoints:?} at {place:?}");
    }

    #[test]
    fn hints_are_followed_where_all_have_them_and_one_is_for_here() {
        let zones: &[(&str, bool, &[&str], &[&str])] =
            &[("10.0.0.1", true, &[], &["a"]), ("10.0.0.2", true, &[], &["b"]), ("10.0.0.3", false, &[], &[])];
        check(zones, ("n", "a"), &[true, false, true]);
        check(zones, ("n", "c"), &[true, true, true]);
        check(zones, ("n", ""), &[true, true, true]);
        let missing: &[(&str, bool, &[&str], &[&str])] =
            &[("10.0.0.1", true, &[], &["a"]), ("10.0.0.2", true, &[], &[])];
        check(missing, ("n", "a"), &[true, true]);
        let nodes: &[(&str, bool, &[&str], &[&str])] = &[
            ("10.0.0.1", true, &["n"], &["a"]),
            ("10.0.0.2", true, &["m"], &["a"]),
            ("10.0.0.3", true, &["o"], &["b"]),
        ];
        check(nodes, ("n", "a"), &[true, false, false]);
        check(nodes, ("x", "a"), &[true, true, false]);
        check(nodes, ("x", "z"), &[true, true, true]);
        let families: &[(&str, bool, &[&str], &[&str])] = &[
            ("10.0.0.1", true, &[], &["a"]),
            ("10.0.0.2", true, &[], &["b"]),
            ("fd00::1", true, &[], &["b"]),
            ("fd00::2", true, &[], &[]),
        ];
        check(families, ("n", "a"), &[true, false, true, true]);
    }
}
