//! What the kinds of this group share: webhook defaults, and cells of policies.

use crate::edit::{default_number, default_to, empty, items_mut};
use object::Value;
use object::selector::labels::Selector;
use object::table::Column;

pub(super) fn columns() -> Vec<Column> {
    vec![
        Column::name(),
        Column::new("Webhooks", |one, _| Value::Int(crate::cells::count(one, &["webhooks"]))).of("integer"),
        Column::age(),
    ]
}

pub(super) fn default_webhooks(configuration: &mut Value, mutating: bool) {
    for webhook in items_mut(configuration, &["webhooks"]) {
        default_to(webhook, &["failurePolicy"], "Fail");
        default_to(webhook, &["matchPolicy"], "Equivalent");
        default_to(webhook, &["namespaceSelector"], empty());
        default_to(webhook, &["objectSelector"], empty());
        default_number(webhook, &["timeoutSeconds"], 10);
        if mutating {
            default_to(webhook, &["reinvocationPolicy"], "Never");
        }
        if webhook.at(&["clientConfig", "service"]).is_some_and(|service| !service.is_null()) {
            default_number(webhook, &["clientConfig", "service", "port"], 443);
        }
        for rule in items_mut(webhook, &["rules"]) {
            default_to(rule, &["scope"], "*");
        }
    }
}

pub(super) fn param_kind(policy: &Value) -> Value {
    match policy.at(&["spec", "paramKind"]).filter(|kind| !kind.is_null()) {
        Some(kind) => {
            let part = |name: &str| kind.str_at(&[name]).unwrap_or_default();
            format!("{}/{}", part("apiVersion"), part("kind")).into()
        }
        None => "<unset>".into(),
    }
}

pub(super) fn param_reference(binding: &Value) -> Value {
    let Some(reference) = binding.at(&["spec", "paramRef"]).filter(|reference| !reference.is_null()) else {
        return "<unset>".into();
    };
    match reference.str_at(&["name"]).filter(|name| !name.is_empty()) {
        Some(name) => {
            let namespace = reference.str_at(&["namespace"]).filter(|namespace| !namespace.is_empty());
            format!("{}/{name}", namespace.unwrap_or("*")).into()
        }
        None => match Selector::from_label_selector(reference.get("selector").unwrap_or(&Value::Null)) {
            Ok(selector) => selector.to_string().into(),
            Err(_) => "<unset>".into(),
        },
    }
}
