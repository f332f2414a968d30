//! Writes a volume's files so that a reader sees all of one version or all of the next: a `..data` symlink is swapped by rename.
//! The layout is upstream's, which programs rely on: `name -> ..data/name`, `..data -> ..<timestamp>`.

use super::directories::{GroupRights, own_by_group};
use super::payload::Payload;
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Component, Path};

/// Whom the files belong to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ownership {
    /// The user; None for root.
    pub user: Option<u32>,
    /// The group (fsGroup), which may then read; None for root's.
    pub group: Option<u32>,
}

fn refuse(message: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, message)
}

fn check(path: &str) -> io::Result<()> {
    let parts: Vec<Component<'_>> = Path::new(path).components().collect();
    let plain = parts.iter().all(|part| matches!(part, Component::Normal(_)));
    let hidden = matches!(parts.first(), Some(Component::Normal(name)) if name.as_encoded_bytes().starts_with(b".."));
    if path.is_empty() || path.len() > 4096 || !plain || hidden {
        return Err(refuse(format!(
            "invalid path {path:?}: it must be relative, must not contain \"..\" and must not begin with it"
        )));
    }
    Ok(())
}

/// Brings `directory`, which is there, to hold exactly `payload`; does nothing where it does already. Returns true where it wrote.
///
/// # Errors
/// An invalid path in the payload, or the file system's error.
pub fn write_atomically(directory: &Path, payload: &Payload, ownership: Ownership) -> io::Result<bool> {
    for path in payload.keys() {
        check(path)?;
    }
    let data_link = directory.join("..data");
    let current = fs::read_link(&data_link).ok();
    if let Some(current) = &current
        && holds(&directory.join(current), payload)
    {
        return Ok(false);
    }
    // Names need not be unique in time, only in this directory: mkdtemp-like, with a counter instead of a random part.
    let version = fresh_directory(directory)?;
    let root = directory.join(&version);
    for (path, entry) in payload {
        let file = root.join(path);
        make_parents(&root, path)?;
        let mut out = fs::OpenOptions::new().write(true).create_new(true).mode(entry.mode).open(&file)?;
        out.write_all(&entry.data)?;
        fs::set_permissions(&file, fs::Permissions::from_mode(entry.mode))?; // past the umask
        std::os::unix::fs::chown(&file, ownership.user, None)?;
    }
    if let Some(group) = ownership.group {
        // The whole volume, as upstream: its own directory gets the group as well.
        own_by_group(directory, group, GroupRights::Read, false)?;
    }
    let temporary = directory.join("..data_tmp");
    let _ = fs::remove_file(&temporary);
    symlink(&version, &temporary)?;
    fs::rename(&temporary, &data_link)?;
    link_names(directory, payload)?;
    if let Some(current) = current.filter(|current| current.components().count() == 1) {
        let _ = fs::remove_dir_all(directory.join(current));
    }
    Ok(true)
}

/// The directories of a file's path below `root`, which everybody may pass whatever the agent's umask is.
fn make_parents(root: &Path, path: &str) -> io::Result<()> {
    let parents: Vec<&Path> = Path::new(path).ancestors().skip(1).filter(|one| *one != Path::new("")).collect();
    for parent in parents.into_iter().rev() {
        let parent = root.join(parent);
        match fs::create_dir(&parent) {
            Ok(()) => fs::set_permissions(&parent, fs::Permissions::from_mode(0o755))?,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn fresh_directory(directory: &Path) -> io::Result<OsString> {
    let stamp = jiff::Timestamp::now().strftime("..%Y_%m_%d_%H_%M_%S").to_string();
    for serial in 0..1000_u32 {
        let name = OsString::from(format!("{stamp}.{serial:09}"));
        match fs::create_dir(directory.join(&name)) {
            Ok(()) => {
                fs::set_permissions(directory.join(&name), fs::Permissions::from_mode(0o755))?;
                return Ok(name);
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::other("no free name for the volume's next version: remove stale directories"))
}

/// True where `root` holds exactly the payload.
fn holds(root: &Path, payload: &Payload) -> bool {
    let mut found = 0;
    let mut stack = vec![root.to_path_buf()];
    while let Some(directory) = stack.pop() {
        let Ok(entries) = fs::read_dir(&directory) else { return false };
        for entry in entries {
            let Ok(entry) = entry else { return false };
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => stack.push(entry.path()),
                Ok(_) => found += 1,
                Err(_) => return false,
            }
        }
    }
    found == payload.len()
        && payload.iter().all(|(path, entry)| {
            let file = root.join(path);
            let same_mode = fs::metadata(&file).is_ok_and(|meta| meta.permissions().mode() & entry.mode == entry.mode);
            same_mode && fs::read(&file).is_ok_and(|data| data == entry.data)
        })
}

/// The names that containers see, one symlink for each first path element; stale ones go.
fn link_names(directory: &Path, payload: &Payload) -> io::Result<()> {
    let wanted: BTreeSet<&str> = payload.keys().filter_map(|path| path.split('/').next()).collect();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        if !name.starts_with("..") && !wanted.contains(name) {
            fs::remove_file(entry.path())?;
        }
    }
    for name in wanted {
        let link = directory.join(name);
        if fs::symlink_metadata(&link).is_err() {
            symlink(Path::new("..data").join(name), &link)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::volumes::Entry;
    use std::os::unix::fs::MetadataExt;

    fn payload(files: &[(&str, &str)]) -> Payload {
        let entry = |text: &str| Entry { data: text.as_bytes().to_vec(), mode: 0o640 };
        files.iter().map(|(path, text)| ((*path).to_owned(), entry(text))).collect()
    }

    #[test]
    fn versions_are_swapped_whole() {
        let dir = tempfile::tempdir().unwrap();
        let own = Ownership::default();
        assert!(write_atomically(dir.path(), &payload(&[("a", "1"), ("d/e", "2")]), own).unwrap());
        assert_eq!(fs::read_to_string(dir.path().join("a")).unwrap(), "1");
        assert_eq!(fs::read_to_string(dir.path().join("d/e")).unwrap(), "2");
        assert_eq!(fs::read_link(dir.path().join("a")).unwrap(), Path::new("..data/a"));
        assert_eq!(fs::metadata(dir.path().join("a")).unwrap().permissions().mode() & 0o777, 0o640);
        assert!(!write_atomically(dir.path(), &payload(&[("a", "1"), ("d/e", "2")]), own).unwrap(), "nothing changed");
        let kept = fs::read_link(dir.path().join("..data")).unwrap();
        assert!(write_atomically(dir.path(), &payload(&[("a", "3")]), own).unwrap());
        assert_eq!(fs::read_to_string(dir.path().join("a")).unwrap(), "3");
        assert!(!dir.path().join("d").exists());
        assert!(fs::symlink_metadata(dir.path().join("d")).is_err(), "a stale name is removed");
        assert!(!dir.path().join(kept).exists(), "the old version is removed");
    }

    #[test]
    fn a_group_gets_the_whole_volume() {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
        let own = Ownership { user: None, group: Some(4321) };
        for version in ["1", "2"] {
            assert!(write_atomically(dir.path(), &payload(&[("a", version), ("d/e", "2")]), own).unwrap());
            for (path, mode) in [("", 0o2777), ("..data", 0o2755), ("d", 0o2755), ("a", 0o640), ("d/e", 0o640)] {
                let meta = fs::metadata(dir.path().join(path)).unwrap();
                assert_eq!((meta.gid(), meta.permissions().mode() & 0o7777), (4321, mode), "{path}");
            }
        }
        let without = tempfile::tempdir().unwrap();
        write_atomically(without.path(), &payload(&[("d/e", "2")]), Ownership::default()).unwrap();
        let meta = fs::metadata(without.path().join("d")).unwrap();
        assert_eq!((meta.gid(), meta.permissions().mode() & 0o7777), (0, 0o755));
    }

    #[test]
    fn paths_that_leave_the_volume_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        for path in ["", "/etc/passwd", "../x", "a/../../x", "..data", "..x/y"] {
            assert!(write_atomically(dir.path(), &payload(&[(path, "x")]), Ownership::default()).is_err(), "{path}");
        }
    }
}
