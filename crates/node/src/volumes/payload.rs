//! What a configMap, secret, downwardAPI or projected volume holds: file paths, bytes and modes. Pure.

use crate::environment::{self, FieldContext};
use k8s_openapi::api::core::v1::{
    ConfigMap, ConfigMapVolumeSource, DownwardAPIVolumeFile, KeyToPath, Pod, ProjectedVolumeSource, Secret,
    SecretVolumeSource,
};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The most bytes that one volume may hold; an object of the API is smaller, but a projection may join many.
const BYTES_MAX: usize = 64 << 20;

/// One file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its content.
    pub data: Vec<u8>,
    /// Its permission bits.
    pub mode: u32,
}

/// Files by relative path.
pub type Payload = BTreeMap<String, Entry>;

/// A token that a projected volume wants.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TokenWish {
    /// The audience; empty for the API's own.
    pub audience: String,
    /// Seconds that it shall live.
    pub expiration_seconds: i64,
    /// The path of its file.
    pub path: String,
}

/// The objects that a pod's volumes refer to, as far as they exist.
#[derive(Clone, Default)]
pub struct Inputs {
    /// ConfigMaps of the pod's namespace by name.
    pub config_maps: BTreeMap<String, Arc<ConfigMap>>,
    /// Secrets of the pod's namespace by name.
    pub secrets: BTreeMap<String, Arc<Secret>>,
    /// Tokens by wish.
    pub tokens: BTreeMap<String, Vec<u8>>,
}

fn mode_of(own: Option<i32>, default: Option<i32>) -> u32 {
    u32::try_from(own.or(default).unwrap_or(0o644)).unwrap_or(0o644) & 0o777
}

/// Puts `data` under the paths that `items` give, or all of it under its own keys.
fn select(
    what: &str,
    mut data: BTreeMap<String, Vec<u8>>,
    items: Option<&[KeyToPath]>,
    default_mode: Option<i32>,
    optional: bool,
) -> Result<Payload, String> {
    let Some(items) = items.filter(|items| !items.is_empty()) else {
        let mode = mode_of(None, default_mode);
        return Ok(data.into_iter().map(|(path, data)| (path, Entry { data, mode })).collect());
    };
    let mut payload = Payload::new();
    for item in items {
        match data.remove(&item.key) {
            Some(bytes) => {
                data.insert(item.key.clone(), bytes.clone());
                payload.insert(item.path.clone(), Entry { data: bytes, mode: mode_of(item.mode, default_mode) });
            }
            None if optional => {}
            None => return Err(format!("{what} references non-existent {what} key: {}", item.key)),
        }
    }
    Ok(payload)
}

fn config_map_data(map: &ConfigMap) -> BTreeMap<String, Vec<u8>> {
    let text = map.data.iter().flatten().map(|(key, value)| (key.clone(), value.clone().into_bytes()));
    let binary = map.binary_data.iter().flatten().map(|(key, value)| (key.clone(), value.0.clone()));
    text.chain(binary).collect()
}

/// A configMap volume.
///
/// # Errors
/// A missing object or key, in upstream's words.
pub fn from_config_map(source: &ConfigMapVolumeSource, namespace: &str, inputs: &Inputs) -> Result<Payload, String> {
    let optional = source.optional.unwrap_or(false);
    match inputs.config_maps.get(&source.name) {
        Some(map) => select("configmap", config_map_data(map), source.items.as_deref(), source.default_mode, optional),
        None if optional => Ok(Payload::new()),
        None => Err(missing("configmap", namespace, &source.name)),
    }
}

fn missing(kind: &str, _namespace: &str, name: &str) -> String {
    format!("{kind} \"{name}\" not found")
}

/// A secret volume.
///
/// # Errors
/// A missing object or key, in upstream's words.
pub fn from_secret(source: &SecretVolumeSource, namespace: &str, inputs: &Inputs) -> Result<Payload, String> {
    let optional = source.optional.unwrap_or(false);
    let name = source.secret_name.as_deref().unwrap_or_default();
    match inputs.secrets.get(name) {
        Some(secret) => {
            let data = secret.data.iter().flatten().map(|(key, value)| (key.clone(), value.0.clone())).collect();
            select("secret", data, source.items.as_deref(), source.default_mode, optional)
        }
        None if optional => Ok(Payload::new()),
        None => Err(missing("secret", namespace, name)),
    }
}

/// A downwardAPI volume.
///
/// # Errors
/// A field that does not exist.
pub fn downward(
    items: &[DownwardAPIVolumeFile],
    default_mode: Option<i32>,
    pod: &Pod,
    context: &FieldContext,
) -> Result<Payload, String> {
    let mut payload = Payload::new();
    for item in items {
        let text = match (&item.field_ref, &item.resource_field_ref) {
            (Some(field), _) => environment::pod_field(pod, &field.field_path, context)?,
            (_, Some(resource)) => environment::resource_field(pod, None, resource, context)?,
            _ => String::new(),
        };
        payload.insert(item.path.clone(), Entry { data: text.into_bytes(), mode: mode_of(item.mode, default_mode) });
    }
    Ok(payload)
}

/// The tokens that a projected volume wants.
#[must_use]
pub fn token_wishes(source: &ProjectedVolumeSource) -> Vec<TokenWish> {
    let tokens = source.sources.iter().flatten().filter_map(|source| source.service_account_token.as_ref());
    tokens
        .map(|token| TokenWish {
            audience: token.audience.clone().unwrap_or_default(),
            expiration_seconds: token.expiration_seconds.unwrap_or(3600).max(600),
            path: token.path.clone(),
        })
        .collect()
}

/// A projected volume; tokens come from `inputs` by their path.
///
/// # Errors
/// A missing object, key, field or token.
pub fn projected(
    source: &ProjectedVolumeSource,
    pod: &Pod,
    context: &FieldContext,
    inputs: &Inputs,
) -> Result<Payload, String> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
    let mut payload = Payload::new();
    for one in source.sources.iter().flatten() {
        let part = if let Some(map) = &one.config_map {
            let source = ConfigMapVolumeSource {
                name: map.name.clone(),
                items: map.items.clone(),
                optional: map.optional,
                default_mode: source.default_mode,
                ..ConfigMapVolumeSource::default()
            };
            from_config_map(&source, namespace, inputs)?
        } else if let Some(secret) = &one.secret {
            let source = SecretVolumeSource {
                secret_name: Some(secret.name.clone()),
                items: secret.items.clone(),
                optional: secret.optional,
                default_mode: source.default_mode,
                ..SecretVolumeSource::default()
            };
            from_secret(&source, namespace, inputs)?
        } else if let Some(fields) = &one.downward_api {
            downward(fields.items.as_deref().unwrap_or_default(), source.default_mode, pod, context)?
        } else if let Some(token) = &one.service_account_token {
            let data = inputs
                .tokens
                .get(&token.path)
                .ok_or_else(|| "failed to fetch token: none was issued yet".to_owned())?;
            let security = pod.spec.as_ref().and_then(|spec| spec.security_context.as_ref());
            let owned = security.is_some_and(|security| security.fs_group.is_some() || security.run_as_user.is_some());
            // A file that gets an owner of its own is for that owner alone, as upstream.
            let mode = if owned { 0o600 } else { mode_of(None, source.default_mode) };
            Payload::from([(token.path.clone(), Entry { data: data.clone(), mode })])
        } else if one.cluster_trust_bundle.is_some() {
            return Err(
                "clusterTrustBundle projections are not supported yet: remove the source from the volume".into()
            );
        } else if one.pod_certificate.is_some() {
            return Err("podCertificate projections are not supported yet: remove the source from the volume".into());
        } else {
            Payload::new()
        };
        payload.extend(part);
    }
    if payload.values().map(|entry| entry.data.len()).sum::<usize>() > BYTES_MAX {
        return Err(format!(
            "the projected volume holds more than {} MiB: split it into several volumes",
            BYTES_MAX >> 20
        ));
    }
    Ok(payload)
}
