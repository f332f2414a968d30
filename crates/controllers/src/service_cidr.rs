//! ServiceCIDRs (KEP-1880): told ready when they are there, and kept from going while Services hold addresses of theirs alone.

use std::net::IpAddr;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::networking::v1::ServiceCIDR;
use serde_json::json;

use crate::action::{Action, Plan, Resource};
use crate::controller::{Change, Controller};
use crate::meta;
use crate::view::{Key, Typed, View};

const FINALIZER: &str = "networking.k8s.io/service-cidr-finalizer";
/// Upstream's wait before the end, so that every allocator has heard of it.
const GRACE: SignedDuration = SignedDuration::from_secs(10);
const IN_USE: &str =
    "There are still IPAddresses referencing the ServiceCIDR, please remove them or create a new ServiceCIDR";
const READY: &str = "Kubernetes Service CIDR is ready";

/// The ServiceCIDR controller.
#[derive(Debug)]
pub struct ServiceCidrController;

impl Controller for ServiceCidrController {
    const NAME: &'static str = "service-cidrs-controller";
    type Memory = ();

    fn keys(view: &View, change: Change<'_>) -> Vec<Key> {
        let waiting = || view.service_cidrs.all().filter(|cidr| meta::is_deleting(&cidr.metadata));
        let mut keys: Vec<Key> = Vec::new();
        for side in change.sides() {
            match side {
                Typed::ServiceCIDR(cidr) => {
                    keys.push(Key::of(&cidr.metadata));
                    // Another range may hold now what one on its way out was needed for.
                    keys.extend(waiting().map(|cidr| Key::of(&cidr.metadata)));
                }
                Typed::Other(other) if change.new.is_none() && is_addresses(&other.resource) => {
                    keys.extend(waiting().map(|cidr| Key::of(&cidr.metadata)));
                }
                _ => {}
            }
        }
        keys.sort();
        keys.dedup();
        keys
    }

    fn plan(view: &View, key: &Key, _memory: &mut (), now: Timestamp) -> Plan {
        let Some(cidr) = view.service_cidrs.at(key) else { return Plan::nothing() };
        let finalizers = cidr.metadata.finalizers.clone().unwrap_or_default();
        let holds = finalizers.iter().any(|one| one == FINALIZER);
        let Some(deleted) = &cidr.metadata.deletion_timestamp else {
            let mut plan = Plan::default();
            if !holds {
                let mut update = (**cidr).clone();
                update.metadata.finalizers.get_or_insert_default().push(FINALIZER.into());
                // The condition follows with the object that comes back.
                plan.actions.push(Action::update(&update));
                return plan;
            }
            plan.actions.extend(condition(cidr, "True", "", READY, now));
            return plan;
        };
        if !holds {
            return Plan::nothing();
        }
        if is_needed(view, cidr) {
            return Plan::of(condition(cidr, "False", "Terminating", IN_USE, now).into_iter().collect());
        }
        let end = deleted.0.checked_add(GRACE).unwrap_or(now);
        if now < end {
            let mut plan = Plan::default();
            plan.requeue_at(end);
            return plan;
        }
        let mut update = (**cidr).clone();
        update.metadata.finalizers = Some(finalizers.into_iter().filter(|one| one != FINALIZER).collect());
        Plan::of(vec![Action::update(&update)])
    }
}

fn is_addresses(resource: &Resource) -> bool {
    resource.kind == "IPAddress" && resource.group == "networking.k8s.io"
}

/// The status patch that says so, unless it says so already.
fn condition(cidr: &ServiceCIDR, status: &str, reason: &str, message: &str, now: Timestamp) -> Option<Action> {
    let held = cidr.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let held = held.iter().find(|one| one.type_ == "Ready");
    if held.is_some_and(|one| one.status == status && one.reason == reason && one.message == message) {
        return None;
    }
    let since = held.filter(|one| one.status == status).map_or(now, |one| one.last_transition_time.0);
    // Seconds, as the API has times of this sort.
    let since = Timestamp::from_second(since.as_second()).unwrap_or(since);
    let condition = json!({
        "type": "Ready", "status": status, "reason": reason, "message": message,
        "lastTransitionTime": since.to_string(),
    });
    Some(Action::patch_unchanged(cidr, "status", json!({"status": {"conditions": [condition]}})))
}

/// Whether an address lies in this ServiceCIDR and in no other that stays.
fn is_needed(view: &View, cidr: &ServiceCIDR) -> bool {
    let own = ranges(cidr);
    let others: Vec<(u128, u128)> = view
        .service_cidrs
        .all()
        .filter(|other| !meta::is_deleting(&other.metadata))
        .flat_map(|other| ranges(other))
        .collect();
    let within =
        |ranges: &[(u128, u128)], number| ranges.iter().any(|(first, last)| (*first..=*last).contains(&number));
    let addresses = Resource {
        group: "networking.k8s.io".into(),
        version: "v1".into(),
        plural: "ipaddresses".into(),
        kind: "IPAddress".into(),
        namespaced: false,
    };
    view.metadata.of_resource(&addresses).any(|(_, entry)| {
        let number = entry.key.name.parse().ok().map(number);
        number.is_some_and(|number| within(&own, number) && !within(&others, number))
    })
}

/// IPv4 addresses are counted in their IPv6 form, so that the families do not mix.
fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(address.to_ipv6_mapped()),
        IpAddr::V6(address) => u128::from(address),
    }
}

fn ranges(cidr: &ServiceCIDR) -> Vec<(u128, u128)> {
    let texts = cidr.spec.iter().flat_map(|spec| spec.cidrs.iter().flatten());
    let parsed = texts.filter_map(|text| {
        let (address, length) = text.split_once('/')?;
        let (address, length) = (address.parse::<IpAddr>().ok()?, length.parse::<u32>().ok()?);
        let length = if address.is_ipv4() { length + 96 } else { length };
        let host = u128::MAX.checked_shr(length).unwrap_or(0);
        let first = number(address) & !host;
        Some((first, first | host))
    });
    parsed.collect()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use std::sync::Arc;

    use super::*;
    use crate::view::Other;

    fn cidr(name: &str, range: &str, finalizer: bool, deleted: bool) -> Typed {
        let mut object =
            json!({"metadata": {"name": name, "uid": name, "resourceVersion": "1"}, "spec": {"cidrs": [range]}});
        if finalizer {
            object["metadata"]["finalizers"] = json!([FINALIZER]);
        }
        if deleted {
            object["metadata"]["deletionTimestamp"] = json!("1970-01-01T00:01:00Z");
        }
        Typed::ServiceCIDR(Arc::new(serde_json::from_value(object).unwrap()))
    }

    fn address(name: &str) -> Typed {
        let resource = Resource {
            group: "networking.k8s.io".into(),
            version: "v1".into(),
            plural: "ipaddresses".into(),
            kind: "IPAddress".into(),
            namespaced: false,
        };
        let metadata = serde_json::from_value(json!({"name": name, "uid": name})).unwrap();
        Typed::Other(Arc::new(Other { resource, metadata }))
    }

    fn plan(objects: &[Typed], name: &str, second: i64) -> Plan {
        let mut view = View::default();
        for object in objects {
            view.set(object);
        }
        ServiceCidrController::plan(&view, &Key::new("", name), &mut (), Timestamp::from_second(second).unwrap())
    }

    fn text(plan: &Plan) -> String {
        plan.actions
            .iter()
            .map(|action| match action {
                Action::Update { object, .. } => format!("finalizers {}", object["metadata"]["finalizers"]),
                Action::Patch { patch, .. } => {
                    let condition = &patch["status"]["conditions"][0];
                    format!("{} {}", condition["status"], condition["reason"])
                }
                other => format!("{other:?}"),
            })
            .collect::<Vec<_>>()
            .join("; ")
    }

    #[test]
    fn a_range_goes_when_nothing_needs_it() {
        let used = address("10.9.0.5");
        for (what, objects, second, wanted) in [
            ("new", vec![cidr("a", "10.9.0.0/24", false, false)], 0, format!("finalizers [\"{FINALIZER}\"]")),
            ("settled", vec![cidr("a", "10.9.0.0/24", true, false)], 0, "\"True\" \"\"".into()),
            ("used", vec![cidr("a", "10.9.0.0/24", true, true), used.clone()], 99, "\"False\" \"Terminating\"".into()),
            (
                "held by another",
                vec![cidr("a", "10.9.0.0/24", true, true), cidr("b", "10.9.0.0/16", true, false), used.clone()],
                99,
                "finalizers []".into(),
            ),
            (
                "the other goes as well",
                vec![cidr("a", "10.9.0.0/24", true, true), cidr("b", "10.9.0.0/16", true, true), used.clone()],
                99,
                "\"False\" \"Terminating\"".into(),
            ),
            ("used elsewhere", vec![cidr("a", "10.8.0.0/24", true, true), used.clone()], 99, "finalizers []".into()),
            (
                "another family",
                vec![cidr("a", "::/0", true, true), address("fd00::1")],
                99,
                "\"False\" \"Terminating\"".into(),
            ),
            ("too early", vec![cidr("a", "10.8.0.0/24", true, true)], 65, String::new()),
        ] {
            assert_eq!(text(&plan(&objects, "a", second)), wanted, "{what}");
        }
    }
}
