//! From a finished object to the store: encoded once with a hole for its revision, committed, and shared decoded.

use crate::core::Call;
use object::{Status, Str, Value, json};
use std::sync::Arc;
use store::{Change, CommitError, Committed, Entry, Expect, Key, Operation, Template, Transaction};

/// Resources whose writes may be acknowledged before they are durable: a crash of the machine may lose the last of them,
/// and every client renews or repeats them anyway.
const RELAXED: [&str; 2] = ["leases", "events"];

/// Encodes `value` with an empty metadata.resourceVersion and remembers where the revision belongs.
pub(crate) fn template(value: &Value) -> Template {
    let mut out = Vec::with_capacity(1024);
    let mut revision_at = None;
    let Value::Object(map) = value else {
        return Template { bytes: json::encode(value).into(), revision_at: None };
    };
    out.push(b'{');
    for (at, (key, member)) in map.iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        encode_key(key, &mut out);
        match member {
            Value::Object(metadata) if key == "metadata" => {
                out.push(b'{');
                let mut first = true;
                let mut written = false;
                for (key, member) in metadata.iter() {
                    // The revision goes to its sorted place, so that decoding need not sort.
                    if !written && key >= "resourceVersion" {
                        revision_at = Some(encode_revision(&mut out, &mut first));
                        written = true;
                    }
                    if key == "resourceVersion" {
                        continue;
                    }
                    separate(&mut out, &mut first);
                    encode_key(key, &mut out);
                    json::encode_into(member, &mut out);
                }
                if !written {
                    revision_at = Some(encode_revision(&mut out, &mut first));
                }
                out.push(b'}');
            }
            other => json::encode_into(other, &mut out),
        }
    }
    out.push(b'}');
    Template { bytes: out.into(), revision_at }
}

fn separate(out: &mut Vec<u8>, first: &mut bool) {
    if !std::mem::replace(first, false) {
        out.push(b',');
    }
}

fn encode_revision(out: &mut Vec<u8>, first: &mut bool) -> u32 {
    separate(out, first);
    out.extend_from_slice(b"\"resourceVersion\":\"");
    let at = out.len() as u32; // a request is at most 3 MiB
    out.push(b'"');
    at
}

fn encode_key(key: &str, out: &mut Vec<u8>) {
    json::encode_into(&Value::String(Str::from(key)), out);
    out.push(b':');
}

/// A put of `value`.
pub(crate) fn put(key: Key, expect: Expect, value: &Value) -> Operation {
    Operation { key, expect, change: Change::Put(template(value)) }
}

/// Commits; the first operation is the object itself.
pub(crate) async fn commit(call: &Call<'_>, operations: Vec<Operation>) -> Result<Committed, CommitError> {
    let relaxed = RELAXED.contains(&call.scope.row.plural.as_str());
    call.core.store.commit(Transaction { operations, relaxed }).await
}

/// The first operation's entry, with `value` as its decoded form.
pub(crate) fn share(committed: &Committed, mut value: Value) -> Option<Arc<Entry>> {
    let entry = committed.entries.first()?.clone()?;
    value.set(&["metadata", "resourceVersion"], entry.revision.to_string().into());
    entry.cache_with(|| Arc::new(value));
    Some(entry)
}

/// A commit's failure that is no conflict.
pub(crate) fn failure(error: &CommitError) -> Status {
    match error {
        CommitError::Conflict { .. } => Status::internal("an unexpected conflict in the store"),
        CommitError::NoSpace { .. } => Status::new(507, "InsufficientStorage", error.to_string()),
        CommitError::Stopped { .. } => Status::unavailable(error.to_string()),
        CommitError::TooLarge { .. } => {
            Status::new(413, "RequestEntityTooLarge", format!("Request is too large: {error}"))
        }
        CommitError::Invalid { .. } => Status::internal(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use store::Revision;

    #[test]
    fn the_hole_is_at_its_sorted_place() {
        let cases: [(&[&str], &str); 4] = [
            (&["name"], r#"{"kind":"A","metadata":{"name":"x","resourceVersion":"7"},"spec":1}"#),
            (&["name", "uid"], r#"{"kind":"A","metadata":{"name":"x","resourceVersion":"7","uid":"x"},"spec":1}"#),
            (&["resourceVersion", "uid"], r#"{"kind":"A","metadata":{"resourceVersion":"7","uid":"x"},"spec":1}"#),
            (&["uid"], r#"{"kind":"A","metadata":{"resourceVersion":"7","uid":"x"},"spec":1}"#),
        ];
        for (members, expected) in cases {
            let mut value = Value::default();
            value.set(&["kind"], "A".into());
            value.set(&["spec"], 1_i64.into());
            for member in members {
                value.set(&["metadata", member], "x".into());
            }
            assert_eq!(template(&value).splice(Revision(7)), Some(Bytes::from(expected)));
        }
    }
}
