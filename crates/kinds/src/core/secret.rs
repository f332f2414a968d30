//! Secret: small confidential data.

use super::data;
use crate::Hooks;
use crate::Resource;
use crate::cells;
use crate::edit::default_to;
use crate::validation::{immutable, required};
use object::table::Column;
use object::{Cause, Value};

/// The row of Secret.
pub(super) fn row() -> Resource {
    Resource::new("", "v1", "Secret", "secrets")
        .selectable("type")
        .with_columns(vec![
            Column::name(),
            Column::new("Type", |secret, _| cells::text(secret, &["type"])),
            Column::new("Data", |secret, _| Value::Int(cells::count(secret, &["data"]))),
            Column::age(),
        ])
        .with_hooks(Secret)
}

struct Secret;

impl Hooks for Secret {
    fn default(&self, secret: &mut Value) {
        default_to(secret, &["type"], "Opaque");
        data::merge_string_data(secret);
    }

    fn validate(&self, secret: &Value) -> Vec<Cause> {
        let mut causes = data::validate(secret, &["data"]);
        let kind = secret.str_at(&["type"]).unwrap_or_default();
        let needed: &[&str] = match kind {
            "kubernetes.io/dockercfg" => &[".dockercfg"],
            "kubernetes.io/dockerconfigjson" => &[".dockerconfigjson"],
            "kubernetes.io/ssh-auth" => &["ssh-privatekey"],
            "kubernetes.io/tls" => &["tls.crt", "tls.key"],
            _ => &[],
        };
        for key in needed {
            if secret.at(&["data", key]).is_none() {
                causes.push(required(&format!("data[{key}]"), ""));
            }
        }
        if kind == "kubernetes.io/basic-auth"
            && secret.at(&["data", "username"]).is_none()
            && secret.at(&["data", "password"]).is_none()
        {
            causes.push(required("data[%username]", ""));
            causes.push(required("data[%password]", ""));
        }
        let account = "kubernetes.io/service-account.name";
        if kind == "kubernetes.io/service-account-token"
            && secret.str_at(&["metadata", "annotations", account]).unwrap_or_default().is_empty()
        {
            causes.push(required(&format!("metadata.annotations[{account}]"), ""));
        }
        causes
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Vec<Cause> {
        let mut causes = Vec::new();
        immutable(&mut causes, new, old, &["type"]);
        causes.extend(data::validate_immutable(new, old, &["data"]));
        causes
    }
}
