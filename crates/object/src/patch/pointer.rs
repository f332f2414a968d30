//! JSON pointers (RFC 6901) as JSON patches use them.

use crate::Value;

/// The longest pointer, in segments: deeper than any object that is decoded.
const SEGMENTS_MAX: usize = 1_024;

/// The segments of a pointer, unescaped; None where the text is no pointer.
pub(super) fn segments(text: &str) -> Option<Vec<String>> {
    if text.is_empty() {
        return Some(Vec::new());
    }
    let rest = text.strip_prefix('/')?;
    let segments: Vec<String> = rest.split('/').map(|one| one.replace("~1", "/").replace("~0", "~")).collect();
    (segments.len() <= SEGMENTS_MAX).then_some(segments)
}

/// The index that `segment` names in a list of `length` items; -1 is the last one, as upstream's library has it.
pub(super) fn index(segment: &str, length: usize) -> Option<usize> {
    if let Some(back) = segment.strip_prefix('-') {
        let back: usize = back.parse().ok().filter(|back| *back > 0)?;
        return length.checked_sub(back);
    }
    if segment.len() > 1 && segment.starts_with('0') || segment.starts_with('+') {
        return None;
    }
    segment.parse().ok().filter(|at| *at < length)
}

/// The value at a path.
pub(super) fn get<'a>(value: &'a Value, path: &[String]) -> Option<&'a Value> {
    path.iter().try_fold(value, |node, segment| match node {
        Value::Object(map) => map.get(segment),
        Value::Array(items) => index(segment, items.len()).map(|at| &items[at]),
        _ => None,
    })
}

/// The value at a path, for changing.
pub(super) fn get_mut<'a>(value: &'a mut Value, path: &[String]) -> Option<&'a mut Value> {
    path.iter().try_fold(value, |node, segment| match node {
        Value::Object(map) => map.get_mut(segment),
        Value::Array(items) => index(segment, items.len()).map(|at| &mut items[at]),
        _ => None,
    })
}
