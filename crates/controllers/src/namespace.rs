//! Namespace deletion: everything in it goes, then the namespace itself.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Namespace, NamespaceCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::action::{Action, Plan, Precondition, Propagation, Target};
use crate::controller::{Change, Controller};
use crate::meta;
use crate::view::{Key, MetadataEntry, Typed, View};

const FINALIZER: &str = "kubernetes";
/// Mirrors of different resources run apart by milliseconds, so a namespace must have looked empty for this long.
const EMPTY_FOR: SignedDuration = SignedDuration::from_millis(300);
/// While some resource is not known yet, an empty namespace is looked at again after this.
const LOOK_AGAIN_AFTER: SignedDuration = SignedDuration::from_secs(1);

/// The namespace controller.
#[derive(Debug)]
pub struct NamespaceController;

/// Since when the namespace has looked empty.
#[derive(Debug, Default)]
pub struct Memory {
    empty_since: Option<Timestamp>,
}

impl Controller for NamespaceController {
    const NAME: &'static str = "namespace-controller";
    type Memory = Memory;

    fn keys(view: &View, change: Change<'_>) -> Vec<Key> {
        let keys = change.sides().filter_map(|side| match side {
            Typed::Namespace(namespace) => Some(Key::new("", meta::name(&namespace.metadata))),
            other => {
                let key = Key::new("", meta::namespace(other.metadata()));
                view.namespaces.at(&key).filter(|namespace| meta::is_deleting(&namespace.metadata)).map(|_| key)
            }
        });
        keys.collect()
    }

    fn plan(view: &View, key: &Key, memory: &mut Memory, now: Timestamp) -> Plan {
        let Some(namespace) = view.namespaces.at(key) else { return Plan::nothing() };
        let finalizers = namespace.spec.as_ref().and_then(|spec| spec.finalizers.clone()).unwrap_or_default();
        if !meta::is_deleting(&namespace.metadata) || !finalizers.iter().any(|finalizer| finalizer == FINALIZER) {
            return Plan::nothing();
        }
        let content: Vec<(&str, &MetadataEntry)> = view.metadata.in_namespace(&key.name).collect();
        let mut plan = Plan::default();
        if content.is_empty() && view.settings.incomplete {
            plan.requeue_at(now.checked_add(LOOK_AGAIN_AFTER).unwrap_or(now));
            return plan;
        }
        if content.is_empty() {
            let since = *memory.empty_since.get_or_insert(now);
            let ready_at = since.checked_add(EMPTY_FOR).unwrap_or(now);
            if now < ready_at {
                plan.requeue_at(ready_at);
                return plan;
            }
            let mut finalized = (**namespace).clone();
            let rest: Vec<String> = finalizers.into_iter().filter(|finalizer| finalizer != FINALIZER).collect();
            finalized.spec.get_or_insert_default().finalizers = (!rest.is_empty()).then_some(rest);
            plan.actions.push(Action::Update {
                target: Target::of(&finalized),
                subresource: "finalize",
                object: meta::to_json(&finalized),
                on_success: None,
            });
            return plan;
        }
        memory.empty_since = None;
        for (uid, entry) in content.iter().filter(|(_, entry)| !entry.deleting) {
            plan.actions.push(Action::Delete {
                target: Target {
                    resource: entry.resource.clone(),
                    namespace: entry.key.namespace.clone(),
                    name: entry.key.name.clone(),
                },
                precondition: Precondition { uid: (*uid).into(), resource_version: String::new() },
                grace_period_seconds: None,
                propagation: Some(Propagation::Background),
                unless_present: Vec::new(),
                on_success: None,
                on_failure: None,
            });
        }
        plan.actions.extend(status_update(namespace, &content, now));
        plan
    }
}

fn status_update(namespace: &Namespace, content: &[(&str, &MetadataEntry)], now: Timestamp) -> Option<Action> {
    let mut kinds: BTreeMap<String, usize> = BTreeMap::new();
    let mut finalizers: BTreeMap<&str, usize> = BTreeMap::new();
    for (_, entry) in content {
        *kinds.entry(format!("{}.{}", entry.resource.plural, entry.resource.group)).or_default() += 1;
        for finalizer in &entry.finalizers {
            *finalizers.entry(finalizer).or_default() += 1;
        }
    }
    let remaining: Vec<String> =
        kinds.iter().map(|(kind, count)| format!("{kind} has {count} resource instances")).collect();
    let held: Vec<String> =
        finalizers.iter().map(|(finalizer, count)| format!("{finalizer} in {count} resource instances")).collect();
    let mut conditions = vec![
        (
            "NamespaceDeletionDiscoveryFailure",
            "False",
            "ResourcesDiscovered",
            "All resources successfully discovered".to_owned(),
        ),
        (
            "NamespaceDeletionGroupVersionParsingFailure",
            "False",
            "ParsedGroupVersions",
            "All legacy kube types successfully parsed".to_owned(),
        ),
        (
            "NamespaceDeletionContentFailure",
            "False",
            "ContentDeleted",
            "All content successfully deleted, may be waiting on finalization".to_owned(),
        ),
        (
            "NamespaceContentRemaining",
            "True",
            "SomeResourcesRemain",
            format!("Some resources are remaining: {}", remaining.join(", ")),
        ),
    ];
    conditions.push(if held.is_empty() {
        (
            "NamespaceFinalizersRemaining",
            "False",
            "ContentHasNoFinalizers",
            "All content-preserving finalizers finished".to_owned(),
        )
    } else {
        let message = format!("Some content in the namespace has finalizers remaining: {}", held.join(", "));
        ("NamespaceFinalizersRemaining", "True", "SomeFinalizersRemain", message)
    });
    let mut changed = namespace.clone();
    let status = changed.status.get_or_insert_default();
    let known = status.conditions.take().unwrap_or_default();
    let conditions: Vec<NamespaceCondition> = conditions
        .into_iter()
        .map(|(type_, value, reason, message)| {
            let old = known.iter().find(|condition| condition.type_ == type_);
            let since = old.filter(|old| old.status == value).and_then(|old| old.last_transition_time.clone());
            NamespaceCondition {
                type_: type_.into(),
                status: value.into(),
                reason: Some(reason.into()),
                message: Some(message),
                last_transition_time: since.or(Some(Time(now))),
            }
        })
        .collect();
    status.conditions = Some(conditions);
    (namespace.status != changed.status).then(|| Action::update_status(&changed))
}
