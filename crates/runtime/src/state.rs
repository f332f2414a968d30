//! The records that let a new agent find everything again: small JSON files, each with a version, replaced by rename.

use std::{fs, io::Write, os::unix::fs::OpenOptionsExt, path::Path};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    error::{Context, Error, Result},
    spec::PodSpec,
};

/// The version that every record of this build carries.
const VERSION: u32 = 1;
/// A record larger than this is not ours.
const RECORD_BYTES_MAX: u64 = 16 << 20;

/// A pod's record.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct PodRecord {
    pub(crate) boot_id: String,
    pub(crate) spec: PodSpec,
}

/// A container's record.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ContainerRecord {
    pub(crate) id: String,
    pub(crate) token: u64,
    pub(crate) name: String,
    pub(crate) attempt: u32,
    pub(crate) image: String,
    pub(crate) log_path: Option<std::path::PathBuf>,
    pub(crate) created_ns: u64,
    pub(crate) memory_limited: bool,
    pub(crate) exec: ExecTemplate,
}

/// What an exec takes over from its container.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct ExecTemplate {
    pub(crate) env: Vec<String>,
    pub(crate) working_directory: String,
    pub(crate) identity: Identity,
    pub(crate) no_new_privileges: bool,
    /// The compiled filter, base64; empty means none.
    pub(crate) seccomp: String,
    pub(crate) oom_score_adj: i32,
    pub(crate) limits: Vec<crate::spec::ResourceLimit>,
    pub(crate) extra_devices: bool,
    pub(crate) privileged: bool,
}

/// Who a process is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Identity {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) groups: Vec<u32>,
    pub(crate) capabilities: u64,
}

#[derive(Serialize, Deserialize)]
struct Versioned<T> {
    version: u32,
    #[serde(flatten)]
    record: T,
}

#[derive(Deserialize)]
struct VersionOnly {
    version: u32,
}

/// Writes a record, whole or not at all; readable by root only, because environments hold secrets.
pub(crate) fn write<T: Serialize>(path: &Path, record: &T) -> Result<()> {
    let bytes = serde_json::to_vec(&Versioned { version: VERSION, record })
        .map_err(|error| Error::State { path: path.to_owned(), reason: error.to_string() })?;
    let temporary = path.with_extension("new");
    fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary)
        .and_then(|mut file| file.write_all(&bytes))
        .context("writing", &temporary)?;
    fs::rename(&temporary, path).context("renaming to", path)
}

/// Reads a record; a newer version is refused.
pub(crate) fn read<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let damaged = |reason: String| Error::State { path: path.to_owned(), reason };
    let size = fs::metadata(path).context("reading", path)?.len();
    if size > RECORD_BYTES_MAX {
        return Err(damaged(format!("{size} bytes are too many for a record of ours")));
    }
    let bytes = fs::read(path).context("reading", path)?;
    let found: VersionOnly =
        serde_json::from_slice(&bytes).map_err(|error| damaged(format!("damaged record: {error}")))?;
    if found.version > VERSION {
        let version = found.version;
        return Err(damaged(format!(
            "record version {version} was written by a newer klynge; this one reads up to {VERSION}"
        )));
    }
    serde_json::from_slice::<Versioned<T>>(&bytes)
        .map(|it| it.record)
        .map_err(|error| damaged(format!("damaged record: {error}")))
}

/// The id of this boot of the kernel: what was running under another one is gone.
pub(crate) fn boot_id() -> Result<String> {
    let path = Path::new("/proc/sys/kernel/random/boot_id");
    Ok(fs::read_to_string(path).context("reading", path)?.trim().to_owned())
}

/// Nanoseconds since 1970.
pub(crate) fn now_ns() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |it| it.as_nanos() as u64)
}

/// `count` random bytes as hexadecimal digits.
pub(crate) fn random_hex(count: usize) -> Result<String> {
    let mut bytes = vec![0u8; count];
    getrandom::fill(&mut bytes)
        .map_err(|error| Error::io("reading random bytes", std::io::Error::other(error.to_string())))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}
