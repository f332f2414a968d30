//! Secrets of type kubernetes.io/service-account-token live as long as their ServiceAccount. Their token is filled in by the API as
//! they are written; one that was there before its account is written again when the account comes.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Secret;
use serde_json::json;

use crate::action::{Action, Plan};
use crate::controller::{Change, Controller};
use crate::meta;
use crate::view::{Key, Typed, View};

const TYPE: &str = "kubernetes.io/service-account-token";
const ACCOUNT: &str = "kubernetes.io/service-account.name";
const UID: &str = "kubernetes.io/service-account.uid";
/// So long a Secret waits for an account that is made right after it.
const PATIENCE: SignedDuration = SignedDuration::from_secs(10);

/// The controller.
#[derive(Debug)]
pub struct TokenSecretController;

impl Controller for TokenSecretController {
    const NAME: &'static str = "service-account-tokens";
    type Memory = ();

    fn keys(view: &View, change: Change<'_>) -> Vec<Key> {
        match (change.old, change.new) {
            (_, Some(Typed::Secret(secret))) if is_ours(secret) => vec![Key::of(&secret.metadata)],
            // An account that came or went; its later changes concern no Secret.
            (None, Some(Typed::ServiceAccount(account))) | (Some(Typed::ServiceAccount(account)), None) => view
                .secrets
                .in_namespace(meta::namespace(&account.metadata))
                .filter(|secret| {
                    is_ours(secret) && meta::annotation(&secret.metadata, ACCOUNT) == account.metadata.name.as_deref()
                })
                .map(|secret| Key::of(&secret.metadata))
                .collect(),
            _ => Vec::new(),
        }
    }

    fn plan(view: &View, key: &Key, _memory: &mut (), now: Timestamp) -> Plan {
        let Some(secret) = view.secrets.at(key).filter(|secret| is_ours(secret)) else { return Plan::nothing() };
        if meta::is_deleting(&secret.metadata) {
            return Plan::nothing();
        }
        let name = meta::annotation(&secret.metadata, ACCOUNT).unwrap_or_default();
        let held = meta::annotation(&secret.metadata, UID).unwrap_or_default();
        match view.service_accounts.get(&key.namespace, name) {
            Some(account) if held.is_empty() => {
                let annotations = json!({UID: meta::uid(&account.metadata)});
                Plan::of(vec![Action::patch(&**secret, "", json!({"metadata": {"annotations": annotations}}))])
            }
            Some(account) if held == meta::uid(&account.metadata) => Plan::nothing(),
            // An account of the same name that was made anew is another one.
            Some(_) => Plan::of(vec![Action::delete(&**secret)]),
            None => {
                let made = secret.metadata.creation_timestamp.as_ref().map_or(now, |time| time.0);
                let end = made.checked_add(PATIENCE).unwrap_or(now);
                if now < end {
                    let mut plan = Plan::default();
                    plan.requeue_at(end);
                    return plan;
                }
                Plan::of(vec![Action::delete(&**secret)])
            }
        }
    }
}

fn is_ours(secret: &Secret) -> bool {
    secret.type_.as_deref() == Some(TYPE)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use std::sync::Arc;

    use super::*;

    fn secret(uid: &str) -> Typed {
        let mut annotations = json!({ACCOUNT: "a"});
        if !uid.is_empty() {
            annotations[UID] = json!(uid);
        }
        let object = json!({"type": TYPE, "metadata": {"name": "s", "namespace": "n", "uid": "s", "annotations": annotations,
            "creationTimestamp": "1970-01-01T00:00:00Z"}});
        Typed::Secret(Arc::new(serde_json::from_value(object).unwrap()))
    }

    fn account(uid: &str) -> Typed {
        let object = json!({"metadata": {"name": "a", "namespace": "n", "uid": uid}});
        Typed::ServiceAccount(Arc::new(serde_json::from_value(object).unwrap()))
    }

    #[test]
    fn secrets_live_with_their_account() {
        for (what, objects, second, wanted) in [
            ("filled", vec![secret("u"), account("u")], 99, ""),
            ("before its account", vec![secret(""), account("u")], 1, "patch"),
            ("another account of this name", vec![secret("old"), account("u")], 1, "delete"),
            ("waiting", vec![secret("")], 5, ""),
            ("without an account", vec![secret("")], 10, "delete"),
            ("account gone", vec![secret("u")], 99, "delete"),
        ] {
            let mut view = View::default();
            for object in &objects {
                view.set(object);
            }
            let now = Timestamp::from_second(second).unwrap();
            let plan = TokenSecretController::plan(&view, &Key::new("n", "s"), &mut (), now);
            let done = match plan.actions.as_slice() {
                [] => "",
                [Action::Patch { .. }] => "patch",
                [Action::Delete { .. }] => "delete",
                _ => "?",
            };
            assert_eq!(done, wanted, "{what}");
        }
    }
}
