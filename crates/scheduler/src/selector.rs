//! Label selectors compiled once and matched often.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

/// A set of labels as objects carry it.
pub type Labels = BTreeMap<String, String>;

/// A compiled label selector: every requirement must hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selector {
    requirements: Option<Vec<Requirement>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Requirement {
    key: String,
    operator: Operator,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Operator {
    In(Vec<String>),
    NotIn(Vec<String>),
    Exists,
    DoesNotExist,
}

impl Selector {
    /// Matches every object, as an empty selector does.
    pub fn everything() -> Self {
        Self { requirements: Some(Vec::new()) }
    }

    /// Matches no object, as an absent selector does in most fields.
    pub fn nothing() -> Self {
        Self { requirements: None }
    }

    /// Compiles a label selector. An operator that upstream does not know matches nothing, so that nothing is touched by mistake.
    pub fn compile(selector: &LabelSelector) -> Self {
        let mut requirements: Vec<Requirement> = Vec::new();
        for (key, value) in selector.match_labels.iter().flatten() {
            requirements.push(Requirement { key: key.clone(), operator: Operator::In(vec![value.clone()]) });
        }
        for expression in selector.match_expressions.iter().flatten() {
            let values = expression.values.clone().unwrap_or_default();
            let operator = match expression.operator.as_str() {
                "In" => Operator::In(values),
                "NotIn" => Operator::NotIn(values),
                "Exists" => Operator::Exists,
                "DoesNotExist" => Operator::DoesNotExist,
                _ => return Self::nothing(),
            };
            requirements.push(Requirement { key: expression.key.clone(), operator });
        }
        Self { requirements: Some(requirements) }
    }

    /// Compiles an optional selector; absent matches nothing.
    pub fn compile_optional(selector: Option<&LabelSelector>) -> Self {
        selector.map_or_else(Self::nothing, Self::compile)
    }

    /// Every given label must be present with its value.
    pub fn from_labels(labels: &Labels) -> Self {
        let requirement = |(key, value): (&String, &String)| Requirement {
            key: key.clone(),
            operator: Operator::In(vec![value.clone()]),
        };
        Self { requirements: Some(labels.iter().map(requirement).collect()) }
    }

    /// This selector with one more `key = value`.
    pub fn and_label(mut self, key: &str, value: &str) -> Self {
        if let Some(requirements) = &mut self.requirements {
            requirements.push(Requirement { key: key.to_owned(), operator: Operator::In(vec![value.to_owned()]) });
        }
        self
    }

    /// Both selectors must match.
    pub fn and(mut self, other: &Self) -> Self {
        match (&mut self.requirements, &other.requirements) {
            (Some(mine), Some(theirs)) => mine.extend(theirs.iter().cloned()),
            _ => self.requirements = None,
        }
        self
    }

    /// True if there is no requirement, so that everything matches.
    pub fn is_everything(&self) -> bool {
        self.requirements.as_ref().is_some_and(Vec::is_empty)
    }

    /// Whether these labels satisfy the selector; an object without labels has an empty set.
    pub fn matches(&self, labels: Option<&Labels>) -> bool {
        let Some(requirements) = &self.requirements else { return false };
        requirements.iter().all(|requirement| {
            let value = labels.and_then(|labels| labels.get(&requirement.key));
            match &requirement.operator {
                Operator::In(values) => value.is_some_and(|value| values.contains(value)),
                Operator::NotIn(values) => value.is_none_or(|value| !values.contains(value)),
                Operator::Exists => value.is_some(),
                Operator::DoesNotExist => value.is_none(),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors_match_as_documented() {
        let check = |selector: serde_json::Value, expected: bool| {
            let parsed: LabelSelector = serde_json::from_value(selector.clone()).unwrap_or_default();
            let labels = Labels::from([("app".into(), "web".into()), ("tier".into(), "front".into())]);
            assert_eq!(Selector::compile(&parsed).matches(Some(&labels)), expected, "{selector}");
        };
        let expression = |operator: &str, key: &str, values: &[&str]| serde_json::json!({"matchExpressions": [{"key": key, "operator": operator, "values": values}]});
        check(serde_json::json!({}), true);
        check(serde_json::json!({"matchLabels": {"app": "web"}}), true);
        check(serde_json::json!({"matchLabels": {"app": "web", "tier": "back"}}), false);
        check(expression("In", "tier", &["front", "back"]), true);
        check(expression("NotIn", "tier", &["front"]), false);
        check(expression("NotIn", "absent", &["front"]), true);
        check(expression("Exists", "tier", &[]), true);
        check(expression("DoesNotExist", "tier", &[]), false);
        check(expression("Near", "tier", &[]), false);
        assert!(!Selector::compile_optional(None).matches(None));
        assert!(Selector::everything().matches(None));
    }
}
