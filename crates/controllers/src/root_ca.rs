//! The ConfigMap `kube-root-ca.crt` of every namespace, by which pods know the API server.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::json;

use crate::action::{Action, Plan};
use crate::controller::{Change, Controller};
use crate::meta;
use crate::view::{Key, Typed, View};

const NAME: &str = "kube-root-ca.crt";
const FILE: &str = "ca.crt";
const DESCRIPTION: &str = "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as the internal \
                           service IP or kubernetes.default.svc. No other usage is guaranteed across distributions of Kubernetes clusters.";

/// Publishes the certificate authority.
#[derive(Debug)]
pub struct RootCaPublisher;

impl Controller for RootCaPublisher {
    const NAME: &'static str = "root-ca-cert-publisher";
    type Memory = ();

    fn keys(_view: &View, change: Change<'_>) -> Vec<Key> {
        let keys = change.sides().filter_map(|side| match side {
            Typed::Namespace(namespace) => Some(Key::new("", meta::name(&namespace.metadata))),
            Typed::ConfigMap(map) if meta::name(&map.metadata) == NAME => {
                Some(Key::new("", meta::namespace(&map.metadata)))
            }
            _ => None,
        });
        keys.collect()
    }

    fn plan(view: &View, key: &Key, _memory: &mut (), _now: Timestamp) -> Plan {
        let Some(namespace) = view.namespaces.at(key) else { return Plan::nothing() };
        if meta::is_deleting(&namespace.metadata) || view.settings.root_ca.is_empty() {
            return Plan::nothing();
        }
        let data = BTreeMap::from([(FILE.to_owned(), view.settings.root_ca.clone())]);
        match view.config_maps.get(&key.name, NAME) {
            Some(map) if map.data.as_ref() == Some(&data) => Plan::nothing(),
            Some(map) => {
                let mut update = (**map).clone();
                update.data = Some(data);
                Plan::of(vec![Action::update(&update)])
            }
            None => {
                let annotations = BTreeMap::from([("kubernetes.io/description".to_owned(), DESCRIPTION.to_owned())]);
                let map = ConfigMap {
                    metadata: ObjectMeta {
                        name: Some(NAME.into()),
                        namespace: Some(key.name.clone()),
                        annotations: Some(annotations),
                        ..ObjectMeta::default()
                    },
                    data: Some(data),
                    ..ConfigMap::default()
                };
                let mut create = Action::create(&map).exists_is_success();
                create.object["data"] = json!(map.data);
                Plan::of(vec![create.action()])
            }
        }
    }
}
