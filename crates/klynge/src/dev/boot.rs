//! What a node's first processes must know: written by the command, read by the stage and by the node's init.

use crate::cli::Failure;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// The version of the file and of the control socket's lines.
pub(super) const FORMAT: u32 = 1;

/// How a process enters one hierarchy of control groups.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Entry {
    /// The file that 0 is written to.
    pub(super) file: PathBuf,
    /// A group below, entered once the namespace has been made.
    pub(super) leaf: Option<PathBuf>,
}

/// A hierarchy to be mounted inside the node.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct CgroupMount {
    /// Empty for v2.
    pub(super) controllers: Vec<String>,
    /// v2 that has controllers.
    pub(super) whole: bool,
}

/// All of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Boot {
    pub(super) format: u32,
    pub(super) hostname: String,
    pub(super) entries: Vec<Entry>,
    pub(super) mounts: Vec<CgroupMount>,
    /// The file to see as /etc/resolv.conf.
    pub(super) resolv_conf: PathBuf,
    pub(super) socket: PathBuf,
    pub(super) notify: PathBuf,
    pub(super) log: PathBuf,
}

impl Boot {
    /// Reads it.
    pub(super) fn load(path: &Path) -> Result<Self, Failure> {
        let failed = |why: String| Failure::Failed(format!("cannot read {}: {why}", path.display()));
        let bytes = std::fs::read(path).map_err(|error| failed(error.to_string()))?;
        let boot: Boot = serde_json::from_slice(&bytes).map_err(|error| failed(error.to_string()))?;
        if boot.format != FORMAT {
            return Err(failed(format!("format {}, not {FORMAT}", boot.format)));
        }
        Ok(boot)
    }

    /// Writes it; it is read at once, and written anew at each start, so it need not survive a crash.
    pub(super) fn save(&self, path: &Path) -> Result<(), Failure> {
        let bytes = serde_json::to_vec(self).unwrap_or_default();
        std::fs::write(path, bytes)
            .map_err(|error| Failure::Failed(format!("cannot write {}: {error}", path.display())))
    }
}
