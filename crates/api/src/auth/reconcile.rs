//! Default roles and bindings over the years: what a newer release adds is added to what the cluster has, and nothing
//! that people have added is taken away. An object whose autoupdate annotation says false is left alone.

use super::rules::{Rule, uncovered};
use object::{Map, Value};

/// Upstream's annotation of what it keeps up to date.
pub(super) const AUTOUPDATE: &str = "rbac.authorization.kubernetes.io/autoupdate";

/// What has to be done with an object that is there.
#[derive(Debug, PartialEq)]
pub enum Reconciled {
    /// Nothing.
    Same,
    /// It gets this form.
    Update(Value),
    /// It goes, and the default takes its place: a binding cannot change the role that it refers to.
    Replace,
}

/// Compares a default role or binding with the one that is there.
#[must_use]
pub fn reconcile(existing: &Value, default: &Value) -> Reconciled {
    if existing.at(&["metadata", "annotations"]).and_then(|all| all.str_at(&[AUTOUPDATE])) == Some("false") {
        return Reconciled::Same;
    }
    if default.get("roleRef").is_some_and(|wanted| existing.get("roleRef") != Some(wanted)) {
        return Reconciled::Replace;
    }
    let mut new = existing.clone();
    for member in ["labels", "annotations"] {
        let mut all = default.at(&["metadata", member]).and_then(Value::as_object).cloned().unwrap_or_default();
        let own = existing.at(&["metadata", member]).and_then(Value::as_object);
        for (key, value) in own.into_iter().flat_map(Map::iter) {
            all.insert(key, value.clone());
        }
        if own.is_none_or(|own| *own != all) && !all.is_empty() {
            new.set(&["metadata", member], Value::Object(all));
        }
    }
    let selectors = ["aggregationRule", "clusterRoleSelectors"];
    if default.at(&selectors).is_some() {
        add_missing(&mut new, default, &selectors);
    } else if default.get("rules").is_some() {
        let missing = uncovered(&Rule::list(existing), &Rule::list(default));
        append(&mut new, &["rules"], missing.iter().map(Rule::to_value));
    }
    add_missing(&mut new, default, &["subjects"]);
    if new == *existing { Reconciled::Same } else { Reconciled::Update(new) }
}

fn list<'a>(object: &'a Value, path: &[&str]) -> &'a [Value] {
    object.at(path).and_then(Value::as_array).unwrap_or_default()
}

/// Adds the items of the default's list that the object's has not.
fn add_missing(object: &mut Value, default: &Value, path: &[&str]) {
    let missing: Vec<Value> =
        list(default, path).iter().filter(|item| !list(object, path).contains(item)).cloned().collect();
    append(object, path, missing.into_iter());
}

fn append(object: &mut Value, path: &[&str], items: impl Iterator<Item = Value>) {
    let mut all = list(object, path).to_vec();
    let before = all.len();
    all.extend(items);
    if all.len() > before {
        object.set(path, all.into());
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]
    use super::*;

    fn value(text: &str) -> Value {
        object::json::decode(text.as_bytes(), &object::Limits::REQUEST).unwrap().value
    }

    #[test]
    fn what_is_missing_is_added_and_nothing_is_taken_away() {
        let default = r#"{"metadata":{"name":"r","labels":{"l":"1"},"annotations":{"rbac.authorization.kubernetes.io/autoupdate":"true"}},
            "rules":[{"verbs":["get","list"],"apiGroups":[""],"resources":["pods"]}]}"#;
        let default = value(default);
        assert_eq!(reconcile(&default, &default), Reconciled::Same);
        let held = value(
            r#"{"metadata":{"name":"r","uid":"u","labels":{"l":"2","m":"3"}},
            "rules":[{"verbs":["get"],"apiGroups":[""],"resources":["pods","secrets"]}]}"#,
        );
        let expected = value(
            r#"{"metadata":{"name":"r","uid":"u","labels":{"l":"2","m":"3"},"annotations":{"rbac.authorization.kubernetes.io/autoupdate":"true"}},
            "rules":[{"verbs":["get"],"apiGroups":[""],"resources":["pods","secrets"]},
            {"verbs":["list"],"apiGroups":[""],"resources":["pods"]}]}"#,
        );
        assert_eq!(reconcile(&held, &default), Reconciled::Update(expected.clone()));
        assert_eq!(reconcile(&expected, &default), Reconciled::Same);
        let left_alone =
            value(r#"{"metadata":{"annotations":{"rbac.authorization.kubernetes.io/autoupdate":"false"}},"rules":[]}"#);
        assert_eq!(reconcile(&left_alone, &default), Reconciled::Same);
    }

    #[test]
    fn bindings_get_their_subjects_back_and_another_role_replaces_them() {
        let default =
            value(r#"{"roleRef":{"kind":"ClusterRole","name":"a"},"subjects":[{"kind":"Group","name":"g"}]}"#);
        let held = value(r#"{"roleRef":{"kind":"ClusterRole","name":"a"},"subjects":[{"kind":"User","name":"u"}]}"#);
        let both = value(
            r#"{"roleRef":{"kind":"ClusterRole","name":"a"},"subjects":[{"kind":"User","name":"u"},{"kind":"Group","name":"g"}]}"#,
        );
        assert_eq!(reconcile(&held, &default), Reconciled::Update(both));
        let other = value(r#"{"roleRef":{"kind":"ClusterRole","name":"b"}}"#);
        assert_eq!(reconcile(&other, &default), Reconciled::Replace);
    }

    #[test]
    fn aggregated_roles_get_their_selectors_back_and_keep_their_rules() {
        let default = value(
            r#"{"aggregationRule":{"clusterRoleSelectors":[{"matchLabels":{"a":"true"}}]},"rules":[{"verbs":["get"],"apiGroups":[""],"resources":["x"]}]}"#,
        );
        let held = value(r#"{"aggregationRule":{"clusterRoleSelectors":[{"matchLabels":{"b":"true"}}]},"rules":[]}"#);
        let Reconciled::Update(new) = reconcile(&held, &default) else { panic!("the selector is missing") };
        assert_eq!(list(&new, &["aggregationRule", "clusterRoleSelectors"]).len(), 2);
        assert!(list(&new, &["rules"]).is_empty());
    }
}
