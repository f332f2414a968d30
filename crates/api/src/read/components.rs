//! ComponentStatus, which old clients and `kubectl get componentstatuses` read: nothing is stored, the parts are asked.
//!
//! Upstream's names are kept: `scheduler` and `controller-manager` are the control loop of this process, `etcd-0` is the store.

use super::{Listed, Selection};
use crate::core::{Core, Scope};
use object::{Status, Value, json};
use std::sync::{Arc, LazyLock};
use store::{DecodedBudget, Entry, Revision};

/// These entries live as long as their answer: a budget of their own counts nothing against the store's.
static BUDGET: LazyLock<Arc<DecodedBudget>> = LazyLock::new(|| DecodedBudget::new(1 << 20));

/// True for the resource that is answered here.
pub(super) fn is_asked(scope: &Scope<'_>) -> bool {
    scope.row.group.is_empty() && scope.row.plural == "componentstatuses"
}

/// One part.
pub(super) fn get(core: &Core, scope: &Scope<'_>) -> Result<Arc<Entry>, Status> {
    let found = parts(core).into_iter().find(|part| part.0 == scope.name);
    found.map(|part| entry(scope, &part)).ok_or_else(|| Status::not_found(&scope.gvr(), scope.name))
}

/// All parts that are selected, whatever page is asked for: they are three.
pub(super) fn list(core: &Core, scope: &Scope<'_>, selection: &Selection) -> Listed {
    let mut entries: Vec<Arc<Entry>> = parts(core).iter().map(|part| entry(scope, part)).collect();
    entries.retain(|entry| selection.matches_entry(&scope.row, entry));
    Listed { entries, revision: core.store.revision(), remaining: None, continuation: String::new() }
}

/// Each part with what is wrong, in the order of their names.
fn parts(core: &Core) -> [(&'static str, Option<String>); 3] {
    let ended = match core.control_plane.get() {
        None => Some("not started".to_owned()),
        Some(lives) if lives() => None,
        Some(_) => Some("the control loop has ended; the server's log says why".to_owned()),
    };
    [("controller-manager", ended.clone()), ("etcd-0", core.store.status().stopped), ("scheduler", ended)]
}

fn entry(scope: &Scope<'_>, (name, fault): &(&'static str, Option<String>)) -> Arc<Entry> {
    let mut condition = Value::default();
    condition.set(&["type"], "Healthy".into());
    condition.set(&["status"], if fault.is_none() { "True" } else { "False" }.into());
    match fault {
        None => condition.set(&["message"], "ok".into()),
        Some(fault) => condition.set(&["error"], fault.as_str().into()),
    }
    let mut object = Value::default();
    object.set(&["apiVersion"], "v1".into());
    object.set(&["kind"], "ComponentStatus".into());
    object.set(&["metadata", "name"], (*name).into());
    object.set(&["conditions"], Value::Array(vec![condition]));
    let revision = Revision(0);
    Arc::new(Entry::new(scope.key(name), revision, revision, json::encode(&object).into(), &BUDGET))
}
