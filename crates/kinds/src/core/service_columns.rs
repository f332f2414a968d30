//! What `kubectl get services` shows.

use crate::cells::{labels_at, text};
use crate::edit::items;
use object::Value;
use object::table::Column;

/// The columns of Services.
pub(super) fn columns() -> Vec<Column> {
    vec![
        Column::name(),
        Column::new("Type", |service, _| text(service, &["spec", "type"])),
        Column::new("Cluster-IP", |service, _| {
            let first = items(service, &["spec", "clusterIPs"]).first().and_then(Value::as_str);
            first
                .or_else(|| service.str_at(&["spec", "clusterIP"]))
                .filter(|ip| !ip.is_empty())
                .unwrap_or("<none>")
                .into()
        }),
        Column::new("External-IP", |service, _| external(service).into()),
        Column::new("Port(s)", |service, _| ports(service).into()),
        Column::age(),
        Column::new("Selector", |service, _| labels_at(service, &["spec", "selector"])).wide(),
    ]
}

fn external(service: &Value) -> String {
    let own: Vec<String> =
        items(service, &["spec", "externalIPs"]).iter().filter_map(Value::as_str).map(str::to_owned).collect();
    match service.str_at(&["spec", "type"]).unwrap_or_default() {
        "ClusterIP" | "NodePort" if own.is_empty() => "<none>".to_owned(),
        "ClusterIP" | "NodePort" => own.join(","),
        "LoadBalancer" => {
            let mut all = load_balancer(service);
            all.extend(own);
            if all.is_empty() { "<pending>".to_owned() } else { all.join(",") }
        }
        "ExternalName" => service.str_at(&["spec", "externalName"]).unwrap_or_default().to_owned(),
        _ => "<unknown>".to_owned(),
    }
}

/// The addresses or host names at status.loadBalancer, sorted.
pub(crate) fn load_balancer(object: &Value) -> Vec<String> {
    let address = |one: &Value| {
        let ip = one.str_at(&["ip"]).filter(|ip| !ip.is_empty());
        ip.or_else(|| one.str_at(&["hostname"]).filter(|name| !name.is_empty())).map(str::to_owned)
    };
    let mut all: Vec<String> =
        items(object, &["status", "loadBalancer", "ingress"]).iter().filter_map(address).collect();
    all.sort();
    all.dedup();
    all
}

fn ports(service: &Value) -> String {
    let one = |port: &Value| {
        let number = port.i64_at(&["port"]).unwrap_or_default();
        let protocol = port.str_at(&["protocol"]).unwrap_or_default();
        match port.i64_at(&["nodePort"]).unwrap_or_default() {
            0 => format!("{number}/{protocol}"),
            node => format!("{number}:{node}/{protocol}"),
        }
    };
    let all: Vec<String> = items(service, &["spec", "ports"]).iter().map(one).collect();
    if all.is_empty() { "<none>".to_owned() } else { all.join(",") }
}
