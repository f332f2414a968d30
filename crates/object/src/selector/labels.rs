//! Label selectors: what an object's labels must be, from the query parameter's text or from a LabelSelector object.

use super::label_syntax;
use crate::{Map, Str, Value, names};
use std::fmt;

/// The longest selector text that is read, in bytes.
pub const TEXT_BYTES_MAX: usize = 256 * 1024;

/// A relation between a label and values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Operator {
    /// The label has one of the values.
    In,
    /// The label is missing or has none of the values.
    NotIn,
    /// The label is there.
    Exists,
    /// The label is missing.
    DoesNotExist,
    /// The label is an integer above the value.
    GreaterThan,
    /// The label is an integer below the value.
    LessThan,
}

/// One condition.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Requirement {
    /// The label's key.
    pub key: Str,
    /// The relation.
    pub operator: Operator,
    /// Sorted, without duplicates.
    pub values: Vec<Str>,
}

/// All conditions that labels must meet; without one, all objects match.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Selector {
    requirements: Vec<Requirement>,
    nothing: bool,
}

/// Why a selector could not be read; the text is upstream's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Error(pub String);

impl Requirement {
    /// A condition with its parts checked as upstream checks them.
    pub fn new(key: &str, operator: Operator, values: impl IntoIterator<Item = Str>) -> Result<Self, Error> {
        if let Some(error) = names::qualified_name(key).first() {
            return Err(Error(format!("key: Invalid value: {key:?}: {error}")));
        }
        let mut values: Vec<Str> = values.into_iter().collect();
        values.sort();
        values.dedup();
        match operator {
            Operator::In | Operator::NotIn if values.is_empty() => {
                let why = "for 'in', 'notin' operators, values set can't be empty";
                return Err(Error(format!("values: Invalid value: []: {why}")));
            }
            Operator::Exists | Operator::DoesNotExist if !values.is_empty() => {
                let why = "values set must be empty for exists and does not exist";
                return Err(Error(format!("values: Invalid value: {values:?}: {why}")));
            }
            Operator::GreaterThan | Operator::LessThan => {
                if values.len() != 1 {
                    let why = "for 'Gt', 'Lt' operators, exactly one value is required";
                    return Err(Error(format!("values: Invalid value: {values:?}: {why}")));
                }
                if values[0].parse::<i64>().is_err() {
                    let why = "for 'Gt', 'Lt' operators, the value must be an integer";
                    return Err(Error(format!("values[0]: Invalid value: {:?}: {why}", values[0])));
                }
            }
            _ => {}
        }
        for (at, value) in values.iter().enumerate() {
            if let Some(error) = names::label_value(value).first() {
                return Err(Error(format!("values[{at}][{key}]: Invalid value: {value:?}: {error}")));
            }
        }
        Ok(Requirement { key: key.into(), operator, values })
    }

    /// Whether a label's value (None where it is missing) meets the condition.
    #[must_use]
    pub fn matches(&self, value: Option<&str>) -> bool {
        let among = |value: &str| self.values.binary_search_by(|one| one.as_str().cmp(value)).is_ok();
        let beyond =
            |above: bool| match (value.map(str::parse::<i64>), self.values.first().map(|one| one.parse::<i64>())) {
                (Some(Ok(label)), Some(Ok(bound))) => (above && label > bound) || (!above && label < bound),
                _ => false,
            };
        match self.operator {
            Operator::In => value.is_some_and(among),
            Operator::NotIn => !value.is_some_and(among),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
            Operator::GreaterThan => beyond(true),
            Operator::LessThan => beyond(false),
        }
    }
}

impl Selector {
    /// Matches all objects.
    #[must_use]
    pub fn everything() -> Self {
        Selector::default()
    }

    /// Matches no object: what a null LabelSelector means.
    #[must_use]
    pub fn nothing() -> Self {
        Selector { requirements: Vec::new(), nothing: true }
    }

    /// A selector of conditions.
    #[must_use]
    pub fn of(mut requirements: Vec<Requirement>) -> Self {
        requirements.sort_by(|a, b| a.key.cmp(&b.key)); // stable, as upstream orders them
        Selector { requirements, nothing: false }
    }

    /// Reads the form of the labelSelector query parameter: `a=b,c in (d,e),!f,g>1`.
    pub fn parse(text: &str) -> Result<Self, Error> {
        if text.len() > TEXT_BYTES_MAX {
            return Err(Error(format!(
                "a label selector may have at most {TEXT_BYTES_MAX} bytes, this one has {}",
                text.len()
            )));
        }
        label_syntax::parse(text).map(Selector::of)
    }

    /// Reads a LabelSelector object (matchLabels, matchExpressions); null matches nothing, an empty one everything.
    pub fn from_label_selector(value: &Value) -> Result<Self, Error> {
        if value.is_null() {
            return Ok(Selector::nothing());
        }
        let mut requirements = Vec::new();
        for (key, label) in value.get("matchLabels").and_then(Value::as_object).into_iter().flat_map(Map::iter) {
            let label = label.as_str().unwrap_or_default();
            requirements.push(Requirement::new(key, Operator::In, [Str::from(label)])?);
        }
        for expression in value.get("matchExpressions").and_then(Value::as_array).unwrap_or_default() {
            let operator = match expression.str_at(&["operator"]).unwrap_or_default() {
                "In" => Operator::In,
                "NotIn" => Operator::NotIn,
                "Exists" => Operator::Exists,
                "DoesNotExist" => Operator::DoesNotExist,
                other => return Err(Error(format!("{other:?} is not a valid label selector operator"))),
            };
            let values = expression.get("values").and_then(Value::as_array).unwrap_or_default();
            let values = values.iter().filter_map(Value::as_str).map(Str::from);
            requirements.push(Requirement::new(expression.str_at(&["key"]).unwrap_or_default(), operator, values)?);
        }
        Ok(Selector::of(requirements))
    }

    /// A selector for a map of labels, as Services and ReplicationControllers have it; an empty map matches everything.
    pub fn from_map(labels: &Map) -> Result<Self, Error> {
        let one = |(key, value): (&str, &Value)| {
            Requirement::new(key, Operator::In, [Str::from(value.as_str().unwrap_or_default())])
        };
        labels.iter().map(one).collect::<Result<_, _>>().map(Selector::of)
    }

    /// The conditions, sorted by key.
    #[must_use]
    pub fn requirements(&self) -> &[Requirement] {
        &self.requirements
    }

    /// True where every object matches.
    #[must_use]
    pub fn is_everything(&self) -> bool {
        !self.nothing && self.requirements.is_empty()
    }

    /// Whether labels match.
    #[must_use]
    pub fn matches(&self, labels: &Map) -> bool {
        self.matches_with(|key| labels.get(key).and_then(Value::as_str))
    }

    /// Whether labels that may be missing match.
    #[must_use]
    pub fn matches_labels(&self, labels: Option<&Map>) -> bool {
        self.matches_with(|key| labels?.get(key)?.as_str())
    }

    /// Whether the labels that `label` knows match.
    #[must_use]
    pub fn matches_with<'a>(&self, label: impl Fn(&str) -> Option<&'a str>) -> bool {
        !self.nothing && self.requirements.iter().all(|one| one.matches(label(&one.key)))
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = &self.key;
        let values = self.values.join(",");
        match self.operator {
            Operator::Exists => write!(f, "{key}"),
            Operator::DoesNotExist => write!(f, "!{key}"),
            Operator::In if self.values.len() == 1 => write!(f, "{key}={values}"),
            Operator::In => write!(f, "{key} in ({values})"),
            Operator::NotIn if self.values.len() == 1 => write!(f, "{key}!={values}"),
            Operator::NotIn => write!(f, "{key} notin ({values})"),
            Operator::GreaterThan => write!(f, "{key}>{values}"),
            Operator::LessThan => write!(f, "{key}<{values}"),
        }
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nothing {
            return f.write_str("<none>");
        }
        let all: Vec<String> = self.requirements.iter().map(Requirement::to_string).collect();
        f.write_str(&all.join(","))
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::Selector;
    use crate::{Map, Value};
    use proptest::prelude::*;

    fn labels(pairs: &[(&str, &str)]) -> Map {
        pairs.iter().map(|(key, value)| (*key, *value)).collect()
    }

    #[test]
    fn text_selects() {
        let object = labels(&[("a", "b"), ("n", "5"), ("e", "")]);
        for (text, expected) in [
            ("", true),
            ("a=b", true),
            ("a==b", true),
            (" a = b , n ", true),
            ("a!=b", false),
            ("missing!=b", true),
            ("a in (b,c)", true),
            ("a in(c)", false),
            ("a notin (c,d)", true),
            ("missing notin (c)", true),
            ("missing in (c)", false),
            ("!missing", true),
            ("! a", false),
            ("n>4", true),
            ("n<5", false),
            ("n > 4,n<6", true),
            ("a>1", false),
            ("e=", true),
            ("e in (,x)", true),
            ("e in ()x", false),
            ("in=b", false),
            ("in in (in)", false),
            ("example.com/x notin (y)", true),
        ] {
            match Selector::parse(text) {
                Ok(selector) => {
                    assert_eq!(selector.matches(&object), expected, "{text}");
                    assert_eq!(Selector::parse(&selector.to_string()).unwrap(), selector, "{text}");
                }
                Err(_) => assert!(!expected, "{text}"),
            }
        }
    }

    #[test]
    fn bad_text_is_named() {
        for (text, expected) in [
            ("a b", "unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt"),
            ("a in b", "unable to parse requirement: found 'b', expected: '('"),
            ("a in (b", "unable to parse requirement: found '', expected: ',' or ')'"),
            ("a=b,", "found '', expected: identifier after ','"),
            ("a=b)", "found ')', expected: ',' or 'end of string'"),
            ("=b", "found '=', expected: !, identifier, or 'end of string'"),
            (
                "a in ()",
                "unable to parse requirement: values: Invalid value: []: for 'in', 'notin' operators, values set can't be empty",
            ),
            (
                "n>x",
                "unable to parse requirement: values[0]: Invalid value: \"x\": for 'Gt', 'Lt' operators, the value must be an integer",
            ),
        ] {
            assert_eq!(Selector::parse(text).unwrap_err().0, expected, "{text}");
        }
        assert!(Selector::parse("a=-x-").unwrap_err().0.contains("values[0][a]: Invalid value: \"-x-\""));
    }

    #[test]
    fn an_object_selects() {
        let mut selector = Value::default();
        assert!(!Selector::from_label_selector(&selector).unwrap().matches(&labels(&[])));
        selector = Value::Object(Map::new());
        assert!(Selector::from_label_selector(&selector).unwrap().matches(&labels(&[])));
        selector.set(&["matchLabels", "a"], "b".into());
        let mut expression = Value::default();
        expression.set(&["key"], "c".into());
        expression.set(&["operator"], "NotIn".into());
        expression.set(&["values"], vec!["d".into()].into());
        selector.set(&["matchExpressions"], vec![expression.clone()].into());
        let parsed = Selector::from_label_selector(&selector).unwrap();
        assert_eq!(parsed.to_string(), "a=b,c!=d");
        assert!(parsed.matches(&labels(&[("a", "b"), ("c", "x")])));
        assert!(!parsed.matches(&labels(&[("a", "b"), ("c", "d")])));
        expression.set(&["operator"], "Like".into());
        selector.set(&["matchExpressions"], vec![expression].into());
        assert_eq!(
            Selector::from_label_selector(&selector).unwrap_err().0,
            "\"Like\" is not a valid label selector operator"
        );
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused_and_what_is_read_prints_to_the_same(text in "[a-c!=<>(), .in/\\-]{0,24}") {
            if let Ok(selector) = Selector::parse(&text) {
                prop_assert_eq!(Selector::parse(&selector.to_string()).unwrap(), selector);
            }
        }

        #[test]
        fn no_text_panics(text in "\\PC{0,64}") {
            let _ = Selector::parse(&text);
        }
    }
}
