//! Reading and writing control files.

use std::{fs, io, path::Path};

use crate::error::{Context, Result};

/// Writes a control file in one write, as the kernel wants it.
pub(crate) fn write(path: &Path, value: &str) -> Result<()> {
    fs::OpenOptions::new()
        .write(true)
        .open(path)
        .and_then(|mut file| io::Write::write_all(&mut file, value.as_bytes()))
        .context(&format!("writing {value:?} to"), path)
}

/// Reads a control file that holds one number; `max` and absence are none.
pub(crate) fn number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// Reads the number behind `key` in a file of `key value` lines.
pub(crate) fn keyed(path: &Path, key: &str) -> Option<u64> {
    let text = fs::read_to_string(path).ok()?;
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())
}

/// Makes a directory unless it is there.
pub(crate) fn make(path: &Path) -> Result<()> {
    match fs::create_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other.context("making the control group", path),
    }
}
