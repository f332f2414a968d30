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
        &[("message", "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply patch")],
    ),
    step(
        "POST",
        "/api/v1/namespaces/default/configmaps?fieldManager=a%07b",
        JSON,
        r#"{"metadata":{"name":"b"}}"#,
        422,
        &[("message", "invalid character U+0007 (at position 1)"), ("details.causes", "\"reason\":\"FieldValueInvalid\"")],
    ),
    step(
        "DELETE",
        "/api/v1/namespaces/default/configmaps/a?propagationPolicy=Foo&orphanDependents=true&dryRun=x",
        "",
        "",
        422,
        &[
            ("message", "propagationPolicy: Invalid value: \"Foo\": orphanDependents and deletionPropagation cannot be both set"),
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
