//! Endpoints: the addresses of a Service in the form before EndpointSlice.

use crate::Hooks;
use crate::Resource;
use crate::edit::{default_to, items, items_mut};
use crate::validation::endpoint_address;
use object::table::Column;
use object::{Cause, Value};

/// The row of Endpoints.
pub(super) fn row() -> Resource {
    Resource::new("", "v1", "Endpoints", "endpoints")
        .short(&["ep"])
        .with_columns(vec![
            Column::name(),
            Column::new("Endpoints", |endpoints, _| addresses(endpoints).into()),
            Column::age(),
        ])
        .with_hooks(Endpoints)
}

/// The first three addresses with their ports, and how many more there are.
fn addresses(endpoints: &Value) -> String {
    let mut all = Vec::new();
    for subset in items(endpoints, &["subsets"]) {
        let ports = items(subset, &["ports"]);
        for address in items(subset, &["addresses"]) {
            let ip = address.str_at(&["ip"]).unwrap_or_default();
            let host = if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() };
            if ports.is_empty() {
                all.push(ip.to_owned());
            }
            all.extend(ports.iter().map(|port| format!("{host}:{}", port.i64_at(&["port"]).unwrap_or_default())));
        }
    }
    let more = all.len().saturating_sub(3);
    all.truncate(3);
    match (all.is_empty(), more) {
        (true, _) => "<none>".to_owned(),
        (false, 0) => all.join(","),
        (false, more) => format!("{} + {more} more...", all.join(",")),
    }
}

struct Endpoints;

impl Hooks for Endpoints {
    fn default(&self, endpoints: &mut Value) {
        for subset in items_mut(endpoints, &["subsets"]) {
            for port in items_mut(subset, &["ports"]) {
                default_to(port, &["protocol"], "TCP");
            }
        }
    }

    fn validate(&self, endpoints: &Value) -> Vec<Cause> {
        let mut causes = Vec::new();
        for (at, subset) in items(endpoints, &["subsets"]).iter().enumerate() {
            for list in ["addresses", "notReadyAddresses"] {
                for (index, address) in items(subset, &[list]).iter().enumerate() {
                    let field = format!("subsets[{at}].{list}[{index}].ip");
                    causes.extend(endpoint_address(&field, address.str_at(&["ip"]).unwrap_or_default()));
                }
            }
        }
        causes
    }
}
