//! Patches: two JSON documents, object and patch, separated by a zero byte. A refused patch changes nothing.

#![no_main]

use libfuzzer_sys::fuzz_target;
use object::{GroupVersionKind, Limits, json, patch};

fuzz_target!(|bytes: &[u8]| {
    let mut parts = bytes.splitn(2, |byte| *byte == 0);
    let mut next = || json::decode(parts.next()?, &Limits::default()).ok().map(|decoded| decoded.value);
    let (Some(object), Some(change)) = (next(), next()) else { return };
    let Some(pod) = kinds::type_id(&GroupVersionKind::parse("v1", "Pod")) else { return };
    let mut patched = object.clone();
    if patch::strategic(kinds::schemas(), pod, &mut patched, &change).is_err() {
        assert_eq!(patched, object);
    }
    let mut patched = object.clone();
    if patch::json(&mut patched, &change).is_err() {
        assert_eq!(patched, object);
    }
    let mut patched = object;
    patch::merge(&mut patched, &change);
});
