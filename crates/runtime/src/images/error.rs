//! Why an image could not be had, in the shape that the node needs for upstream's reasons.

/// The node reports `InvalidReference` as `InvalidImageName`, `NotPresent` under policy Never as `ErrImageNeverPull`, and
/// everything else as `ErrImagePull`, with back-off as `ImagePullBackOff`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// The name is no image reference.
    #[error("couldn't parse image name {name:?}: {reason}")]
    InvalidReference {
        /// What was given.
        name: String,
        /// The rule that it breaks.
        reason: &'static str,
    },
    /// It is not on this machine.
    #[error("image {0:?} is not present on this machine; pull or import it first")]
    NotPresent(String),
    /// The registry has no such image or tag.
    #[error(
        "failed to pull and unpack image {reference:?}: failed to resolve reference {reference:?}: {reference}: not found"
    )]
    NotFound {
        /// The normalised name.
        reference: String,
    },
    /// The registry wants other credentials; it says the same of repositories that do not exist.
    #[error(
        "failed to pull and unpack image {reference:?}: pull access denied, repository does not exist or may require \
         authorization: {reason}"
    )]
    Denied {
        /// The normalised name.
        reference: String,
        /// The registry's words.
        reason: String,
    },
    /// The registry cannot be reached, or answers with an error.
    #[error("failed to pull and unpack image {reference:?}: {reason}")]
    Registry {
        /// The normalised name.
        reference: String,
        /// What happened.
        reason: String,
    },
    /// What came is not what its digest promises.
    #[error("{what}: digest is {found}, expected {expected}; the download or the archive is damaged")]
    Digest {
        /// Which blob.
        what: String,
        /// The digest of the bytes.
        found: String,
        /// The digest that they should have.
        expected: String,
    },
    /// An archive or manifest that cannot be used.
    #[error("invalid image: {0}")]
    Invalid(String),
    /// The image is for other machines.
    #[error("no match for platform in manifest: {reference} has no image for linux/{architecture}")]
    Platform {
        /// The name.
        reference: String,
        /// This machine's architecture.
        architecture: &'static str,
    },
    /// Containers still use it.
    #[error("image {0} is in use by a container; remove the container first")]
    InUse(String),
    /// The disk refused.
    #[error("{operation}: {source}")]
    Io {
        /// What was tried.
        operation: String,
        /// Why it failed.
        source: std::io::Error,
    },
}

impl ImageError {
    pub(crate) fn io(operation: impl Into<String>, source: impl Into<std::io::Error>) -> ImageError {
        ImageError::Io { operation: operation.into(), source: source.into() }
    }
}
