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
    /// The three named entries: cluster, user, context.
    fn entries(&self) -> [(&'static str, Value); 3] {
        let encoded = |pem: &str| Value::from(STANDARD.encode(pem));
        let user_name = self.user_name();
        let cluster: Map = [("certificate-authority-data", encoded(self.authority)), ("server", self.server.into())]
            .into_iter()
            .collect();
        let user: Map = [
            ("client-certificate-data", encoded(&self.user.certificate)),
            ("client-key-data", encoded(&self.user.key)),
        ]
        .into_iter()
        .collect();
        let context: Map =
            [("cluster", Value::from(self.name)), ("user", user_name.as_str().into())].into_iter().collect();
        [
            ("clusters", named(self.name, "cluster", cluster)),
            ("users", named(&user_name, "user", user)),
            ("contexts", named(self.name, "context", context)),
        ]
    }

    fn user_name(&self) -> String {
        format!("{}-admin", self.name)
    }

    /// A whole kubeconfig, as JSON (which every reader of kubeconfigs takes, being YAML as well).
    #[must_use]
    pub fn to_value(&self) -> Value {
        let mut config = Value::Null;
        merge(&mut config, self);
        config
    }
}

fn named(name: &str, what: &str, content: Map) -> Value {
    Value::Object([("name", Value::from(name)), (what, content.into())].into_iter().collect())
}

/// Puts the cluster into `config`, replacing entries of the same names, and makes its context the current one.
/// Everything else that the file holds stays.
pub fn merge(config: &mut Value, kubeconfig: &Kubeconfig<'_>) {
    config.set(&["apiVersion"], "v1".into());
    config.set(&["kind"], "Config".into());
    for (list, entry) in kubeconfig.entries() {
        let mut items = match config.remove(&[list]) {
            Some(Value::Array(items)) => items,
            _ => Vec::new(),
        };
        items.retain(|item| item.str_at(&["name"]) != entry.str_at(&["name"]));
        items.push(entry);
        config.set(&[list], Value::Array(items));
    }
    config.set(&["current-context"], kubeconfig.name.into());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merging_keeps_what_is_there_and_replaces_its_own() {
        let user = Issued { certificate: "C".to_owned(), key: "K".to_owned() };
        let ours = |server: &'static str| Kubeconfig { name: "klynge", server, authority: "A", user: &user };
        let mut config = Value::Null;
        config.set(&["clusters"], Value::Array(vec![named("other", "cluster", Map::new())]));
        merge(&mut config, &ours("https://127.0.0.1:6443"));
        merge(&mut config, &ours("https://127.0.0.1:7443"));
        let clusters = config.at(&["clusters"]).and_then(Value::as_array).unwrap_or_default();
        let servers: Vec<_> = clusters.iter().map(|one| one.str_at(&["cluster", "server"])).collect();
        assert_eq!(servers, [None, Some("https://127.0.0.1:7443")]);
        assert_eq!(config.str_at(&["current-context"]), Some("klynge"));
    }
}
