//! The API as clients see it: requests over TLS, and what must come back.
#![expect(clippy::unwrap_used, reason = "tests")]

mod support;

use bytes::Bytes;
use http_body_util::BodyExt;
use object::{Value, json, proto};
use std::time::Duration;
use support::steps::{self, JSON, JSON_PATCH, MERGE, STRATEGIC, Step, step};
use support::{Cluster, start};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

const STEPS: &[Step] = &[
    step("GET", "/version", "", "", 200, &[("major", "1"), ("minor", "37")]),
    step("GET", "/readyz", "", "", 200, &[("raw", "ok")]),
    step("GET", "/apis/apps/v1", "", "", 200, &[("kind", "APIResourceList"), ("groupVersion", "apps/v1")]),
    step("GET", "/api/v1/nothing", "", "", 404, &[("message", "the server could not find the requested resource")]),
    step("GET", "/api/v1/namespaces/default/nodes", "", "", 404, &[("reason", "NotFound")]),
    step("POST", "/api/v1/pods", JSON, "{}", 405, &[("reason", "MethodNotAllowed")]),
    // create, conflicts of names and namespaces
    step(
        "POST",
        MAPS,
        JSON,
        r#"{"metadata":{"name":"a"},"data":{"k":"v"}}"#,
        201,
        &[("kind", "ConfigMap"), ("data.k", "v"), ("metadata.namespace", "default")],
    ),
    step(
        "POST",
        MAPS,
        JSON,
        r#"{"metadata":{"name":"a"}}"#,
        409,
        &[("reason", "AlreadyExists"), ("message", "configmaps \"a\" already exists")],
    ),
    step(
        "POST",
        MAPS,
        JSON,
        r#"{"metadata":{"name":"b","namespace":"other"}}"#,
        400,
        &[("message", "the namespace of the provided object does not match the namespace sent on the request")],
    ),
    step(
        "POST",
        MAPS,
        JSON,
        r#"{"metadata":{}}"#,
        422,
        &[("message", "ConfigMap \"\" is invalid: metadata.name: Required value: name or generateName is required")],
    ),
    step("POST", MAPS, JSON, r#"{"metadata":{"name":"B_"}}"#, 422, &[("reason", "Invalid")]),
    step(
        "POST",
        MAPS,
        JSON,
        r#"{"metadata":{"name":"b","resourceVersion":"3"}}"#,
        400,
        &[("message", "resourceVersion should not be set on objects to be created")],
    ),
    step(
        "POST",
        MAPS,
        JSON,
        r#"{"kind":"Secret","apiVersion":"v1","metadata":{"name":"b"}}"#,
        400,
        &[("reason", "BadRequest")],
    ),
    step(
        "POST",
        MAPS,
        JSON,
        r#"{"kind":"ConfigMap","apiVersion":"v2","metadata":{"name":"b"}}"#,
        400,
        &[(
            "message",
            "ConfigMap in version \"v2\" cannot be handled as a ConfigMap: no kind \"ConfigMap\" is registered for version \"v2\" in scheme \"pkg/api/legacyscheme/scheme.go:30\"",
        )],
    ),
    step("POST", MAPS, JSON, r#"{"metadata":{"#, 400, &[("reason", "BadRequest")]),
    step("POST", MAPS, "text/plain", "x", 415, &[("reason", "UnsupportedMediaType")]),
    step(
        "POST",
        "/api/v1/namespaces/nope/configmaps",
        JSON,
        r#"{"metadata":{"name":"b"}}"#,
        404,
        &[("message", "namespaces \"nope\" not found")],
    ),
    // field validation
    step(
        "POST",
        "/api/v1/namespaces/default/configmaps?fieldValidation=Strict",
        JSON,
        r#"{"metadata":{"name":"c"},"nope":1}"#,
        400,
        &[("message", "strict decoding error: unknown field \"nope\"")],
    ),
    step(
        "POST",
        "/api/v1/namespaces/default/configmaps?fieldValidation=Strict",
        JSON,
        r#"{"metadata":{"name":"c"},"data":{"a":"1"},"data":{"a":"1"}}"#,
        400,
        &[("message", "duplicate field \"data\"")],
    ),
    step(
        "POST",
        "/api/v1/namespaces/default/configmaps?dryRun=All",
        JSON,
        r#"{"metadata":{"name":"dry"}}"#,
        201,
        &[("metadata.name", "dry")],
    ),
    step(
        "GET",
        "/api/v1/namespaces/default/configmaps/dry",
        "",
        "",
        404,
        &[("message", "configmaps \"dry\" not found"), ("details.kind", "configmaps")],
    ),
    // update
    step(
        "PUT",
        "/api/v1/namespaces/default/configmaps/a",
        JSON,
        r#"{"metadata":{"name":"a"},"data":{"k":"w"}}"#,
        200,
        &[("data.k", "w")],
    ),
    step(
        "PUT",
        "/api/v1/namespaces/default/configmaps/a",
        JSON,
        r#"{"metadata":{"name":"a","resourceVersion":"1"}}"#,
        409,
        &[(
            "message",
            "Operation cannot be fulfilled on configmaps \"a\": the object has been modified; please apply your changes to the latest version and try again",
        )],
    ),
    step(
        "PUT",
        "/api/v1/namespaces/default/configmaps/a",
        JSON,
        r#"{"metadata":{"name":"z"}}"#,
        400,
        &[("message", "the name of the object (z) does not match the name on the URL (a)")],
    ),
    step(
        "PUT",
        "/api/v1/namespaces/default/configmaps/zz",
        JSON,
        r#"{"metadata":{"name":"zz"}}"#,
        404,
        &[("reason", "NotFound")],
    ),
    // patches
    step(
        "PATCH",
        "/api/v1/namespaces/default/configmaps/a",
        MERGE,
        r#"{"data":{"m":"1","k":null}}"#,
        200,
        &[("data.m", "1"), ("!data.k", "")],
    ),
    step(
        "PATCH",
        "/api/v1/namespaces/default/configmaps/a",
        JSON_PATCH,
        r#"[{"op":"add","path":"/data/j","value":"2"}]"#,
        200,
        &[("data.j", "2")],
    ),
    step(
        "PATCH",
        "/api/v1/namespaces/default/configmaps/a",
        JSON_PATCH,
        r#"[{"op":"test","path":"/data/j","value":"3"}]"#,
        422,
        &[("reason", "Invalid")],
    ),
    step(
        "PATCH",
        "/api/v1/namespaces/default/configmaps/a",
        STRATEGIC,
        r#"{"metadata":{"labels":{"l":"x"}}}"#,
        200,
        &[("metadata.labels.l", "x")],
    ),
    step(
        "PATCH",
        "/api/v1/namespaces/default/configmaps/a",
        MERGE,
        r#"{"metadata":{"name":"zz"}}"#,
        400,
        &[("message", "the name of the object (zz) does not match the name on the URL (a)")],
    ),
    step(
        "PATCH",
        "/api/v1/namespaces/default/configmaps/a",
        JSON_PATCH,
        r#"[{"op":"replace","path":"/metadata/namespace","value":"other"}]"#,
        400,
        &[("message", "the namespace of the object (other) does not match the namespace on the request (default)")],
    ),
    step("PATCH", "/api/v1/namespaces/default/configmaps/a", JSON, "{}", 415, &[("reason", "UnsupportedMediaType")]),
    // selectors
    step("GET", "/api/v1/namespaces/default/configmaps?labelSelector=l%3Dx", "", "", 200, &[("raw", "\"name\":\"a\"")]),
    step("GET", "/api/v1/namespaces/default/configmaps?labelSelector=l%3Dy", "", "", 200, &[("raw", "\"items\":[]")]),
    step(
        "GET",
        "/api/v1/namespaces/default/configmaps?fieldSelector=metadata.name%3Da",
        "",
        "",
        200,
        &[("raw", "\"name\":\"a\"")],
    ),
    step(
        "GET",
        "/api/v1/namespaces/default/configmaps?fieldSelector=spec.x%3Da",
        "",
        "",
        400,
        &[("reason", "BadRequest")],
    ),
    step("GET", "/api/v1/namespaces/default/configmaps?labelSelector=!!", "", "", 400, &[("reason", "BadRequest")]),
    step("GET", "/api/v1/namespaces/default/configmaps?continue=nonsense", "", "", 400, &[("reason", "BadRequest")]),
    step(
        "GET",
        "/api/v1/namespaces/default/configmaps?limit=abc",
        "",
        "",
        400,
        &[("message", "strconv.ParseInt: parsing \"abc\": invalid syntax")],
    ),
    step(
        "GET",
        "/api/v1/namespaces/default/configmaps?watch=1&timeoutSeconds=1s",
        "",
        "",
        400,
        &[("message", "strconv.ParseInt: parsing \"1s\": invalid syntax")],
    ),
    step(
        "DELETE",
        "/api/v1/namespaces/default/configmaps/a?gracePeriodSeconds=9999999999999999999",
        "",
        "",
        400,
        &[("message", "strconv.ParseInt: parsing \"9999999999999999999\": value out of range")],
    ),
    // finalizers
    step(
        "POST",
        MAPS,
        JSON,
        r#"{"metadata":{"name":"f","finalizers":["example.com/x"]}}"#,
        201,
        &[("metadata.name", "f")],
    ),
    step(
        "DELETE",
        "/api/v1/namespaces/default/configmaps/f",
        "",
        "",
        200,
        &[("kind", "ConfigMap"), ("metadata.deletionGracePeriodSeconds", "0")],
    ),
    step(
        "PATCH",
        "/api/v1/namespaces/default/configmaps/f",
        MERGE,
        r#"{"metadata":{"finalizers":["example.com/x","example.com/y"]}}"#,
        422,
        &[("message", "no new finalizers can be added")],
    ),
    step(
        "PATCH",
        "/api/v1/namespaces/default/configmaps/f",
        MERGE,
        r#"{"metadata":{"finalizers":null}}"#,
        200,
        &[("metadata.name", "f")],
    ),
    step("GET", "/api/v1/namespaces/default/configmaps/f", "", "", 404, &[("reason", "NotFound")]),
    // deletes
    step(
        "DELETE",
        "/api/v1/namespaces/default/configmaps/a?propagationPolicy=Foo",
        "",
        "",
        422,
        &[(
            "message",
            "DeleteOptions.meta.k8s.io \"\" is invalid: propagationPolicy: Unsupported value: \"Foo\": supported values: ",
        )],
    ),
    step(
        "DELETE",
        "/api/v1/namespaces/default/configmaps/a",
        JSON,
        r#"{"propagationPolicy":"Foo"}"#,
        422,
        &[("message", "propagationPolicy: Unsupported value: \"Foo\"")],
    ),
    step(
        "DELETE",
        "/api/v1/namespaces/default/configmaps/a",
        JSON,
        r#"{"dryRun":["Some"]}"#,
        422,
        &[("message", "dryRun: Unsupported value: [\"Some\"]: supported values: \"All\"")],
    ),
    step(
        "DELETE",
        "/api/v1/namespaces/default/configmaps/a",
        JSON,
        r#"{"gracePeriodSeconds":"x"}"#,
        400,
        &[("message", "cannot unmarshal string into Go struct field DeleteOptions.gracePeriodSeconds of type int64")],
    ),
    step(
        "DELETE",
        "/api/v1/namespaces/default/configmaps/a",
        JSON,
        r#"{"preconditions":{"uid":"other"}}"#,
        409,
        &[("message", "Precondition failed: UID in precondition: other")],
    ),
    step(
        "DELETE",
        "/api/v1/namespaces/default/configmaps/a",
        JSON,
        "{}",
        200,
        &[("kind", "Status"), ("status", "Success"), ("details.name", "a")],
    ),
    step("DELETE", "/api/v1/namespaces/default/configmaps/a", JSON, "{}", 404, &[("reason", "NotFound")]),
    step(
        "DELETE",
        "/api/v1/namespaces/kube-system",
        JSON,
        "{}",
        403,
        &[("message", "this namespace may not be deleted")],
    ),
    // workloads: generation, status, scale
    step(
        "POST",
        "/apis/apps/v1/namespaces/default/deployments",
        JSON,
        r#"{"metadata":{"name":"d"},"status":{"replicas":9},"spec":{"replicas":2,"selector":{"matchLabels":{"a":"b"}},"template":{"metadata":{"labels":{"a":"b"}},"spec":{"containers":[{"name":"c","image":"i"}]}}}}"#,
        201,
        &[("metadata.generation", "1"), ("spec.progressDeadlineSeconds", "600"), ("!status.replicas", "")],
    ),
    step(
        "PATCH",
        "/apis/apps/v1/namespaces/default/deployments/d/status",
        MERGE,
        r#"{"spec":{"replicas":7},"status":{"replicas":2}}"#,
        200,
        &[("spec.replicas", "2"), ("status.replicas", "2"), ("metadata.generation", "1")],
    ),
    step(
        "GET",
        "/apis/apps/v1/namespaces/default/deployments/d/scale",
        "",
        "",
        200,
        &[("kind", "Scale"), ("spec.replicas", "2"), ("status.selector", "a=b")],
    ),
    step(
        "PUT",
        "/apis/apps/v1/namespaces/default/deployments/d/scale",
        JSON,
        r#"{"metadata":{"name":"d"},"spec":{"replicas":5}}"#,
        200,
        &[("spec.replicas", "5")],
    ),
    step(
        "PATCH",
        "/apis/apps/v1/namespaces/default/deployments/d/scale",
        MERGE,
        r#"{"spec":{"replicas":4}}"#,
        200,
        &[("spec.replicas", "4")],
    ),
    step(
        "GET",
        "/apis/apps/v1/namespaces/default/deployments/d",
        "",
        "",
        200,
        &[("metadata.generation", "3"), ("spec.replicas", "4")],
    ),
    // two versions of one kind
    step(
        "POST",
        "/apis/autoscaling/v1/namespaces/default/horizontalpodautoscalers",
        JSON,
        r#"{"metadata":{"name":"h"},"spec":{"maxReplicas":3,"scaleTargetRef":{"apiVersion":"apps/v1","kind":"Deployment","name":"d"},"targetCPUUtilizationPercentage":50}}"#,
        201,
        &[("apiVersion", "autoscaling/v1"), ("spec.targetCPUUtilizationPercentage", "50")],
    ),
    step(
        "GET",
        "/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers/h",
        "",
        "",
        200,
        &[("apiVersion", "autoscaling/v2"), ("raw", "averageUtilization")],
    ),
    // reviews
    step(
        "POST",
        "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews",
        JSON,
        r#"{"spec":{"resourceAttributes":{"verb":"get","resource":"pods"}}}"#,
        201,
        &[("status.allowed", "true")],
    ),
    step(
        "POST",
        "/apis/authentication.k8s.io/v1/selfsubjectreviews",
        JSON,
        "{}",
        201,
        &[("status.userInfo.username", "admin")],
    ),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_are_answered_as_upstream_answers_them() {
    let cluster = start().await;
    steps::run(&cluster, STEPS).await;
    cluster.server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lists_continue_consistently_and_come_as_tables_and_protobuf() {
    let cluster = start().await;
    for at in 0..7 {
        let body = format!(r#"{{"metadata":{{"name":"m{at}","labels":{{"odd":"{}"}}}},"data":{{"k":"v"}}}}"#, at % 2);
        assert_eq!(cluster.json("POST", MAPS, &body).await.0, 201);
    }
    let (_, first) = cluster.json("GET", &format!("{MAPS}?limit=3"), "").await;
    let token = first.str_at(&["metadata", "continue"]).unwrap().to_owned();
    assert_eq!(first.i64_at(&["metadata", "remainingItemCount"]), Some(4));
    // What is deleted between pages is still part of the list.
    assert_eq!(cluster.json("DELETE", &format!("{MAPS}/m5"), "").await.0, 200);
    let (_, second) = cluster.json("GET", &format!("{MAPS}?limit=10&continue={token}"), "").await;
    let names = |list: &Value| -> Vec<String> {
        let items = list.get("items").and_then(Value::as_array).unwrap();
        items.iter().map(|item| item.str_at(&["metadata", "name"]).unwrap().to_owned()).collect()
    };
    assert_eq!(names(&second), ["m3", "m4", "m5", "m6"]);
    assert_eq!(first.str_at(&["metadata", "resourceVersion"]), second.str_at(&["metadata", "resourceVersion"]));
    let (_, odd) = cluster.json("GET", &format!("{MAPS}?limit=2&labelSelector=odd%3D0"), "").await;
    assert_eq!(names(&odd), ["m0", "m2"]);
    assert!(odd.at(&["metadata", "remainingItemCount"]).is_none());

    let table = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
    let answer = cluster.send("GET", MAPS, &[("accept", table)], "").await;
    assert_eq!(answer.json().str_at(&["kind"]), Some("Table"));
    assert_eq!(answer.json().get("rows").and_then(Value::as_array).map(<[Value]>::len), Some(6));
    let deployments = "/apis/apps/v1/namespaces/default/deployments";
    let deployment = r#"{"metadata":{"name":"scaled"},"spec":{"replicas":3,"selector":{"matchLabels":{"a":"b"}},
        "template":{"metadata":{"labels":{"a":"b"}},"spec":{"containers":[{"name":"c","image":"i"}]}}}}"#;
    assert_eq!(cluster.json("POST", deployments, deployment).await.0, 201);
    let answer = cluster.send("GET", &format!("{deployments}/scaled/scale"), &[("accept", table)], "").await.json();
    let columns = answer.get("columnDefinitions").and_then(Value::as_array).unwrap();
    let columns: Vec<&str> = columns.iter().filter_map(|column| column.str_at(&["name"])).collect();
    assert_eq!(columns, ["Name", "Desired", "Available", "Age"]);
    let rows = answer.get("rows").and_then(Value::as_array).unwrap();
    let cells = rows[0].get("cells").and_then(Value::as_array).unwrap();
    assert_eq!((cells[0].as_str(), cells[1].as_i64(), cells[2].as_i64()), (Some("scaled"), Some(3), Some(0)));

    let binary = "application/vnd.kubernetes.protobuf";
    let answer = cluster.send("GET", &format!("{MAPS}/m1"), &[("accept", binary)], "").await;
    assert_eq!(answer.headers.get("content-type").unwrap(), binary);
    let envelope = proto::envelope::unwrap(&answer.body).unwrap();
    assert_eq!((envelope.api_version.as_str(), envelope.kind.as_str()), ("v1", "ConfigMap"));
    // The same bytes make a new object under another name.
    let schemas = kinds::schemas();
    let map = schemas.find("io.k8s.api.core.v1.ConfigMap").unwrap();
    let mut value = proto::decode(schemas, map, envelope.raw, &object::Limits::REQUEST).unwrap();
    value.set(&["metadata"], support::parse("{name: from-protobuf}"));
    let body = proto::envelope::wrap("v1", "ConfigMap", &proto::encode(schemas, map, &value).unwrap());
    let answer = cluster.send("POST", MAPS, &[("content-type", binary)], body).await;
    assert_eq!((answer.code, answer.json().str_at(&["data", "k"])), (201, Some("v")), "{}", answer.text());

    let yaml = cluster.send("GET", &format!("{MAPS}/m1"), &[("accept", "application/yaml")], "").await;
    assert!(yaml.text().contains("kind: ConfigMap"), "{}", yaml.text());
    let bad = cluster.send("GET", MAPS, &[("accept", "text/html")], "").await;
    assert_eq!((bad.code, bad.json().str_at(&["reason"])), (406, Some("NotAcceptable")));
    cluster.server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_bodies_are_limited_and_compressed() {
    let cluster = start().await;
    let huge = format!(r#"{{"metadata":{{"name":"h"}},"data":{{"k":"{}"}}}}"#, "x".repeat(3 * 1024 * 1024));
    let (code, status) = cluster.json("POST", MAPS, &huge).await;
    assert_eq!((code, status.str_at(&["reason"])), (413, Some("RequestEntityTooLarge")));
    assert_eq!(status.str_at(&["message"]), Some("Request entity too large: limit is 3145728"));
    let large = format!(r#"{{"metadata":{{"name":"l"}},"data":{{"k":"{}"}}}}"#, "x".repeat(300 * 1024));
    assert_eq!(cluster.json("POST", MAPS, &large).await.0, 201);
    let answer = cluster.send("GET", MAPS, &[("accept-encoding", "gzip")], "").await;
    assert_eq!(answer.headers.get("content-encoding").unwrap(), "gzip");
    assert!(answer.body.len() < 20_000);
    cluster.server.stop().await;
}

/// Reads frames of a watch until `count` have come.
async fn frames(body: &mut hyper::body::Incoming, rest: &mut Vec<u8>, count: usize) -> Vec<Value> {
    let mut found = Vec::new();
    loop {
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = rest.drain(..=end).collect();
            found.push(json::decode(&line, &object::Limits::REQUEST).unwrap().value);
        }
        if found.len() >= count {
            return found;
        }
        let frame = tokio::time::timeout(Duration::from_secs(10), body.frame()).await.unwrap().unwrap().unwrap();
        rest.extend_from_slice(&frame.into_data().unwrap_or_default());
    }
}

fn words(events: &[Value]) -> Vec<String> {
    let word = |event: &Value| {
        let name = event.str_at(&["object", "metadata", "name"]).unwrap_or_default();
        format!("{} {name}", event.str_at(&["type"]).unwrap())
    };
    events.iter().map(word).collect()
}

async fn label(cluster: &Cluster, name: &str, value: &str) {
    let body = format!(r#"{{"metadata":{{"labels":{{"s":"{value}"}}}}}}"#);
    let path = format!("{MAPS}/{name}");
    let answer = cluster.send("PATCH", &path, &[("content-type", MERGE)], body).await;
    assert_eq!(answer.code, 200, "{}", answer.text());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watches_follow_a_selection_and_end_with_410() {
    let cluster = start().await;
    for name in ["a", "b"] {
        let body = format!(r#"{{"metadata":{{"name":"{name}","labels":{{"s":"in"}}}}}}"#);
        assert_eq!(cluster.json("POST", MAPS, &body).await.0, 201);
    }
    let path = format!("{MAPS}?watch=true&labelSelector=s%3Din&timeoutSeconds=20");
    let mut body = cluster.open("GET", &path, &[], Bytes::new()).await.into_body();
    let mut rest = Vec::new();
    assert_eq!(words(&frames(&mut body, &mut rest, 2).await), ["ADDED a", "ADDED b"]);
    label(&cluster, "a", "out").await;
    label(&cluster, "a", "in").await;
    assert_eq!(cluster.json("DELETE", &format!("{MAPS}/b"), "").await.0, 200);
    let events = frames(&mut body, &mut rest, 3).await;
    assert_eq!(words(&events), ["DELETED a", "ADDED a", "DELETED b"]);
    // An object that left shows its last selected state at the revision at which it left.
    assert_eq!(events[0].str_at(&["object", "metadata", "labels", "s"]), Some("in"));
    let revision =
        |event: &Value| -> u64 { event.str_at(&["object", "metadata", "resourceVersion"]).unwrap().parse().unwrap() };
    assert!(revision(&events[0]) < revision(&events[1]));

    let path =
        format!("{MAPS}?watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true");
    let mut body = cluster.open("GET", &path, &[], Bytes::new()).await.into_body();
    let events = frames(&mut body, &mut Vec::new(), 2).await;
    assert_eq!(words(&events), ["ADDED a", "BOOKMARK "]);
    let annotations = ["object", "metadata", "annotations", "k8s.io/initial-events-end"];
    assert_eq!(events[1].str_at(&annotations), Some("true"));

    let path = format!("{MAPS}?watch=true&timeoutSeconds=1&resourceVersion={}", revision(&events[1]));
    let answer = cluster.send("GET", &path, &[], "").await;
    assert_eq!((answer.code, answer.text().as_str()), (200, ""));
    cluster.server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_may_not_is_told_so() {
    let cluster = start().await;
    let nobody = cluster.issue("bob", "people");
    let cases = [
        (
            "GET",
            "/api/v1/namespaces/default/pods",
            403,
            "pods is forbidden: User \"bob\" cannot list resource \"pods\" in API group \"\" in the namespace \"default\"",
        ),
        (
            "GET",
            "/api/v1/nodes/n",
            403,
            "nodes \"n\" is forbidden: User \"bob\" cannot get resource \"nodes\" in API group \"\" at the cluster scope",
        ),
        ("GET", "/metrics", 403, "forbidden: User \"bob\" cannot get path \"/metrics\""),
        ("GET", "/version", 200, ""),
        ("GET", "/apis", 200, ""),
    ];
    for (method, path, code, message) in cases {
        let response = cluster.open_as(&nobody, method, path, &[], Bytes::new()).await;
        assert_eq!(response.status().as_u16(), code, "{path}");
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let value = json::decode(&body, &object::Limits::REQUEST).unwrap().value;
        assert_eq!(value.str_at(&["message"]).unwrap_or_default(), message, "{path}");
    }
    cluster.server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn component_statuses_tell_what_runs() {
    const PATH: &str = "/api/v1/componentstatuses";
    let cluster = start().await;
    let told = |list: &Value| -> Vec<String> {
        let items = list.get("items").and_then(Value::as_array).unwrap();
        let line = |item: &Value| {
            let condition = &item.get("conditions").and_then(Value::as_array).unwrap()[0];
            let text = |key: &str| condition.str_at(&[key]).unwrap_or("-").to_owned();
            let name = item.str_at(&["metadata", "name"]).unwrap();
            [name, &text("type"), &text("status"), &text("message"), &text("error")].join(" ")
        };
        items.iter().map(line).collect()
    };
    let store = "etcd-0 Healthy True ok -";
    let (code, list) = cluster.json("GET", PATH, "").await;
    assert_eq!(code, 200);
    let not = "Healthy False - not started";
    assert_eq!(told(&list), [format!("controller-manager {not}"), store.to_owned(), format!("scheduler {not}")]);
    let lives = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(true));
    let asked = std::sync::Arc::clone(&lives);
    cluster.server.control_plane(move || asked.load(std::sync::atomic::Ordering::Relaxed));
    let all = ["controller-manager Healthy True ok -", store, "scheduler Healthy True ok -"];
    assert_eq!(told(&cluster.json("GET", PATH, "").await.1), all);
    let (_, one) = cluster.json("GET", &format!("{PATH}?fieldSelector=metadata.name%3Detcd-0"), "").await;
    assert_eq!(told(&one), [store]);
    let (code, one) = cluster.json("GET", &format!("{PATH}/scheduler"), "").await;
    assert_eq!((code, one.str_at(&["kind"])), (200, Some("ComponentStatus")));
    assert_eq!(cluster.json("GET", &format!("{PATH}/nobody"), "").await.0, 404);
    let table = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
    let answer = cluster.send("GET", PATH, &[("accept", table)], "").await;
    assert!(answer.text().contains(r#"["controller-manager","Healthy","ok",""]"#), "{}", answer.text());
    lives.store(false, std::sync::atomic::Ordering::Relaxed);
    assert!(told(&cluster.json("GET", PATH, "").await.1)[2].contains("Healthy False - the control loop has ended"));
}
