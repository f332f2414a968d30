//! Pulls images: documents first, then the layers that are missing, three at a time, unpacked in order as they arrive.

use std::{
    fs::{self, File},
    io::{Seek, SeekFrom, Write},
    path::PathBuf,
    sync::{Arc, PoisonError},
};

use sha2::Digest;
use tokio::{sync::Semaphore, task::JoinHandle};

use super::{
    config::{Descriptor, Document, Manifest, choose, document, parse},
    error::ImageError,
    install::directory_names,
    reference::{Reference, is_digest},
    registry::Repository,
    store::{Image, Images, digest_of, hex},
};
use crate::{
    error::{Context, Error, Result},
    runtime::blocking,
    state,
};

/// Layers that are downloaded at once for one image.
const DOWNLOADS_MAX: usize = 3;
/// A larger layer is refused.
const LAYER_BYTES_MAX: u64 = 64 << 30;

/// A user of a registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// The name.
    pub username: String,
    /// The password or token.
    pub password: String,
}

/// How far a pull is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// So many bytes of a layer have come.
    Downloading {
        /// The layer's digest.
        layer: String,
        /// Bytes that are here.
        done_bytes: u64,
        /// All its bytes.
        total_bytes: u64,
    },
    /// A layer is ready.
    Unpacked {
        /// The layer's digest.
        layer: String,
    },
}

/// How to pull.
#[derive(Clone, Default)]
pub struct PullOptions {
    /// Tried in turn (`imagePullSecrets`); none means anonymously.
    pub credentials: Vec<Credentials>,
    /// Ask the registry even if an image of that name is here.
    pub always: bool,
    /// Registries (`host` or `host:port`) that are spoken to without TLS; those on loopback always are.
    pub insecure_registries: Vec<String>,
    /// Is told how far it is.
    pub progress: Option<Arc<dyn Fn(Progress) + Send + Sync>>,
}

/// Downloads that end with the pull that wanted them.
struct Downloads(Vec<JoinHandle<Result<Option<PathBuf>>>>);

impl Drop for Downloads {
    fn drop(&mut self) {
        self.0.iter().for_each(JoinHandle::abort);
    }
}

struct Incoming(PathBuf);

impl Drop for Incoming {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

impl Images {
    /// Pulls an image unless it is here. Two pulls of one name are one.
    pub async fn pull(&self, name: &str, options: PullOptions) -> Result<Image> {
        let reference = Reference::parse(name)?;
        let flight = {
            let mut pulls = self.inner.pulls.lock().unwrap_or_else(PoisonError::into_inner);
            pulls.retain(|_, flight| Arc::strong_count(flight) > 1);
            pulls.entry(reference.to_string()).or_default().clone()
        };
        let _flight = flight.lock().await;
        if !options.always
            && let Ok(image) = self.find(name)
        {
            return Ok(image);
        }
        let insecure = is_loopback(&reference.host) || options.insecure_registries.contains(&reference.host);
        let mut failure = None;
        let mut attempts: Vec<Option<Credentials>> = options.credentials.iter().cloned().map(Some).collect();
        if attempts.is_empty() {
            attempts.push(None);
        }
        for credentials in attempts {
            let repository = Arc::new(Repository::new(&reference, insecure, credentials));
            match self.pull_from(&reference, repository, &options).await {
                Err(error @ Error::Image(ImageError::Denied { .. })) => failure = Some(error),
                other => return other,
            }
        }
        Err(failure.unwrap_or_else(|| ImageError::NotPresent(name.to_owned()).into()))
    }

    async fn pull_from(
        &self,
        reference: &Reference,
        repository: Arc<Repository>,
        options: &PullOptions,
    ) -> Result<Image> {
        let bytes = repository.manifest(reference.target()).await?;
        let top = digest_of(&bytes);
        if let Some(expected) = reference.digest.as_ref().filter(|it| **it != top) {
            return Err(mismatch("the manifest", &top, expected));
        }
        let mut manifest: Manifest = parse("manifest", &bytes)?;
        if !manifest.manifests.is_empty() {
            let chosen = choose(&manifest.manifests, &reference.to_string())?.digest.clone();
            let bytes = repository.manifest(check(&chosen)?).await?;
            let found = digest_of(&bytes);
            if found != chosen {
                return Err(mismatch("the manifest", &found, &chosen));
            }
            manifest = parse("manifest", &bytes)?;
        }
        let Some(configuration) = &manifest.config else {
            let version = manifest.schema_version;
            return Err(ImageError::Invalid(format!(
                "manifests of schema version {version} without a configuration are not supported"
            ))
            .into());
        };
        let id = check(&configuration.digest)?.to_owned();
        let bytes = repository.small_blob(&id).await?;
        let found = digest_of(&bytes);
        if found != id {
            return Err(mismatch("the configuration", &found, &id));
        }
        let document = document(&bytes)?;
        let layers: Vec<Descriptor> = manifest.layers.clone();
        if layers.len() != document.diff_ids.len() {
            return Err(ImageError::Invalid(format!(
                "the configuration names {} layers, the manifest {}",
                document.diff_ids.len(),
                layers.len()
            ))
            .into());
        }
        let _held = self.hold(&directory_names(&document.diff_ids));
        self.fetch_layers(&repository, &document, &layers, options).await?;
        let this = self.clone();
        let tags: Vec<String> = reference.digest.is_none().then(|| reference.to_string()).into_iter().collect();
        let by_digest = format!("{}@{top}", reference.name());
        blocking(move || this.finish(&bytes, &id, document, &tags, Some(by_digest))).await
    }

    async fn fetch_layers(
        &self,
        repository: &Arc<Repository>,
        document: &Document,
        layers: &[Descriptor],
        options: &PullOptions,
    ) -> Result<()> {
        let directory = self.inner.directory.join("incoming").join(state::random_hex(8)?);
        fs::create_dir_all(&directory).context("making the directory", &directory)?;
        let directory = Incoming(directory);
        let names = directory_names(&document.diff_ids);
        let permits = Arc::new(Semaphore::new(DOWNLOADS_MAX));
        let mut downloads = Downloads(Vec::new());
        for (index, (name, layer)) in names.iter().zip(layers).enumerate() {
            check(&layer.digest)?;
            if layer.size > LAYER_BYTES_MAX {
                return Err(ImageError::Invalid(format!(
                    "the layer {} has {} bytes, which is too many",
                    layer.digest, layer.size
                ))
                .into());
            }
            let present = self.has_layer(name);
            let (permits, repository, layer) = (permits.clone(), repository.clone(), layer.clone());
            let (path, progress) = (directory.0.join(index.to_string()), options.progress.clone());
            downloads.0.push(tokio::spawn(async move {
                if present {
                    return Ok(None);
                }
                let _permit = permits.acquire().await;
                download(&repository, &layer, path.clone(), progress).await.map(|()| Some(path))
            }));
        }
        for (index, name) in names.iter().enumerate() {
            let Some(download) = downloads.0.get_mut(index) else { break };
            let source = download.await.map_err(|error| Error::io("downloading", std::io::Error::other(error)))??;
            if let Some(source) = source {
                let _permit = self.inner.unpacking.acquire().await;
                let (this, name, lower) = (self.clone(), name.clone(), names.get(..index).unwrap_or_default().to_vec());
                let diff_id = document.diff_ids.get(index).cloned().unwrap_or_default();
                blocking(move || {
                    this.unpack_layer(&name, &diff_id, &lower, &source)?;
                    fs::remove_file(&source).context("removing", &source)
                })
                .await?;
            }
            if let (Some(progress), Some(layer)) = (&options.progress, layers.get(index)) {
                progress(Progress::Unpacked { layer: layer.digest.clone() });
            }
        }
        Ok(())
    }
}

async fn download(
    repository: &Repository,
    layer: &Descriptor,
    path: PathBuf,
    progress: Option<Arc<dyn Fn(Progress) + Send + Sync>>,
) -> Result<()> {
    let mut file = File::create(&path).context("making", &path)?;
    let mut hash = sha2::Sha256::new();
    let sink = |at: u64, bytes: &[u8]| {
        if at == 0 {
            // The beginning, perhaps of a second attempt.
            hash = sha2::Sha256::new();
            file.set_len(0)
                .and_then(|()| file.seek(SeekFrom::Start(0)))
                .map_err(|error| ImageError::io("writing a layer", error))?;
        }
        hash.update(bytes);
        file.write_all(bytes).map_err(|error| ImageError::io("writing a layer", error))?;
        if let Some(progress) = &progress {
            let done_bytes = at + bytes.len() as u64;
            progress(Progress::Downloading { layer: layer.digest.clone(), done_bytes, total_bytes: layer.size });
        }
        Ok(())
    };
    repository.blob(&layer.digest, layer.size, sink).await?;
    let found = format!("sha256:{}", hex(&hash.finalize()));
    if found != layer.digest {
        return Err(mismatch("a layer", &found, &layer.digest));
    }
    Ok(())
}

fn mismatch(what: &str, found: &str, expected: &str) -> Error {
    ImageError::Digest { what: what.to_owned(), found: found.to_owned(), expected: expected.to_owned() }.into()
}

fn check(digest: &str) -> Result<&str, ImageError> {
    if is_digest(digest) { Ok(digest) } else { Err(ImageError::Invalid(format!("{digest:?} is no sha256 digest"))) }
}

fn is_loopback(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|it| it.is_ascii_digit()) => name,
        _ => host,
    };
    let name = name.trim_start_matches('[').trim_end_matches(']');
    name == "localhost" || name.parse::<std::net::IpAddr>().is_ok_and(|it| it.is_loopback())
}
