//! Services, nodes and pools in; addresses, announcers and events out.
#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::sync::Arc;

use serde_json::{Value, json};

use super::*;
use crate::presence::{Presence, Seen, Silence};

/// Plans until nothing is written any more, as the control loop would; keeps what was told.
#[derive(Default)]
struct World {
    view: View,
    memory: Memory,
    now: i64,
    events: Vec<String>,
}

impl World {
    fn new(config: Option<Value>) -> Self {
        let mut world = Self { now: 1000, ..Self::default() };
        if let Some(data) = config {
            world.set::<ConfigMap>(json!({
                "metadata": {"namespace": "kube-system", "name": "klynge-load-balancer", "uid": "config"}, "data": data}));
        }
        for (name, last) in [("a", 1), ("b", 2), ("c", 3)] {
            world.node(name, last, true);
        }
        world
    }

    fn set<K>(&mut self, object: Value)
    where
        K: k8s_openapi::Resource + serde::de::DeserializeOwned,
    {
        let kind = K::KIND;
        let typed = Typed::decode_kind(kind, &serde_json::to_vec(&object).unwrap()).unwrap().unwrap();
        self.view.set(&typed);
    }

    fn node(&mut self, name: &str, last: u8, ready: bool) {
        self.node_with(name, last, ready, json!({}));
    }

    fn node_with(&mut self, name: &str, last: u8, ready: bool, labels: Value) {
        let ready = if ready { "True" } else { "Unknown" };
        self.set::<k8s_openapi::api::core::v1::Node>(json!({
            "metadata": {"name": name, "uid": name, "labels": labels,
                "annotations": {"klynge.io/subnets": "192.0.2.0/24,2001:db8::/64"}},
            "status": {
                "addresses": [{"type": "InternalIP", "address": format!("192.0.2.{last}")}, {"type": "InternalIP", "address": format!("2001:db8::{last}")}],
                "daemonEndpoints": {"kubeletEndpoint": {"Port": 10250}},
                "conditions": [{"type": "Ready", "status": ready, "lastTransitionTime": "1970-01-01T00:00:00Z"}]},
        }));
    }

    fn service(&mut self, name: &str, created: i64, spec: &Value, annotations: &Value) {
        let mut all =
            json!({"type": "LoadBalancer", "ipFamilies": ["IPv4"], "ports": [{"port": 80}], "selector": {"app": name}});
        for (key, value) in spec.as_object().unwrap() {
            all[key] = value.clone();
        }
        let created = Timestamp::from_second(created).unwrap().to_string();
        let mut object = json!({"metadata": {"namespace": "d", "name": name, "uid": name, "resourceVersion": "1",
            "creationTimestamp": created, "annotations": annotations}, "spec": all});
        if let Some(known) = self.view.services.get("d", name) {
            let known = meta::to_json(&**known);
            object["status"] = known["status"].clone();
            object["metadata"]["finalizers"] = known["metadata"]["finalizers"].clone();
            for key in [MARK, ANNOUNCED_BY] {
                let value = known["metadata"]["annotations"][key].clone();
                if !value.is_null() {
                    object["metadata"]["annotations"][key] = value;
                }
            }
        }
        self.set::<Service>(object);
    }

    fn settle(&mut self) {
        for _ in 0..50 {
            let now = Timestamp::from_second(self.now).unwrap();
            let plan = LoadBalancerController::plan(&self.view, &Key::default(), &mut self.memory, now);
            let mut wrote = false;
            for action in plan.actions {
                match action {
                    Action::Event(event) => self.events.push(said(&event)),
                    Action::Update { subresource, object, on_success, .. } => {
                        assert_eq!(subresource, "status");
                        self.events.extend(on_success.iter().map(said));
                        self.set::<Service>(object);
                        wrote = true;
                    }
                    Action::Patch { target, subresource, patch, .. } => {
                        assert_eq!(subresource, "status");
                        let mut object =
                            meta::to_json(&**self.view.services.get(&target.namespace, &target.name).unwrap());
                        let text = &patch["metadata"]["annotations"][ANNOUNCED_BY];
                        object["metadata"]["annotations"][ANNOUNCED_BY] = text.clone();
                        self.set::<Service>(object);
                        wrote = true;
                    }
                    other => panic!("unexpected {other:?}"),
                }
            }
            if !wrote {
                return;
            }
        }
        panic!("never settles: {:?}", self.events);
    }

    fn get(&self, name: &str) -> &Service {
        self.view.services.get("d", name).unwrap()
    }

    /// The addresses of a Service.
    fn has(&mut self, name: &str) -> String {
        self.settle();
        held(self.get(name)).iter().map(IpAddr::to_string).collect::<Vec<_>>().join(" ")
    }

    /// Who announces each address of a Service.
    fn by(&mut self, name: &str) -> String {
        self.settle();
        announced(self.get(name)).values().map(|by| by.node.clone()).collect::<Vec<_>>().join(" ")
    }

    fn told(&mut self) -> String {
        std::mem::take(&mut self.events).join("; ")
    }

    fn endpoints(&mut self, service: &str, nodes: &[&str]) {
        let endpoints: Vec<Value> =
            nodes.iter().map(|node| json!({"addresses": ["10.42.0.9"], "nodeName": node})).collect();
        self.set::<k8s_openapi::api::discovery::v1::EndpointSlice>(json!({
            "metadata": {"namespace": "d", "name": service, "uid": format!("slice {service}"), "labels": {"kubernetes.io/service-name": service}},
            "addressType": "IPv4", "endpoints": endpoints}));
    }

    fn seen(&mut self, node: &str, presence: Presence) {
        let mut picture = (*self.view.settings.seen).clone();
        picture.insert(node.to_owned(), Seen { presence, flapping: false, held: false });
        self.view.settings.seen = Arc::new(picture);
    }
}

fn said(event: &Event) -> String {
    format!("{} {}", event.reason, event.message)
}

fn pool(text: &str) -> Option<Value> {
    Some(json!({ "default": text }))
}

const NONE: fn() -> Value = || json!({});

#[test]
fn addresses_of_a_pool_are_given_kept_and_freed() {
    let mut world = World::new(pool("192.0.2.240-192.0.2.241"));
    world.service("late", 30, &NONE(), &NONE());
    world.service("early", 10, &NONE(), &NONE());
    assert_eq!((world.has("early"), world.has("late")), ("192.0.2.240".into(), "192.0.2.241".into()));
    let told = world.told();
    assert!(
        told.contains("EnsuringLoadBalancer Ensuring load balancer; ")
            && told.contains("EnsuredLoadBalancer Ensured load balancer"),
        "{told}"
    );
    let early = world.get("early");
    assert!(meta::has_finalizer(&early.metadata, FINALIZER));
    assert_eq!(
        early.status.as_ref().unwrap().load_balancer.as_ref().unwrap().ingress.as_ref().unwrap()[0].ip_mode.as_deref(),
        Some("VIP")
    );

    world.service("third", 5, &NONE(), &NONE());
    assert_eq!((world.has("third"), world.has("early")), (String::new(), "192.0.2.240".into()), "who holds keeps");
    let told = world.told();
    assert_eq!(
        told,
        "AllocationFailed Failed to allocate an address: pool \"default\" has no free IPv4 address: widen it in the ConfigMap \
        kube-system/klynge-load-balancer, or delete a Service of type LoadBalancer that nobody needs"
    );
    world.settle();
    assert_eq!(world.told(), "", "told once");

    // A restarted server knows only what the objects say.
    world.memory = Memory::default();
    assert_eq!((world.has("early"), world.has("late")), ("192.0.2.240".into(), "192.0.2.241".into()));

    world.service("early", 10, &json!({"type": "ClusterIP"}), &NONE());
    assert_eq!((world.has("early"), world.has("third")), (String::new(), "192.0.2.240".into()));
    let early = world.get("early");
    assert!(!meta::has_finalizer(&early.metadata, FINALIZER) && meta::annotation(&early.metadata, MARK).is_none());
    assert!(world.told().contains("DeletingLoadBalancer Deleting load balancer; "));
}

#[test]
fn a_deleted_service_lets_go() {
    let mut world = World::new(pool("192.0.2.240"));
    world.service("web", 1, &NONE(), &NONE());
    assert_eq!(world.has("web"), "192.0.2.240");
    let mut object = meta::to_json(world.get("web"));
    object["metadata"]["deletionTimestamp"] = json!("1970-01-01T00:10:00Z");
    world.set::<Service>(object);
    world.settle();
    assert_eq!(world.get("web").metadata.finalizers.as_deref(), Some(&[][..]));
    assert!(
        world
            .told()
            .ends_with("DeletingLoadBalancer Deleting load balancer; DeletedLoadBalancer Deleted load balancer")
    );
}

#[test]
fn wishes_are_granted_or_refused() {
    let config = json!({"default": "192.0.2.240-192.0.2.242, 2001:db8::100-2001:db8::101", "public": "203.0.113.8/30"});
    let dual = json!({"ipFamilies": ["IPv6", "IPv4"], "ipFamilyPolicy": "RequireDualStack"});
    for (what, spec, annotations, wanted, event) in [
        ("field", json!({"loadBalancerIP": "192.0.2.242"}), NONE(), "192.0.2.242", ""),
        ("annotation", NONE(), json!({"klynge.io/load-balancer-ips": "203.0.113.9"}), "203.0.113.9", ""),
        ("pool", NONE(), json!({"klynge.io/load-balancer-pool": "public"}), "203.0.113.8", ""),
        ("both families", dual.clone(), NONE(), "2001:db8::100 192.0.2.240", ""),
        (
            "of each",
            dual.clone(),
            json!({"klynge.io/load-balancer-ips": "192.0.2.241, 2001:db8::101"}),
            "2001:db8::101 192.0.2.241",
            "",
        ),
        ("one is missing", dual, json!({"klynge.io/load-balancer-pool": "public"}), "", "no IPv6 addresses"),
        (
            "one is enough",
            json!({"ipFamilies": ["IPv6", "IPv4"], "ipFamilyPolicy": "PreferDualStack"}),
            json!({"klynge.io/load-balancer-pool": "public"}),
            "203.0.113.8",
            "",
        ),
        ("no pool's", json!({"loadBalancerIP": "192.0.2.99"}), NONE(), "", "of no pool"),
        (
            "another pool's",
            json!({"loadBalancerIP": "192.0.2.240"}),
            json!({"klynge.io/load-balancer-pool": "public"}),
            "",
            "not \"public\"",
        ),
        ("no such pool", NONE(), json!({"klynge.io/load-balancer-pool": "x"}), "", "there is no pool \"x\""),
        ("nonsense", NONE(), json!({"klynge.io/load-balancer-ips": "web"}), "", "\"web\" is no address"),
        ("family", NONE(), json!({"klynge.io/load-balancer-ips": "2001:db8::100"}), "", "has not its family"),
        (
            "contradiction",
            json!({"loadBalancerIP": "192.0.2.241"}),
            json!({"klynge.io/load-balancer-ips": "192.0.2.240"}),
            "",
            "different",
        ),
        ("a class of others", json!({"loadBalancerClass": "example.com/other"}), NONE(), "", ""),
        (
            "a wish of our class",
            json!({"loadBalancerClass": "klynge.io/pool", "loadBalancerIP": "192.0.2.9"}),
            NONE(),
            "",
            "of no pool",
        ),
        ("our class", json!({"loadBalancerClass": "klynge.io/pool"}), NONE(), "192.0.2.240", ""),
        ("nodes' class", json!({"loadBalancerClass": "klynge.io/node"}), NONE(), "192.0.2.1 192.0.2.2 192.0.2.3", ""),
    ] {
        let mut world = World::new(Some(config.clone()));
        world.service("web", 1, &spec, &annotations);
        assert_eq!(world.has("web"), wanted, "{what}");
        let told = world.told();
        if event.is_empty() {
            assert!(!told.contains("Failed"), "{what}: {told}");
        } else {
            assert!(told.contains("AllocationFailed ") && told.contains(event), "{what}: {told}");
        }
        assert!(what != "a class of others" || told.is_empty(), "{told}");
    }
}

#[test]
fn an_address_is_shared_only_where_both_ask_for_it() {
    let same = |address: &str| json!({"klynge.io/allow-shared-ip": "k", "klynge.io/load-balancer-ips": address});
    let address = json!({"klynge.io/load-balancer-ips": "192.0.2.240"});
    let port = |port: i32| json!({"ports": [{"port": port, "protocol": "UDP"}]});
    let local = json!({"ports": [{"port": 53}], "externalTrafficPolicy": "Local", "selector": {"app": "first"}});
    for (what, first, spec, annotations, wanted, event) in [
        ("unasked", address.clone(), port(53), address, "", "belongs to Service d/first"),
        ("asked", same("192.0.2.240"), port(53), same("192.0.2.240"), "192.0.2.240", ""),
        (
            "one port",
            same("192.0.2.240"),
            json!({"ports": [{"port": 80}]}),
            same("192.0.2.240"),
            "",
            "both have port 80/TCP",
        ),
        ("policies", same("192.0.2.240"), local, same("192.0.2.240"), "", "the same selector"),
    ] {
        let mut world = World::new(pool("192.0.2.240-192.0.2.250"));
        world.service("first", 1, &NONE(), &first);
        world.service("second", 2, &spec, &annotations);
        assert_eq!((world.has("first"), world.has("second")), ("192.0.2.240".into(), wanted.into()), "{what}");
        let told = world.told();
        assert!(told.contains(event), "{what}: {told}");
        if !wanted.is_empty() {
            assert_eq!(announced(world.get("first")), announced(world.get("second")), "one decision");
        }
    }
}

#[test]
fn pools_change_at_run_time() {
    let mut world = World::new(pool("192.0.2.240/30"));
    world.service("web", 1, &NONE(), &NONE());
    assert_eq!(world.has("web"), "192.0.2.240");
    let config = |world: &mut World, text: &str| {
        let metadata = json!({"namespace": "kube-system", "name": "klynge-load-balancer", "uid": "config"});
        world.set::<ConfigMap>(json!({"metadata": metadata, "data": {"default": text}}));
    };
    config(&mut world, "192.0.2.250-");
    world.service("other", 2, &NONE(), &NONE());
    assert_eq!((world.has("web"), world.has("other")), ("192.0.2.240".into(), String::new()));
    assert!(world.told().contains("InvalidAddressPool pool \"default\": \"192.0.2.250-\" is no range"));
    config(&mut world, "192.0.2.250-192.0.2.251");
    assert_eq!((world.has("web"), world.has("other")), ("192.0.2.250".into(), "192.0.2.251".into()));
    // What hosts have, and what no host can have, is left out.
    config(&mut world, "192.0.2.0-192.0.2.4, 192.0.2.255");
    assert_eq!((world.has("web"), world.has("other")), ("192.0.2.4".into(), String::new()));
    let told = world.told();
    assert!(told.contains("AddressesLeftOut not given to Services, being nodes' or the ends of their subnets: 192.0.2.0, 192.0.2.1, 192.0.2.2, 192.0.2.3, 192.0.2.255"), "{told}");
    // Without the ConfigMap: the nodes' own.
    world.view.config_maps.remove(&Key::new("kube-system", "klynge-load-balancer"));
    assert_eq!(world.has("web"), "192.0.2.1 192.0.2.2 192.0.2.3");
    assert_eq!(world.by("web"), "");
    world.view.settings.incomplete = true;
    world.service("new", 3, &NONE(), &NONE());
    assert_eq!(world.has("new"), "", "nothing is decided before everything is known");
}

#[test]
fn services_without_class_may_be_left_to_others() {
    for (text, wanted, word) in [
        ("pool", "192.0.2.240", ""),
        ("node", "192.0.2.1 192.0.2.2 192.0.2.3", ""),
        ("none", "", ""),
        ("nobody", "192.0.2.240", "without-class: \"nobody\" is none of pool, node and none"),
    ] {
        let mut world = World::new(Some(json!({"default": "192.0.2.240", "without-class": text})));
        world.service("web", 1, &NONE(), &NONE());
        assert_eq!(world.has("web"), wanted, "{text}");
        assert!(world.told().contains(word), "{text}");
    }
    let mut world = World::new(None);
    world.service("web", 1, &json!({"loadBalancerClass": "klynge.io/pool"}), &NONE());
    assert_eq!(world.has("web"), "");
    assert!(world.told().contains("there are no address pools; for one: kubectl"));
    let mut world = World::new(Some(json!({})));
    world.service("web", 1, &NONE(), &NONE());
    assert_eq!(world.has("web"), "192.0.2.1 192.0.2.2 192.0.2.3", "no pools are as good as no ConfigMap");
    // What was ours is let go; what another load balancer then writes stays.
    let metadata = json!({"namespace": "kube-system", "name": "klynge-load-balancer", "uid": "config"});
    world.set::<ConfigMap>(json!({"metadata": metadata, "data": {"without-class": "none"}}));
    assert_eq!(world.has("web"), "");
    let mut object = meta::to_json(world.get("web"));
    object["status"]["loadBalancer"]["ingress"] = json!([{"ip": "203.0.113.1"}]);
    object["metadata"]["finalizers"] = json!([FINALIZER]);
    world.set::<Service>(object);
    world.told();
    assert_eq!((world.has("web"), world.told()), ("203.0.113.1".into(), String::new()));
}

#[test]
fn without_pools_nodes_own_addresses_answer() {
    let mut world = World::new(None);
    world.service("web", 1, &NONE(), &NONE());
    assert_eq!(world.has("web"), "192.0.2.1 192.0.2.2 192.0.2.3");
    world.told();
    world.node("b", 2, false);
    assert_eq!(world.has("web"), "192.0.2.1 192.0.2.3");
    assert_eq!(world.told(), "UpdatedLoadBalancer Updated load balancer with new hosts");
    world.node_with("c", 3, true, json!({"node.kubernetes.io/exclude-from-external-load-balancers": ""}));
    assert_eq!(world.has("web"), "192.0.2.1");
    world.node("a", 1, false);
    assert_eq!(world.has("web"), "192.0.2.1", "without any node nothing changes");
    world.node("a", 1, true);
    world.told();
    for (what, name, spec, annotations, event) in [
        (
            "port",
            "second",
            json!({"ports": [{"port": 443}, {"port": 80}]}),
            NONE(),
            "port 80/TCP of the nodes' addresses is Service d/web's",
        ),
        ("ssh", "ssh", json!({"ports": [{"port": 22}]}), NONE(), "the machines' own SSH"),
        ("agent", "agent", json!({"ports": [{"port": 10250}]}), NONE(), "the agents'"),
        (
            "wish",
            "wish",
            json!({"ports": [{"port": 81}], "loadBalancerIP": "203.0.113.1"}),
            NONE(),
            "is no ready node's address",
        ),
        (
            "pool",
            "pool",
            json!({"ports": [{"port": 82}]}),
            json!({"klynge.io/load-balancer-pool": "p"}),
            "there are none",
        ),
    ] {
        world.service(name, 0, &spec, &annotations);
        assert_eq!(world.has(name), "", "{what}");
        let told = world.told();
        assert!(
            told.starts_with("SyncLoadBalancerFailed Error syncing load balancer: ") && told.contains(event),
            "{what}: {told}"
        );
    }
    world.service("udp", 9, &json!({"ports": [{"port": 80, "protocol": "UDP"}], "ipFamilies": ["IPv6"]}), &NONE());
    assert_eq!(world.has("udp"), "2001:db8::1");
    world.set::<k8s_openapi::api::core::v1::Pod>(json!({"metadata": {"namespace": "d", "name": "p", "uid": "p"},
        "spec": {"nodeName": "a", "containers": [{"name": "c", "ports": [{"containerPort": 1, "hostPort": 90}]}]}}));
    world.service("taken", 9, &json!({"ports": [{"port": 90}]}), &NONE());
    assert_eq!(world.has("taken"), "");
    assert!(world.told().contains("port 90/TCP is a pod's hostPort on every node"));
    world.node("b", 2, true);
    assert_eq!(world.has("taken"), "192.0.2.2");
    // Local: only where endpoints are.
    world.service("local", 9, &json!({"ports": [{"port": 91}], "externalTrafficPolicy": "Local"}), &NONE());
    assert_eq!(world.has("local"), "");
    world.endpoints("local", &["b", "c"]);
    assert_eq!(world.has("local"), "192.0.2.2", "c is excluded");
}

#[test]
fn one_node_announces_and_another_takes_over() {
    let mut world = World::new(pool("192.0.2.16-192.0.2.79"));
    for number in 0..60 {
        world.service(&format!("s{number}"), number, &NONE(), &NONE());
    }
    world.settle();
    let all = |world: &mut World| -> Vec<String> { (0..60).map(|number| world.by(&format!("s{number}"))).collect() };
    let before = all(&mut world);
    let share = |all: &[String], name: &str| all.iter().filter(|one| *one == name).count();
    for name in ["a", "b", "c"] {
        assert!((10..=30).contains(&share(&before, name)), "{name}: {before:?}");
    }
    // Silence counts before any condition says so, and only what the silent node announced moves.
    world.told();
    world.seen("b", Presence::Silent(Silence::Fresh));
    let after = all(&mut world);
    assert_eq!(share(&after, "b"), 0);
    assert!(before.iter().zip(&after).all(|(before, after)| before == "b" || before == after));
    assert_eq!(world.told().matches("nodeAssigned announcing 192.0.2.").count(), share(&before, "b"));
    // It is back, but not for long enough.
    world.seen("b", Presence::Healthy);
    let node = meta::to_json(&**world.view.nodes.get("", "b").unwrap());
    let mut returned = node.clone();
    returned["status"]["conditions"][0]["lastTransitionTime"] = json!("1970-01-01T00:16:40Z");
    world.set::<k8s_openapi::api::core::v1::Node>(returned);
    assert_eq!(all(&mut world), after);
    world.now += 30;
    assert_eq!(all(&mut world), before);
    // Nobody answers where the agent is away.
    world.seen("a", Presence::AgentAway { by_lease: false });
    world.node_with("c", 3, true, json!({"node.kubernetes.io/exclude-from-external-load-balancers": "true"}));
    assert_eq!(share(&all(&mut world), "b"), 60);
    world.node("b", 2, false);
    assert_eq!(share(&all(&mut world), "b"), 60, "without a candidate nothing changes");
    assert!(world.told().contains("NotAnnounced nobody announces 192.0.2.16: no node is ready"));
}

#[test]
fn a_forged_decision_is_replaced() {
    let mut world = World::new(pool("192.0.2.240"));
    world.service("web", 1, &NONE(), &NONE());
    let by = world.by("web");
    for forged in
        [format!(r#"{{"192.0.2.240":{{"node":"{by}","since":{}}}}}"#, i64::MAX), "nonsense".into(), "{}".into()]
    {
        let mut object = meta::to_json(world.get("web"));
        object["metadata"]["annotations"][ANNOUNCED_BY] = json!(forged);
        world.set::<Service>(object);
        assert_eq!(world.by("web"), by);
        let since = announced(world.get("web")).values().next().unwrap().since;
        assert!((1_000_000..1_000_100).contains(&since), "{since}");
    }
}

#[test]
fn local_services_are_announced_where_their_endpoints_are() {
    let mut world = World::new(pool("192.0.2.240, 198.51.100.1"));
    world.service("web", 1, &json!({"externalTrafficPolicy": "Local"}), &NONE());
    assert_eq!((world.has("web"), world.by("web")), ("192.0.2.240".into(), String::new()));
    assert!(world.told().contains("no node of its network has a ready endpoint"));
    for node in ["c", "a", "b"] {
        world.endpoints("web", &[node]);
        assert_eq!(world.by("web"), node);
    }
    let since = announced(world.get("web")).values().next().unwrap().since;
    assert_eq!(since, 1_000_002, "decisions are numbered upwards within a millisecond");
    world.service("elsewhere", 2, &NONE(), &NONE());
    assert_eq!((world.has("elsewhere"), world.by("elsewhere")), ("198.51.100.1".into(), String::new()));
    assert!(world.told().contains("no ready node has a network that 198.51.100.1 is in"));
}

#[test]
fn only_what_matters_is_looked_at() {
    let mut world = World::new(pool("192.0.2.240"));
    let typed =
        |kind: &str, object: Value| Typed::decode_kind(kind, &serde_json::to_vec(&object).unwrap()).unwrap().unwrap();
    let service =
        |name: &str, spec: Value| typed("Service", json!({"metadata": {"namespace": "d", "name": name}, "spec": spec}));
    let node = |beat: &str, ready: &str| {
        typed(
            "Node",
            json!({"metadata": {"name": "a"}, "status": {"conditions": [
            {"type": "Ready", "status": ready, "lastHeartbeatTime": beat, "lastTransitionTime": "1970-01-01T00:00:00Z"}]}}),
        )
    };
    let slice = |name: &str| {
        typed(
            "EndpointSlice",
            json!({"metadata": {"namespace": "d", "name": "s", "labels": {"kubernetes.io/service-name": name}},
            "addressType": "IPv4", "endpoints": []}),
        )
    };
    let pod = |port: i32| {
        typed(
            "Pod",
            json!({"metadata": {"namespace": "d", "name": "p"}, "spec": {"containers": [
            {"name": "c", "ports": [{"containerPort": 1, "hostPort": port}]}]}}),
        )
    };
    let map = |name: &str| typed("ConfigMap", json!({"metadata": {"namespace": "kube-system", "name": name}}));
    let (early, late) = (node("1970-01-01T00:00:01Z", "True"), node("1970-01-01T00:00:02Z", "True"));
    let lost = node("1970-01-01T00:00:02Z", "Unknown");
    let check = |world: &World, old: Option<&Typed>, new: Option<&Typed>| {
        !LoadBalancerController::keys(&world.view, Change { old, new }).is_empty()
    };
    assert!(!check(&world, Some(&early), Some(&lost)), "without Services nothing matters");
    world.service("web", 1, &NONE(), &NONE());
    world.service("local", 1, &json!({"externalTrafficPolicy": "Local"}), &NONE());
    for (what, old, new, wanted) in [
        ("heartbeat", Some(early.clone()), Some(late), false),
        ("lost node", Some(early.clone()), Some(lost), true),
        ("node gone", Some(early), None, true),
        ("load balancer", None, Some(service("x", json!({"type": "LoadBalancer"}))), true),
        ("type changed away", Some(service("x", json!({"type": "LoadBalancer"}))), Some(service("x", json!({}))), true),
        ("another Service", None, Some(service("x", json!({"type": "NodePort"}))), false),
        ("another class", None, Some(service("x", json!({"type": "LoadBalancer", "loadBalancerClass": "a/b"}))), false),
        ("endpoints under policy Cluster", None, Some(slice("web")), false),
        ("endpoints under policy Local", None, Some(slice("local")), true),
        ("host port", None, Some(pod(80)), true),
        ("no host port", None, Some(pod(0)), false),
        ("pools", None, Some(map("klynge-load-balancer")), true),
        ("another map", None, Some(map("kube-dns")), false),
    ] {
        assert_eq!(check(&world, old.as_ref(), new.as_ref()), wanted, "{what}");
    }
}
