//! The ServiceAccount `default` of every namespace.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ServiceAccount;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::action::{Action, Plan};
use crate::controller::{Change, Controller};
use crate::meta;
use crate::view::{Key, Typed, View};

const DEFAULT: &str = "default";

/// The ServiceAccount controller.
#[derive(Debug)]
pub struct ServiceAccountController;

impl Controller for ServiceAccountController {
    const NAME: &'static str = "service-account-controller";
    type Memory = ();

    fn keys(_view: &View, change: Change<'_>) -> Vec<Key> {
        match (change.old, change.new) {
            (_, Some(Typed::Namespace(namespace))) => vec![Key::new("", meta::name(&namespace.metadata))],
            (Some(Typed::ServiceAccount(account)), None) if meta::name(&account.metadata) == DEFAULT => {
                vec![Key::new("", meta::namespace(&account.metadata))]
            }
            _ => Vec::new(),
        }
    }

    fn plan(view: &View, key: &Key, _memory: &mut (), _now: Timestamp) -> Plan {
        let Some(namespace) = view.namespaces.at(key) else { return Plan::nothing() };
        if meta::is_deleting(&namespace.metadata) || view.service_accounts.get(&key.name, DEFAULT).is_some() {
            return Plan::nothing();
        }
        let account = ServiceAccount {
            metadata: ObjectMeta {
                name: Some(DEFAULT.into()),
                namespace: Some(key.name.clone()),
                ..ObjectMeta::default()
            },
            ..ServiceAccount::default()
        };
        Plan::of(vec![Action::create(&account).exists_is_success().action()])
    }
}
