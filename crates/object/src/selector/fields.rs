//! Field selectors: `metadata.name=x,status.phase!=Running`.

use crate::Str;
use std::fmt;

/// The longest selector text that is read, in bytes.
pub const TEXT_BYTES_MAX: usize = 256 * 1024;

/// One condition on a field.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Requirement {
    /// The field's path, such as `metadata.name`.
    pub field: Str,
    /// True for `=` and `==`, false for `!=`.
    pub equal: bool,
    /// The value, with escapes undone.
    pub value: Str,
}

/// All conditions that fields must meet; without one, all objects match.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Selector {
    requirements: Vec<Requirement>,
}

/// Why a selector could not be read; the text is upstream's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Error(pub String);

impl Selector {
    /// Matches all objects.
    #[must_use]
    pub fn everything() -> Self {
        Selector::default()
    }

    /// Reads the form of the fieldSelector query parameter.
    pub fn parse(text: &str) -> Result<Self, Error> {
        if text.len() > TEXT_BYTES_MAX {
            return Err(Error(format!(
                "a field selector may have at most {TEXT_BYTES_MAX} bytes, this one has {}",
                text.len()
            )));
        }
        let mut requirements = Vec::new();
        for part in split_terms(text) {
            if part.is_empty() {
                continue;
            }
            let Some((field, equal, value)) = split_term(part) else {
                return Err(Error(format!("invalid selector: '{text}'; can't understand '{part}'")));
            };
            let value = unescape(value)?;
            requirements.push(Requirement { field: field.into(), equal, value });
        }
        Ok(Selector { requirements })
    }

    /// The conditions, in the order written.
    #[must_use]
    pub fn requirements(&self) -> &[Requirement] {
        &self.requirements
    }

    /// The value that `field` must equal, where the selector says so: metadata.name makes a list a lookup.
    #[must_use]
    pub fn exact(&self, field: &str) -> Option<&str> {
        let one = self.requirements.iter().find(|one| one.equal && one.field == field)?;
        Some(&one.value)
    }

    /// Whether an object matches; `field` gives the value of a path. A field that is not known never equals anything.
    #[must_use]
    pub fn matches(&self, field: impl Fn(&str) -> Option<Str>) -> bool {
        self.requirements.iter().all(|one| (field(&one.field).as_ref() == Some(&one.value)) == one.equal)
    }

    /// True without conditions.
    #[must_use]
    pub fn is_everything(&self) -> bool {
        self.requirements.is_empty()
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, one) in self.requirements.iter().enumerate() {
            let comma = if at == 0 { "" } else { "," };
            let operator = if one.equal { "=" } else { "!=" };
            write!(f, "{comma}{}{operator}{}", one.field, escape(&one.value))?;
        }
        Ok(())
    }
}

/// Splits at commas that are not escaped.
fn split_terms(text: &str) -> impl Iterator<Item = &str> {
    let mut escaped = false;
    text.split(move |one: char| {
        let split = one == ',' && !escaped;
        escaped = one == '\\' && !escaped;
        split
    })
}

/// Splits at the first operator that is not escaped.
fn split_term(term: &str) -> Option<(&str, bool, &str)> {
    let bytes = term.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        match (bytes[at], bytes.get(at + 1)) {
            (b'\\', _) => at += 1,
            (b'!', Some(b'=')) => return Some((&term[..at], false, &term[at + 2..])),
            (b'=', Some(b'=')) => return Some((&term[..at], true, &term[at + 2..])),
            (b'=', _) => return Some((&term[..at], true, &term[at + 1..])),
            _ => {}
        }
        at += 1;
    }
    None
}

fn unescape(value: &str) -> Result<Str, Error> {
    let mut plain = Str::default();
    let mut characters = value.chars();
    while let Some(one) = characters.next() {
        match one {
            '\\' => match characters.next() {
                Some(escaped @ ('\\' | ',' | '=')) => plain.push(escaped),
                other => {
                    let sequence: String = std::iter::once('\\').chain(other).collect();
                    return Err(Error(format!("invalid field selector: invalid escape sequence: {sequence}")));
                }
            },
            ',' | '=' => return Err(Error(format!("invalid field selector: unescaped character in value: {one}"))),
            other => plain.push(other),
        }
    }
    Ok(plain)
}

fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace(',', "\\,").replace('=', "\\=")
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::Selector;
    use crate::Str;
    use proptest::prelude::*;

    fn lookup(field: &str) -> Option<Str> {
        match field {
            "metadata.name" => Some("web".into()),
            "status.phase" => Some("Running".into()),
            "spec.nodeName" => Some("".into()),
            "odd" => Some("a,b=c\\".into()),
            _ => None,
        }
    }

    #[test]
    fn text_selects() {
        for (text, expected) in [
            ("", true),
            ("metadata.name=web", true),
            ("metadata.name==web,status.phase!=Pending", true),
            ("metadata.name!=web", false),
            ("spec.nodeName=", true),
            (",,metadata.name=web,", true),
            ("odd=a\\,b\\=c\\\\", true),
        ] {
            let selector = Selector::parse(text).unwrap();
            assert_eq!(selector.matches(lookup), expected, "{text}");
            assert_eq!(Selector::parse(&selector.to_string()).unwrap(), selector);
        }
        assert_eq!(Selector::parse("a!=b,metadata.name=x").unwrap().exact("metadata.name"), Some("x"));
    }

    #[test]
    fn bad_text_is_named() {
        for (text, expected) in [
            ("x", "invalid selector: 'x'; can't understand 'x'"),
            ("a=b=c", "invalid field selector: unescaped character in value: ="),
            ("a=b\\x", "invalid field selector: invalid escape sequence: \\x"),
        ] {
            assert_eq!(Selector::parse(text).unwrap_err().0, expected);
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused_and_what_is_read_prints_to_the_same(text in "[a-c!=,.\\\\é]{0,24}") {
            if let Ok(selector) = Selector::parse(&text) {
                let again = Selector::parse(&selector.to_string()).unwrap();
                prop_assert_eq!(again, selector);
            }
        }
    }
}
