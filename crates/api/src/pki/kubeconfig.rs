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

/// Clusters of one machine that go by the same name are numbered up to this.
const NAMES_MAX: u32 = 1000;

/// Puts the entries of `ours` into `config` and makes its context the current one; gives the context's name. An older state
/// of the same cluster is replaced. Where its name belongs to another cluster, it gets a number: `klynge-2`. Everything else
/// that `config` holds stays.
pub fn merge(config: &mut Value, ours: &Value) -> String {
    let name = free_name(config, ours);
    let ours = renamed(ours, &name);
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
    name
}

/// Takes the entries of `ours` out of `config` again, under whatever name they went in; true when nothing is left.
pub fn unmerge(config: &mut Value, ours: &Value) -> bool {
    // Another cluster may go by the same name: only the authority tells that an entry is ours. The user's certificate may
    // be an older one than ours.
    if let Some(name) = names(config).into_iter().find(|name| authority(config, name) == own_authority(ours)) {
        let theirs = renamed(ours, &name);
        for list in LISTS {
            let old = theirs.get(list).and_then(Value::as_array).unwrap_or_default();
            if let Some(items) = config.at_mut(&[list]).and_then(Value::as_array_mut) {
                items.retain(|item| !old.iter().any(|one| one.str_at(&["name"]) == item.str_at(&["name"])));
            }
        }
        if config.get("current-context") == theirs.get("current-context") {
            config.set(&["current-context"], "".into());
        }
    }
    LISTS.iter().all(|list| config.get(list).and_then(Value::as_array).unwrap_or_default().is_empty())
}

/// The names of the clusters in a kubeconfig.
fn names(config: &Value) -> Vec<String> {
    let clusters = config.get("clusters").and_then(Value::as_array).unwrap_or_default();
    clusters.iter().filter_map(|cluster| cluster.str_at(&["name"]).map(str::to_owned)).collect()
}

fn cluster_field<'a>(config: &'a Value, name: &str, field: &str) -> Option<&'a str> {
    let clusters = config.get("clusters").and_then(Value::as_array).unwrap_or_default();
    clusters.iter().find(|cluster| cluster.str_at(&["name"]) == Some(name))?.str_at(&["cluster", field])
}

fn authority<'a>(config: &'a Value, name: &str) -> Option<&'a str> {
    cluster_field(config, name, "certificate-authority-data")
}

fn own_name(ours: &Value) -> String {
    names(ours).into_iter().next().unwrap_or_default()
}

fn own_authority(ours: &Value) -> Option<&str> {
    authority(ours, &own_name(ours))
}

/// The name under which the cluster is in `config` already, else the first that no other cluster has. One at our own address is
/// no other cluster: it was here before us.
fn free_name(config: &Value, ours: &Value) -> String {
    let base = own_name(ours);
    let numbered = |number: u32| if number == 1 { base.clone() } else { format!("{base}-{number}") };
    let held = names(config);
    if let Some(name) =
        (1..=NAMES_MAX).map(numbered).find(|name| held.contains(name) && authority(config, name) == own_authority(ours))
    {
        return name;
    }
    let server = cluster_field(ours, &base, "server");
    let free = |name: &String| !held.contains(name) || cluster_field(config, name, "server") == server;
    (1..=NAMES_MAX).map(numbered).find(free).unwrap_or_else(|| base.clone())
}

/// The same kubeconfig with another name for its cluster, user and context.
fn renamed(ours: &Value, name: &str) -> Value {
    let body = |list: &str, what: &str| {
        let items = ours.get(list).and_then(Value::as_array).unwrap_or_default();
        items.first().and_then(|item| item.get(what)?.as_object().cloned()).unwrap_or_default()
    };
    let user_name = format!("{name}-admin");
    let context: Map = [("cluster", Value::from(name)), ("user", user_name.as_str().into())].into_iter().collect();
    let mut config = ours.clone();
    config.set(&["clusters"], vec![named(name, "cluster", body("clusters", "cluster"))].into());
    config.set(&["users"], vec![named(&user_name, "user", body("users", "user"))].into());
    config.set(&["contexts"], vec![named(name, "context", context)].into());
    config.set(&["current-context"], name.into());
    config
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ours(server: &str, authority: &str, certificate: &str) -> Value {
        let user = Issued { certificate: certificate.to_owned(), key: "K".to_owned() };
        Kubeconfig { name: "klynge", server, authority, user: &user }.to_value()
    }

    fn entries(config: &Value, list: &str) -> Vec<String> {
        let items = config.get(list).and_then(Value::as_array).unwrap_or_default();
        items.iter().map(|item| item.str_at(&["name"]).unwrap_or_default().to_owned()).collect()
    }

    #[test]
    fn merging_keeps_what_is_there_and_unmerging_takes_only_its_own() {
        let mut config = Value::Null;
        config.set(&["clusters"], Value::Array(vec![named("other", "cluster", Map::new())]));
        let first = ours("https://127.0.0.1:6443", "A", "C");
        assert_eq!(merge(&mut config, &first), "klynge");
        // The same cluster at another port, then another cluster.
        assert_eq!(merge(&mut config, &ours("https://127.0.0.1:7443", "A", "C")), "klynge");
        let second = ours("https://192.0.2.1:6443", "B", "C");
        assert_eq!(merge(&mut config, &second), "klynge-2");
        assert_eq!(entries(&config, "clusters"), ["other", "klynge", "klynge-2"]);
        assert_eq!(entries(&config, "users"), ["klynge-admin", "klynge-2-admin"]);
        assert_eq!(config.str_at(&["current-context"]), Some("klynge-2"));
        assert_eq!(merge(&mut config, &second), "klynge-2", "it is found again");
        let before = config.clone();
        assert!(!unmerge(&mut config, &ours("https://127.0.0.1:7443", "D", "C")));
        assert_eq!(config, before, "another cluster of the same name stays");
        // The user's certificate is made anew at each start of the server.
        assert!(!unmerge(&mut config, &ours("https://192.0.2.1:6443", "B", "newer")));
        assert_eq!(entries(&config, "contexts"), ["klynge"]);
        assert_eq!(config.str_at(&["current-context"]), Some(""));
        assert!(!unmerge(&mut config, &first));
        assert_eq!((entries(&config, "clusters"), entries(&config, "users")), (vec!["other".to_owned()], vec![]));
    }

    #[test]
    fn a_cluster_that_was_made_anew_at_the_same_address_takes_its_name() {
        let mut config = Value::Null;
        merge(&mut config, &ours("https://127.0.0.1:6443", "A", "C"));
        assert_eq!(merge(&mut config, &ours("https://127.0.0.1:6443", "B", "C")), "klynge");
        assert!(unmerge(&mut config, &ours("https://127.0.0.1:6443", "B", "C")));
    }
}
