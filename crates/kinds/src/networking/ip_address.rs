//! IPAddress: one allocated cluster address.

use crate::Hooks;
use crate::row::{NameRule, Resource};
use crate::validation::{immutable, required};
use object::table::Column;
use object::{Cause, Value};

/// The row of IPAddress.
pub(super) fn row() -> Resource {
    Resource::new("networking.k8s.io", "v1", "IPAddress", "ipaddresses")
        .cluster()
        .short(&["ip"])
        .names(NameRule::IpAddress)
        .with_columns(vec![
            Column::name(),
            Column::new("ParentRef", |address, _| {
                match address.at(&["spec", "parentRef"]).filter(|one| !one.is_null()) {
                    None => "<none>".into(),
                    Some(parent) => {
                        let parts = ["group", "resource", "namespace", "name"];
                        let parts =
                            parts.iter().filter_map(|name| parent.str_at(&[name])).filter(|part| !part.is_empty());
                        parts.collect::<Vec<_>>().join("/").into()
                    }
                }
            }),
            Column::age(),
        ])
        .with_hooks(IpAddress)
}

struct IpAddress;

impl Hooks for IpAddress {
    fn validate(&self, address: &Value) -> Vec<Cause> {
        let Some(parent) = address.at(&["spec", "parentRef"]).filter(|one| !one.is_null()) else {
            return vec![required("spec.parentRef", "")];
        };
        let is_missing = |name: &&str| parent.str_at(&[*name]).is_none_or(str::is_empty);
        let missing = ["resource", "name"].into_iter().filter(is_missing);
        missing.map(|name| required(&format!("spec.parentRef.{name}"), "")).collect()
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Vec<Cause> {
        let mut causes = Vec::new();
        immutable(&mut causes, new, old, &["spec", "parentRef"]);
        causes
    }
}
