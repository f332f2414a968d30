//! Images on this machine: documents by digest, a record per name and per image, layers unpacked once.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use serde::{Deserialize, Serialize};
use sha2::Digest;
use tokio::sync::{RwLock, Semaphore};

use super::{
    config::{ImageConfig, document},
    error::ImageError,
    reference::Reference,
};
use crate::{
    error::{Context, Error, Result},
    runtime::blocking,
    state,
};

/// An image on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// The digest of its configuration.
    pub id: String,
    /// Its names, normalised: `docker.io/library/nginx:latest`.
    pub tags: Vec<String>,
    /// Its names by digest: `docker.io/library/nginx@sha256:...`.
    pub digests: Vec<String>,
    /// What containers take over.
    pub config: Arc<ImageConfig>,
    /// Names of its layers' directories, lowest first.
    pub layers: Vec<String>,
    /// The unpacked size of its layers.
    pub size_bytes: u64,
    /// When it came here.
    pub created_ns: u64,
}

/// An image's record.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ImageRecord {
    pub(crate) id: String,
    pub(crate) digests: BTreeSet<String>,
    pub(crate) layers: Vec<String>,
    pub(crate) size_bytes: u64,
    pub(crate) created_ns: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct TagRecord {
    tag: String,
    id: String,
}

/// The images of one data directory. A cheap handle.
#[derive(Clone)]
pub struct Images {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub(super) directory: PathBuf,
    pub(super) layers: PathBuf,
    state: Mutex<State>,
    /// Starting a container reads, removing an image writes: no layer vanishes between the two.
    pub(crate) in_use: RwLock<()>,
    /// Pulls that are going on, by reference: the second waits for the first.
    pub(super) pulls: Mutex<BTreeMap<String, Arc<tokio::sync::Mutex<()>>>>,
    /// Unpacking takes a core; more at once only slows each.
    pub(super) unpacking: Semaphore,
}

#[derive(Default)]
struct State {
    images: BTreeMap<String, (ImageRecord, Arc<ImageConfig>)>,
    tags: BTreeMap<String, String>,
    /// Layers that imports and pulls under way rely on, and how many of those.
    held: BTreeMap<String, usize>,
}

/// While it lives, its layers stay, whatever images are removed.
pub(super) struct Held {
    images: Images,
    layers: Vec<String>,
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut state = self.images.lock();
        for layer in &self.layers {
            match state.held.get_mut(layer) {
                Some(count) if *count > 1 => *count -= 1,
                _ => drop(state.held.remove(layer)),
            }
        }
    }
}

/// `sha256:` and the digest of these bytes.
pub(crate) fn digest_of(bytes: &[u8]) -> String {
    format!("sha256:{}", hex(&sha2::Sha256::digest(bytes)))
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Images {
    pub(crate) fn open(data: &Path) -> Result<Images> {
        let (directory, layers) = (data.join("images"), data.join("layers"));
        for path in
            [&directory, &directory.join("blobs/sha256"), &directory.join("tags"), &directory.join("records"), &layers]
        {
            fs::create_dir_all(path).context("making the directory", path)?;
        }
        // What an agent that was killed left half done.
        for entry in fs::read_dir(&layers).context("reading", &layers)?.flatten() {
            if entry.file_name().to_string_lossy().starts_with(".new-") {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
        let _ = fs::remove_dir_all(directory.join("incoming"));
        let inner = Inner {
            directory,
            layers,
            state: Mutex::new(State::default()),
            in_use: RwLock::new(()),
            pulls: Mutex::new(BTreeMap::new()),
            unpacking: Semaphore::new(2),
        };
        let images = Images { inner: Arc::new(inner) };
        images.load()?;
        Ok(images)
    }

    fn load(&self) -> Result<()> {
        let mut state = State::default();
        for path in files(&self.inner.directory.join("records"))? {
            let record: ImageRecord = state::read(&path)?;
            let blob = self.blob(&record.id);
            let loaded = fs::read(&blob).context("reading", &blob).and_then(|bytes| Ok(document(&bytes)?));
            let present = record.layers.iter().all(|layer| self.inner.layers.join(layer).is_dir());
            match loaded {
                Ok(document) if present => {
                    state.images.insert(record.id.clone(), (record, Arc::new(document.config)));
                }
                _ => {
                    tracing::warn!(
                        image = record.id,
                        "an image is incomplete and is forgotten; it will be pulled again"
                    );
                    let _ = fs::remove_file(&path);
                }
            }
        }
        for path in files(&self.inner.directory.join("tags"))? {
            let record: TagRecord = state::read(&path)?;
            if state.images.contains_key(&record.id) {
                state.tags.insert(record.tag, record.id);
            } else {
                let _ = fs::remove_file(&path);
            }
        }
        *self.lock() = state;
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn blob(&self, digest: &str) -> PathBuf {
        self.inner.directory.join("blobs/sha256").join(digest.trim_start_matches("sha256:"))
    }

    fn record_path(&self, id: &str) -> PathBuf {
        self.inner.directory.join("records").join(format!("{}.json", id.trim_start_matches("sha256:")))
    }

    fn tag_path(&self, tag: &str) -> PathBuf {
        self.inner.directory.join("tags").join(format!("{}.json", hex(&sha2::Sha256::digest(tag.as_bytes()))))
    }

    pub(crate) fn layers_directory(&self) -> &Path {
        &self.inner.layers
    }

    /// Enters an image and its names; a tag moves away from the image that had it.
    pub(super) fn enter(
        &self,
        mut record: ImageRecord,
        config: ImageConfig,
        tags: &[String],
        digest: Option<String>,
    ) -> Result<Image> {
        let mut state = self.lock();
        if let Some((known, _)) = state.images.get(&record.id) {
            record.digests.extend(known.digests.iter().cloned());
        }
        record.digests.extend(digest);
        state::write(&self.record_path(&record.id), &record)?;
        for tag in tags {
            state::write(&self.tag_path(tag), &TagRecord { tag: tag.clone(), id: record.id.clone() })?;
            state.tags.insert(tag.clone(), record.id.clone());
        }
        let id = record.id.clone();
        state.images.insert(id.clone(), (record, Arc::new(config)));
        state.image(&id).ok_or_else(|| ImageError::NotPresent(id).into())
    }

    /// All images.
    pub fn list(&self) -> Vec<Image> {
        let state = self.lock();
        state.images.keys().filter_map(|id| state.image(id)).collect()
    }

    /// Finds an image on this machine by id, tag or digest.
    pub async fn resolve(&self, name: &str) -> Result<Image> {
        self.find(name)
    }

    /// As `resolve`.
    pub fn find(&self, name: &str) -> Result<Image> {
        let absent = || ImageError::NotPresent(name.to_owned());
        let state = self.lock();
        if let Some(image) = state.image(name).or_else(|| state.image(&format!("sha256:{name}"))) {
            return Ok(image);
        }
        if name.starts_with("sha256:") {
            return Err(absent().into());
        }
        let reference = Reference::parse(name)?;
        let found = match &reference.digest {
            Some(digest) => {
                let wanted = format!("{}@{digest}", reference.name());
                state.images.values().find(|(it, _)| it.digests.contains(&wanted)).map(|(it, _)| it.id.clone())
            }
            None => state.tags.get(&reference.to_string()).cloned(),
        };
        Ok(found.and_then(|id| state.image(&id)).ok_or_else(absent)?)
    }

    /// Removes an image with all its names, or only one of several tags. The caller makes sure that nobody uses it.
    pub(crate) async fn remove(&self, name: &str, used: BTreeSet<String>) -> Result<()> {
        let image = self.find(name)?;
        let tag = Reference::parse(name).ok().map(|it| it.to_string()).filter(|tag| image.tags.contains(tag));
        let this = self.clone();
        blocking(move || match tag {
            Some(tag) if image.tags.len() > 1 => {
                this.lock().tags.remove(&tag);
                remove_file(&this.tag_path(&tag))
            }
            _ if used.contains(&image.id) => Err(ImageError::InUse(image.id).into()),
            _ => this.erase(&image),
        })
        .await
    }

    fn erase(&self, image: &Image) -> Result<()> {
        let mut state = self.lock();
        for tag in &image.tags {
            state.tags.remove(tag);
            remove_file(&self.tag_path(tag))?;
        }
        state.images.remove(&image.id);
        remove_file(&self.record_path(&image.id))?;
        remove_file(&self.blob(&image.id))?;
        self.drop_layers(state, image.layers.iter().cloned())
    }

    /// Keeps layers that are about to belong to an image. Asking whether one is here is only worth something afterwards.
    pub(super) fn hold(&self, layers: &[String]) -> Held {
        let mut state = self.lock();
        for layer in layers {
            *state.held.entry(layer.clone()).or_default() += 1;
        }
        Held { images: self.clone(), layers: layers.to_vec() }
    }

    /// Removes those of these layers that no image has and nobody holds.
    pub(super) fn drop_unused(&self, layers: &[String]) -> Result<()> {
        self.drop_layers(self.lock(), layers.iter().cloned())
    }

    /// Removes layers that belong to no image: what a kill left between a layer and its image, or a pull that was given up.
    /// `used` are the images of the containers that are there; one that is not known may still need its layers.
    pub(crate) fn collect_layers(&self, used: &BTreeSet<String>) -> Result<()> {
        let state = self.lock();
        if !used.iter().all(|id| state.images.contains_key(id)) {
            return Ok(());
        }
        let entries = fs::read_dir(&self.inner.layers).context("reading", &self.inner.layers)?;
        let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
        let names: Vec<String> = names.filter(|name| !name.starts_with('.')).collect();
        self.drop_layers(state, names.into_iter())
    }

    fn drop_layers(&self, state: MutexGuard<'_, State>, layers: impl Iterator<Item = String>) -> Result<()> {
        let kept: BTreeSet<&String> =
            state.images.values().flat_map(|(it, _)| &it.layers).chain(state.held.keys()).collect();
        let mut doomed = Vec::new();
        for layer in layers.filter(|layer| !kept.contains(layer)) {
            // Renamed under the lock, so that a half removed layer is never taken for a whole one.
            let path = self.inner.layers.join(format!(".new-{}", state::random_hex(8)?));
            if fs::rename(self.inner.layers.join(&layer), &path).is_ok() {
                doomed.push(path);
            }
        }
        drop(state);
        for path in doomed {
            fs::remove_dir_all(&path).context("removing the layer", &path)?;
        }
        Ok(())
    }

    pub(crate) fn purge(&self) -> Result<()> {
        *self.lock() = State::default();
        crate::pod::remove_directory(&self.inner.directory)?;
        crate::pod::remove_directory(&self.inner.layers)
    }

    pub(crate) fn in_use(&self) -> &RwLock<()> {
        &self.inner.in_use
    }
}

impl State {
    fn image(&self, id: &str) -> Option<Image> {
        let (record, config) = self.images.get(id)?;
        let tags = self.tags.iter().filter(|(_, of)| *of == id).map(|(tag, _)| tag.clone());
        Some(Image {
            id: record.id.clone(),
            tags: tags.collect(),
            digests: record.digests.iter().cloned().collect(),
            config: config.clone(),
            layers: record.layers.clone(),
            size_bytes: record.size_bytes,
            created_ns: record.created_ns,
        })
    }
}

fn files(directory: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(directory).context("reading", directory)?.flatten().map(|it| it.path());
    Ok(entries.filter(|path| path.extension().is_some_and(|it| it == "json")).collect())
}

fn remove_file(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error).context("removing", path),
        _ => Ok(()),
    }
}
