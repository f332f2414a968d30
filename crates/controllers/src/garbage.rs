//! Garbage collection by owner: dependents follow their owners, before them, after them, or stay as orphans.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use serde_json::json;

use crate::action::{Action, Plan, Precondition, Propagation, Target};
use crate::controller::{Change, Controller};
use crate::meta;
use crate::view::{Key, MetadataEntry, View};

const FOREGROUND: &str = "foregroundDeletion";
const ORPHAN: &str = "orphan";

/// The garbage collector. Its keys are uids.
#[derive(Debug)]
pub struct GarbageCollector;

impl Controller for GarbageCollector {
    const NAME: &'static str = "generic-garbage-collector";
    type Memory = ();

    fn keys(view: &View, change: Change<'_>) -> Vec<Key> {
        let key = |uid: &str| Key::new("", uid);
        let relevant = |metadata: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta| {
            (
                metadata.owner_references.clone(),
                metadata.finalizers.clone(),
                metadata.deletion_timestamp.is_some(),
                metadata.uid.clone(),
            )
        };
        let (old, new) = (change.old.map(|side| side.metadata()), change.new.map(|side| side.metadata()));
        if let (Some(old), Some(new)) = (old, new)
            && relevant(old) == relevant(new)
        {
            return Vec::new();
        }
        let mut keys = Vec::new();
        for side in old.into_iter().chain(new) {
            keys.push(key(meta::uid(side)));
            // An owner that waits for its dependents looks again when one of them changes.
            keys.extend(side.owner_references.iter().flatten().map(|owner| key(&owner.uid)));
        }
        // Dependents look again when their owner goes or begins to.
        for side in old.into_iter().chain(new.filter(|new| meta::is_deleting(new))) {
            keys.extend(view.metadata.dependents(meta::uid(side)).map(|(uid, _)| key(uid)));
        }
        keys
    }

    fn plan(view: &View, key: &Key, _memory: &mut (), _now: Timestamp) -> Plan {
        let uid = key.name.as_str();
        let Some(entry) = view.metadata.get(uid) else { return Plan::nothing() };
        let has = |finalizer: &str| entry.finalizers.iter().any(|known| known == finalizer);
        if entry.deleting && has(ORPHAN) {
            return Plan::of(orphan(view, uid, entry));
        }
        if entry.deleting && has(FOREGROUND) {
            return Plan::of(delete_dependents(view, uid, entry));
        }
        if entry.deleting || entry.owners.is_empty() {
            return Plan::nothing();
        }
        Plan::of(judge(view, uid, entry))
    }
}

fn target(entry: &MetadataEntry) -> Target {
    Target { resource: entry.resource.clone(), namespace: entry.key.namespace.clone(), name: entry.key.name.clone() }
}

fn patch(uid: &str, entry: &MetadataEntry, patch: serde_json::Value) -> Action {
    // Lists are replaced as a whole, so the object must be in the state that was looked at.
    let precondition = Precondition { uid: uid.into(), resource_version: entry.resource_version.clone() };
    Action::Patch { target: target(entry), subresource: "", precondition, patch }
}

fn without_finalizer(uid: &str, entry: &MetadataEntry, finalizer: &str) -> Action {
    let rest: Vec<&String> = entry.finalizers.iter().filter(|known| *known != finalizer).collect();
    patch(uid, entry, json!({"metadata": {"finalizers": rest}}))
}

fn without_owners(uid: &str, entry: &MetadataEntry, remove: &[&str]) -> Action {
    let rest: Vec<&OwnerReference> =
        entry.owners.iter().filter(|owner| !remove.contains(&owner.uid.as_str())).collect();
    patch(uid, entry, json!({"metadata": {"ownerReferences": rest}}))
}

fn delete(uid: &str, entry: &MetadataEntry, propagation: Propagation, unless_present: Vec<(Target, String)>) -> Action {
    Action::Delete {
        target: target(entry),
        precondition: Precondition { uid: uid.into(), resource_version: String::new() },
        grace_period_seconds: None,
        propagation: Some(propagation),
        unless_present,
        on_success: None,
        on_failure: None,
    }
}

fn orphan(view: &View, uid: &str, entry: &MetadataEntry) -> Vec<Action> {
    let dependents: Vec<Action> =
        view.metadata.dependents(uid).map(|(dependent, state)| without_owners(dependent, state, &[uid])).collect();
    if dependents.is_empty() { vec![without_finalizer(uid, entry, ORPHAN)] } else { dependents }
}

fn blocks(dependent: &MetadataEntry, owner_uid: &str) -> bool {
    dependent.owners.iter().any(|owner| owner.uid == owner_uid && owner.block_owner_deletion == Some(true))
}

fn delete_dependents(view: &View, uid: &str, entry: &MetadataEntry) -> Vec<Action> {
    let mut actions = Vec::new();
    let mut blocked = false;
    for (dependent_uid, dependent) in view.metadata.dependents(uid) {
        blocked |= blocks(dependent, uid);
        if dependent.deleting {
            continue;
        }
        let others: Vec<&OwnerReference> = dependent
            .owners
            .iter()
            .filter(|owner| owner.uid != uid && view.metadata.get(&owner.uid).is_some_and(|other| !other.deleting))
            .collect();
        if others.is_empty() {
            let has_own = view.metadata.dependents(dependent_uid).next().is_some();
            let propagation = if has_own { Propagation::Foreground } else { Propagation::Background };
            actions.push(delete(dependent_uid, dependent, propagation, Vec::new()));
        } else {
            actions.push(without_owners(dependent_uid, dependent, &[uid]));
        }
    }
    if !blocked {
        actions.push(without_finalizer(uid, entry, FOREGROUND));
    }
    actions
}

/// What becomes of an object according to what its owners are: present, gone, or waiting for it to go.
fn judge(view: &View, uid: &str, entry: &MetadataEntry) -> Vec<Action> {
    let mut absent: Vec<(&str, Target)> = Vec::new();
    let mut waiting: Vec<&str> = Vec::new();
    let mut solid = 0;
    for owner in &entry.owners {
        let group = owner.api_version.rsplit_once('/').map_or("", |(group, _)| group);
        let Some(resource) = view.settings.mirrored.get(&(group.to_owned(), owner.kind.clone())) else {
            // Of a kind that is not mirrored nothing is known, so the owner counts as present.
            solid += 1;
            continue;
        };
        let namespace = if resource.namespaced { entry.key.namespace.clone() } else { String::new() };
        match view
            .metadata
            .get(&owner.uid)
            .filter(|known| known.key.namespace == namespace && known.resource.kind == owner.kind)
        {
            Some(known)
                if known.deleting
                    && known.finalizers.iter().any(|finalizer| finalizer == FOREGROUND)
                    && blocks(entry, &owner.uid) =>
            {
                waiting.push(&owner.uid);
            }
            Some(_) => solid += 1,
            None => {
                absent.push((&owner.uid, Target { resource: resource.clone(), namespace, name: owner.name.clone() }))
            }
        }
    }
    if absent.is_empty() && waiting.is_empty() {
        return Vec::new();
    }
    if solid > 0 {
        let remove: Vec<&str> = absent.iter().map(|(uid, _)| *uid).chain(waiting).collect();
        return vec![without_owners(uid, entry, &remove)];
    }
    let has_dependents = view.metadata.dependents(uid).next().is_some();
    let propagation =
        if !waiting.is_empty() && has_dependents { Propagation::Foreground } else { Propagation::Background };
    // The mirrors run apart, so an owner that seems absent is asked for before anything is deleted.
    let unless_present = absent.into_iter().map(|(uid, target)| (target, uid.to_owned())).collect();
    vec![delete(uid, entry, propagation, if waiting.is_empty() { unless_present } else { Vec::new() })]
}
