//! ServiceAccount: every pod runs as an account, with its token, the cluster's authority and its namespace mounted.

use super::plugin::{Operation, Plugin, Review};
use crate::core::decoded;
use crate::random;
use async_trait::async_trait;
use object::{Map, Status, Value, meta};
use std::sync::Arc;
use std::time::Duration;

const MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// An hour and a little, so that the first renewal falls inside it; upstream's number.
const TOKEN_SECONDS: i64 = 3607;
/// A new namespace gets its default account a moment later; so long a pod waits for it.
const WAITS_MAX: u32 = 20;
const WAIT: Duration = Duration::from_millis(50);

/// The plug-in.
pub(crate) struct ServiceAccounts;

#[async_trait]
impl Plugin for ServiceAccounts {
    fn handles(&self, review: &Review<'_>) -> bool {
        review.bucket() == "pods" && review.operation == Operation::Create && review.call.scope.subresource.is_empty()
    }

    async fn mutate(&self, review: &Review<'_>, pod: &mut Value) -> Result<(), Status> {
        if meta::annotation(pod, "kubernetes.io/config.mirror").is_some() {
            return Ok(());
        }
        let name = match pod.str_at(&["spec", "serviceAccountName"]).unwrap_or_default() {
            "" => "default".to_owned(),
            name => name.to_owned(),
        };
        pod.set(&["spec", "serviceAccountName"], name.as_str().into());
        pod.set(&["spec", "serviceAccount"], name.as_str().into());
        let account = find(review, &name).await?;
        let wanted = [pod.at(&["spec", "automountServiceAccountToken"]), account.get("automountServiceAccountToken")];
        if wanted.into_iter().flatten().find_map(Value::as_bool).unwrap_or(true) {
            mount(pod);
        }
        let has_secrets =
            pod.at(&["spec", "imagePullSecrets"]).and_then(Value::as_array).is_some_and(|list| !list.is_empty());
        if !has_secrets && let Some(secrets) = account.get("imagePullSecrets") {
            pod.set(&["spec", "imagePullSecrets"], secrets.clone());
        }
        Ok(())
    }
}

async fn find(review: &Review<'_>, name: &str) -> Result<Arc<Value>, Status> {
    let rest = format!("{}/{name}", review.call.scope.namespace);
    let waits = if name == "default" { WAITS_MAX } else { 1 };
    for wait in 0..waits {
        if wait > 0 {
            tokio::time::sleep(WAIT).await;
        }
        if let Some(entry) = review.call.core.lookup("serviceaccounts", &rest) {
            return Ok(decoded(&entry));
        }
    }
    let why = format!("error looking up service account {rest}: serviceaccount \"{name}\" not found");
    Err(review.forbidden(&why))
}

/// Adds the projected volume to the pod and mounts it in every container that has nothing at its path.
fn mount(pod: &mut Value) {
    let volumes = pod.at(&["spec", "volumes"]).and_then(Value::as_array).unwrap_or_default();
    let own = |volume: &&Value| {
        let named = volume.str_at(&["name"]).is_some_and(|name| name.starts_with("kube-api-access-"));
        named && volume.get("projected").is_some()
    };
    let existing = volumes.iter().find(own).and_then(|volume| volume.str_at(&["name"])).map(str::to_owned);
    let volume_name = existing.clone().unwrap_or_else(|| format!("kube-api-access-{}", random::suffix()));
    let mut needed = false;
    for list in ["initContainers", "containers"] {
        let Some(containers) = pod.at_mut(&["spec", list]).and_then(Value::as_array_mut) else { continue };
        for container in containers {
            let mut mounts = container.get("volumeMounts").and_then(Value::as_array).unwrap_or_default().to_vec();
            if mounts.iter().any(|one| one.str_at(&["mountPath"]) == Some(MOUNT_PATH)) {
                continue;
            }
            let mut one: Map = [("name", volume_name.as_str()), ("mountPath", MOUNT_PATH)].into_iter().collect();
            one.insert("readOnly", true);
            mounts.push(one.into());
            container.set(&["volumeMounts"], mounts.into());
            needed = true;
        }
    }
    if needed && existing.is_none() {
        let mut volumes = pod.at(&["spec", "volumes"]).and_then(Value::as_array).unwrap_or_default().to_vec();
        volumes.push(volume(&volume_name));
        pod.set(&["spec", "volumes"], volumes.into());
    }
}

fn volume(name: &str) -> Value {
    let mut token = Value::default();
    token.set(&["serviceAccountToken", "path"], "token".into());
    token.set(&["serviceAccountToken", "expirationSeconds"], TOKEN_SECONDS.into());
    let item: Map = [("key", "ca.crt"), ("path", "ca.crt")].into_iter().collect();
    let mut authority = Value::default();
    authority.set(&["configMap", "name"], "kube-root-ca.crt".into());
    authority.set(&["configMap", "items"], vec![Value::from(item)].into());
    let mut field = Value::default();
    field.set(&["path"], "namespace".into());
    field.set(&["fieldRef", "apiVersion"], "v1".into());
    field.set(&["fieldRef", "fieldPath"], "metadata.namespace".into());
    let mut namespace = Value::default();
    namespace.set(&["downwardAPI", "items"], vec![field].into());
    let mut volume = Value::default();
    volume.set(&["name"], name.into());
    volume.set(&["projected", "defaultMode"], 420_i64.into());
    volume.set(&["projected", "sources"], vec![token, authority, namespace].into());
    volume
}
