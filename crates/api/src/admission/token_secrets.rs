//! Secrets of type kubernetes.io/service-account-token get their token, the cluster's authority and their namespace as they are written:
//! what upstream's token controller fills in a moment later. One whose account is not there yet is filled when it is (the controller
//! of the same name writes it then), and goes when it does not come.

use super::plugin::{Operation, Plugin, Review};
use crate::core::decoded;
use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use object::{Status, Value, meta};

const TYPE: &str = "kubernetes.io/service-account-token";
const ACCOUNT: &str = "kubernetes.io/service-account.name";
const UID: &str = "kubernetes.io/service-account.uid";

/// The plug-in.
pub(crate) struct TokenSecrets;

#[async_trait]
impl Plugin for TokenSecrets {
    fn handles(&self, review: &Review<'_>) -> bool {
        review.bucket() == "secrets"
            && review.operation != Operation::Delete
            && review.call.scope.subresource.is_empty()
    }

    async fn mutate(&self, review: &Review<'_>, secret: &mut Value) -> Result<(), Status> {
        if secret.str_at(&["type"]) != Some(TYPE) {
            return Ok(());
        }
        let core = review.call.core;
        let namespace = review.call.scope.namespace;
        let Some(name) = meta::annotation(secret, ACCOUNT).map(str::to_owned) else { return Ok(()) };
        let Some(account) = core.lookup("serviceaccounts", &format!("{namespace}/{name}")) else { return Ok(()) };
        let account = decoded(&account);
        let uid = account.str_at(&["metadata", "uid"]).unwrap_or_default().to_owned();
        // A Secret of another account of this name: the controller removes it.
        if meta::annotation(secret, UID).is_some_and(|held| !held.is_empty() && held != uid) {
            return Ok(());
        }
        secret.set(&["metadata", "annotations", UID], uid.into());
        let is_missing = |secret: &Value, key: &str| secret.str_at(&["data", key]).is_none_or(str::is_empty);
        if is_missing(secret, "token") {
            let token = core.tokens.issue_legacy(&account, &review.name)?;
            secret.set(&["data", "token"], STANDARD.encode(token).into());
        }
        let authority = STANDARD.encode(core.pki.bundle());
        if secret.str_at(&["data", "ca.crt"]) != Some(authority.as_str()) {
            secret.set(&["data", "ca.crt"], authority.into());
        }
        if is_missing(secret, "namespace") {
            secret.set(&["data", "namespace"], STANDARD.encode(namespace).into());
        }
        Ok(())
    }
}
