//! The node's Lease: renewed every ten seconds, so that a silent node is noticed. Losing one renewal changes nothing.

use crate::agent::{Api, target};
use client::PatchKind;
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference};
use serde_json::json;
use std::time::Duration;

const NAMESPACE: &str = "kube-node-lease";
const RENEW_EVERY: Duration = Duration::from_secs(10);
const RETRY_AFTER: Duration = Duration::from_millis(200);
const RETRY_MAX: Duration = Duration::from_secs(7);
/// Seconds after which others take the node for silent, as upstream.
const DURATION_SECONDS: i32 = 40;

/// Renews the Lease until the process ends. `uid` is the Node's, its owner.
pub async fn renew_lease(api: Api, node: String, uid: String) {
    let mut retry = RETRY_AFTER;
    loop {
        match renew(&api, &node, &uid).await {
            Ok(()) => {
                retry = RETRY_AFTER;
                tokio::time::sleep(RENEW_EVERY).await;
            }
            Err(error) => {
                tracing::debug!(%error, "the node's lease is renewed later");
                tokio::time::sleep(retry).await;
                retry = (retry * 2).min(RETRY_MAX);
            }
        }
    }
}

async fn renew(api: &Api, node: &str, uid: &str) -> Result<(), object::Status> {
    let now = MicroTime(Timestamp::now());
    let patch = json!({"spec": {"renewTime": now, "holderIdentity": node, "leaseDurationSeconds": DURATION_SECONDS}});
    match api.patch(target("coordination.k8s.io", "leases", NAMESPACE, node, ""), PatchKind::Merge, patch).await {
        Err(status) if status.is_not_found() => {}
        answer => return answer.map(drop),
    }
    let lease = Lease {
        metadata: ObjectMeta {
            name: Some(node.to_owned()),
            namespace: Some(NAMESPACE.to_owned()),
            owner_references: Some(vec![OwnerReference {
                api_version: "v1".into(),
                kind: "Node".into(),
                name: node.to_owned(),
                uid: uid.to_owned(),
                ..OwnerReference::default()
            }]),
            ..ObjectMeta::default()
        },
        spec: Some(LeaseSpec {
            holder_identity: Some(node.to_owned()),
            lease_duration_seconds: Some(DURATION_SECONDS),
            renew_time: Some(now),
            ..LeaseSpec::default()
        }),
    };
    let created: Result<serde_json::Value, _> =
        api.create(target("coordination.k8s.io", "leases", NAMESPACE, "", ""), &lease).await;
    created.map(drop)
}
