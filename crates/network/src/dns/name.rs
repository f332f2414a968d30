//! Domain names in wire form, in lower case: the form in which they are compared and looked up.

use std::fmt;

/// The longest name on the wire (RFC 1035).
const NAME_BYTES_MAX: usize = 255;
/// The longest label.
const LABEL_BYTES_MAX: usize = 63;

/// A domain name: length-prefixed labels in lower case, ended by a zero byte.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(Box<[u8]>);

/// Why a text is no domain name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a domain name: labels have 1 to 63 characters, the whole at most 253")]
pub struct NameError {
    text: String,
}

impl Name {
    /// The name of this text, with or without the final dot.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        let fail = || NameError { text: text.chars().take(300).collect() };
        let mut wire = Vec::with_capacity(text.len() + 2);
        let trimmed = text.strip_suffix('.').unwrap_or(text);
        if !trimmed.is_empty() {
            for label in trimmed.split('.') {
                push_label(&mut wire, label).ok_or_else(fail)?;
            }
        }
        wire.push(0);
        if wire.len() > NAME_BYTES_MAX {
            return Err(fail());
        }
        Ok(Self(wire.into()))
    }

    /// The name with one more label in front.
    pub fn child(&self, label: &str) -> Result<Self, NameError> {
        let fail = || NameError { text: format!("{label}.{self}").chars().take(300).collect() };
        let mut wire = Vec::with_capacity(label.len() + 1 + self.0.len());
        push_label(&mut wire, label).ok_or_else(fail)?;
        wire.extend_from_slice(&self.0);
        if wire.len() > NAME_BYTES_MAX {
            return Err(fail());
        }
        Ok(Self(wire.into()))
    }

    /// The name without its first label; none for the root.
    #[must_use]
    pub fn parent(&self) -> Option<Self> {
        parent(&self.0).map(|rest| Self(rest.into()))
    }

    /// Its wire form.
    #[must_use]
    pub fn wire(&self) -> &[u8] {
        &self.0
    }
}

fn push_label(wire: &mut Vec<u8>, label: &str) -> Option<()> {
    if label.is_empty() || label.len() > LABEL_BYTES_MAX {
        return None;
    }
    wire.push(u8::try_from(label.len()).ok()?);
    wire.extend(label.bytes().map(|byte| byte.to_ascii_lowercase()));
    Some(())
}

/// The wire form without its first label.
pub(crate) fn parent(wire: &[u8]) -> Option<&[u8]> {
    let length = usize::from(*wire.first()?);
    if length == 0 { None } else { wire.get(1 + length..) }
}

/// Whether a name is `suffix` or below it.
pub(crate) fn is_within(wire: &[u8], suffix: &[u8]) -> bool {
    let Some(excess) = wire.len().checked_sub(suffix.len()) else { return false };
    // The bytes must agree before it pays to see whether a label begins there.
    if wire.get(excess..) != Some(suffix) {
        return false;
    }
    let mut at = 0;
    while at < excess {
        at += 1 + usize::from(wire.get(at).copied().unwrap_or(0));
    }
    at == excess
}

impl fmt::Display for Name {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = &self.0[..];
        let mut is_root = true;
        while let Some(next) = parent(rest) {
            let label = rest.get(1..rest.len() - next.len()).unwrap_or_default();
            write!(formatter, "{}.", String::from_utf8_lossy(label))?;
            is_root = false;
            rest = next;
        }
        if is_root { formatter.write_str(".") } else { Ok(()) }
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

impl std::borrow::Borrow<[u8]> for Name {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn names_parse_print_and_nest() {
        let zone = Name::parse("Cluster.Local").unwrap();
        assert_eq!(zone.wire(), b"\x07cluster\x05local\x00");
        let name = zone.child("svc").unwrap().child("default").unwrap();
        assert_eq!(name.to_string(), "default.svc.cluster.local.");
        assert_eq!(name.parent().unwrap(), zone.child("svc").unwrap());
        assert!(is_within(name.wire(), zone.wire()) && is_within(zone.wire(), zone.wire()));
        assert!(!is_within(Name::parse("mycluster.local").unwrap().wire(), zone.wire()));
        // Bytes that look like the suffix within a label do not count.
        let tricky = Name::parse(&format!("{}.x", "a".repeat(6))).unwrap();
        assert!(!is_within(tricky.wire(), Name::parse("a.x").unwrap().wire()));
        assert_eq!(Name::parse("").unwrap().to_string(), ".");
        for bad in ["a..b", ".a", &"x".repeat(64), &"abcdefg.".repeat(40)] {
            assert!(Name::parse(bad).is_err(), "{bad}");
        }
    }
}
