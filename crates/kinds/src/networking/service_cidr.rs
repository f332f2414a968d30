//! ServiceCIDR: a range of cluster addresses.

use crate::Hooks;
use crate::Resource;
use crate::edit::items;
use crate::validation::{canonical_range, immutable, invalid, required};
use object::table::Column;
use object::{Cause, Value};

/// The row of ServiceCIDR.
pub(super) fn row() -> Resource {
    Resource::new("networking.k8s.io", "v1", "ServiceCIDR", "servicecidrs")
        .cluster()
        .status()
        .with_columns(vec![
            Column::name(),
            Column::new("CIDRs", |range, _| {
                let all: Vec<&str> = items(range, &["spec", "cidrs"]).iter().filter_map(Value::as_str).collect();
                all.join(",").into()
            }),
            Column::age(),
        ])
        .with_hooks(ServiceCidr)
}

struct ServiceCidr;

impl Hooks for ServiceCidr {
    fn validate(&self, range: &Value) -> Vec<Cause> {
        let mut causes = Vec::new();
        let cidrs = items(range, &["spec", "cidrs"]);
        let shown = || Value::Array(cidrs.to_vec());
        match cidrs {
            [] => causes.push(required("spec.cidrs", "at least one CIDR required")),
            [first, second] => {
                let family = |cidr: &Value| cidr.as_str().is_some_and(|text| text.contains(':'));
                if family(first) == family(second) {
                    let detail =
                        "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64";
                    causes.push(invalid("spec.cidrs", &shown(), detail));
                }
            }
            [_] => {}
            _ => causes.push(invalid("spec.cidrs", &shown(), "may only hold up to 2 values")),
        }
        for (at, cidr) in cidrs.iter().enumerate() {
            causes.extend(canonical_range(&format!("spec.cidrs[{at}]"), cidr.as_str().unwrap_or_default()));
        }
        causes
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Vec<Cause> {
        let mut causes = Vec::new();
        // A range of the other family may be added, as upstream allows.
        let (before, after) = (items(old, &["spec", "cidrs"]), items(new, &["spec", "cidrs"]));
        if !(before.len() == 1 && after.len() == 2 && before.first() == after.first()) {
            immutable(&mut causes, new, old, &["spec", "cidrs"]);
        }
        causes
    }
}
