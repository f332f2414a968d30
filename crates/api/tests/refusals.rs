//! Requests that are refused, and upstream's words for why.
#![expect(clippy::unwrap_used, reason = "tests")]

mod support;

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
