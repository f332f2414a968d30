//! Requests that are refused, and upstream's words for why.
#![expect(clippy::unwrap_used, reason = "tests")]

mod support;

use bytes::Bytes;
use futures_util::stream;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use support::start;
use support::steps::{self, APPLY, JSON, MERGE, Step, step};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

/// The options of a write, each under the name of its verb's kind.
const OPTIONS: &[Step] = &[
    step("POST", MAPS, JSON, r#"{"metadata":{"name":"a"},"data":{"k":"v"}}"#, 201, &[]),
    step(
        "POST",
        "/api/v1/namespaces/default/configmaps?dryRun=Some",
        JSON,
        r#"{"metadata":{"name":"dry"}}"#,
        422,
        &[
            ("reason", "Invalid"),
            (
                "message",
                "CreateOptions.meta.k8s.io \"\" is invalid: dryRun: Unsupported value: [\"Some\"]: supported values: \"All\"",
            ),
            ("details.group", "meta.k8s.io"),
            ("details.kind", "CreateOptions"),
            ("details.causes", "\"field\":\"dryRun\""),
        ],
    ),
    step(
        "PUT",
        "/api/v1/namespaces/default/configmaps/a?fieldValidation=Bogus",
        JSON,
        r#"{"metadata":{"name":"a"}}"#,
        422,
        &[(
            "message",
            "UpdateOptions.meta.k8s.io \"\" is invalid: fieldValidation: Unsupported value: \"Bogus\": supported values: \"\", \"Ignore\", \"Strict\", \"Warn\"",
        )],
    ),
    step(
        "PATCH",
        "/api/v1/namespaces/default/configmaps/a?dryRun=All&dryRun=Most&force=false",
        MERGE,
        "{}",
        422,
        &[(
            "message",
            "PatchOptions.meta.k8s.io \"\" is invalid: [force: Forbidden: may not be specified for non-apply patch, dryRun: Unsupported value: [\"All\",\"Most\"]: supported values: \"All\"]",
        )],
    ),
    step(
        "PATCH",
        "/api/v1/namespaces/default/configmaps/a",
        APPLY,
        r#"{"apiVersion":"v1","kind":"ConfigMap"}"#,
        422,
        &[(
            "message",
            "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply patch",
        )],
    ),
    step(
        "POST",
        "/api/v1/namespaces/default/configmaps?fieldManager=a%07b",
        JSON,
        r#"{"metadata":{"name":"b"}}"#,
        422,
        &[
            ("message", "invalid character U+0007 (at position 1)"),
            ("details.causes", "\"reason\":\"FieldValueInvalid\""),
        ],
    ),
    step(
        "DELETE",
        "/api/v1/namespaces/default/configmaps/a?propagationPolicy=Foo&orphanDependents=true&dryRun=x",
        "",
        "",
        422,
        &[
            (
                "message",
                "propagationPolicy: Invalid value: \"Foo\": orphanDependents and deletionPropagation cannot be both set",
            ),
            ("message", "supported values: \"Foreground\", \"Background\", \"Orphan\", \"nil\""),
            ("message", "dryRun: Unsupported value: [\"x\"]"),
        ],
    ),
    step("DELETE", "/api/v1/namespaces/default/configmaps/a?dryRun=All", JSON, "{}", 200, &[]),
    step("GET", "/api/v1/namespaces/default/configmaps/a", "", "", 200, &[]),
    step("DELETE", "/api/v1/namespaces/default/configmaps?dryRun=x", "", "", 422, &[("details.kind", "DeleteOptions")]),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn options_are_refused_under_the_name_of_their_kind() {
    let cluster = start().await;
    steps::run(&cluster, OPTIONS).await;
    cluster.server.stop().await;
}

const SERVICES: &str = "/api/v1/namespaces/default/services";

/// A Service's address cannot change, and that is said once.
const ADDRESSES: &[Step] = &[
    step(
        "POST",
        SERVICES,
        JSON,
        r#"{"metadata":{"name":"s"},"spec":{"clusterIP":"10.96.3.4","ports":[{"port":80}]}}"#,
        201,
        &[],
    ),
    step(
        "PATCH",
        "/api/v1/namespaces/default/services/s",
        MERGE,
        r#"{"spec":{"clusterIP":"10.96.3.5"}}"#,
        422,
        &[(
            "message",
            "Service \"s\" is invalid: spec.clusterIPs[0]: Invalid value: [\"10.96.3.5\"]: may not change once set",
        )],
    ),
    step(
        "PATCH",
        "/api/v1/namespaces/default/services/s",
        MERGE,
        r#"{"spec":{"type":"ExternalName","externalName":"example.com"}}"#,
        200,
        &[("spec.type", "ExternalName"), ("!spec.clusterIP", ""), ("!spec.clusterIPs", "")],
    ),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_that_changes_is_one_cause() {
    let cluster = start().await;
    steps::run(&cluster, ADDRESSES).await;
    cluster.server.stop().await;
}

const DEPLOYMENT: &str = "/apis/apps/v1/namespaces/default/deployments/d?fieldManager=one";

/// What an applied configuration may not be.
const APPLIED: &[Step] = &[
    step(
        "PATCH",
        DEPLOYMENT,
        APPLY,
        r#"{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"d","namespace":"default"},"spec":{"selector":{"matchLabels":{"a":"b"}},"template":{"metadata":{"labels":{"a":"b"}},"spec":{"containers":[{"name":"c","image":"i","env":[{"name":"X"},{"name":"X"}]}]}}}}"#,
        500,
        &[(
            "message",
            "failed to create typed patch object (default/d; apps/v1, Kind=Deployment): .spec.template.spec.containers[name=\"c\"].env: duplicate entries for key [name=\"X\"]",
        )],
    ),
    step(
        "PATCH",
        "/api/v1/namespaces/default/configmaps/m?fieldManager=one",
        APPLY,
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: m}\nnope: 1\ndata: {a: 1}\n",
        500,
        &[
            ("message", "failed to create typed patch object (/m; /v1, Kind=ConfigMap): errors:\n  "),
            ("message", ".data.a: expected string, got &value.valueUnstructured{Value:1}"),
            ("message", ".nope: field not declared in schema"),
            ("!reason", ""),
        ],
    ),
    step(
        "PATCH",
        DEPLOYMENT,
        APPLY,
        r#"{"apiVersion":"apps/v1beta1","kind":"Deployment"}"#,
        400,
        &[(
            "message",
            "Incorrect version specified in apply patch. Specified patch version: apps/v1beta1, expected: apps/v1",
        )],
    ),
    step(
        "PATCH",
        DEPLOYMENT,
        APPLY,
        r#"{"apiVersion":"apps/v1","kind":"Deployment","spec":{"replicas":2,"selector":{"matchLabels":{"a":"b"}},"template":{"metadata":{"labels":{"a":"b"}},"spec":{"containers":[{"name":"c","image":"i"}]}}}}"#,
        201,
        &[],
    ),
    step(
        "PATCH",
        "/apis/apps/v1/namespaces/default/deployments/d?fieldManager=two",
        APPLY,
        r#"{"apiVersion":"apps/v1","kind":"Deployment","spec":{"replicas":3,"template":{"spec":{"containers":[{"name":"c","image":"j"}]}}}}"#,
        409,
        &[
            (
                "message",
                "Apply failed with 2 conflicts: conflicts with \"one\":\n- .spec.replicas\n- .spec.template.spec.containers[name=\"c\"].image",
            ),
            ("details.causes", "\"reason\":\"FieldManagerConflict\""),
        ],
    ),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_applied_configuration_must_fit() {
    let cluster = start().await;
    steps::run(&cluster, APPLIED).await;
    cluster.server.stop().await;
}

/// Bodies that cannot be decoded, in the words of upstream's decoders.
const BODIES: &[Step] = &[
    step(
        "POST",
        MAPS,
        JSON,
        r#"{"metadata":{"#,
        400,
        &[(
            "message",
            "the object provided is unrecognized (must be of type ConfigMap): couldn't get version/kind; json parse error: unexpected end of JSON input ({\"metadata\":{)",
        )],
    ),
    step("POST", MAPS, JSON, "", 400, &[("message", "unexpected end of JSON input (<empty>)")]),
    step(
        "POST",
        MAPS,
        JSON,
        "[1]",
        400,
        &[
            ("message", "json: cannot unmarshal array into Go value of type struct { APIVersion string "),
            ("message", "(5b315d)"),
        ],
    ),
    step(
        "POST",
        MAPS,
        JSON,
        r#"{"kind":5}"#,
        400,
        &[("message", "json: cannot unmarshal number into Go struct field .kind of type string")],
    ),
    step("POST", MAPS, JSON, "null", 422, &[("message", "name or generateName is required")]),
    step(
        "POST",
        MAPS,
        JSON,
        r#"{"metadata":"x"}"#,
        400,
        &[(
            "message",
            "ConfigMap in version \"v1\" cannot be handled as a ConfigMap: json: cannot unmarshal string into Go struct field ConfigMap.metadata of type v1.ObjectMeta",
        )],
    ),
    step(
        "POST",
        "/apis/apps/v1/namespaces/default/deployments",
        JSON,
        r#"{"metadata":{"name":"x"},"spec":{"replicas":"two"}}"#,
        400,
        &[(
            "message",
            "Deployment in version \"v1\" cannot be handled as a Deployment: json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32",
        )],
    ),
    step(
        "POST",
        "/apis/apps/v1/namespaces/default/deployments?fieldValidation=Strict",
        JSON,
        r#"{"metadata":{"name":"x"},"spec":{"replicas":1,"replicas":1,"template":{"spec":{"containers":[{"imagee":"i"}]}}}}"#,
        400,
        &[(
            "message",
            "Deployment in version \"v1\" cannot be handled as a Deployment: strict decoding error: duplicate field \"spec.replicas\", unknown field \"spec.template.spec.containers[0].imagee\"",
        )],
    ),
    step(
        "POST",
        "/api/v1/namespaces/default/pods",
        JSON,
        r#"{"metadata":{"name":"x","creationTimestamp":"now"}}"#,
        400,
        &[("message", "parsing time \"now\" as \"2006-01-02T15:04:05Z07:00\": cannot parse \"now\" as \"2006\"")],
    ),
    step(
        "POST",
        MAPS,
        JSON,
        r#"{"kind":"Secret","apiVersion":"v1","metadata":{"name":"b"}}"#,
        400,
        &[(
            "message",
            "Secret in version \"v1\" cannot be handled as a ConfigMap: converting (v1.Secret) to (core.ConfigMap): unknown conversion",
        )],
    ),
    step(
        "POST",
        "/apis/apps/v1/namespaces/default/deployments",
        JSON,
        r#"{"kind":"Deploymint","apiVersion":"apps/v1"}"#,
        400,
        &[(
            "message",
            "Deploymint in version \"v1\" cannot be handled as a Deployment: no kind \"Deploymint\" is registered for version \"apps/v1\" in scheme ",
        )],
    ),
    step(
        "POST",
        "/apis/autoscaling/v1/namespaces/default/horizontalpodautoscalers",
        JSON,
        r#"{"kind":"HorizontalPodAutoscaler","apiVersion":"autoscaling/v2"}"#,
        400,
        &[(
            "message",
            "the API version in the data (autoscaling/v2) does not match the expected API version (autoscaling/v1)",
        )],
    ),
    step("POST", MAPS, "application/yaml", "a: [", 400, &[("message", "error converting YAML to JSON: yaml: ")]),
    step("POST", MAPS, JSON, r#"{"metadata":{"name":"p"}}"#, 201, &[]),
    step(
        "PATCH",
        "/api/v1/namespaces/default/configmaps/p",
        MERGE,
        r#"{"data":"x"}"#,
        422,
        &[
            ("message", " \"\" is invalid: patch: Invalid value: \"{\\\"apiVersion\\\":\\\"v1\\\""),
            (
                "message",
                ": json: cannot unmarshal string into Go struct field ConfigMap.data of type map[string]string",
            ),
            ("details.causes", "\"field\":\"patch\""),
        ],
    ),
    step(
        "PATCH",
        "/api/v1/namespaces/default/configmaps/p?fieldValidation=Strict",
        MERGE,
        r#"{"nope":1}"#,
        422,
        &[("message", "\\\"nope\\\":1"), ("message", "strict decoding error: unknown field \"nope\"")],
    ),
    step(
        "PATCH",
        "/api/v1/namespaces/default/configmaps/p",
        "application/strategic-merge-patch+json",
        r#"{"data":{"a":5}}"#,
        422,
        &[("message", " \"\" is invalid: patch: Invalid value: \"map[data:map[a:5]]\": json: cannot unmarshal number")],
    ),
    step("PATCH", "/api/v1/namespaces/default/configmaps/p", MERGE, "{", 400, &[("message", "error decoding patch: ")]),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_decoded_is_worded_as_upstreams_decoders_do() {
    let cluster = start().await;
    steps::run(&cluster, BODIES).await;
    cluster.server.stop().await;
}

/// A Scale is checked like any other object, and can be applied.
const SCALES: &[Step] = &[
    step(
        "PATCH",
        DEPLOYMENT,
        APPLY,
        r#"{"apiVersion":"apps/v1","kind":"Deployment","spec":{"replicas":2,"selector":{"matchLabels":{"a":"b"}},"template":{"metadata":{"labels":{"a":"b"}},"spec":{"containers":[{"name":"c","image":"i"}]}}}}"#,
        201,
        &[],
    ),
    step(
        "PATCH",
        "/apis/apps/v1/namespaces/default/deployments/d/scale",
        MERGE,
        r#"{"spec":{"replicas":"x"}}"#,
        422,
        &[("message", "json: cannot unmarshal string into Go struct field ScaleSpec.spec.replicas of type int32")],
    ),
    step(
        "PUT",
        "/apis/apps/v1/namespaces/default/deployments/d/scale",
        JSON,
        r#"{"metadata":{"name":"d"},"spec":{"replicas":"x"}}"#,
        400,
        &[("message", "Scale in version \"v1\" cannot be handled as a Scale: json: cannot unmarshal string")],
    ),
    step(
        "PUT",
        "/apis/apps/v1/namespaces/default/deployments/d/scale",
        JSON,
        r#"{"metadata":{"name":"e"},"spec":{"replicas":1}}"#,
        400,
        &[("message", "the name of the object (e) does not match the name on the URL (d)")],
    ),
    step(
        "PATCH",
        "/apis/apps/v1/namespaces/default/deployments/d/scale?fieldManager=three",
        APPLY,
        r#"{"apiVersion":"autoscaling/v1","kind":"Scale","metadata":{"name":"d","namespace":"default"},"spec":{"replicas":3}}"#,
        409,
        &[("message", "Apply failed with 1 conflict: conflict with \"one\": .spec.replicas")],
    ),
    step(
        "PATCH",
        "/apis/apps/v1/namespaces/default/deployments/d/scale?fieldManager=three&force=true",
        APPLY,
        r#"{"apiVersion":"autoscaling/v1","kind":"Scale","metadata":{"name":"d","namespace":"default"},"spec":{"replicas":3}}"#,
        200,
        &[("kind", "Scale"), ("spec.replicas", "3")],
    ),
    step(
        "GET",
        "/apis/apps/v1/namespaces/default/deployments/d",
        "",
        "",
        200,
        &[
            ("spec.replicas", "3"),
            ("metadata.managedFields", "\"manager\":\"three\",\"operation\":\"Apply\",\"subresource\":\"scale\""),
        ],
    ),
    step(
        "PUT",
        "/apis/apps/v1/namespaces/default/deployments/d",
        JSON,
        r#"{"spec":{}}"#,
        400,
        &[("message", "the name of the object (d based on URL) was undeterminable: name must be provided")],
    ),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_scale_is_an_object_like_others() {
    let cluster = start().await;
    steps::run(&cluster, SCALES).await;
    cluster.server.stop().await;
}

/// A pod to which kubectl debug has added a container is changed like any other.
const DEBUGGED: &[Step] = &[
    step("POST", "/api/v1/namespaces/default/serviceaccounts", JSON, r#"{"metadata":{"name":"default"}}"#, 201, &[]),
    step(
        "POST",
        "/api/v1/namespaces/default/pods",
        JSON,
        r#"{"metadata":{"name":"p"},"spec":{"containers":[{"name":"c","image":"i"}]}}"#,
        201,
        &[],
    ),
    step(
        "PATCH",
        "/api/v1/namespaces/default/pods/p/ephemeralcontainers",
        MERGE,
        r#"{"spec":{"ephemeralContainers":[{"name":"e","image":"i"}]}}"#,
        200,
        &[],
    ),
    step("PATCH", "/api/v1/namespaces/default/pods/p", MERGE, r#"{"metadata":{"labels":{"a":"b"}}}"#, 200, &[]),
    step(
        "POST",
        "/api/v1/namespaces/default/pods/p/binding",
        JSON,
        r#"{"metadata":{"name":"p"},"target":{"name":"n"}}"#,
        201,
        &[],
    ),
    step(
        "POST",
        "/api/v1/namespaces/default/pods",
        JSON,
        r#"{"metadata":{"name":"q"},"spec":{"containers":[{"name":"c","image":"i"}],"ephemeralContainers":[{"name":"e","image":"i"}]}}"#,
        422,
        &[("message", "spec.ephemeralContainers: Forbidden: cannot be set on create")],
    ),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_debugged_pod_is_changed_like_any_other() {
    let cluster = start().await;
    steps::run(&cluster, DEBUGGED).await;
    cluster.server.stop().await;
}

/// Verbs that a path does not take, and options that do not go together.
const PATHS: &[Step] = &[
    step("POST", "/api/v1/namespaces/default/configmaps/named", JSON, r#"{"metadata":{"name":"named"}}"#, 405, &[]),
    step("PUT", MAPS, JSON, r#"{"metadata":{"name":"named"}}"#, 405, &[]),
    step("PATCH", MAPS, MERGE, "{}", 405, &[]),
    step("GET", "/api/v1/namespaces/default/serviceaccounts/default/token", "", "", 405, &[]),
    step("GET", "/api/v1/namespaces/default/pods/p/binding", "", "", 405, &[]),
    step("DELETE", "/apis/apps/v1/namespaces/default/deployments/d/status", "", "", 405, &[]),
    step(
        "GET",
        "/api/v1/namespaces/default/configmaps?resourceVersionMatch=Some&sendInitialEvents=true",
        "",
        "",
        422,
        &[
            (
                "message",
                "ListOptions.meta.k8s.io \"\" is invalid: [resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden unless resourceVersion is provided, resourceVersionMatch: Unsupported value: \"Some\": supported values: \"Exact\", \"NotOlderThan\", \"\", sendInitialEvents: Forbidden: sendInitialEvents is forbidden for list]",
            ),
            ("details.kind", "ListOptions"),
        ],
    ),
    step(
        "GET",
        "/api/v1/namespaces/default/configmaps?watch=1&resourceVersionMatch=Exact",
        "",
        "",
        422,
        &[
            ("message", "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided"),
            ("message", "Unsupported value: \"Exact\": supported values: \"NotOlderThan\""),
        ],
    ),
    step(
        "GET",
        "/api/v1/namespaces/default/configmaps?fieldSelector=foo%3Dbar",
        "",
        "",
        400,
        &[("message", "\"foo\" is not a known field selector: only \"metadata.name\", \"metadata.namespace\"")],
    ),
    step(
        "GET",
        "/api/v1/namespaces/default/pods?fieldSelector=foo%3Dbar",
        "",
        "",
        400,
        &[("raw", "\"message\":\"field label not supported: foo\"")],
    ),
    step(
        "GET",
        "/api/v1/namespaces/default/pods?labelSelector=a+in+(b",
        "",
        "",
        400,
        &[("raw", "\"message\":\"unable to parse requirement: found '', expected: ',' or ')'\"")],
    ),
    step(
        "POST",
        MAPS,
        JSON,
        r#"{"metadata":{"generateName":"G_","finalizers":["x"]}}"#,
        422,
        &[
            ("message", "metadata.generateName: Invalid value: \"G_\": a lowercase RFC 1123 subdomain"),
            (
                "message",
                "metadata.finalizers: Invalid value: \"x\": name is neither a standard finalizer name nor is it fully qualified",
            ),
        ],
    ),
    step("POST", MAPS, JSON, r#"{"metadata":{"name":"j"}}"#, 201, &[]),
    step(
        "PATCH",
        "/api/v1/namespaces/default/configmaps/j",
        "application/json-patch+json",
        r#"{"a":1}"#,
        400,
        &[("message", "error decoding patch: json: cannot unmarshal object into Go value of type jsonpatch.Patch")],
    ),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn paths_take_the_verbs_and_options_that_upstreams_take() {
    let cluster = start().await;
    steps::run(&cluster, PATHS).await;
    cluster.server.stop().await;
}

/// Bodies of this many pieces of this size are larger than any window that a connection opens with.
const PIECES: usize = 80;
const PIECE_BYTES: usize = 32 * 1024;

/// A body that counts what was taken of it.
fn counted(taken: &Arc<AtomicUsize>) -> impl hyper::body::Body<Data = Bytes, Error = Infallible> + use<> {
    let taken = Arc::clone(taken);
    StreamBody::new(stream::iter((0..PIECES).map(move |_| {
        taken.fetch_add(PIECE_BYTES, Ordering::Relaxed);
        Ok(Frame::data(Bytes::from(vec![b' '; PIECE_BYTES])))
    })))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_is_refused_can_still_send_its_body() {
    let cluster = start().await;
    let nobody = cluster.issue("bob", "people");
    let cases = [(MAPS, 403), ("/api/v1/nothing", 403), ("/version", 403)];
    for alpn in ["h2", "http/1.1"] {
        for (path, code) in cases {
            let stream = TokioIo::new(cluster.connect(&nobody, &[alpn]).await);
            let taken = Arc::new(AtomicUsize::new(0));
            let request = http::Request::builder().method("POST").header("content-type", JSON);
            let response = if alpn == "h2" {
                let (mut sender, connection) =
                    hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await.unwrap();
                tokio::spawn(connection);
                let request = request.uri(format!("https://localhost{path}")).body(Box::pin(counted(&taken)));
                sender.send_request(request.unwrap()).await.unwrap()
            } else {
                let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await.unwrap();
                tokio::spawn(connection);
                let request = request.uri(path).header("host", "localhost").body(Box::pin(counted(&taken)));
                sender.send_request(request.unwrap()).await.unwrap()
            };
            assert_eq!(response.status().as_u16(), code, "{alpn} {path}");
            let body = response.into_body().collect().await.unwrap().to_bytes();
            assert!(body.ends_with(b"\"status\":\"Failure\"}\n"), "{alpn} {path}: {body:?}");
            assert_eq!(taken.load(Ordering::Relaxed), PIECES * PIECE_BYTES, "{alpn} {path}: the body was cut off");
        }
    }
    cluster.server.stop().await;
}
