//! Writes what a feed keeps for starts without the API: all or nothing, by rename.

use serde::Serialize;
use std::path::Path;

/// Replaces the file at `path`; blocks on the disk.
pub(super) fn write(path: &Path, saved: &impl Serialize) -> std::io::Result<()> {
    let temporary = path.with_extension("tmp");
    std::fs::write(&temporary, serde_json::to_vec(saved)?)?;
    std::fs::rename(&temporary, path)
}
