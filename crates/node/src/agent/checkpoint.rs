//! One small file per pod: what the agent knew of it, so that a restarted agent goes on without the API.

use crate::lifecycle::PodState;
use serde::{Deserialize, Serialize};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The version of the files; an older one is migrated, a newer one refused.
const VERSION: u32 = 1;

#[derive(Serialize)]
struct Written<'a> {
    version: u32,
    state: &'a PodState,
}

#[derive(Deserialize)]
struct Head {
    version: u32,
}

#[derive(Deserialize)]
struct Read {
    state: PodState,
}

fn file(directory: &Path, uid: &str) -> PathBuf {
    directory.join(format!("{uid}.json"))
}

/// The bytes of a checkpoint.
pub(super) fn encode(state: &PodState) -> Option<Vec<u8>> {
    serde_json::to_vec(&Written { version: VERSION, state }).ok()
}

/// Writes a checkpoint whole or not at all. Not synced: after a crash of the machine nothing of the pod runs any more.
pub(super) fn write(directory: &Path, uid: &str, bytes: &[u8]) -> io::Result<()> {
    let temporary = directory.join(format!("{uid}.tmp"));
    let made = fs::write(&temporary, bytes);
    if let Err(error) = made {
        if error.kind() != io::ErrorKind::NotFound {
            return Err(error);
        }
        fs::create_dir_all(directory)?;
        fs::write(&temporary, bytes)?;
    }
    fs::rename(&temporary, file(directory, uid))
}

/// Forgets a pod.
pub(super) fn remove(directory: &Path, uid: &str) {
    let _ = fs::remove_file(file(directory, uid));
}

/// All checkpoints that can be read.
///
/// # Errors
/// A checkpoint of a newer version: an older agent must not touch the pods of a newer one.
pub(super) fn read_all(directory: &Path) -> io::Result<Vec<PodState>> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut states = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        let bytes = fs::read(&path)?;
        match serde_json::from_slice::<Head>(&bytes) {
            Ok(head) if head.version > VERSION => {
                let message = format!(
                    "{} has version {}, this agent knows up to {VERSION}: start the newer agent again",
                    path.display(),
                    head.version
                );
                return Err(io::Error::new(io::ErrorKind::InvalidData, message));
            }
            Ok(_) => match serde_json::from_slice::<Read>(&bytes) {
                Ok(read) => states.push(read.state),
                Err(error) => {
                    tracing::warn!(path = %path.display(), %error, "a checkpoint cannot be read; the API is asked instead")
                }
            },
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "a checkpoint is broken; the API is asked instead")
            }
        }
    }
    Ok(states)
}
