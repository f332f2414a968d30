//! Kubeconfig files: ours, written for the administrator, and merged into the one that a user already has.

use super::Issued;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use object::{Map, Value};

/// What a kubeconfig holds for one cluster and one user; the three names in it are all `name`.
pub struct Kubeconfig<'a> {
    /// The name of cluster, user and context.
    pub name: &'a str,
    /// Such as `https://127.0.0.1:6443`.
    pub server: &'a str,
    /// The authority's certificates, PEM.
    pub authority: &'a str,
    /// The user's certificate and key.
    pub user: &'a Issued,
}

impl Kubeconfig<'_> {
    /// A whole kubeconfig.
    #[must_use]
    pub fn to_value(&self) -> Value {
        let encoded = |pem: &str| Value::from(STANDARD.encode(pem));
        let user_name = format!("{}-admin", self.name);
        let cluster = [("certificate-authority-data", encoded(self.authority)), ("server", self.server.into())];
        let user = [
            ("client-certificate-data", encoded(&self.user.certificate)),
            ("client-key-data", encoded(&self.user.key)),
        ];
        let context = [("cluster", Value::from(self.name)), ("user", user_name.as_str().into())];
        let mut config = Value::Null;
        config.set(&["apiVersion"], "v1".into());
        config.set(&["kind"], "Config".into());
        config.set(&["clusters"], vec![named(self.name, "cluster", cluster.into_iter().collect())].into());
        config.set(&["users"], vec![named(&user_name, "user", user.into_iter().collect())].into());
        config.set(&["contexts"], vec![named(self.name, "context", context.into_iter().collect())].into());
        config.set(&["current-context"], self.name.into());
        config
    }
}

fn named(name: &str, what: &str, content: Map) -> Value {
    Value::Object([("name", Value::from(name)), (what, content.into())].into_iter().collect())
}

const LISTS: [&str; 3] = ["clusters", "users", "contexts"];

/// Puts the entries of `ours` into `config`, replacing those of the same names, and makes its context the current one.
/// Everything else that `config` holds stays.
pub fn merge(config: &mut Value, ours: &Value) {
    for list in LISTS {
        let new = ours.get(list).and_then(Value::as_array).unwrap_or_default();
        let mut items = match config.remove(&[list]) {
            Some(Value::Array(items)) => items,
            _ => Vec::new(),
        };
        items.retain(|item| !new.iter().any(|other| other.str_at(&["name"]) == item.str_at(&["name"])));
        items.extend(new.iter().cloned());
        config.set(&[list], Value::Array(items));
    }
    for key in ["apiVersion", "kind", "current-context"] {
        if let Some(value) = ours.get(key) {
            config.set(&[key], value.clone());
        }
    }
}

/// Takes the entries of `ours` out of `config` again, as far as they are still the same; true when nothing is left.
pub fn unmerge(config: &mut Value, ours: &Value) -> bool {
    // Another cluster may go by the same name: only the cluster's own address and authority tell that these are ours.
    let held = |list: &str| config.get(list).and_then(Value::as_array).unwrap_or_default();
    let clusters = ours.get("clusters").and_then(Value::as_array).unwrap_or_default();
    if !clusters.iter().all(|cluster| held("clusters").contains(cluster)) {
        return LISTS.iter().all(|list| held(list).is_empty());
    }
    let mut left = 0;
    for list in LISTS {
        let old = ours.get(list).and_then(Value::as_array).unwrap_or_default();
        if let Some(items) = config.at_mut(&[list]).and_then(Value::as_array_mut) {
            items.retain(|item| !old.contains(item));
            left += items.len();
        }
    }
    if config.get("current-context") == ours.get("current-context") {
        config.set(&["current-context"], "".into());
    }
    left == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merging_keeps_what_is_there_and_unmerging_takes_only_its_own() {
        let user = Issued { certificate: "C".to_owned(), key: "K".to_owned() };
        let ours = |server| Kubeconfig { name: "klynge", server, authority: "A", user: &user }.to_value();
        let mut config = Value::Null;
        config.set(&["clusters"], Value::Array(vec![named("other", "cluster", Map::new())]));
        merge(&mut config, &ours("https://127.0.0.1:6443"));
        merge(&mut config, &ours("https://127.0.0.1:7443"));
        let servers = |config: &Value| {
            let clusters = config.at(&["clusters"]).and_then(Value::as_array).unwrap_or_default();
            clusters.iter().map(|one| one.str_at(&["cluster", "server"]).map(str::to_owned)).collect::<Vec<_>>()
        };
        assert_eq!(servers(&config), [None, Some("https://127.0.0.1:7443".to_owned())]);
        assert_eq!(config.str_at(&["current-context"]), Some("klynge"));
        let before = config.clone();
        assert!(!unmerge(&mut config, &ours("https://127.0.0.1:8443")));
        assert_eq!(config, before, "another cluster of the same name stays");
        assert!(!unmerge(&mut config, &ours("https://127.0.0.1:7443")));
        assert_eq!(servers(&config), [None]);
        assert_eq!(config.str_at(&["current-context"]), Some(""));
    }
}
