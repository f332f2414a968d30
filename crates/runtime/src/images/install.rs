//! Makes an image usable: unpacks the layers that are not here yet, in order, and enters it.

use std::{
    fs::{self, File},
    io::{BufReader, Read},
    path::{Path, PathBuf},
};

use sha2::Digest;

use super::{
    config::{ARCHITECTURE, Document},
    error::ImageError,
    store::{Image, ImageRecord, Images, hex},
    unpack,
};
use crate::{
    error::{Context, Result},
    state,
};

/// The directory of a layer, named by the chain that it ends: the metadata of directories that a layer only implies
/// comes from the layers below. 26 characters, because the names of all layers share one page of mount options.
pub(crate) fn directory_name(chain: &str) -> String {
    const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    let digest = sha2::Sha256::digest(chain.as_bytes());
    let number = digest.iter().take(16).fold(0u128, |number, byte| number << 8 | u128::from(*byte));
    (0..26).map(|at| char::from(*ALPHABET.get((number >> (at * 5) & 31) as usize).unwrap_or(&b'a'))).collect()
}

/// The directories of an image's layers, lowest first.
pub(crate) fn directory_names(diff_ids: &[String]) -> Vec<String> {
    let mut chain = String::new();
    let mut names = Vec::new();
    for diff_id in diff_ids {
        chain = if chain.is_empty() {
            diff_id.clone()
        } else {
            format!("sha256:{}", hex(&sha2::Sha256::digest(format!("{chain} {diff_id}").as_bytes())))
        };
        names.push(directory_name(&chain));
    }
    names
}

impl Images {
    /// True if the first `count` layers are unpacked.
    pub(super) fn has_layer(&self, name: &str) -> bool {
        self.inner.layers.join(name).is_dir()
    }

    /// Unpacks one layer unless it is here; `lower` are those below it, lowest first.
    pub(super) fn unpack_layer(&self, name: &str, diff_id: &str, lower: &[String], source: &Path) -> Result<()> {
        if self.has_layer(name) {
            return Ok(());
        }
        let temporary = self.inner.layers.join(format!(".new-{}", state::random_hex(8)?));
        fs::create_dir(&temporary).context("making the directory", &temporary)?;
        let result = self.unpack_into(&temporary, diff_id, lower, source);
        let result = result.and_then(|()| {
            let target = self.inner.layers.join(name);
            match fs::rename(&temporary, &target) {
                // Another image brought the same layer in the meantime.
                Err(_) if target.is_dir() => Ok(()),
                other => other.context("renaming the layer to", &target),
            }
        });
        let _ = fs::remove_dir_all(&temporary);
        result
    }

    fn unpack_into(&self, directory: &Path, diff_id: &str, lower: &[String], source: &Path) -> Result<()> {
        let file = File::open(source).context("opening the layer", source)?;
        let compressed = file.metadata().context("reading", source)?.len();
        let lower: Vec<PathBuf> = lower.iter().rev().map(|it| self.inner.layers.join(it)).collect();
        let reader = decompress(BufReader::with_capacity(256 << 10, file))?;
        let found = unpack::layer(reader, directory, &lower, compressed)?;
        if found != diff_id {
            return Err(ImageError::Digest {
                what: "a layer's content".to_owned(),
                found,
                expected: diff_id.to_owned(),
            }
            .into());
        }
        // Data before name: a layer that survives a power cut under its final name must be whole.
        let handle = File::open(directory).context("opening", directory)?;
        rustix::fs::syncfs(&handle).context("syncing", directory)
    }

    /// Enters an image whose layers are all unpacked.
    pub(super) fn finish(
        &self,
        configuration: &[u8],
        id: &str,
        document: Document,
        tags: &[String],
        digest: Option<String>,
    ) -> Result<Image> {
        if !document.os.is_empty() && (document.os != "linux" || document.architecture != ARCHITECTURE) {
            let reference = tags.first().cloned().unwrap_or_else(|| id.to_owned());
            return Err(ImageError::Platform { reference, architecture: ARCHITECTURE }.into());
        }
        let layers = directory_names(&document.diff_ids);
        let size_bytes = layers.iter().map(|layer| unpack::size(&self.inner.layers.join(layer))).sum();
        let blob = self.blob(id);
        let temporary = blob.with_extension("new");
        fs::write(&temporary, configuration).context("writing", &temporary)?;
        fs::rename(&temporary, &blob).context("renaming to", &blob)?;
        let record = ImageRecord {
            id: id.to_owned(),
            digests: Default::default(),
            layers,
            size_bytes,
            created_ns: state::now_ns(),
        };
        self.enter(record, document.config, tags, digest)
    }
}

/// Recognises gzip and zstd by their first bytes.
pub(crate) fn decompress(mut source: impl std::io::BufRead + Send + 'static) -> Result<Box<dyn Read + Send>> {
    let head = source.fill_buf().map_err(|error| ImageError::io("reading a layer", error))?;
    if head.starts_with(&[0x1f, 0x8b]) {
        return Ok(Box::new(flate2::bufread::MultiGzDecoder::new(source)));
    }
    if head.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        return Ok(Box::new(Zstd { source: Some(source), decoder: None }));
    }
    Ok(Box::new(source))
}

/// All frames of a zstd file, one after the other.
struct Zstd<R: Read> {
    source: Option<R>,
    decoder: Option<ruzstd::decoding::StreamingDecoder<R, ruzstd::decoding::FrameDecoder>>,
}

impl<R: std::io::BufRead> Read for Zstd<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        loop {
            if let Some(decoder) = &mut self.decoder {
                let count = decoder.read(buffer)?;
                if count > 0 || buffer.is_empty() {
                    return Ok(count);
                }
                self.source = self.decoder.take().map(|it| it.into_inner());
            }
            let Some(mut source) = self.source.take() else { return Ok(0) };
            if source.fill_buf()?.is_empty() {
                return Ok(0);
            }
            let decoder = ruzstd::decoding::StreamingDecoder::new(source)
                .map_err(|error| std::io::Error::new(std::io::ErrorKind::InvalidData, error.to_string()))?;
            self.decoder = Some(decoder);
        }
    }
}
