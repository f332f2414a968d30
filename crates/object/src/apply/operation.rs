//! Apply itself.

use super::compare::Changes;
use super::error::Error;
use super::fit::fit;
use super::managers::{Identity, Managers, strip};
use super::merge::{merge, prune};
use super::paths::{Shape, paths_of};
use super::set::Set;
use crate::schema::{Schemas, Type, TypeId};
use crate::{Limits, Map, Value, json};
use jiff::Timestamp;

/// The annotation in which client-side apply keeps what it applied last.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// The applier that goes on where client-side apply ended, and the manager of the latter.
const KUBECTL: &str = "kubectl";
const CLIENT_SIDE: &str = "kubectl-client-side-apply";

/// One apply request.
pub struct Apply<'a> {
    /// The schemas that hold the object's type.
    pub schemas: &'a Schemas,
    /// The object's type, in the version applied.
    pub type_id: TypeId,
    /// The object as it is, in that version; None where the apply creates it.
    pub live: Option<&'a Value>,
    /// What is applied.
    pub configuration: &'a Value,
    /// The applier's name.
    pub manager: &'a str,
    /// The version applied, such as `apps/v1`.
    pub api_version: &'a str,
    /// `status`, `scale`, ...; empty for the object itself.
    pub subresource: &'a str,
    /// Take over fields that others hold.
    pub force: bool,
    /// The time of the request.
    pub now: Timestamp,
}

/// The object with the configuration applied and managedFields kept; the live object itself where nothing changes.
pub fn apply(request: Apply<'_>) -> Result<Value, Error> {
    if request
        .configuration
        .at(&["metadata", "managedFields"])
        .and_then(Value::as_array)
        .is_some_and(|list| !list.is_empty())
    {
        return Err(Error::Invalid("metadata.managedFields must be nil".to_owned()));
    }
    let kind = Type::Struct(request.type_id);
    let shape = Shape::of(request.schemas, &kind);
    let mut live = request.live.cloned().unwrap_or_else(|| Value::Object(Map::new()));
    let mut managers = Managers::of(&live);
    live.remove(&["metadata", "managedFields"]);
    if request.live.is_some() && managers.entries.is_empty() {
        // An object whose history is not known belongs to somebody before the first applier.
        let mut set = Set::default();
        paths_of(shape, &live, &mut set);
        strip(&mut set, "");
        let unknown = Identity {
            manager: "before-first-apply".into(),
            applies: false,
            api_version: request.api_version.into(),
            subresource: Default::default(),
        };
        managers.put(unknown, set, request.now);
    }
    let before = managers.clone();
    fit(request.schemas, request.type_id, request.configuration)?;
    let configuration = writable(request.configuration, request.subresource);
    let mut merged = merge(shape, &live, &configuration);
    let mut applied = Set::default();
    paths_of(shape, &configuration, &mut applied);
    strip(&mut applied, request.subresource);

    let identity = Identity {
        manager: request.manager.into(),
        applies: true,
        api_version: request.api_version.into(),
        subresource: request.subresource.into(),
    };
    let own = managers.position(&identity);
    if let Some(at) = own {
        let mut held = applied.clone();
        for (other, entry) in managers.entries.iter().enumerate() {
            if other != at {
                held.union(&entry.set);
            }
        }
        prune(shape, &mut merged, &managers.entries[at].set, &held);
        // An empty list has no owner, so the parent of one that is applied may have gone with the rest.
        merged = merge(shape, &merged, &configuration);
    }

    let changes = Changes::between(shape, &live, &merged);
    let taken = changes.taken();
    let mut conflicts: Vec<(Identity, Set)> = managers
        .entries
        .iter()
        .filter(|entry| !entry.identity.is(&identity))
        .map(|entry| (entry.identity.clone(), entry.set.intersection(&taken)))
        .filter(|(_, set)| !set.is_empty())
        .collect();
    if !conflicts.is_empty() {
        if !request.force {
            if request.manager == KUBECTL {
                let upgraded = last_applied(shape, &live, request.api_version);
                for (other, set) in &mut conflicts {
                    if !other.applies && other.manager == CLIENT_SIDE {
                        *set = set.difference(&upgraded);
                    }
                }
                conflicts.retain(|(_, set)| !set.is_empty());
            }
            if !conflicts.is_empty() {
                return Err(Error::conflicts(conflicts));
            }
        }
        managers.lose(&taken, Some(&identity));
    }
    managers.lose(&changes.removed, Some(&identity));
    let unchanged = own.is_some_and(|at| before.entries[at].identity == identity && before.entries[at].set == applied);
    if !unchanged {
        managers.put(identity, applied, request.now);
    }
    managers.cap();
    if let Some(original) = request.live.filter(|_| merged == live && managers.holds_the_same(&before)) {
        return Ok(original.clone());
    }
    managers.write(&mut merged);
    Ok(merged)
}

/// What client-side apply set last and still stands: an upgrade to server-side apply may take it over unforced.
fn last_applied(shape: Shape<'_>, live: &Value, api_version: &str) -> Set {
    let mut set = Set::default();
    let text = live.str_at(&["metadata", "annotations", LAST_APPLIED]).unwrap_or_default();
    let Ok(decoded) = json::decode(text.as_bytes(), &Limits::REQUEST) else { return set };
    let last = decoded.value;
    if last.str_at(&["apiVersion"]) != Some(api_version) {
        return set;
    }
    paths_of(shape, &last, &mut set);
    let changes = Changes::between(shape, &last, live);
    set.difference(&changes.taken()).difference(&changes.removed)
}

/// The configuration without what this endpoint does not write.
fn writable(configuration: &Value, subresource: &str) -> Value {
    let mut configuration = configuration.clone();
    configuration.remove(&["metadata", "managedFields"]);
    if let Some(map) = configuration.as_object_mut() {
        match subresource {
            "" => drop(map.remove("status")),
            "status" => map.retain(|name, _| matches!(name, "apiVersion" | "kind" | "metadata" | "status")),
            _ => {}
        }
    }
    configuration
}
