//! What rows make of objects: defaults, preparation, validation, columns. Objects are written as JSON.

#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

use kinds::{Grace, Resource, table};
use klynge_kinds as kinds;
use object::{Cause, GroupVersionKind, Limits, Value, json};

fn value(text: &str) -> Value {
    json::decode(text.as_bytes(), &Limits::default()).unwrap_or_else(|error| panic!("{text}: {error}")).value
}

fn row(api_version: &str, kind: &str) -> &'static Resource {
    table().by_kind(&GroupVersionKind::parse(api_version, kind)).unwrap()
}

/// An object with metadata, defaulted and prepared as the write door does it.
fn made(api_version: &str, kind: &str, body: &str) -> Value {
    let mut object = value(body);
    object.set(&["apiVersion"], api_version.into());
    object.set(&["kind"], kind.into());
    let row = row(api_version, kind);
    if object.str_at(&["metadata", "name"]).is_none() {
        object.set(&["metadata", "name"], "one".into());
    }
    object.set(&["metadata", "uid"], "u-1".into());
    if row.namespaced {
        object.set(&["metadata", "namespace"], "default".into());
    }
    row.default(&mut object);
    row.prepare_create(&mut object);
    object
}

fn said(causes: &[Cause]) -> Vec<String> {
    causes.iter().map(|cause| format!("{}: {}", cause.field, cause.message)).collect()
}

fn problems(api_version: &str, kind: &str, body: &str) -> Vec<String> {
    said(&row(api_version, kind).validate(&made(api_version, kind, body)))
}

const POD: &str = r#"{"spec":{"containers":[{"name":"c","image":"nginx"}]}}"#;
const TEMPLATE: &str = r#"{"metadata":{"labels":{"app":"x"}},"spec":{"containers":[{"name":"c","image":"i:1"}]}}"#;

fn workload(rest: &str) -> String {
    format!(r#"{{"spec":{{"selector":{{"matchLabels":{{"app":"x"}}}},"template":{TEMPLATE}{rest}}}}}"#)
}

#[test]
fn a_pod_gets_its_defaults() {
    let pod = made("v1", "Pod", POD);
    let spec = value(
        r#"{"containers":[{"name":"c","image":"nginx","imagePullPolicy":"Always","resources":{},
            "terminationMessagePath":"/dev/termination-log","terminationMessagePolicy":"File"}],
            "dnsPolicy":"ClusterFirst","enableServiceLinks":true,"restartPolicy":"Always","schedulerName":"default-scheduler",
            "securityContext":{},"terminationGracePeriodSeconds":30}"#,
    );
    assert_eq!(pod.get("spec"), Some(&spec));
    assert_eq!(pod.get("status"), Some(&value(r#"{"phase":"Pending","qosClass":"BestEffort"}"#)));
    assert_eq!(pod.i64_at(&["metadata", "generation"]), Some(1));
    assert_eq!(said(&row("v1", "Pod").validate(&pod)), Vec::<String>::new());
}

#[test]
fn containers_get_what_depends_on_them() {
    for (container, path, expected) in [
        (r#"{"image":"a:1"}"#, &["imagePullPolicy"][..], r#""IfNotPresent""#),
        (r#"{"image":"h:5000/a"}"#, &["imagePullPolicy"], r#""Always""#),
        (r#"{"image":"a@sha256:0"}"#, &["imagePullPolicy"], r#""IfNotPresent""#),
        (r#"{"image":"a","ports":[{"containerPort":80}]}"#, &["ports"], r#"[{"containerPort":80,"protocol":"TCP"}]"#),
        (
            r#"{"image":"a","readinessProbe":{"httpGet":{"port":80}}}"#,
            &["readinessProbe"],
            r#"{"httpGet":{"port":80,"path":"/","scheme":"HTTP"},"timeoutSeconds":1,"periodSeconds":10,"successThreshold":1,"failureThreshold":3}"#,
        ),
        (
            r#"{"image":"a","resources":{"limits":{"cpu":"1","memory":"1Gi"},"requests":{"cpu":"500m"}}}"#,
            &["resources", "requests"],
            r#"{"cpu":"500m","memory":"1Gi"}"#,
        ),
    ] {
        let mut pod = value(r#"{"spec":{}}"#);
        pod.set(&["spec", "containers"], Value::Array(vec![value(container)]));
        let pod = made("v1", "Pod", &String::from_utf8(json::encode(&pod)).unwrap());
        let found = pod.at(&["spec", "containers"]).unwrap().as_array().unwrap()[0].at(path);
        assert_eq!(found, Some(&value(expected)), "{container}");
    }
    let host = made(
        "v1",
        "Pod",
        r#"{"spec":{"hostNetwork":true,"containers":[{"name":"c","image":"i","ports":[{"containerPort":80}]}]}}"#,
    );
    assert_eq!(
        host.at(&["spec", "containers"]).unwrap().as_array().unwrap()[0].get("ports"),
        Some(&value(r#"[{"containerPort":80,"hostPort":80,"protocol":"TCP"}]"#))
    );
}

#[test]
fn service_quality_follows_requests() {
    for (resources, expected) in [
        ("{}", "BestEffort"),
        (r#"{"requests":{"cpu":"1"}}"#, "Burstable"),
        (r#"{"limits":{"cpu":"1"}}"#, "Burstable"),
        (r#"{"limits":{"cpu":"1","memory":"1Gi"}}"#, "Guaranteed"),
        (r#"{"limits":{"cpu":"1","memory":"1Gi"},"requests":{"cpu":"1000m","memory":"1024Mi"}}"#, "Guaranteed"),
        (r#"{"limits":{"cpu":"1","memory":"1Gi"},"requests":{"cpu":"999m"}}"#, "Burstable"),
    ] {
        let pod = made(
            "v1",
            "Pod",
            &format!(r#"{{"spec":{{"containers":[{{"name":"c","image":"i","resources":{resources}}}]}}}}"#),
        );
        assert_eq!(pod.str_at(&["status", "qosClass"]), Some(expected), "{resources}");
    }
}

#[test]
fn tolerations_for_silent_nodes_are_added_once() {
    let mut pod = made("v1", "Pod", POD);
    kinds::default_toleration_seconds(&mut pod, 300, 300);
    let once = pod.clone();
    kinds::default_toleration_seconds(&mut pod, 300, 300);
    assert_eq!(pod, once);
    assert_eq!(pod.at(&["spec", "tolerations"]).unwrap().as_array().unwrap().len(), 2);
}

#[test]
fn what_is_wrong_is_said_in_upstreams_words() {
    let subdomain = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and \
                     end with an alphanumeric character (e.g. 'example.com', regex used for validation is \
                     '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
    let bad_name = format!("metadata.name: Invalid value: \"A_b\": {subdomain}");
    let deployment_mismatch =
        format!(r#"{{"spec":{{"selector":{{"matchLabels":{{"app":"y"}}}},"template":{TEMPLATE}}}}}"#);
    let never = workload("").replace(r#""containers""#, r#""restartPolicy":"Never","containers""#);
    for (api_version, kind, body, expected) in [
        ("v1", "ConfigMap", r#"{"metadata":{"name":"A_b"}}"#, vec![bad_name.as_str()]),
        (
            "v1",
            "ConfigMap",
            r#"{"metadata":{"labels":{"a":"-"}}}"#,
            vec![
                "metadata.labels: Invalid value: \"-\": a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')",
            ],
        ),
        ("v1", "Pod", r#"{"spec":{}}"#, vec!["spec.containers: Required value"]),
        (
            "v1",
            "Pod",
            r#"{"spec":{"containers":[{"name":"c"}],"restartPolicy":"x"}}"#,
            vec![
                "spec.containers[0].image: Required value",
                "spec.restartPolicy: Unsupported value: \"x\": supported values: \"Always\", \"Never\", \"OnFailure\"",
            ],
        ),
        (
            "v1",
            "Pod",
            r#"{"spec":{"containers":[{"name":"c","image":"i"},{"name":"c","image":"i","volumeMounts":[{"name":"v","mountPath":"/v"}]}]}}"#,
            vec![
                "spec.containers[1].volumeMounts[0].name: Not found: \"v\"",
                "spec.containers[1].name: Duplicate value: \"c\"",
            ],
        ),
        (
            "v1",
            "Pod",
            r#"{"spec":{"containers":[{"name":"c","image":"i","ports":[{"containerPort":70000}],"resources":{"limits":{"cpu":"1"},"requests":{"cpu":"2"}}}]}}"#,
            vec![
                "spec.containers[0].ports[0].containerPort: Invalid value: 70000: must be between 1 and 65535, inclusive",
                "spec.containers[0].resources.requests: Invalid value: \"2\": must be less than or equal to cpu limit of 1",
            ],
        ),
        ("v1", "Service", r#"{"spec":{"ports":[]}}"#, vec!["spec.ports: Required value"]),
        (
            "v1",
            "Service",
            r#"{"spec":{"type":"x","ports":[{"port":80},{"port":80,"name":"b"}]}}"#,
            vec![
                "spec.type: Unsupported value: \"x\": supported values: \"ClusterIP\", \"ExternalName\", \"LoadBalancer\", \"NodePort\"",
                "spec.ports[0].name: Required value",
                "spec.ports[1]: Duplicate value: {\"port\":80,\"protocol\":\"TCP\"}",
            ],
        ),
        (
            "apps/v1",
            "Deployment",
            &deployment_mismatch,
            vec![
                "spec.template.metadata.labels: Invalid value: {\"app\":\"x\"}: `selector` does not match template `labels`",
            ],
        ),
        (
            "apps/v1",
            "Deployment",
            &never,
            vec!["spec.template.spec.restartPolicy: Unsupported value: \"Never\": supported values: \"Always\""],
        ),
        (
            "apps/v1",
            "ReplicaSet",
            r#"{"spec":{}}"#,
            vec!["spec.selector: Required value", "spec.template: Required value"],
        ),
        (
            "rbac.authorization.k8s.io/v1",
            "ClusterRoleBinding",
            r#"{"roleRef":{"kind":"Role","name":"r"},"subjects":[{"kind":"User","name":"u"}]}"#,
            vec!["roleRef.kind: Unsupported value: \"Role\": supported values: \"ClusterRole\""],
        ),
        (
            "rbac.authorization.k8s.io/v1",
            "ClusterRole",
            r#"{"metadata":{"name":"system:node"},"rules":[{"verbs":["get"],"apiGroups":[""],"resources":["pods"]}]}"#,
            vec![],
        ),
    ] {
        assert_eq!(problems(api_version, kind, body), expected, "{kind} {body}");
    }
}

#[test]
fn what_may_not_change_is_said() {
    for (api_version, kind, before, after, expected) in [
        ("v1", "Pod", POD.replace("nginx", "nginx:1"), POD.replace("nginx", "nginx:2"), vec![]),
        (
            "v1",
            "Pod",
            POD.to_owned(),
            POD.replace(r#""spec":{"#, r#""spec":{"hostNetwork":true,"#),
            vec![
                "spec: Forbidden: pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,\
             `spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),\
             `spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)",
            ],
        ),
        (
            "apps/v1",
            "Deployment",
            workload(""),
            workload("").replace(r#""app":"x""#, r#""app":"y""#),
            vec!["spec.selector: Invalid value: {\"matchLabels\":{\"app\":\"y\"}}: field is immutable"],
        ),
        (
            "apps/v1",
            "StatefulSet",
            workload(r#","serviceName":"a""#),
            workload(r#","serviceName":"b""#),
            vec![
                "spec: Forbidden: updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', \
             'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden",
            ],
        ),
        (
            "v1",
            "ConfigMap",
            r#"{"immutable":true,"data":{"a":"1"}}"#.to_owned(),
            r#"{"immutable":true,"data":{"a":"2"}}"#.to_owned(),
            vec!["data: Forbidden: field is immutable when `immutable` is set"],
        ),
        (
            "v1",
            "Secret",
            "{}".to_owned(),
            r#"{"type":"x"}"#.to_owned(),
            vec!["type: Invalid value: \"x\": field is immutable"],
        ),
        (
            "rbac.authorization.k8s.io/v1",
            "RoleBinding",
            r#"{"roleRef":{"kind":"Role","name":"a"}}"#.to_owned(),
            r#"{"roleRef":{"kind":"Role","name":"b"}}"#.to_owned(),
            vec![
                "roleRef: Invalid value: {\"apiGroup\":\"rbac.authorization.k8s.io\",\"kind\":\"Role\",\"name\":\"b\"}: cannot change roleRef",
            ],
        ),
    ] {
        let old = made(api_version, kind, &before);
        let mut new = made(api_version, kind, &after);
        let row = row(api_version, kind);
        row.prepare_update(&mut new, &old);
        assert_eq!(said(&row.validate_update(&new, &old)), expected, "{kind} {after}");
    }
}

#[test]
fn generation_and_status_have_their_own_doors() {
    let row = row("apps/v1", "Deployment");
    let mut old =
        made("apps/v1", "Deployment", &workload(r#","replicas":1"#).replacen('{', r#"{"status":{"replicas":9},"#, 1));
    assert!(old.get("status").is_none(), "a client does not set status at creation");
    assert_eq!(old.i64_at(&["metadata", "generation"]), Some(1));
    old.set(&["status", "replicas"], Value::Int(1));
    let mut new = old.clone();
    new.set(&["status", "replicas"], Value::Int(5));
    new.set(&["metadata", "labels", "a"], "b".into());
    row.prepare_update(&mut new, &old);
    assert_eq!(new.i64_at(&["metadata", "generation"]), Some(1), "labels and status do not count");
    assert_eq!(new.i64_at(&["status", "replicas"]), Some(1));
    new.set(&["spec", "replicas"], Value::Int(3));
    row.prepare_update(&mut new, &old);
    assert_eq!(new.i64_at(&["metadata", "generation"]), Some(2));
    let mut status = old.clone();
    status.set(&["spec", "replicas"], Value::Int(7));
    status.set(&["status", "replicas"], Value::Int(2));
    row.prepare_status(&mut status, &old);
    assert_eq!(status.i64_at(&["spec", "replicas"]), Some(1));
    assert_eq!(status.i64_at(&["status", "replicas"]), Some(2));
}

#[test]
fn other_kinds_get_their_defaults() {
    for (api_version, kind, body, path, expected) in [
        (
            "apps/v1",
            "Deployment",
            workload(""),
            &["spec", "strategy"][..],
            r#"{"type":"RollingUpdate","rollingUpdate":{"maxSurge":"25%","maxUnavailable":"25%"}}"#,
        ),
        (
            "apps/v1",
            "DaemonSet",
            workload(""),
            &["spec", "updateStrategy"],
            r#"{"type":"RollingUpdate","rollingUpdate":{"maxSurge":0,"maxUnavailable":1}}"#,
        ),
        ("apps/v1", "StatefulSet", workload(""), &["spec", "podManagementPolicy"], r#""OrderedReady""#),
        (
            "v1",
            "Service",
            r#"{"spec":{"ports":[{"port":80}]}}"#.to_owned(),
            &["spec"],
            r#"{"type":"ClusterIP","sessionAffinity":"None","internalTrafficPolicy":"Cluster","ports":[{"port":80,"protocol":"TCP","targetPort":80}]}"#,
        ),
        ("v1", "Secret", r#"{"stringData":{"a":"hi"}}"#.to_owned(), &["data"], r#"{"a":"aGk="}"#),
        ("v1", "Namespace", "{}".to_owned(), &["spec"], r#"{"finalizers":["kubernetes"]}"#),
        ("v1", "Namespace", "{}".to_owned(), &["metadata", "labels"], r#"{"kubernetes.io/metadata.name":"one"}"#),
        ("v1", "Namespace", "{}".to_owned(), &["status"], r#"{"phase":"Active"}"#),
        (
            "batch/v1",
            "Job",
            r#"{"spec":{"template":{"spec":{"restartPolicy":"Never","containers":[]}}}}"#.to_owned(),
            &["spec", "selector"],
            r#"{"matchLabels":{"batch.kubernetes.io/controller-uid":"u-1"}}"#,
        ),
        (
            "networking.k8s.io/v1",
            "NetworkPolicy",
            r#"{"spec":{"egress":[{}]}}"#.to_owned(),
            &["spec", "policyTypes"],
            r#"["Ingress","Egress"]"#,
        ),
    ] {
        assert_eq!(made(api_version, kind, &body).at(path), Some(&value(expected)), "{kind}");
    }
}

#[test]
fn deletion_waits_for_pods_that_run() {
    let hooks = &row("v1", "Pod").hooks;
    let mut pod = made("v1", "Pod", POD);
    assert_eq!(hooks.graceful_delete(&pod, None), Grace::Immediate);
    pod.set(&["spec", "nodeName"], "n".into());
    for (requested, expected) in [
        (None, Grace::Seconds(30)),
        (Some(5), Grace::Seconds(5)),
        (Some(0), Grace::Immediate),
        (Some(-1), Grace::Seconds(1)),
    ] {
        assert_eq!(hooks.graceful_delete(&pod, requested), expected);
    }
    pod.set(&["status", "phase"], "Failed".into());
    assert_eq!(hooks.graceful_delete(&pod, None), Grace::Immediate);
}

/// The cells of an object's table row, as text.
fn cells(api_version: &str, kind: &str, body: &str) -> Vec<String> {
    let now = "2026-01-02T00:00:00Z".parse().unwrap();
    let shown = |cell: Value| match cell {
        Value::String(text) => text.to_string(),
        other => String::from_utf8(json::encode(&other)).unwrap(),
    };
    row(api_version, kind).columns.iter().map(|column| shown(column.cell.value(&value(body), now))).collect()
}

#[test]
fn pods_are_summed_up_in_a_word() {
    let statuses = |statuses: &str| {
        format!(
            r#"{{"metadata":{{"name":"p","creationTimestamp":"2026-01-01T00:00:00Z"}},
                "spec":{{"containers":[{{"name":"c"}},{{"name":"d"}}],"initContainers":[{{"name":"i"}},{{"name":"s","restartPolicy":"Always"}}]}},
                "status":{statuses}}}"#
        )
    };
    let running = r#"{"name":"c","ready":true,"restartCount":0,"state":{"running":{}}}"#;
    for (status, ready, word, restarts) in [
        (r#"{"phase":"Pending"}"#.to_owned(), "0/3", "Pending", "0"),
        (r#"{"phase":"Pending","conditions":[{"type":"PodScheduled","reason":"SchedulingGated"}]}"#.to_owned(), "0/3", "SchedulingGated", "0"),
        (r#"{"phase":"Pending","initContainerStatuses":[{"name":"i","state":{"running":{}}}]}"#.to_owned(), "0/3", "Init:0/2", "0"),
        (r#"{"phase":"Pending","initContainerStatuses":[{"name":"i","restartCount":2,"state":{"waiting":{"reason":"CrashLoopBackOff"}}}]}"#.to_owned(), "0/3", "Init:CrashLoopBackOff", "2"),
        (r#"{"phase":"Pending","initContainerStatuses":[{"name":"i","state":{"terminated":{"exitCode":3}}}]}"#.to_owned(), "0/3", "Init:ExitCode:3", "0"),
        (format!(r#"{{"phase":"Running","containerStatuses":[{running},{{"name":"d","restartCount":4,"state":{{"waiting":{{"reason":"CrashLoopBackOff"}}}},
            "lastState":{{"terminated":{{"finishedAt":"2026-01-01T23:59:00Z"}}}}}}]}}"#), "1/3", "CrashLoopBackOff", "4 (60s ago)"),
        (format!(r#"{{"phase":"Running","conditions":[{{"type":"Ready","status":"True"}}],
            "containerStatuses":[{{"name":"d","state":{{"terminated":{{"exitCode":0,"reason":"Completed"}}}}}},{running}]}}"#), "1/3", "Running", "0"),
        (r#"{"phase":"Succeeded","containerStatuses":[{"name":"c","state":{"terminated":{"exitCode":0,"reason":"Completed"}}}]}"#.to_owned(), "0/3", "Completed", "0"),
        (r#"{"phase":"Failed","reason":"Evicted"}"#.to_owned(), "0/3", "Evicted", "0"),
    ] {
        let row = cells("v1", "Pod", &statuses(&status));
        assert_eq!(row[..5], ["p", ready, word, restarts, "24h"], "{status}");
    }
    let mut dying = value(&statuses(r#"{"phase":"Running"}"#));
    dying.set(&["metadata", "deletionTimestamp"], "2026-01-01T00:00:00Z".into());
    assert_eq!(cells("v1", "Pod", &String::from_utf8(json::encode(&dying)).unwrap())[2], "Terminating");
}

#[test]
fn other_kinds_show_what_upstream_shows() {
    let meta = r#""metadata":{"name":"o","creationTimestamp":"2026-01-01T23:00:00Z"}"#;
    for (api_version, kind, body, expected) in [
        (
            "apps/v1",
            "Deployment",
            r#""spec":{"replicas":3,"selector":{"matchLabels":{"a":"b"}},"template":{"spec":{"containers":[{"name":"c","image":"i"}]}}},
            "status":{"readyReplicas":2,"updatedReplicas":1,"availableReplicas":2}"#,
            vec!["o", "2/3", "1", "2", "60m", "c", "i", "a=b"],
        ),
        (
            "v1",
            "Service",
            r#""spec":{"type":"NodePort","clusterIP":"10.0.0.1","clusterIPs":["10.0.0.1"],"ports":[{"port":80,"nodePort":30080,"protocol":"TCP"}],"selector":{"a":"b"}}"#,
            vec!["o", "NodePort", "10.0.0.1", "<none>", "80:30080/TCP", "60m", "a=b"],
        ),
        (
            "v1",
            "Node",
            r#""spec":{"unschedulable":true},"status":{"conditions":[{"type":"Ready","status":"True"}],"addresses":[{"type":"InternalIP","address":"1.2.3.4"}],
            "nodeInfo":{"kubeletVersion":"v1.37.0","osImage":"Debian","kernelVersion":"6.1","containerRuntimeVersion":"klynge://0.1"}}"#,
            vec![
                "o",
                "Ready,SchedulingDisabled",
                "<none>",
                "60m",
                "v1.37.0",
                "1.2.3.4",
                "<none>",
                "Debian",
                "6.1",
                "klynge://0.1",
            ],
        ),
        (
            "batch/v1",
            "Job",
            r#""spec":{"completions":2,"selector":{}},"status":{"succeeded":1,"startTime":"2026-01-01T23:59:30Z"}"#,
            vec!["o", "Running", "1/2", "30s", "60m", "", "", "<none>"],
        ),
        (
            "v1",
            "Event",
            r#""type":"Normal","reason":"Pulled","message":" hi ","involvedObject":{"kind":"Pod","name":"p"},"lastTimestamp":"2026-01-01T23:59:00Z","firstTimestamp":"2026-01-01T23:50:00Z","source":{"component":"kubelet","host":"n"}"#,
            vec!["60s", "Normal", "Pulled", "pod/p", "", "kubelet, n", "hi", "10m", "1", "o"],
        ),
        (
            "v1",
            "Endpoints",
            r#""subsets":[{"addresses":[{"ip":"1.1.1.1"},{"ip":"1.1.1.2"}],"ports":[{"port":80},{"port":443}]}]"#,
            vec!["o", "1.1.1.1:80,1.1.1.1:443,1.1.1.2:80 + 1 more...", "60m"],
        ),
        (
            "autoscaling/v2",
            "HorizontalPodAutoscaler",
            r#""spec":{"scaleTargetRef":{"kind":"Deployment","name":"d"},"minReplicas":1,"maxReplicas":5,
            "metrics":[{"type":"Resource","resource":{"name":"cpu","target":{"type":"Utilization","averageUtilization":80}}}]},"status":{"currentReplicas":2}"#,
            vec!["o", "Deployment/d", "cpu: <unknown>/80%", "1", "5", "2", "60m"],
        ),
    ] {
        assert_eq!(cells(api_version, kind, &format!("{{{meta},{body}}}")), expected, "{kind}");
    }
}

#[test]
fn every_stored_kind_has_columns_or_the_default_ones_apply() {
    let now = "2026-01-02T00:00:00Z".parse().unwrap();
    for row in table().resources() {
        for column in &row.columns {
            let _ = column.cell.value(&Value::default(), now);
        }
        let mut nothing = value("{}");
        row.default(&mut nothing);
        row.prepare_create(&mut nothing);
        let _ = (row.validate(&nothing), row.validate_update(&nothing, &nothing));
    }
}

#[test]
fn network_policies_are_checked() {
    let of = |rule: &str| format!(r#"{{"spec":{{"podSelector":{{}},"ingress":[{rule}]}}}}"#);
    let egress = |rule: &str| format!(r#"{{"spec":{{"podSelector":{{}},"egress":[{rule}]}}}}"#);
    let from = "spec.ingress[0].from[0]";
    let port = "spec.ingress[0].ports[0]";
    let subset = "must be a strict subset of `cidr`";
    let cidr = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";
    for (body, wanted) in [
        (r#"{"spec":{"podSelector":{}}}"#.to_owned(), vec![]),
        (of(r#"{"from":[{"ipBlock":{"cidr":"10.0.0.0/8","except":["10.1.0.0/16"]}}],"ports":[{"port":1,"endPort":65535}]}"#), vec![]),
        (of(r#"{"from":[{"podSelector":{},"namespaceSelector":{}}],"ports":[{},{"port":"web"},{"protocol":"SCTP"}]}"#), vec![]),
        (of(r#"{"from":[{}]}"#), vec![format!("{from}: Required value: must specify a peer")]),
        (
            of(r#"{"from":[{"podSelector":{},"ipBlock":{"cidr":"10.0.0.0/8"}}]}"#),
            vec![format!("{from}: Forbidden: may not specify both ipBlock and another peer")],
        ),
        (of(r#"{"from":[{"ipBlock":{"cidr":""}}]}"#), vec![format!("{from}.ipBlock.cidr: Required value")]),
        (
            of(r#"{"from":[{"ipBlock":{"cidr":"10.0.0.0"}}]}"#),
            vec![format!("{from}.ipBlock.cidr: Invalid value: \"10.0.0.0\": {cidr}")],
        ),
        (
            egress(r#"{"to":[{"ipBlock":{"cidr":"10.0.0.0/16","except":["10.0.0.0/16","10.1.0.0/24","fd00::/64","x","10.0.9.0/24"]}}]}"#),
            [("0", "10.0.0.0/16", subset), ("1", "10.1.0.0/24", subset), ("2", "fd00::/64", subset), ("3", "x", cidr)]
                .map(|(at, text, why)| {
                    format!("spec.egress[0].to[0].ipBlock.except[{at}]: Invalid value: {text:?}: {why}")
                })
                .to_vec(),
        ),
        (
            of(r#"{"ports":[{"port":0}]}"#),
            vec![format!("{port}.port: Invalid value: 0: must be between 1 and 65535, inclusive")],
        ),
        (
            of(r#"{"ports":[{"port":80,"endPort":79}]}"#),
            vec![format!("{port}.endPort: Invalid value: 79: must be greater than or equal to `port`")],
        ),
        (
            of(r#"{"ports":[{"port":"web","endPort":79}]}"#),
            vec![format!("{port}.endPort: Invalid value: 79: may not be specified when `port` is non-numeric")],
        ),
        (
            of(r#"{"ports":[{"endPort":79}]}"#),
            vec![format!("{port}.endPort: Invalid value: 79: may not be specified when `port` is not specified")],
        ),
        (
            of(r#"{"ports":[{"protocol":"ICMP"}]}"#),
            vec![format!("{port}.protocol: Unsupported value: \"ICMP\": supported values: \"SCTP\", \"TCP\", \"UDP\"")],
        ),
        (
            r#"{"spec":{"podSelector":{"matchExpressions":[{"key":"a","operator":"In"},{"key":"a","operator":"Exists","values":["x"]},{"key":"a","operator":"Near"}]}}}"#.to_owned(),
            vec![
                "spec.podSelector.matchExpressions[0].values: Required value: must be specified when `operator` is 'In' or 'NotIn'".to_owned(),
                "spec.podSelector.matchExpressions[1].values: Forbidden: may not be specified when `operator` is 'Exists' or 'DoesNotExist'".to_owned(),
                "spec.podSelector.matchExpressions[2].operator: Invalid value: \"Near\": not a valid selector operator".to_owned(),
            ],
        ),
        (
            r#"{"spec":{"podSelector":{},"policyTypes":["Ingress","Egress","Ingress"]}}"#.to_owned(),
            vec!["spec.policyTypes: Invalid value: [\"Ingress\",\"Egress\",\"Ingress\"]: may not specify more than two policyTypes".to_owned()],
        ),
    ] {
        assert_eq!(problems("networking.k8s.io/v1", "NetworkPolicy", &body), wanted, "{body}");
    }
}
