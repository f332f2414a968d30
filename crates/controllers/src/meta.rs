//! What controllers need to know of metadata: identity, owners, hashes, conditions.

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use k8s_openapi::{Metadata, Resource};
use serde::Serialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

pub(crate) fn uid(metadata: &ObjectMeta) -> &str {
    metadata.uid.as_deref().unwrap_or_default()
}

pub(crate) fn name(metadata: &ObjectMeta) -> &str {
    metadata.name.as_deref().unwrap_or_default()
}

pub(crate) fn namespace(metadata: &ObjectMeta) -> &str {
    metadata.namespace.as_deref().unwrap_or_default()
}

pub(crate) fn is_deleting(metadata: &ObjectMeta) -> bool {
    metadata.deletion_timestamp.is_some()
}

pub(crate) fn label<'a>(metadata: &'a ObjectMeta, key: &str) -> Option<&'a str> {
    metadata.labels.as_ref().and_then(|labels| labels.get(key)).map(String::as_str)
}

pub(crate) fn annotation<'a>(metadata: &'a ObjectMeta, key: &str) -> Option<&'a str> {
    metadata.annotations.as_ref().and_then(|annotations| annotations.get(key)).map(String::as_str)
}

pub(crate) fn has_finalizer(metadata: &ObjectMeta, finalizer: &str) -> bool {
    metadata.finalizers.iter().flatten().any(|known| known == finalizer)
}

/// The owner that manages the object.
pub(crate) fn controller_of(metadata: &ObjectMeta) -> Option<&OwnerReference> {
    metadata.owner_references.iter().flatten().find(|owner| owner.controller == Some(true))
}

/// A reference by which `owner` manages what it creates.
pub(crate) fn controller_reference<K: Resource + Metadata<Ty = ObjectMeta>>(owner: &K) -> OwnerReference {
    OwnerReference {
        api_version: K::API_VERSION.into(),
        kind: K::KIND.into(),
        name: name(owner.metadata()).into(),
        uid: uid(owner.metadata()).into(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// A patch that makes `owner` the controller of an object with these owners so far.
pub(crate) fn adopting_patch(owner: &OwnerReference, metadata: &ObjectMeta) -> Value {
    let mut owners = metadata.owner_references.clone().unwrap_or_default();
    owners.retain(|known| known.uid != owner.uid);
    owners.push(owner.clone());
    json!({"metadata": {"ownerReferences": owners}})
}

/// A patch that removes the owner with this uid.
pub(crate) fn releasing_patch(owner_uid: &str, metadata: &ObjectMeta) -> Value {
    let mut owners = metadata.owner_references.clone().unwrap_or_default();
    owners.retain(|known| known.uid != owner_uid);
    json!({"metadata": {"ownerReferences": owners}})
}

pub(crate) fn object_reference<K: Resource + Metadata<Ty = ObjectMeta>>(object: &K) -> ObjectReference {
    let metadata = object.metadata();
    ObjectReference {
        api_version: Some(K::API_VERSION.into()),
        kind: Some(K::KIND.into()),
        namespace: metadata.namespace.clone(),
        name: metadata.name.clone(),
        uid: metadata.uid.clone(),
        resource_version: metadata.resource_version.clone(),
        field_path: None,
    }
}

pub(crate) fn to_json<T: Serialize>(object: &T) -> Value {
    #[expect(clippy::expect_used, reason = "API types have string keys and finite numbers only, which always encode")]
    let value = serde_json::to_value(object).expect("an API type encodes");
    value
}

/// Letters and digits that form no words and resemble nothing, as upstream's names use them.
const SAFE_ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";

/// A short name-safe hash of a value's JSON form. Keys are sorted there, so it is stable across versions of this program.
pub(crate) fn stable_hash<T: Serialize>(value: &T, collisions: i32) -> String {
    let mut digest = Sha256::new();
    digest.update(to_json(value).to_string());
    if collisions > 0 {
        digest.update(collisions.to_be_bytes());
    }
    let bytes = digest.finalize();
    bytes.iter().take(10).map(|byte| char::from(SAFE_ALPHABET[usize::from(*byte) % SAFE_ALPHABET.len()])).collect()
}

/// A number, or a share of `total` that is rounded up or down.
pub(crate) fn scaled_value(value: Option<&IntOrString>, default: &str, total: i32, round_up: bool) -> i32 {
    let text = match value {
        Some(IntOrString::Int(number)) => return *number,
        Some(IntOrString::String(text)) => text.as_str(),
        None => default,
    };
    let Some(percent) = text.strip_suffix('%').and_then(|percent| percent.parse::<i64>().ok()) else {
        return text.parse().unwrap_or(0);
    };
    let product = percent * i64::from(total);
    let scaled = if round_up { (product + 99).div_euclid(100) } else { product.div_euclid(100) };
    i32::try_from(scaled).unwrap_or(i32::MAX)
}

/// The longest name that still leaves room for generateName's suffix.
pub(crate) fn name_prefix(owner_name: &str) -> String {
    format!("{owner_name}-")
}
