//! The documents that describe an image: index, manifest, configuration, in Docker's and OCI's spelling.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::error::ImageError;

/// Larger documents are refused.
pub(crate) const DOCUMENT_BYTES_MAX: usize = 8 << 20;
/// The kernel stacks fewer directories than this.
pub(crate) const LAYERS_MAX: usize = 127;

/// This machine's architecture as images name it.
pub(crate) const ARCHITECTURE: &str = if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" };

/// A pointer to a blob.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    pub(crate) digest: String,
    #[serde(default)]
    pub(crate) size: u64,
    pub(crate) platform: Option<Platform>,
    #[serde(default)]
    pub(crate) annotations: BTreeMap<String, String>,
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Platform {
    pub(crate) architecture: String,
    pub(crate) os: String,
}

/// Either an index (`manifests`) or a manifest (`config`, `layers`).
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Manifest {
    #[serde(default)]
    pub(crate) schema_version: u32,
    #[serde(default)]
    pub(crate) manifests: Vec<Descriptor>,
    pub(crate) config: Option<Descriptor>,
    #[serde(default)]
    pub(crate) layers: Vec<Descriptor>,
}

/// What a container takes over from its image.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageConfig {
    /// The command's beginning.
    pub entrypoint: Vec<String>,
    /// Its arguments, or the whole command.
    pub cmd: Vec<String>,
    /// `NAME=value`.
    pub env: Vec<String>,
    /// The user, optionally with a group.
    pub user: String,
    /// The working directory.
    pub working_directory: String,
    /// Paths declared as volumes.
    pub volumes: Vec<String>,
    /// `80/tcp`.
    pub exposed_ports: Vec<String>,
    /// The signal that asks it to stop; SIGTERM if empty.
    pub stop_signal: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct RawConfig {
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    env: Option<Vec<String>>,
    user: Option<String>,
    working_dir: Option<String>,
    volumes: Option<BTreeMap<String, serde_json::Value>>,
    exposed_ports: Option<BTreeMap<String, serde_json::Value>>,
    stop_signal: Option<String>,
    labels: Option<BTreeMap<String, String>>,
}

#[derive(Debug, Deserialize)]
struct RawDocument {
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    os: String,
    config: Option<RawConfig>,
    rootfs: RawRoot,
}

#[derive(Debug, Deserialize)]
struct RawRoot {
    #[serde(default)]
    diff_ids: Vec<String>,
}

/// An image's configuration document.
pub(crate) struct Document {
    pub(crate) config: ImageConfig,
    pub(crate) diff_ids: Vec<String>,
    pub(crate) architecture: String,
    pub(crate) os: String,
}

/// Reads a configuration document.
pub(crate) fn document(bytes: &[u8]) -> Result<Document, ImageError> {
    let raw: RawDocument = parse("configuration", bytes)?;
    if raw.rootfs.diff_ids.len() > LAYERS_MAX {
        return Err(ImageError::Invalid(format!(
            "{} layers; at most {LAYERS_MAX} are possible",
            raw.rootfs.diff_ids.len()
        )));
    }
    if let Some(bad) = raw.rootfs.diff_ids.iter().find(|it| !super::reference::is_digest(it)) {
        return Err(ImageError::Invalid(format!("{bad:?} is not the digest of a layer")));
    }
    let config = raw.config.unwrap_or_default();
    let keys = |map: Option<BTreeMap<String, serde_json::Value>>| map.unwrap_or_default().into_keys().collect();
    let config = ImageConfig {
        entrypoint: config.entrypoint.unwrap_or_default(),
        cmd: config.cmd.unwrap_or_default(),
        env: config.env.unwrap_or_default(),
        user: config.user.unwrap_or_default(),
        working_directory: config.working_dir.unwrap_or_default(),
        volumes: keys(config.volumes),
        exposed_ports: keys(config.exposed_ports),
        stop_signal: config.stop_signal.unwrap_or_default(),
        labels: config.labels.unwrap_or_default(),
    };
    Ok(Document { config, diff_ids: raw.rootfs.diff_ids, architecture: raw.architecture, os: raw.os })
}

/// Reads a document, with its size checked.
pub(crate) fn parse<'a, T: Deserialize<'a>>(what: &str, bytes: &'a [u8]) -> Result<T, ImageError> {
    if bytes.len() > DOCUMENT_BYTES_MAX {
        return Err(ImageError::Invalid(format!("the {what} has {} bytes, which is too many", bytes.len())));
    }
    serde_json::from_slice(bytes).map_err(|error| ImageError::Invalid(format!("the {what} cannot be read: {error}")))
}

/// The entry of an index for this machine.
pub(crate) fn choose<'a>(manifests: &'a [Descriptor], reference: &str) -> Result<&'a Descriptor, ImageError> {
    let ours =
        |it: &&Descriptor| it.platform.as_ref().is_some_and(|it| it.os == "linux" && it.architecture == ARCHITECTURE);
    let unnamed = |it: &&Descriptor| it.platform.is_none();
    manifests
        .iter()
        .find(ours)
        .or_else(|| manifests.iter().find(unnamed))
        .ok_or_else(|| ImageError::Platform { reference: reference.to_owned(), architecture: ARCHITECTURE })
}
