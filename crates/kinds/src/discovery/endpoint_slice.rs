//! EndpointSlice: the addresses of a Service.

use crate::Hooks;
use crate::Resource;
use crate::cells;
use crate::edit::{default_to, items, items_mut};
use crate::validation::{endpoint_address, immutable, in_range, not_supported, required};
use object::table::Column;
use object::{Cause, Value};

/// The row of EndpointSlice.
pub(super) fn row() -> Resource {
    Resource::new("discovery.k8s.io", "v1", "EndpointSlice", "endpointslices")
        .generation(&["addressType", "endpoints", "ports"])
        .with_columns(columns())
        .with_hooks(EndpointSlice)
}

/// The most endpoints and ports of one slice.
const ITEMS_MAX: (usize, usize) = (1_000, 20_000);

fn columns() -> Vec<Column> {
    vec![
        Column::name(),
        Column::new("AddressType", |slice, _| cells::text(slice, &["addressType"])),
        Column::new("Ports", |slice, _| {
            let port = |port: &Value| match port.i64_at(&["port"]) {
                Some(number) => number.to_string(),
                None => port.str_at(&["name"]).filter(|name| !name.is_empty()).unwrap_or("*").to_owned(),
            };
            let all = items(slice, &["ports"]).iter().map(port).collect();
            if items(slice, &["ports"]).is_empty() { "<unset>".into() } else { shortened(all).into() }
        }),
        Column::new("Endpoints", |slice, _| {
            let addresses = |one: &Value| {
                items(one, &["addresses"]).iter().filter_map(Value::as_str).map(str::to_owned).collect::<Vec<_>>()
            };
            let all: Vec<String> = items(slice, &["endpoints"]).iter().flat_map(addresses).collect();
            if all.is_empty() { "<unset>".into() } else { shortened(all).into() }
        }),
        Column::age(),
    ]
}

fn shortened(mut all: Vec<String>) -> String {
    let more = all.len().saturating_sub(3);
    all.truncate(3);
    if more == 0 { all.join(",") } else { format!("{} + {more} more...", all.join(",")) }
}

struct EndpointSlice;

impl Hooks for EndpointSlice {
    fn default(&self, slice: &mut Value) {
        for port in items_mut(slice, &["ports"]) {
            default_to(port, &["protocol"], "TCP");
            if port.get("name").is_none() {
                port.set(&["name"], "".into());
            }
        }
    }

    fn validate(&self, slice: &Value) -> Vec<Cause> {
        let mut causes = Vec::new();
        let kinds = ["FQDN", "IPv4", "IPv6"];
        match slice.get("addressType") {
            None | Some(Value::Null) => causes.push(required("addressType", "")),
            Some(kind) if !kinds.iter().any(|one| kind.as_str() == Some(one)) => {
                causes.push(not_supported("addressType", kind, &kinds));
            }
            Some(_) => {}
        }
        for (name, most) in [("endpoints", ITEMS_MAX.0), ("ports", ITEMS_MAX.1)] {
            let count = items(slice, &[name]).len();
            if count > most {
                causes.push(object::Cause {
                    reason: "FieldValueTooMany".into(),
                    message: format!("Too many: {count}: must have at most {most} items"),
                    field: name.to_owned(),
                });
            }
        }
        for (at, endpoint) in items(slice, &["endpoints"]).iter().enumerate() {
            if items(endpoint, &["addresses"]).is_empty() {
                causes.push(required(&format!("endpoints[{at}].addresses"), "must contain at least 1 address"));
            }
            let addresses = items(endpoint, &["addresses"]).iter().enumerate();
            for (index, address) in addresses.filter(|_| slice.str_at(&["addressType"]) != Some("FQDN")) {
                let field = format!("endpoints[{at}].addresses[{index}]");
                causes.extend(endpoint_address(&field, address.as_str().unwrap_or_default()));
            }
        }
        for (at, port) in items(slice, &["ports"]).iter().enumerate() {
            in_range(&mut causes, port, &["port"], &format!("ports[{at}].port"), 1, 65_535);
        }
        causes
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Vec<Cause> {
        let mut causes = Vec::new();
        immutable(&mut causes, new, old, &["addressType"]);
        causes
    }
}
