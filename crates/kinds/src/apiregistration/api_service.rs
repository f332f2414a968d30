//! APIService: an aggregated API server.

use crate::Hooks;
use crate::Resource;
use crate::edit::items;
use object::Value;
use object::table::Column;

/// The row of APIService.
pub(super) fn row() -> Resource {
    Resource::new("apiregistration.k8s.io", "v1", "APIService", "apiservices")
        .cluster()
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
    fn default(&self, service: &mut Value) {
        if service.at(&["spec", "service"]).is_some_and(|one| !one.is_null()) {
            crate::edit::default_number(service, &["spec", "service", "port"], 443);
        }
    }
}
