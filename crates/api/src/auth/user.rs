//! The identity of a caller, as upstream's user.Info has it.

use object::{Map, Value};
use std::collections::BTreeMap;

/// The group of everyone who proved an identity.
pub(crate) const AUTHENTICATED: &str = "system:authenticated";
/// The group of everyone who did not.
pub(crate) const UNAUTHENTICATED: &str = "system:unauthenticated";
/// Its members may do everything; no role is asked.
pub(crate) const MASTERS: &str = "system:masters";
/// The group of node agents.
pub(crate) const NODES: &str = "system:nodes";
/// The user name of a caller without credentials.
pub(crate) const ANONYMOUS: &str = "system:anonymous";

const SERVICE_ACCOUNT: &str = "system:serviceaccount:";

/// An identity.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct User {
    /// Its name.
    pub name: String,
    /// A unique id, where the credential carries one.
    pub uid: String,
    /// The groups it is in.
    pub groups: Vec<String>,
    /// What else the credential says, such as the pod that a token is bound to.
    pub extra: BTreeMap<String, Vec<String>>,
}

impl User {
    /// An identity that proved itself: the group of all such is added.
    #[must_use]
    pub fn authenticated(name: impl Into<String>, groups: impl IntoIterator<Item = impl Into<String>>) -> Self {
        let mut groups: Vec<String> = groups.into_iter().map(Into::into).collect();
        if !groups.iter().any(|group| group == AUTHENTICATED) {
            groups.push(AUTHENTICATED.to_owned());
        }
        User { name: name.into(), groups, ..User::default() }
    }

    /// The caller without credentials.
    #[must_use]
    pub fn anonymous() -> Self {
        User { name: ANONYMOUS.to_owned(), groups: vec![UNAUTHENTICATED.to_owned()], ..User::default() }
    }

    /// A ServiceAccount with the groups that upstream gives it.
    #[must_use]
    pub fn service_account(namespace: &str, name: &str, uid: &str) -> Self {
        let groups = ["system:serviceaccounts".to_owned(), format!("system:serviceaccounts:{namespace}")];
        let mut user = User::authenticated(format!("{SERVICE_ACCOUNT}{namespace}:{name}"), groups);
        uid.clone_into(&mut user.uid);
        user
    }

    /// Adds the groups that a name of upstream's reserved form implies; for identities that the process gives itself.
    #[must_use]
    pub fn named(name: &str, groups: &[&str]) -> Self {
        if let Some((namespace, account)) = name.strip_prefix(SERVICE_ACCOUNT).and_then(|rest| rest.split_once(':')) {
            return User::service_account(namespace, account, "");
        }
        User::authenticated(name, groups.iter().copied())
    }

    /// Namespace and name, where the user is a ServiceAccount.
    #[must_use]
    pub fn as_service_account(&self) -> Option<(&str, &str)> {
        self.name.strip_prefix(SERVICE_ACCOUNT)?.split_once(':')
    }

    /// The node's name, where the user is a node agent (`system:node:NAME` in the group of nodes).
    #[must_use]
    pub fn as_node(&self) -> Option<&str> {
        self.in_group(NODES).then(|| self.name.strip_prefix("system:node:")).flatten()
    }

    /// True for a member of `group`.
    #[must_use]
    pub fn in_group(&self, group: &str) -> bool {
        self.groups.iter().any(|one| one == group)
    }

    /// authentication.k8s.io UserInfo.
    #[must_use]
    pub fn to_value(&self) -> Value {
        let mut info = Map::new();
        info.insert("username", self.name.as_str());
        if !self.uid.is_empty() {
            info.insert("uid", self.uid.as_str());
        }
        if !self.groups.is_empty() {
            info.insert("groups", strings(&self.groups));
        }
        if !self.extra.is_empty() {
            let extra: Map = self.extra.iter().map(|(key, values)| (key.as_str(), strings(values))).collect();
            info.insert("extra", extra);
        }
        Value::Object(info)
    }
}

/// A list of strings as a value.
pub(super) fn strings(items: &[String]) -> Value {
    Value::Array(items.iter().map(|item| Value::from(item.as_str())).collect())
}

/// The strings of a list at `path`; none where it is missing.
pub(super) fn strings_at(value: &Value, path: &[&str]) -> Vec<String> {
    let items = value.at(path).and_then(Value::as_array).unwrap_or_default();
    items.iter().filter_map(Value::as_str).map(str::to_owned).collect()
}
