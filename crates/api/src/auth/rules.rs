//! RBAC rules: how one matches a request, and when some cover others (rbac.authorization.k8s.io PolicyRule).

use super::authorize::Attributes;
use super::user::{strings, strings_at};
use object::{Map, Value};

/// One PolicyRule.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    /// Verbs, or `*`.
    pub verbs: Vec<String>,
    /// API groups, or `*`.
    pub groups: Vec<String>,
    /// Resources: `pods`, `pods/log`, `*/scale`, `*`.
    pub resources: Vec<String>,
    /// Names; empty for all.
    pub names: Vec<String>,
    /// Paths for requests about no resource; a trailing `*` matches the rest.
    pub paths: Vec<String>,
}

impl Rule {
    /// Reads the `rules` of a role.
    #[must_use]
    pub fn list(role: &Value) -> Vec<Rule> {
        role.get("rules").and_then(Value::as_array).unwrap_or_default().iter().map(Rule::from_value).collect()
    }

    fn from_value(value: &Value) -> Rule {
        Rule {
            verbs: strings_at(value, &["verbs"]),
            groups: strings_at(value, &["apiGroups"]),
            resources: strings_at(value, &["resources"]),
            names: strings_at(value, &["resourceNames"]),
            paths: strings_at(value, &["nonResourceURLs"]),
        }
    }

    /// The PolicyRule object.
    #[must_use]
    pub fn to_value(&self) -> Value {
        let mut rule = Map::new();
        let members = [
            ("verbs", &self.verbs),
            ("apiGroups", &self.groups),
            ("resources", &self.resources),
            ("resourceNames", &self.names),
            ("nonResourceURLs", &self.paths),
        ];
        for (key, items) in members {
            if !items.is_empty() {
                rule.insert(key, strings(items));
            }
        }
        Value::Object(rule)
    }

    /// True where the rule allows the request.
    #[must_use]
    pub fn allows(&self, request: &Attributes<'_>) -> bool {
        if !holds(&self.verbs, request.verb) {
            return false;
        }
        if !request.is_resource {
            return self.paths.iter().any(|pattern| path_matches(pattern, request.path));
        }
        holds(&self.groups, request.group)
            && self.resources.iter().any(|pattern| resource_matches(pattern, request.resource, request.subresource))
            && (self.names.is_empty() || self.names.iter().any(|name| name == request.name))
    }

    /// Cuts the rule into rules of one verb and one group with one resource and name, or one path each.
    fn atoms(&self) -> Vec<Rule> {
        let mut atoms = Vec::new();
        for verb in &self.verbs {
            for path in &self.paths {
                atoms.push(Rule { verbs: vec![verb.clone()], paths: vec![path.clone()], ..Rule::default() });
            }
            for group in &self.groups {
                for resource in &self.resources {
                    let atom = Rule {
                        verbs: vec![verb.clone()],
                        groups: vec![group.clone()],
                        resources: vec![resource.clone()],
                        ..Rule::default()
                    };
                    if self.names.is_empty() {
                        atoms.push(atom);
                        continue;
                    }
                    atoms.extend(self.names.iter().map(|name| Rule { names: vec![name.clone()], ..atom.clone() }));
                }
            }
        }
        atoms
    }

    fn covers_atom(&self, atom: &Rule) -> bool {
        let has = |mine: &[String], theirs: &[String]| theirs.iter().all(|one| holds(mine, one));
        if !has(&self.verbs, &atom.verbs) {
            return false;
        }
        if !atom.paths.is_empty() {
            return atom
                .paths
                .iter()
                .all(|path| self.paths.iter().any(|pattern| pattern == path || path_matches(pattern, path)));
        }
        let resources = atom.resources.iter().all(|wanted| {
            let (resource, subresource) = wanted.split_once('/').unwrap_or((wanted, ""));
            self.resources.iter().any(|pattern| pattern == wanted || resource_matches(pattern, resource, subresource))
        });
        let names = self.names.is_empty()
            || (!atom.names.is_empty() && atom.names.iter().all(|name| self.names.contains(name)));
        has(&self.groups, &atom.groups) && resources && names
    }
}

/// The atoms of `wanted` that none of `held` covers; empty where everything is covered.
#[must_use]
pub(super) fn uncovered(held: &[Rule], wanted: &[Rule]) -> Vec<Rule> {
    let atoms = wanted.iter().flat_map(Rule::atoms);
    atoms.filter(|atom| !held.iter().any(|rule| rule.covers_atom(atom))).collect()
}

fn holds(list: &[String], wanted: &str) -> bool {
    list.iter().any(|one| one == "*" || one == wanted)
}

fn path_matches(pattern: &str, path: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(prefix) => path.starts_with(prefix),
        None => pattern == path,
    }
}

fn resource_matches(pattern: &str, resource: &str, subresource: &str) -> bool {
    if pattern == "*" {
        return true;
    }
    match pattern.split_once('/') {
        None => subresource.is_empty() && pattern == resource,
        Some((wanted, part)) => !subresource.is_empty() && part == subresource && (wanted == "*" || wanted == resource),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(verbs: &str, groups: &str, resources: &str, names: &str) -> Rule {
        let list = |text: &str| text.split(',').filter(|one| !one.is_empty()).map(str::to_owned).collect();
        let groups =
            groups.split(',').map(|group| if group == "core" { String::new() } else { group.to_owned() }).collect();
        Rule { verbs: list(verbs), groups, resources: list(resources), names: list(names), paths: Vec::new() }
    }

    #[test]
    fn rules_match_as_documented() {
        let cases = [
            (rule("get", "core", "pods", ""), "get", "pods", "", "x", true),
            (rule("get", "core", "pods", ""), "get", "pods", "log", "x", false),
            (rule("get", "core", "pods/log", ""), "get", "pods", "log", "x", true),
            (rule("get", "core", "pods/log", ""), "get", "pods", "", "x", false),
            (rule("*", "*", "*", ""), "delete", "pods", "log", "x", true),
            (rule("get", "core", "*/scale", ""), "get", "anything", "scale", "x", true),
            (rule("get", "core", "*/scale", ""), "get", "anything", "", "x", false),
            (rule("get", "apps", "pods", ""), "get", "pods", "", "x", false),
            (rule("get", "core", "pods", "y"), "get", "pods", "", "x", false),
            (rule("get", "core", "pods", "y"), "list", "pods", "", "", false),
            (rule("get", "core", "pods", "x,y"), "get", "pods", "", "x", true),
        ];
        for (rule, verb, resource, subresource, name, expected) in cases {
            let request = Attributes { verb, resource, subresource, name, is_resource: true, ..Attributes::default() };
            assert_eq!(rule.allows(&request), expected, "{rule:?} against {verb} {resource}/{subresource} {name}");
        }
    }

    #[test]
    fn covering_looks_at_each_combination() {
        let held = [rule("get,list", "core", "pods", ""), rule("*", "apps", "*", "")];
        assert!(uncovered(&held, &[rule("get", "core", "pods", "a")]).is_empty());
        assert!(uncovered(&held, &[rule("delete", "apps", "deployments/scale", "")]).is_empty());
        assert_eq!(uncovered(&held, &[rule("get,delete", "core", "pods", "")]).len(), 1);
        assert_eq!(uncovered(&[rule("get", "core", "pods", "a")], &[rule("get", "core", "pods", "")]).len(), 1);
    }

    #[test]
    fn paths_take_a_trailing_star() {
        assert!(path_matches("/healthz/*", "/healthz/ping"));
        assert!(!path_matches("/healthz", "/healthz/ping"));
        assert!(path_matches("*", "/anything"));
    }
}
