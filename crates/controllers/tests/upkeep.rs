//! What keeps a cluster in order: namespaces, accounts, owners, endpoints, nodes, evictions, budgets.
#![expect(clippy::unwrap_used, reason = "tests")]

mod simulation;

use klynge_controllers::View;
use klynge_controllers::deployment::DeploymentController;
use klynge_controllers::disruption::DisruptionController;
use klynge_controllers::endpoint_slice::EndpointSliceController;
use klynge_controllers::endpoint_slice_mirroring::EndpointSliceMirroringController;
use klynge_controllers::endpoints::EndpointsController;
use klynge_controllers::garbage::GarbageCollector;
use klynge_controllers::namespace::NamespaceController;
use klynge_controllers::node_lifecycle::NodeLifecycleController;
use klynge_controllers::pod_garbage::PodGarbageCollector;
use klynge_controllers::replica_set::ReplicaSetController;
use klynge_controllers::root_ca::RootCaPublisher;
use klynge_controllers::service_account::ServiceAccountController;
use klynge_controllers::taint_eviction::TaintEvictionController;
use serde_json::{Value, json};
use simulation::{Cluster, condition, merge};

fn know_all_kinds(cluster: &mut Cluster) {
    let resources = View::resources().into_iter();
    cluster.view.settings.mirrored =
        resources.map(|resource| ((resource.group.clone(), resource.kind.clone()), resource)).collect();
}

fn namespace(name: &str) -> Value {
    json!({"kind": "Namespace", "metadata": {"name": name}, "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"}})
}

fn pod(name: &str, changes: Value) -> Value {
    let mut pod = json!({"kind": "Pod", "metadata": {"name": name, "namespace": "default", "labels": {"app": "web"}},
        "spec": {"containers": [{"name": "main", "image": "web", "ports": [{"name": "http", "containerPort": 8080}]}]}});
    merge(&mut pod, &changes);
    pod
}

fn deployment(replicas: i32) -> Value {
    json!({"kind": "Deployment", "metadata": {"name": "web", "namespace": "default"}, "spec": {
        "replicas": replicas, "selector": {"matchLabels": {"app": "web"}},
        "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "main", "image": "web"}]}}}})
}

#[test]
fn a_namespace_gets_its_account_and_ca_and_goes_with_everything_in_it() {
    let mut cluster = Cluster::new()
        .with::<ServiceAccountController>()
        .with::<RootCaPublisher>()
        .with::<NamespaceController>()
        .with::<DeploymentController>()
        .with::<ReplicaSetController>()
        .with::<GarbageCollector>();
    know_all_kinds(&mut cluster);
    cluster.view.settings.root_ca = "PEM".into();
    cluster.apply(namespace("default"));
    cluster.apply(namespace("other"));
    cluster.settle();
    assert!(cluster.get("ServiceAccount", "default", "default").is_some());
    assert_eq!(cluster.get("ConfigMap", "default", "kube-root-ca.crt").unwrap()["data"]["ca.crt"], "PEM");
    cluster.change("ConfigMap", "default", "kube-root-ca.crt", json!({"data": {"ca.crt": "forged"}}));
    cluster.delete("ServiceAccount", "default", "default");
    cluster.settle();
    assert!(cluster.get("ServiceAccount", "default", "default").is_some());
    assert_eq!(cluster.get("ConfigMap", "default", "kube-root-ca.crt").unwrap()["data"]["ca.crt"], "PEM");
    cluster.apply(deployment(3));
    cluster.apply(json!({"kind": "ConfigMap", "metadata": {"name": "held", "namespace": "default", "finalizers": ["example.com/hold"]}}));
    cluster.settle();
    cluster.delete("Namespace", "", "default");
    cluster.settle();
    cluster.pass(5);
    let going = cluster.get("Namespace", "", "default").unwrap();
    let remaining = condition(going, "NamespaceFinalizersRemaining").unwrap();
    assert_eq!(
        remaining["message"],
        "Some content in the namespace has finalizers remaining: example.com/hold in 1 resource instances"
    );
    assert_eq!(
        condition(going, "NamespaceContentRemaining").unwrap()["message"],
        "Some resources are remaining: configmaps. has 1 resource instances"
    );
    assert!(
        cluster.all("Pod").is_empty() && cluster.all("Deployment").is_empty() && cluster.all("ReplicaSet").is_empty()
    );
    cluster.change("ConfigMap", "default", "held", json!({"metadata": {"finalizers": []}}));
    cluster.settle();
    cluster.pass(5);
    assert!(cluster.get("Namespace", "", "default").is_none());
    assert!(cluster.objects.keys().all(|(_, namespace, _)| namespace != "default"), "{:?}", cluster.objects.keys());
    assert!(cluster.get("ServiceAccount", "other", "default").is_some());
}

#[test]
fn dependents_follow_their_owners() {
    let started = || {
        let mut cluster =
            Cluster::new().with::<DeploymentController>().with::<ReplicaSetController>().with::<GarbageCollector>();
        know_all_kinds(&mut cluster);
        cluster.apply(deployment(2));
        cluster.settle();
        assert_eq!((cluster.all("ReplicaSet").len(), cluster.all("Pod").len()), (1, 2));
        cluster
    };
    let mut cluster = started();
    cluster.delete("Deployment", "default", "web");
    cluster.settle();
    assert_eq!((cluster.all("ReplicaSet").len(), cluster.all("Pod").len()), (0, 0), "in the background");

    let mut cluster = started();
    cluster.change(
        "Deployment",
        "default",
        "web",
        json!({"metadata": {"finalizers": ["foregroundDeletion"], "deletionTimestamp": "2026-01-01T00:00:00Z"}}),
    );
    for _ in 0..50 {
        let owned = cluster.all("ReplicaSet").len();
        assert!(owned == 0 || cluster.get("Deployment", "default", "web").is_some(), "the owner goes last");
        cluster.step();
    }
    assert!(
        cluster.all("Deployment").is_empty() && cluster.all("ReplicaSet").is_empty() && cluster.all("Pod").is_empty(),
        "in the foreground"
    );

    let mut cluster = started();
    cluster.change(
        "Deployment",
        "default",
        "web",
        json!({"metadata": {"finalizers": ["orphan"], "deletionTimestamp": "2026-01-01T00:00:00Z"}}),
    );
    cluster.settle();
    assert!(cluster.all("Deployment").is_empty());
    let set = cluster.all("ReplicaSet")[0];
    assert!(set["metadata"]["ownerReferences"].as_array().is_none_or(Vec::is_empty), "orphaned");
    assert_eq!(cluster.all("Pod").len(), 2);

    let mut cluster = started();
    cluster.apply(json!({"kind": "ConfigMap", "metadata": {"name": "stray", "namespace": "default",
        "ownerReferences": [{"apiVersion": "v1", "kind": "ConfigMap", "name": "never", "uid": "nobody"}]}}));
    cluster.apply(json!({"kind": "ConfigMap", "metadata": {"name": "unknown", "namespace": "default",
        "ownerReferences": [{"apiVersion": "example.com/v1", "kind": "Widget", "name": "w", "uid": "somebody"}]}}));
    cluster.settle();
    assert!(cluster.get("ConfigMap", "default", "stray").is_none(), "an owner that never was counts as gone");
    assert!(cluster.get("ConfigMap", "default", "unknown").is_some(), "of unknown kinds nothing is concluded");
}

fn endpoints_of(cluster: &Cluster) -> Vec<(String, bool, bool, bool)> {
    let slices = cluster.all("EndpointSlice");
    let endpoints = slices.iter().flat_map(|slice| slice["endpoints"].as_array().unwrap().iter());
    let mut seen: Vec<(String, bool, bool, bool)> = endpoints
        .map(|endpoint| {
            let flag = |name: &str| endpoint["conditions"][name].as_bool().unwrap();
            (
                endpoint["targetRef"]["name"].as_str().unwrap().to_owned(),
                flag("ready"),
                flag("serving"),
                flag("terminating"),
            )
        })
        .collect();
    seen.sort();
    seen
}

fn service(changes: Value) -> Value {
    let mut service = json!({"kind": "Service", "metadata": {"name": "web", "namespace": "default", "labels": {"team": "a"}}, "spec": {
        "selector": {"app": "web"}, "ipFamilies": ["IPv4"], "ports": [{"name": "http", "port": 80, "targetPort": "http", "protocol": "TCP"}]}});
    merge(&mut service, &changes);
    service
}

#[test]
fn endpoints_follow_readiness_and_termination() {
    let mut cluster = Cluster::new().with::<EndpointSliceController>().with::<EndpointsController>();
    cluster.apply(
        json!({"kind": "Node", "metadata": {"name": "node-a", "labels": {"topology.kubernetes.io/zone": "z1"}}}),
    );
    cluster.apply(service(json!({})));
    cluster.settle();
    assert_eq!(
        (cluster.all("EndpointSlice").len(), endpoints_of(&cluster)),
        (1, vec![]),
        "an empty slice says that nothing is there"
    );
    cluster.never_ready.insert("web".into());
    cluster.apply(pod("starting", json!({"status": {"phase": "Running", "podIP": "10.0.9.9"}})));
    cluster.apply(pod(
        "going",
        json!({"spec": {"nodeName": "node-a"}, "metadata": {"finalizers": ["x"]},
        "status": {"phase": "Running", "podIP": "10.0.9.8", "conditions": [{"type": "Ready", "status": "True"}]}}),
    ));
    cluster.settle();
    assert_eq!(endpoints_of(&cluster), [("going".into(), true, true, false), ("starting".into(), false, false, false)]);
    let legacy = &cluster.get("Endpoints", "default", "web").unwrap()["subsets"][0];
    assert_eq!(
        (&legacy["addresses"][0]["ip"], &legacy["notReadyAddresses"][0]["ip"]),
        (&json!("10.0.9.8"), &json!("10.0.9.9"))
    );
    assert_eq!(legacy["ports"][0], json!({"name": "http", "port": 8080, "protocol": "TCP"}));
    let slice = cluster.all("EndpointSlice")[0].clone();
    assert_eq!(slice["ports"][0], json!({"name": "http", "port": 8080, "protocol": "TCP"}));
    assert_eq!(
        slice["metadata"]["labels"],
        json!({"team": "a", "kubernetes.io/service-name": "web", "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io"})
    );
    let going = slice["endpoints"]
        .as_array()
        .unwrap()
        .iter()
        .find(|endpoint| endpoint["targetRef"]["name"] == "going")
        .unwrap();
    assert_eq!((&going["nodeName"], &going["zone"]), (&json!("node-a"), &json!("z1")));
    cluster.change("Pod", "default", "going", json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}));
    cluster.step();
    assert_eq!(endpoints_of(&cluster)[0], ("going".into(), false, true, true), "a terminating pod still serves");
    cluster.apply(service(json!({"spec": {"publishNotReadyAddresses": true}})));
    cluster.settle();
    assert!(endpoints_of(&cluster).iter().all(|(_, ready, ..)| *ready));
}

#[test]
fn hints_say_whom_an_endpoint_is_for() {
    let mut cluster = Cluster::new().with::<EndpointSliceController>();
    cluster.apply(
        json!({"kind": "Node", "metadata": {"name": "node-a", "labels": {"topology.kubernetes.io/zone": "z1"}}}),
    );
    cluster.apply(json!({"kind": "Node", "metadata": {"name": "nowhere"}}));
    cluster.never_ready.insert("web".into());
    let running = |name: &str, node: &str, address: &str, ready: &str| {
        pod(
            name,
            json!({"spec": {"nodeName": node}, "status": {"phase": "Running", "podIP": address,
                "conditions": [{"type": "Ready", "status": ready}]}}),
        )
    };
    cluster.apply(running("one", "node-a", "10.0.9.1", "True"));
    cluster.apply(running("two", "nowhere", "10.0.9.2", "True"));
    cluster.apply(running("starting", "node-a", "10.0.9.3", "False"));
    let hints = |cluster: &mut Cluster, changes: Value| {
        cluster.apply(service(changes));
        cluster.settle();
        let slices = cluster.all("EndpointSlice");
        let of = |name: &str| {
            let mut endpoints = slices.iter().flat_map(|slice| slice["endpoints"].as_array().unwrap().iter());
            endpoints.find(|endpoint| endpoint["targetRef"]["name"] == name).unwrap()["hints"].clone()
        };
        assert_eq!(of("starting"), Value::Null, "only ready endpoints are for somebody");
        (of("one"), of("two"))
    };
    let zone = json!([{"name": "z1"}]);
    let distribution = |name: &str| json!({"spec": {"trafficDistribution": name}});
    assert_eq!(hints(&mut cluster, json!({})), (Value::Null, Value::Null));
    for name in ["PreferClose", "PreferSameZone"] {
        assert_eq!(hints(&mut cluster, distribution(name)), (json!({"forZones": zone}), Value::Null), "{name}");
    }
    assert_eq!(
        hints(&mut cluster, distribution("PreferSameNode")),
        (json!({"forZones": zone, "forNodes": [{"name": "node-a"}]}), json!({"forNodes": [{"name": "nowhere"}]}))
    );
    let mut annotated = distribution("PreferSameNode");
    annotated["metadata"] = json!({"annotations": {"service.kubernetes.io/topology-mode": "Auto"}});
    assert_eq!(hints(&mut cluster, annotated), (Value::Null, Value::Null), "the annotation outranks the field");
    assert_eq!(hints(&mut cluster, json!({})), (Value::Null, Value::Null), "hints go with the field");
}

#[test]
fn topology_aware_hints_share_endpoints_among_zones() {
    let mut cluster = Cluster::new().with::<EndpointSliceController>();
    let node = |name: &str, zone: &str, ready: &str| {
        json!({"kind": "Node", "metadata": {"name": name, "labels": {"topology.kubernetes.io/zone": zone}},
            "status": {"allocatable": {"cpu": "2"}, "conditions": [{"type": "Ready", "status": ready}]}})
    };
    cluster.apply(node("node-a", "z1", "True"));
    cluster.apply(node("node-b", "z2", "True"));
    for number in 1..=4 {
        cluster.apply(pod(
            &format!("p{number}"),
            json!({"spec": {"nodeName": "node-a"}, "status": {"phase": "Running", "podIP": format!("10.0.9.{number}"),
                "conditions": [{"type": "Ready", "status": "True"}]}}),
        ));
    }
    let aware = json!({"metadata": {"annotations": {"service.kubernetes.io/topology-mode": "Auto"}}});
    let state = |cluster: &mut Cluster| {
        cluster.settle();
        let slices = cluster.all("EndpointSlice");
        let endpoints = slices.iter().flat_map(|slice| slice["endpoints"].as_array().unwrap());
        let zones = endpoints.map(|one| one["hints"]["forZones"][0]["name"].as_str().unwrap_or("-").to_owned());
        let mut zones: Vec<String> = zones.collect();
        zones.sort();
        let said = |event: &klynge_controllers::Event| format!("{} {}", event.reason, event.message);
        let told: Vec<String> = std::mem::take(&mut cluster.events).iter().map(said).collect();
        (zones.join(" "), told.join("; "))
    };
    cluster.apply(service(aware.clone()));
    let enabled = "TopologyAwareHintsEnabled Topology Aware Hints has been enabled, addressType: IPv4";
    assert_eq!(state(&mut cluster), ("z1 z1 z2 z2".into(), enabled.into()));
    cluster.apply(node("node-b", "z2", "Unknown"));
    let insufficient = "TopologyAwareHintsDisabled Insufficient Node information: allocatable CPU or zone not specified on one or more nodes, addressType: IPv4";
    assert_eq!(state(&mut cluster), ("- - - -".into(), insufficient.into()));
    assert_eq!(state(&mut cluster).1, "", "told once");
    cluster.apply(node("node-b", "z2", "True"));
    assert_eq!(state(&mut cluster), ("z1 z1 z2 z2".into(), enabled.into()));
    cluster.apply(service(json!({"metadata": {"annotations": {"service.kubernetes.io/topology-mode": "Disabled"}}})));
    let disabled = "TopologyAwareHintsDisabled Topology Aware Hints has been disabled, addressType: IPv4";
    assert_eq!(state(&mut cluster), ("- - - -".into(), disabled.into()));
}

#[test]
fn slices_hold_a_hundred_and_change_as_little_as_possible() {
    let mut cluster = Cluster::new().with::<EndpointSliceController>();
    cluster.apply(service(json!({"spec": {"ports": [{"port": 80, "targetPort": 8080}]}})));
    for index in 0..250 {
        cluster.apply(pod(&format!("p{index:03}"), json!({})));
    }
    cluster.settle();
    let sizes = |cluster: &Cluster| {
        let mut sizes: Vec<usize> =
            cluster.all("EndpointSlice").iter().map(|slice| slice["endpoints"].as_array().unwrap().len()).collect();
        sizes.sort_unstable();
        sizes
    };
    assert_eq!(sizes(&cluster), [50, 100, 100]);
    let versions = |cluster: &Cluster| -> Vec<Value> {
        cluster.all("EndpointSlice").iter().map(|slice| slice["metadata"]["resourceVersion"].clone()).collect()
    };
    let before = versions(&cluster);
    cluster.delete("Pod", "default", "p000");
    cluster.settle();
    let changed = versions(&cluster).iter().zip(&before).filter(|(now, before)| now != before).count();
    assert_eq!((changed, cluster.all("EndpointSlice").len()), (1, 3));
    for index in 0..250 {
        cluster.delete("Pod", "default", &format!("p{index:03}"));
    }
    cluster.settle();
    assert_eq!(sizes(&cluster), [0]);
}

fn node(ready: &str) -> Value {
    json!({"kind": "Node", "metadata": {"name": "node-a"}, "spec": {}, "status": {"conditions": [
        {"type": "Ready", "status": ready, "lastHeartbeatTime": "2026-01-01T00:00:00Z"}]}})
}

fn taints(cluster: &Cluster) -> Vec<String> {
    let taints = cluster.get("Node", "", "node-a").unwrap()["spec"]["taints"].as_array().cloned().unwrap_or_default();
    let mut texts: Vec<String> = taints
        .iter()
        .map(|taint| format!("{}:{}", taint["key"].as_str().unwrap(), taint["effect"].as_str().unwrap()))
        .collect();
    texts.sort();
    texts
}

#[test]
fn a_silent_node_is_tainted_its_endpoints_leave_and_its_pods_after_their_time() {
    let mut cluster = Cluster::new()
        .with::<NodeLifecycleController>()
        .with::<TaintEvictionController>()
        .with::<EndpointSliceController>()
        .with::<PodGarbageCollector>();
    cluster.apply(node("True"));
    cluster.apply(json!({"kind": "Lease", "metadata": {"name": "node-a", "namespace": "kube-node-lease"},
        "spec": {"leaseDurationSeconds": 10, "renewTime": "2026-01-01T00:00:00.000000Z"}}));
    cluster.apply(service(json!({})));
    let tolerant = json!([{"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}]);
    cluster.apply(pod("patient", json!({"spec": {"tolerations": tolerant}})));
    cluster.apply(pod("forever", json!({"spec": {"tolerations": [{"operator": "Exists"}]}})));
    cluster.apply(pod("impatient", json!({})));
    cluster.settle();
    assert_eq!((taints(&cluster), cluster.all("Pod").len()), (vec![], 3));
    for second in 1..=30 {
        cluster.pass(1);
        if second % 5 == 0 {
            cluster.change("Lease", "kube-node-lease", "node-a", json!({"spec": {"renewTime": cluster.now}}));
            cluster.settle();
        }
    }
    assert_eq!(taints(&cluster), Vec::<String>::new(), "a node that renews its lease is left alone");
    cluster.pass(11);
    assert_eq!(
        taints(&cluster),
        ["node.kubernetes.io/unreachable:NoExecute", "node.kubernetes.io/unreachable:NoSchedule"]
    );
    let ready = condition(cluster.get("Node", "", "node-a").unwrap(), "Ready").unwrap().clone();
    assert_eq!(
        (&ready["status"], &ready["reason"], &ready["message"]),
        (&json!("Unknown"), &json!("NodeStatusUnknown"), &json!("Kubelet stopped posting node status."))
    );
    assert!(endpoints_of(&cluster).iter().all(|(_, ready, ..)| !ready), "{:?}", endpoints_of(&cluster));
    let names = |cluster: &Cluster| -> Vec<String> {
        cluster.all("Pod").iter().map(|pod| pod["metadata"]["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names(&cluster), ["forever", "patient"]);
    cluster.pass(290);
    assert_eq!(names(&cluster), ["forever", "patient"], "five minutes are not over");
    cluster.pass(15);
    assert_eq!(names(&cluster), ["forever"]);
    assert!(cluster.messages().contains(&"TaintManagerEviction: Marking for deletion Pod default/patient".to_owned()));
    // The node comes back.
    cluster.change("Lease", "kube-node-lease", "node-a", json!({"spec": {"renewTime": cluster.now}}));
    cluster.change(
        "Node",
        "",
        "node-a",
        json!({"status": {"conditions": [{"type": "Ready", "status": "True", "lastHeartbeatTime": cluster.now}]}}),
    );
    cluster.settle();
    assert_eq!(taints(&cluster), Vec::<String>::new());
    // And goes for good.
    cluster.delete("Node", "", "node-a");
    cluster.settle();
    assert_eq!(names(&cluster), ["forever"]);
    cluster.pass(41);
    assert_eq!(names(&cluster), Vec::<String>::new());
}

#[test]
fn a_nodes_own_clock_decides_nothing() {
    let mut cluster = Cluster::new().with::<NodeLifecycleController>();
    // A day ahead when it reports; then its clock is set right, and is a day behind at last. It renews its lease all the time.
    let mut ahead = node("True");
    ahead["status"]["conditions"][0]["lastHeartbeatTime"] = json!("2027-01-01T00:00:00Z");
    cluster.apply(ahead);
    let lease = |second: usize, year: i32| json!({"spec": {"renewTime": format!("{year}-01-01T00:{:02}:{:02}.000000Z", second / 60, second % 60)}});
    cluster.apply(json!({"kind": "Lease", "metadata": {"name": "node-a", "namespace": "kube-node-lease"},
        "spec": {"leaseDurationSeconds": 40, "renewTime": "2027-01-01T00:00:00.000000Z"}}));
    cluster.settle();
    for second in (10..300).step_by(10) {
        cluster.pass(10);
        cluster.change("Lease", "kube-node-lease", "node-a", lease(second, if second < 150 { 2026 } else { 2025 }));
        cluster.settle();
        assert_eq!(taints(&cluster), Vec::<String>::new(), "after {second} s");
    }
    cluster.pass(41);
    assert_eq!(taints(&cluster).len(), 2, "silence is silence, whatever the clock says");
}

#[test]
fn conditions_and_cordons_become_taints_and_other_taints_stay() {
    let mut cluster = Cluster::new().with::<NodeLifecycleController>();
    cluster.apply(node("False"));
    cluster.change(
        "Node",
        "",
        "node-a",
        json!({"spec": {"unschedulable": true, "taints": [{"key": "mine", "effect": "NoSchedule"}]}}),
    );
    cluster.settle();
    assert_eq!(
        taints(&cluster),
        [
            "mine:NoSchedule",
            "node.kubernetes.io/not-ready:NoExecute",
            "node.kubernetes.io/not-ready:NoSchedule",
            "node.kubernetes.io/unschedulable:NoSchedule"
        ]
    );
    cluster.change(
        "Node",
        "",
        "node-a",
        json!({"spec": {"unschedulable": null}, "status": {"conditions": [
        {"type": "Ready", "status": "True"}, {"type": "DiskPressure", "status": "True"}]}}),
    );
    cluster.settle();
    assert_eq!(taints(&cluster), ["mine:NoSchedule", "node.kubernetes.io/disk-pressure:NoSchedule"]);
}

#[test]
fn budgets_allow_what_they_say() {
    let check = |spec: Value, healthy: i64, desired: i64, expected: i64, allowed: i64| {
        let mut cluster =
            Cluster::new().with::<DeploymentController>().with::<ReplicaSetController>().with::<DisruptionController>();
        cluster.apply(deployment(4));
        let mut budget = json!({"kind": "PodDisruptionBudget", "metadata": {"name": "web", "namespace": "default"}, "spec": {"selector": {"matchLabels": {"app": "web"}}}});
        merge(&mut budget["spec"], &spec);
        cluster.apply(budget);
        cluster.settle();
        let budget = cluster.get("PodDisruptionBudget", "default", "web").unwrap();
        let count = |field: &str| budget["status"][field].as_i64().unwrap();
        assert_eq!(
            (count("currentHealthy"), count("desiredHealthy"), count("expectedPods"), count("disruptionsAllowed")),
            (healthy, desired, expected, allowed),
            "{spec}"
        );
        let reason = if allowed > 0 { "SufficientPods" } else { "InsufficientPods" };
        assert_eq!(condition(budget, "DisruptionAllowed").unwrap()["reason"], reason);
    };
    check(json!({"minAvailable": 3}), 4, 3, 4, 1);
    check(json!({"minAvailable": "50%"}), 4, 2, 4, 2);
    check(json!({"maxUnavailable": 1}), 4, 3, 4, 1);
    check(json!({"maxUnavailable": "30%"}), 4, 2, 4, 2);
    check(json!({"minAvailable": 5}), 4, 5, 4, 0);
    check(json!({"minAvailable": 1, "selector": {"matchLabels": {"app": "none"}}}), 0, 1, 0, 0);
}

#[test]
fn endpoints_made_by_hand_are_mirrored_and_no_others() {
    let mut cluster = Cluster::new()
        .with::<EndpointSliceController>()
        .with::<EndpointsController>()
        .with::<EndpointSliceMirroringController>();
    cluster.apply(service(json!({"spec": {"selector": null, "ports": [{"port": 80}]}})));
    let by_hand = |ready: &str, not_ready: Value| {
        json!({"kind": "Endpoints", "metadata": {"name": "web", "namespace": "default"}, "subsets": [
            {"addresses": [{"ip": ready}, {"ip": "fd00::1"}], "notReadyAddresses": not_ready, "ports": [{"port": 8080}]}]})
    };
    let mirrored = |cluster: &Cluster| -> Vec<(String, String, bool)> {
        let slices = cluster.all("EndpointSlice");
        let endpoints = slices.iter().flat_map(|slice| {
            let family = slice["addressType"].as_str().unwrap().to_owned();
            slice["endpoints"].as_array().unwrap().iter().map(move |endpoint| {
                (
                    family.clone(),
                    endpoint["addresses"][0].as_str().unwrap().to_owned(),
                    endpoint["conditions"]["ready"].as_bool().unwrap(),
                )
            })
        });
        let mut endpoints: Vec<_> = endpoints.collect();
        endpoints.sort();
        endpoints
    };
    let row = |family: &str, address: &str, ready: bool| (family.to_owned(), address.to_owned(), ready);
    cluster.apply(by_hand("192.0.2.1", json!([{"ip": "192.0.2.9"}])));
    cluster.settle();
    assert_eq!(
        mirrored(&cluster),
        [row("IPv4", "192.0.2.1", true), row("IPv4", "192.0.2.9", false), row("IPv6", "fd00::1", true)]
    );
    cluster.apply(by_hand("192.0.2.2", json!(null)));
    cluster.settle();
    assert_eq!(mirrored(&cluster), [row("IPv4", "192.0.2.2", true), row("IPv6", "fd00::1", true)]);
    cluster.change(
        "Endpoints",
        "default",
        "web",
        json!({"metadata": {"labels": {"endpointslice.kubernetes.io/skip-mirror": "true"}}}),
    );
    cluster.settle();
    assert_eq!(mirrored(&cluster), []);
    // With a selector the Endpoints belong to their controller, and the slices to the other one.
    cluster.apply(pod("behind", json!({})));
    cluster.apply(service(json!({})));
    cluster.change(
        "Endpoints",
        "default",
        "web",
        json!({"metadata": {"labels": {"endpointslice.kubernetes.io/skip-mirror": null}}}),
    );
    cluster.settle();
    assert_eq!((endpoints_of(&cluster).len(), cluster.all("EndpointSlice").len()), (1, 1));
}
