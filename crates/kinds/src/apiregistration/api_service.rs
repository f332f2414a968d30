//! APIService: an aggregated API server.

use crate::Hooks;
use crate::Resource;
use crate::edit::items;
use crate::row::NameRule;
use crate::validation::{invalid_text, required};
use object::table::Column;
use object::{Cause, Map, Value};

/// The row of APIService.
pub(super) fn row() -> Resource {
    Resource::new("apiregistration.k8s.io", "v1", "APIService", "apiservices")
        .cluster()
        .names(NameRule::PathSegment)
        .in_api_extensions()
        .status()
        .with_columns(vec![
            Column::name(),
            Column::new("Service", |service, _| match service.at(&["spec", "service"]).filter(|one| !one.is_null()) {
                Some(one) => {
                    let part = |name: &str| one.str_at(&[name]).unwrap_or_default();
                    format!("{}/{}", part("namespace"), part("name")).into()
                }
                None => "Local".into(),
            }),
            Column::new("Available", |service, _| {
                let available = |one: &&Value| one.str_at(&["type"]) == Some("Available");
                match items(service, &["status", "conditions"]).iter().find(available) {
                    None => "Unknown".into(),
                    Some(one) if one.str_at(&["status"]) == Some("True") => "True".into(),
                    Some(one) => {
                        let part = |name: &str| one.str_at(&[name]).unwrap_or_default();
                        format!("{} ({})", part("status"), part("reason")).into()
                    }
                }
            }),
            Column::age(),
        ])
        .with_hooks(ApiService)
}

struct ApiService;

impl Hooks for ApiService {
    fn prepare_create(&self, service: &mut Value) {
        // What the server serves itself is available from the moment it is registered.
        if service.at(&["spec", "service"]).is_none_or(Value::is_null) {
            let since = service.str_at(&["metadata", "creationTimestamp"]).unwrap_or_default().to_owned();
            let condition: Map = [
                ("type", "Available"),
                ("status", "True"),
                ("reason", "Local"),
                ("message", "Local APIServices are always available"),
                ("lastTransitionTime", since.as_str()),
            ]
            .into_iter()
            .collect();
            service.set(&["status", "conditions"], vec![Value::from(condition)].into());
        }
    }

    fn validate(&self, service: &Value) -> Vec<Cause> {
        let text = |path: &[&str]| service.str_at(path).unwrap_or_default();
        let (group, version) = (text(&["spec", "group"]), text(&["spec", "version"]));
        let mut causes = Vec::new();
        let wanted = format!("{version}.{group}");
        if text(&["metadata", "name"]) != wanted {
            let detail = format!("must be `spec.version+\".\"+spec.group`: {wanted:?}");
            causes.push(invalid_text("metadata.name", text(&["metadata", "name"]), &detail));
        }
        if group.is_empty() && version != "v1" {
            causes.push(required("spec.group", "only v1 may have an empty group and it better be legacy kube"));
        }
        causes
    }

    fn default(&self, service: &mut Value) {
        if service.at(&["spec", "service"]).is_some_and(|one| !one.is_null()) {
            crate::edit::default_number(service, &["spec", "service", "port"], 443);
        }
    }
}
