//! Ingress: HTTP routes to Services.

use crate::Hooks;
use crate::Resource;
use crate::cells;
use crate::edit::items;
use crate::validation::required;
use object::table::Column;
use object::{Cause, Value};

/// The row of Ingress.
pub(super) fn row() -> Resource {
    Resource::new("networking.k8s.io", "v1", "Ingress", "ingresses")
        .short(&["ing"])
        .generation(&["spec"])
        .status()
        .with_columns(vec![
            Column::name(),
            Column::new("Class", |ingress, _| cells::text_or(ingress, &["spec", "ingressClassName"], "<none>")),
            Column::new("Hosts", |ingress, _| hosts(ingress).into()),
            Column::new("Address", |ingress, _| crate::core::load_balancer(ingress).join(",").into()),
            Column::new("Ports", |ingress, _| match cells::count(ingress, &["spec", "tls"]) {
                0 => "80".into(),
                _ => "80, 443".into(),
            }),
            Column::age(),
        ])
        .with_hooks(Ingress)
}

/// The first three hosts, and how many rules there are beyond.
fn hosts(ingress: &Value) -> String {
    let rules = items(ingress, &["spec", "rules"]);
    let hosts: Vec<&str> =
        rules.iter().filter_map(|rule| rule.str_at(&["host"])).filter(|host| !host.is_empty()).take(3).collect();
    match (hosts.is_empty(), rules.len() > 3 && hosts.len() == 3) {
        (true, _) => "*".to_owned(),
        (false, true) => format!("{} + {} more...", hosts.join(","), rules.len() - 3),
        (false, false) => hosts.join(","),
    }
}

struct Ingress;

impl Hooks for Ingress {
    fn prepare_create(&self, ingress: &mut Value) {
        ingress.set(&["status", "loadBalancer"], crate::edit::empty());
    }

    fn validate(&self, ingress: &Value) -> Vec<Cause> {
        let mut causes = Vec::new();
        let default = ingress.at(&["spec", "defaultBackend"]).is_some_and(|backend| !backend.is_null());
        if items(ingress, &["spec", "rules"]).is_empty() && !default {
            let detail = "either `defaultBackend` or `rules` must be specified";
            causes.push(crate::validation::invalid("spec", ingress.get("spec").unwrap_or(&Value::Null), detail));
        }
        for (at, rule) in items(ingress, &["spec", "rules"]).iter().enumerate() {
            for (path_at, path) in items(rule, &["http", "paths"]).iter().enumerate() {
                let field = format!("spec.rules[{at}].http.paths[{path_at}]");
                match path.get("pathType") {
                    None | Some(Value::Null) => {
                        causes.push(required(&format!("{field}.pathType"), "pathType must be specified"));
                    }
                    Some(_) => {
                        let kinds = ["Exact", "ImplementationSpecific", "Prefix"];
                        crate::validation::one_of(
                            &mut causes,
                            path,
                            &["pathType"],
                            &format!("{field}.pathType"),
                            &kinds,
                        );
                    }
                }
                let text = path.str_at(&["path"]).unwrap_or_default();
                let exact = matches!(path.str_at(&["pathType"]), Some("Exact" | "Prefix"));
                if exact && !text.starts_with('/') {
                    let detail = "must be an absolute path";
                    causes.push(crate::validation::invalid_text(&format!("{field}.path"), text, detail));
                }
            }
        }
        causes
    }
}
