//! Gives Services of type LoadBalancer their addresses, from pools or from nodes, and says which node announces them (decision 0014).
//! Upstream's service controller does so for clouds; its events, finalizer and name are kept.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{ConfigMap, LoadBalancerIngress, LoadBalancerStatus, Service};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::action::{Action, Event, Plan};
use crate::controller::{Change, Controller};
use crate::meta;
use crate::view::{Key, Typed, View};

mod assign;
mod nodes;
mod pools;
#[cfg(test)]
mod tests;
mod wish;

use nodes::{Choice, NodeFacts};
use pools::{Pools, Range};
use wish::{Source, Wish, held};

/// Upstream's finalizer (KEP-980).
const FINALIZER: &str = "service.kubernetes.io/load-balancer-cleanup";
/// Says that the status is ours: `pool` or `node`.
const MARK: &str = "klynge.io/load-balancer";
/// Which node announces which address.
const ANNOUNCED_BY: &str = "klynge.io/announced-by";
const CONFIG_NAMESPACE: &str = "kube-system";
const CONFIG_NAME: &str = "klynge-load-balancer";
/// Services that are written in one plan.
const WRITES_PER_PLAN_MAX: usize = 64;
/// How soon to look again where not everything has been listed.
const INCOMPLETE_RETRY: SignedDuration = SignedDuration::from_millis(200);
/// A decision that claims to be later than this was written by somebody else.
const AHEAD_MAX_MS: i64 = 3_600_000;
/// How long what was told is remembered, at least, while it holds.
const REMEMBER: SignedDuration = SignedDuration::from_mins(5);

/// The controller. It has one key, so that two Services are never given one address by plans that do not see each other.
#[derive(Debug)]
pub struct LoadBalancerController;

/// What has been told, by what it is about, so that a sentence is told once.
#[derive(Debug, Default)]
pub struct Memory {
    told: BTreeMap<String, String>,
}

/// Who announces an address, since which decision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Announced {
    node: String,
    since: i64,
}

impl Controller for LoadBalancerController {
    const NAME: &'static str = "service-controller";
    type Memory = Memory;

    fn keys(view: &View, change: Change<'_>) -> Vec<Key> {
        let has_services = || view.services.all().any(|service| concerns(service));
        let matters = match (change.old, change.new) {
            (Some(Typed::Node(old)), Some(Typed::Node(new))) => {
                NodeFacts::of(old) != NodeFacts::of(new) && has_services()
            }
            _ => change.sides().any(|side| match side {
                Typed::Service(service) => concerns(service),
                Typed::ConfigMap(map) => is_config(map),
                Typed::Node(_) | Typed::ServiceCIDR(_) => has_services(),
                Typed::Pod(pod) => nodes::host_ports(pod).next().is_some() && has_services(),
                Typed::EndpointSlice(slice) => {
                    let name = meta::label(&slice.metadata, "kubernetes.io/service-name").unwrap_or_default();
                    let service = view.services.get(meta::namespace(&slice.metadata), name);
                    service.is_some_and(|service| concerns(service) && wish::is_local(service))
                }
                _ => false,
            }),
        };
        if matters { vec![Key::default()] } else { Vec::new() }
    }

    fn seen(_view: &View, _node: &str) -> Vec<Key> {
        vec![Key::default()]
    }

    fn plan(view: &View, _key: &Key, memory: &mut Memory, now: Timestamp) -> Plan {
        let config = view.config_maps.get(CONFIG_NAMESPACE, CONFIG_NAME);
        let mut services: Vec<&Service> = view.services.all().map(|one| &**one).filter(|one| concerns(one)).collect();
        let mut plan = Plan::default();
        if services.is_empty() && config.is_none() {
            return plan;
        }
        if view.settings.incomplete {
            // What looks free, or like no configuration, may only not have been listed yet.
            plan.requeue_at(now.checked_add(INCOMPLETE_RETRY).unwrap_or(now));
            return plan;
        }
        services.sort_by_key(|service| Key::of(&service.metadata));
        let nodes = nodes::facts(view);
        let mut telling = Telling { memory, present: BTreeSet::new(), events: Vec::new() };
        let pools = configured(view, config.map(|config| &**config), &nodes, &mut telling);
        let without_class = without_class(config.map(|config| &**config), &mut telling);
        let wishes: Vec<Option<Wish<'_>>> = services.iter().map(|service| Wish::of(service, without_class)).collect();
        let outcomes = outcomes(view, &nodes, pools.as_ref(), &wishes);
        let announced = last_announced(&services, now);
        let announcing = nodes::announcing(view, &nodes);
        let mut planning = Planning { view, announcing, now, announced, decided: BTreeMap::new(), telling, plan };
        for ((service, wish), outcome) in services.iter().zip(&wishes).zip(outcomes) {
            let wanted = match (wish, outcome) {
                (Some(wish), Some(outcome)) => planning.want(wish, outcome),
                // While the pools cannot be read nobody loses an address.
                (Some(_), None) => continue,
                (None, _) if meta::annotation(&service.metadata, MARK).is_some() => Wanted::default(),
                // Others serve it.
                (None, _) => continue,
            };
            if planning.plan.actions.len() >= WRITES_PER_PLAN_MAX {
                planning.plan.requeue_at(now);
            } else if let Some(action) = write(service, &wanted, &mut planning.telling) {
                planning.plan.actions.push(action);
            }
        }
        let Planning { telling: Telling { present, events, memory }, mut plan, .. } = planning;
        memory.told.retain(|about, _| present.contains(about));
        if !memory.told.is_empty() {
            plan.requeue_at(now.checked_add(REMEMBER).unwrap_or(now));
        }
        plan.actions.splice(0..0, events.into_iter().map(Action::Event));
        plan
    }
}

/// One plan in the making.
struct Planning<'a> {
    view: &'a View,
    /// Nodes that can announce.
    announcing: Vec<&'a NodeFacts>,
    now: Timestamp,
    /// What was decided last about each address; Services that share one have it from one decision.
    announced: BTreeMap<IpAddr, Announced>,
    decided: BTreeMap<IpAddr, Announced>,
    telling: Telling<'a>,
    plan: Plan,
}

/// Events of one plan: a sentence is told when it is new.
struct Telling<'m> {
    memory: &'m mut Memory,
    /// Those about whom something is to be said still.
    present: BTreeSet<String>,
    events: Vec<Event>,
}

impl Telling<'_> {
    /// Tells once what goes on to hold.
    fn state(&mut self, about: String, text: &str, event: impl FnOnce() -> Event) {
        if self.memory.told.get(&about).is_none_or(|told| told != text) {
            self.memory.told.insert(about.clone(), text.to_owned());
            self.events.push(event());
        }
        self.present.insert(about);
    }
}

/// What a Service should have.
#[derive(Default)]
struct Wanted {
    source: Option<Source>,
    addresses: Vec<IpAddr>,
    announced: BTreeMap<IpAddr, Announced>,
}

fn concerns(service: &Service) -> bool {
    let is_ours = meta::annotation(&service.metadata, MARK).is_some();
    is_ours || wish::is_load_balancer(service) && !wish::is_foreign(service)
}

fn is_config(map: &ConfigMap) -> bool {
    meta::namespace(&map.metadata) == CONFIG_NAMESPACE && meta::name(&map.metadata) == CONFIG_NAME
}

/// What serves Services without loadBalancerClass, if anything of ours does. While that cannot be read it is the pools, whose Services wait.
fn without_class(config: Option<&ConfigMap>, telling: &mut Telling<'_>) -> Option<Source> {
    let Some(config) = config else { return Some(Source::Nodes) };
    pools::without_class(config.data.as_ref().unwrap_or(&BTreeMap::new())).unwrap_or_else(|why| {
        let about = format!("{} without-class", meta::uid(&config.metadata));
        telling.state(about, &why, || Event::warning(config, "InvalidAddressPool", why.clone()));
        Some(Source::Pools)
    })
}

/// The pools; none while they cannot be read. Without the ConfigMap there are none, which is no error.
fn configured(
    view: &View,
    config: Option<&ConfigMap>,
    nodes: &[NodeFacts],
    telling: &mut Telling<'_>,
) -> Option<Pools> {
    let Some(config) = config else { return Some(Pools::default()) };
    let uid = meta::uid(&config.metadata);
    let warn = |telling: &mut Telling<'_>, reason: &str, text: String| {
        telling.state(format!("{uid} {reason}"), &text, || Event::warning(config, reason, text.clone()));
    };
    match Pools::read(config.data.as_ref().unwrap_or(&BTreeMap::new()), &ranges_of_the_cluster(view)) {
        Err(why) => {
            let text =
                format!("{why}. Until this is put right no Service gets an address from pools, and none loses one");
            warn(telling, "InvalidAddressPool", text);
            None
        }
        Ok(pools) => {
            let inside: Vec<String> = nodes::unusable(nodes)
                .into_iter()
                .filter(|address| pools.of(*address).is_some())
                .map(|address| address.to_string())
                .collect();
            if !inside.is_empty() {
                let text =
                    format!("not given to Services, being nodes' or the ends of their subnets: {}", inside.join(", "));
                warn(telling, "AddressesLeftOut", text);
            }
            Some(pools)
        }
    }
}

/// Ranges that no pool may touch, with what they are.
fn ranges_of_the_cluster(view: &View) -> Vec<(String, Range)> {
    let pods = view.settings.pod_ranges.iter().filter_map(|range| {
        let text = format!("the pods' range {}/{}", range.network, range.length);
        Some((text, Range::of_prefix(range.network, range.length.into())?))
    });
    let cidrs = view.service_cidrs.all().flat_map(|cidr| cidr.spec.iter().flat_map(|spec| spec.cidrs.iter().flatten()));
    let services = cidrs.filter_map(|cidr| Some((format!("the Services' range {cidr}"), Range::parse(cidr).ok()?)));
    pods.chain(services).collect()
}

/// What comes of each wish; none for those that stay as they are.
fn outcomes(
    view: &View,
    nodes: &[NodeFacts],
    pools: Option<&Pools>,
    wishes: &[Option<Wish<'_>>],
) -> Vec<Option<Result<Vec<IpAddr>, String>>> {
    let of = |source: Source| -> (Vec<usize>, Vec<&Wish<'_>>) {
        let all = wishes.iter().enumerate().filter_map(|(index, wish)| Some((index, wish.as_ref()?)));
        all.filter(|(_, wish)| wish.source == source).unzip()
    };
    let mut outcomes: Vec<Option<Result<Vec<IpAddr>, String>>> = vec![None; wishes.len()];
    if let Some(pools) = pools {
        let (indexes, wishes) = of(Source::Pools);
        let assigned = assign::assign(&wishes, pools, &nodes::unusable(nodes));
        for (index, outcome) in indexes.into_iter().zip(assigned) {
            outcomes[index] = Some(outcome);
        }
    }
    let (indexes, wishes) = of(Source::Nodes);
    if !wishes.is_empty() {
        let assigned = nodes::assign(view, nodes, &wishes, &nodes::all_host_ports(view));
        for (index, outcome) in indexes.into_iter().zip(assigned) {
            outcomes[index] = Some(outcome);
        }
    }
    outcomes
}

impl Planning<'_> {
    /// Turns an outcome into what the Service should have, and tells what stands in the way.
    fn want(&mut self, wish: &Wish<'_>, outcome: Result<Vec<IpAddr>, String>) -> Wanted {
        let uid = meta::uid(&wish.service.metadata);
        let addresses = match outcome {
            Ok(addresses) => addresses,
            Err(why) => {
                let (reason, text) = match wish.source {
                    Source::Pools => ("AllocationFailed", format!("Failed to allocate an address: {why}")),
                    Source::Nodes => ("SyncLoadBalancerFailed", format!("Error syncing load balancer: {why}")),
                };
                self.telling.state(uid.to_owned(), &text, || Event::warning(wish.service, reason, text.clone()));
                return Wanted { source: Some(wish.source), ..Wanted::default() };
            }
        };
        let mut wanted = Wanted { source: Some(wish.source), addresses, announced: BTreeMap::new() };
        if wish.source == Source::Pools {
            for address in &wanted.addresses {
                let decided = self.decided.get(address).cloned();
                if let Some(announced) = decided.or_else(|| self.decide(wish, *address)) {
                    self.decided.insert(*address, announced.clone());
                    wanted.announced.insert(*address, announced);
                }
            }
        }
        wanted
    }

    /// Who announces an address from now on; without a candidate who did.
    fn decide(&mut self, wish: &Wish<'_>, address: IpAddr) -> Option<Announced> {
        let by = self.announced.get(&address).cloned();
        let name = by.as_ref().map(|by| by.node.as_str());
        let chosen = match nodes::announcer(self.view, &self.announcing, wish, address, name, self.now) {
            Choice::Node(name, look_again) => {
                look_again.into_iter().for_each(|at| self.plan.requeue_at(at));
                name
            }
            Choice::Nobody(why) => {
                let text = format!("nobody announces {address}: {why}");
                let about = format!("{} {address}", meta::uid(&wish.service.metadata));
                self.telling.state(about, &text, || Event::warning(wish.service, "NotAnnounced", text.clone()));
                return by;
            }
        };
        let since = self.now.as_millisecond().max(by.as_ref().map_or(0, |by| by.since.saturating_add(1)));
        Some(by.filter(|by| by.node == chosen).unwrap_or(Announced { node: chosen, since }))
    }
}

fn announced(service: &Service) -> BTreeMap<IpAddr, Announced> {
    // What somebody else wrote there is written anew.
    meta::annotation(&service.metadata, ANNOUNCED_BY)
        .and_then(|text| serde_json::from_str(text).ok())
        .unwrap_or_default()
}

/// The last decision about each address.
fn last_announced(services: &[&Service], now: Timestamp) -> BTreeMap<IpAddr, Announced> {
    let latest = now.as_millisecond().saturating_add(AHEAD_MAX_MS);
    let mut last: BTreeMap<IpAddr, Announced> = BTreeMap::new();
    let all = services.iter().flat_map(|service| announced(service));
    for (address, by) in all.filter(|(_, by)| by.since <= latest) {
        match last.get(&address) {
            Some(known) if known.since >= by.since => {}
            _ => drop(last.insert(address, by)),
        }
    }
    last
}

/// The write that makes it so, unless it is so.
fn write(service: &Service, wanted: &Wanted, telling: &mut Telling<'_>) -> Option<Action> {
    let metadata = &service.metadata;
    let holds = held(service);
    let has_finalizer = meta::has_finalizer(metadata, FINALIZER);
    let mark = meta::annotation(metadata, MARK);
    let wanted_mark = wanted.source.map(|source| match source {
        Source::Pools => "pool",
        Source::Nodes => "node",
    });
    // One that waits has nothing to clean up.
    let wanted_mark = wanted_mark.filter(|_| !wanted.addresses.is_empty());
    let wants_finalizer = wanted_mark.is_some();
    let text = (!wanted.announced.is_empty()).then(|| serde_json::to_string(&wanted.announced).unwrap_or_default());
    let same_announced =
        announced(service) == wanted.announced && meta::annotation(metadata, ANNOUNCED_BY).is_some() == text.is_some();
    let moved = wanted
        .announced
        .iter()
        .filter(|(address, by)| announced(service).get(address).is_none_or(|before| before.node != by.node));
    for (address, by) in moved {
        let message = format!("announcing {address} from node \"{}\"", by.node);
        telling.events.push(Event::normal(service, "nodeAssigned", message));
    }
    if holds == wanted.addresses && has_finalizer == wants_finalizer && mark == wanted_mark {
        if same_announced {
            return None;
        }
        let patch = json!({"metadata": {"annotations": {ANNOUNCED_BY: text}}});
        return Some(Action::patch_unchanged(service, "status", patch));
    }
    let mut update = service.clone();
    let annotations = update.metadata.annotations.get_or_insert_default();
    for (key, value) in [(MARK, wanted_mark.map(str::to_owned)), (ANNOUNCED_BY, text)] {
        match value {
            Some(value) => drop(annotations.insert(key.to_owned(), value)),
            None => drop(annotations.remove(key)),
        }
    }
    let finalizers = update.metadata.finalizers.get_or_insert_default();
    finalizers.retain(|one| one != FINALIZER);
    if wants_finalizer {
        finalizers.push(FINALIZER.to_owned());
    }
    update.status.get_or_insert_default().load_balancer =
        Some(LoadBalancerStatus { ingress: ingress(&wanted.addresses) });
    let event = |reason: &str, message: &str| Event::normal(service, reason, message);
    let on_success = if wanted.addresses.is_empty() {
        telling.events.push(event("DeletingLoadBalancer", "Deleting load balancer"));
        event("DeletedLoadBalancer", "Deleted load balancer")
    } else if holds.is_empty() || wanted_mark == Some("pool") {
        telling.events.push(event("EnsuringLoadBalancer", "Ensuring load balancer"));
        event("EnsuredLoadBalancer", "Ensured load balancer")
    } else {
        event("UpdatedLoadBalancer", "Updated load balancer with new hosts")
    };
    let Action::Update { target, object, .. } = Action::update_status(&update) else { return None };
    Some(Action::Update { target, subresource: "status", object, on_success: Some(on_success) })
}

fn ingress(addresses: &[IpAddr]) -> Option<Vec<LoadBalancerIngress>> {
    let one = |address: &IpAddr| LoadBalancerIngress {
        ip: Some(address.to_string()),
        ip_mode: Some("VIP".to_owned()),
        ..LoadBalancerIngress::default()
    };
    (!addresses.is_empty()).then(|| addresses.iter().map(one).collect())
}
