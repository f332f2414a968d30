//! Imports archives: OCI layouts and what `docker save` writes, plain or compressed.
//!
//! An archive's files come in any order, so they are first copied to a directory of their own under numbers instead of
//! their names; nothing in an archive chooses a path on this machine.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, BufRead, Read, Write},
    path::{Component, Path, PathBuf},
};

use serde::Deserialize;
use sha2::Digest;

use super::{
    config::{self, DOCUMENT_BYTES_MAX, Descriptor, Manifest, choose, document, parse},
    error::ImageError,
    install::{decompress, directory_names},
    reference::{Reference, is_digest},
    store::{Image, Images, digest_of, hex},
};
use crate::{
    error::{Context, Result},
    runtime::blocking,
    state,
};

/// More files are refused.
const FILES_MAX: usize = 10_000;
/// More bytes are refused.
const BYTES_MAX: u64 = 256 << 30;

/// For who gives something else.
const ACCEPTED: &str = "What `docker save`, `podman save` or `skopeo copy ... oci-archive:` write can be imported, as .tar, \
                        .tar.gz or .tar.zst";

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

/// A copied archive.
struct Unpacked {
    directory: PathBuf,
    files: BTreeMap<String, PathBuf>,
    links: BTreeMap<String, String>,
}

impl Drop for Unpacked {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}

impl Images {
    /// Imports the images of an archive. `tag` names an image that the archive leaves unnamed.
    pub async fn import(&self, archive: impl Read + Send + 'static, tag: Option<String>) -> Result<Vec<Image>> {
        let this = self.clone();
        let _permit = self.inner.unpacking.acquire().await;
        blocking(move || this.import_blocking(archive, tag)).await
    }

    /// Imports the images of an archive file.
    pub async fn import_file(&self, path: &Path, tag: Option<String>) -> Result<Vec<Image>> {
        let file = File::open(path).context("opening", path)?;
        self.import(file, tag).await
    }

    fn import_blocking(&self, archive: impl Read + Send + 'static, tag: Option<String>) -> Result<Vec<Image>> {
        let tag = tag.map(|tag| Reference::parse(&tag)).transpose()?;
        let directory = self.inner.directory.join("incoming").join(state::random_hex(8)?);
        fs::create_dir_all(&directory).context("making the directory", &directory)?;
        let mut unpacked = Unpacked { directory, files: BTreeMap::new(), links: BTreeMap::new() };
        unpacked.read(archive)?;
        if unpacked.find("index.json").is_some() {
            self.import_layout(&unpacked, tag)
        } else if unpacked.find("manifest.json").is_some() {
            self.import_saved(&unpacked, tag)
        } else {
            Err(ImageError::Invalid(format!(
                "it holds neither index.json (an OCI layout) nor manifest.json (`docker save`). {ACCEPTED}"
            ))
            .into())
        }
    }

    fn import_layout(&self, unpacked: &Unpacked, tag: Option<Reference>) -> Result<Vec<Image>> {
        let bytes = unpacked.document("index.json")?;
        let index: Manifest = parse("index", &bytes)?;
        let names = unpacked.find("manifest.json").and_then(|_| unpacked.saved_tags().ok()).unwrap_or_default();
        let mut images = Vec::new();
        for entry in &index.manifests {
            if entry.platform.as_ref().is_some_and(|it| it.os == "unknown") {
                continue;
            }
            let mut digest = entry.digest.clone();
            let mut manifest = self.layout_manifest(unpacked, entry)?;
            // An entry may be an index of platforms itself; more nesting than that has no meaning.
            if !manifest.manifests.is_empty() {
                let chosen = choose(&manifest.manifests, &entry.digest)?.clone();
                digest = chosen.digest.clone();
                manifest = self.layout_manifest(unpacked, &chosen)?;
            }
            let Some(configuration) = &manifest.config else {
                return Err(ImageError::Invalid(format!("the manifest {digest} has no configuration")).into());
            };
            let configuration_bytes = unpacked.blob_document(&configuration.digest)?;
            let layers: Vec<PathBuf> =
                manifest.layers.iter().map(|layer| unpacked.blob(&layer.digest)).collect::<Result<_, _>>()?;
            let mut tags: Vec<String> = tag.iter().map(ToString::to_string).collect();
            if tag.is_none() {
                tags.extend(annotated_name(entry));
                tags.extend(names.get(&configuration.digest).cloned().unwrap_or_default());
                tags.sort();
                tags.dedup();
            }
            let repository = tags.first().and_then(|it| Reference::parse(it).ok()).map(|it| it.name());
            let by_digest = repository.map(|name| format!("{name}@{digest}"));
            images.push(self.install(&configuration_bytes, &layers, &tags, by_digest)?);
        }
        if images.is_empty() {
            return Err(ImageError::Invalid("the archive's index lists no image".to_owned()).into());
        }
        Ok(images)
    }

    fn layout_manifest(&self, unpacked: &Unpacked, descriptor: &Descriptor) -> Result<Manifest> {
        Ok(parse("manifest", &unpacked.blob_document(&descriptor.digest)?)?)
    }

    fn import_saved(&self, unpacked: &Unpacked, tag: Option<Reference>) -> Result<Vec<Image>> {
        let bytes = unpacked.document("manifest.json")?;
        let saved: Vec<Saved> = parse("manifest.json", &bytes)?;
        if saved.is_empty() {
            return Err(ImageError::Invalid("manifest.json lists no image".to_owned()).into());
        }
        let mut images = Vec::new();
        for it in saved {
            let configuration = unpacked.document(&it.config)?;
            // Older archives name the configuration by its digest: then it must be right.
            let stem = it.config.trim_end_matches(".json").rsplit('/').next().unwrap_or_default();
            let expected = format!("sha256:{stem}");
            let found = digest_of(&configuration);
            if is_digest(&expected) && expected != found {
                return Err(ImageError::Digest { what: it.config.clone(), found, expected }.into());
            }
            let missing = |name: &str| ImageError::Invalid(format!("the archive lacks {name}"));
            let layers: Vec<PathBuf> = it
                .layers
                .iter()
                .map(|name| unpacked.find(name).ok_or_else(|| missing(name)))
                .collect::<Result<_, _>>()?;
            let tags = match &tag {
                Some(tag) => vec![tag.to_string()],
                None => normalised(it.repo_tags.unwrap_or_default())?,
            };
            images.push(self.install(&configuration, &layers, &tags, None)?);
        }
        Ok(images)
    }

    /// Unpacks the layers of an image whose files are here, and enters it.
    fn install(
        &self,
        configuration: &[u8],
        layers: &[PathBuf],
        tags: &[String],
        digest: Option<String>,
    ) -> Result<Image> {
        let id = digest_of(configuration);
        let document = document(configuration)?;
        if document.diff_ids.len() != layers.len() {
            return Err(ImageError::Invalid(format!(
                "the configuration names {} layers, the manifest {}",
                document.diff_ids.len(),
                layers.len()
            ))
            .into());
        }
        let names = directory_names(&document.diff_ids);
        let held = self.hold(&names);
        let unpack_all = || -> Result<()> {
            for (index, (name, diff_id)) in names.iter().zip(&document.diff_ids).enumerate() {
                if let Some(source) = layers.get(index) {
                    self.unpack_layer(name, diff_id, names.get(..index).unwrap_or_default(), source)?;
                }
            }
            Ok(())
        };
        let unpacked = unpack_all();
        let image = unpacked.and_then(|()| self.finish(configuration, &id, document, tags, digest));
        drop(held);
        if image.is_err() {
            // What a pull brought is worth keeping for the next attempt; an archive is here anyway.
            self.drop_unused(&names)?;
        }
        image
    }
}

fn annotated_name(entry: &Descriptor) -> Option<String> {
    let full = entry.annotations.get("io.containerd.image.name");
    let name = full
        .or_else(|| entry.annotations.get("org.opencontainers.image.ref.name").filter(|it| it.contains([':', '/'])));
    name.and_then(|name| Reference::parse(name).ok()).map(|it| it.to_string())
}

fn normalised(tags: Vec<String>) -> Result<Vec<String>, ImageError> {
    tags.iter().map(|tag| Reference::parse(tag).map(|it| it.to_string())).collect()
}

/// A name in an archive, without `./` and such; going up is refused.
fn clean(path: &Path) -> Result<String, ImageError> {
    let mut parts = Vec::new();
    for component in path.components() {
        match component {
            Component::Normal(part) => parts.push(part.to_string_lossy().into_owned()),
            Component::CurDir => {}
            _ => return Err(ImageError::Invalid(format!("the entry {path:?} leaves the archive"))),
        }
    }
    Ok(parts.join("/"))
}

impl Unpacked {
    fn read(&mut self, archive: impl Read + Send + 'static) -> Result<()> {
        let failed = |error| ImageError::io("reading the archive", error);
        // What the tar reader says of garbage repeats the garbage. A failing disk is told as what it is.
        let unreadable = |error: io::Error, files: usize| match (error.raw_os_error(), files) {
            (Some(_), _) => failed(error),
            (None, 0) => ImageError::Invalid(format!("this is no archive of an image. {ACCEPTED}")),
            (None, _) => ImageError::Invalid(format!("the archive is damaged or cut off after {files} files")),
        };
        let mut source = io::BufReader::with_capacity(256 << 10, archive);
        if source.fill_buf().map_err(failed)?.is_empty() {
            return Err(ImageError::Invalid("the archive is empty".to_owned()).into());
        }
        let mut archive = tar::Archive::new(decompress(source)?.take(BYTES_MAX));
        for entry in archive.entries().map_err(|error| unreadable(error, 0))? {
            let mut entry = entry.map_err(|error| unreadable(error, self.files.len() + self.links.len()))?;
            let name = clean(&entry.path().map_err(failed)?)?;
            if self.files.len() + self.links.len() >= FILES_MAX {
                return Err(ImageError::Invalid("the archive has too many files".to_owned()).into());
            }
            match entry.header().entry_type() {
                tar::EntryType::Regular | tar::EntryType::Continuous => {
                    let path = self.directory.join(self.files.len().to_string());
                    let found = copy(&mut entry, &path)?;
                    if let Some(expected) = name.strip_prefix("blobs/sha256/")
                        && found != expected
                    {
                        let (found, expected) = (format!("sha256:{found}"), format!("sha256:{expected}"));
                        return Err(ImageError::Digest { what: name, found, expected }.into());
                    }
                    self.files.insert(name, path);
                }
                // Older archives of `docker save` link equal layers to each other.
                tar::EntryType::Symlink | tar::EntryType::Link => {
                    let Some(target) = entry.link_name().map_err(failed)? else { continue };
                    let relative = entry.header().entry_type() == tar::EntryType::Symlink;
                    let target = if relative { resolve(&name, &target)? } else { clean(&target)? };
                    self.links.insert(name, target);
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn find(&self, name: &str) -> Option<PathBuf> {
        let name = clean(Path::new(name)).ok()?;
        self.files.get(&name).or_else(|| self.files.get(self.links.get(&name)?)).cloned()
    }

    fn document(&self, name: &str) -> Result<Vec<u8>> {
        let path = self.find(name).ok_or_else(|| ImageError::Invalid(format!("the archive lacks {name}")))?;
        let size = fs::metadata(&path).context("reading", &path)?.len();
        if size > DOCUMENT_BYTES_MAX as u64 {
            return Err(ImageError::Invalid(format!("{name} has {size} bytes, which is too many")).into());
        }
        fs::read(&path).context("reading", &path)
    }

    fn blob(&self, digest: &str) -> Result<PathBuf, ImageError> {
        if !is_digest(digest) {
            return Err(ImageError::Invalid(format!("{digest:?} is no digest")));
        }
        self.find(&format!("blobs/sha256/{}", digest.trim_start_matches("sha256:")))
            .ok_or_else(|| ImageError::Invalid(format!("the archive lacks the blob {digest}")))
    }

    fn blob_document(&self, digest: &str) -> Result<Vec<u8>> {
        self.blob(digest)?;
        self.document(&format!("blobs/sha256/{}", digest.trim_start_matches("sha256:")))
    }

    /// What manifest.json, which newer archives of `docker save` carry beside the layout, says of names.
    fn saved_tags(&self) -> Result<BTreeMap<String, Vec<String>>> {
        let bytes = self.document("manifest.json")?;
        let saved: Vec<Saved> = config::parse("manifest.json", &bytes)?;
        let mut names = BTreeMap::new();
        for it in saved {
            let digest = format!("sha256:{}", it.config.rsplit('/').next().unwrap_or_default());
            names.insert(digest, normalised(it.repo_tags.unwrap_or_default())?);
        }
        Ok(names)
    }
}

/// Where a link in an archive leads, by name only.
fn resolve(name: &str, target: &Path) -> Result<String, ImageError> {
    let mut parts: Vec<String> = name.split('/').map(str::to_owned).collect();
    parts.pop();
    for component in target.components() {
        match component {
            Component::Normal(part) => parts.push(part.to_string_lossy().into_owned()),
            Component::CurDir => {}
            Component::ParentDir if !parts.is_empty() => drop(parts.pop()),
            _ => return Err(ImageError::Invalid(format!("the link {name:?} leaves the archive"))),
        }
    }
    Ok(parts.join("/"))
}

/// Copies to a file; returns the digits of its digest.
fn copy(source: &mut impl Read, path: &Path) -> Result<String> {
    let mut file = File::create(path).context("making", path)?;
    let mut hash = sha2::Sha256::new();
    let mut buffer = vec![0u8; 128 << 10];
    loop {
        let count = source.read(&mut buffer).map_err(|error| match error.raw_os_error() {
            Some(_) => ImageError::io("reading the archive", error),
            None => ImageError::Invalid("the archive is damaged or cut off".to_owned()),
        })?;
        let Some(bytes) = buffer.get(..count).filter(|it| !it.is_empty()) else { break };
        hash.update(bytes);
        file.write_all(bytes).context("writing", path)?;
    }
    Ok(hex(&hash.finalize()))
}
