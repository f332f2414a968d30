//! Volumes that are directories: emptyDir on disk or in memory, hostPath with its type check, group ownership, and their removal.

use k8s_openapi::api::core::v1::{EmptyDirVolumeSource, HostPathVolumeSource};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// A volume that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prepared {
    /// The volume's name in the pod.
    pub name: String,
    /// Where it is on the host.
    pub path: PathBuf,
    /// True where no container may write to it.
    pub read_only: bool,
}

/// The mode of a volume's own directory, as upstream: who may write there is the container's and the file system's matter.
const VOLUME_MODE: u32 = 0o777;

/// Makes an emptyDir; one in memory is a tmpfs of at most its size limit, and never of more than `memory_bytes_max`.
///
/// # Errors
/// What the file system or mount(2) says.
pub fn memory_or_disk(
    directory: &Path,
    source: &EmptyDirVolumeSource,
    memory_bytes_max: Option<u64>,
) -> io::Result<()> {
    let fresh = !directory.exists();
    let mode = source.mode.and_then(|mode| u32::try_from(mode).ok()).unwrap_or(VOLUME_MODE);
    match source.medium.as_deref().unwrap_or_default() {
        "" => {
            fs::create_dir_all(directory)?;
            if fresh {
                fs::set_permissions(directory, fs::Permissions::from_mode(mode))?;
            }
            Ok(())
        }
        "Memory" => {
            let limit = source.size_limit.as_ref().and_then(|limit| crate::quantity::value(&limit.0));
            let limit = limit.and_then(|limit| u64::try_from(limit).ok()).filter(|limit| *limit > 0);
            fs::create_dir_all(directory)?;
            if !is_mount_point(directory)? {
                mount_memory(directory, limit.into_iter().chain(memory_bytes_max).min(), mode)?;
            }
            Ok(())
        }
        other => Err(io::Error::other(format!("emptyDir medium {other:?} is not supported: use \"\" or \"Memory\""))),
    }
}

/// Makes the directory of a volume whose files the agent writes; in memory it is a tmpfs of `memory_bytes`, None keeps it on
/// the disk. What is there stays as it is, whichever it is: containers have it.
///
/// # Errors
/// What the file system or mount(2) says.
pub fn files_directory(directory: &Path, memory_bytes: Option<u64>) -> io::Result<()> {
    if directory.exists() && (memory_bytes.is_none() || is_mount_point(directory)? || !is_empty(directory)?) {
        return Ok(());
    }
    fs::create_dir_all(directory)?;
    match memory_bytes {
        Some(bytes) => mount_memory(directory, Some(bytes), VOLUME_MODE),
        None => fs::set_permissions(directory, fs::Permissions::from_mode(VOLUME_MODE)),
    }
}

fn mount_memory(directory: &Path, bytes: Option<u64>, mode: u32) -> io::Result<()> {
    let size = bytes.map(|bytes| format!(",size={bytes}")).unwrap_or_default();
    let options = std::ffi::CString::new(format!("mode={mode:o}{size}")).map_err(io::Error::other)?;
    mount("tmpfs", directory, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, Some(options.as_c_str()))?;
    Ok(())
}

fn is_empty(directory: &Path) -> io::Result<bool> {
    Ok(fs::read_dir(directory)?.next().is_none())
}

fn is_mount_point(path: &Path) -> io::Result<bool> {
    let Some(parent) = path.parent() else { return Ok(true) };
    Ok(fs::metadata(path)?.dev() != fs::metadata(parent)?.dev())
}

/// Checks a hostPath by its type, making it where the type says so.
///
/// # Errors
/// Upstream's sentence for a path of another type.
pub fn host_path(source: &HostPathVolumeSource) -> Result<PathBuf, String> {
    let path = PathBuf::from(&source.path);
    if !path.is_absolute() && !source.path.is_empty() {
        return Err(format!("hostPath {:?} is not absolute", source.path));
    }
    let kind = source.type_.as_deref().unwrap_or_default();
    let io_error = |error: io::Error| format!("hostPath {}: {error}", source.path);
    let meta = fs::metadata(&path).ok();
    let is = |check: fn(&fs::FileType) -> bool| meta.as_ref().is_some_and(|meta| check(&meta.file_type()));
    let wrong = |what: &str| Err(format!("hostPath type check failed: {} is not {what}", source.path));
    match kind {
        "" => {}
        "DirectoryOrCreate" => {
            if meta.is_none() {
                fs::create_dir_all(&path).map_err(io_error)?;
                fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).map_err(io_error)?;
            } else if !is(fs::FileType::is_dir) {
                return wrong("a directory");
            }
        }
        "Directory" if !is(fs::FileType::is_dir) => return wrong("a directory"),
        "FileOrCreate" => {
            if meta.is_none() {
                fs::OpenOptions::new().create_new(true).write(true).open(&path).map_err(io_error)?;
                fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).map_err(io_error)?;
            } else if !is(fs::FileType::is_file) {
                return wrong("a file");
            }
        }
        "File" if !is(fs::FileType::is_file) => return wrong("a file"),
        "Socket" if !is(fs::FileType::is_socket) => return wrong("a socket file"),
        "CharDevice" if !is(fs::FileType::is_char_device) => return wrong("a character device"),
        "BlockDevice" if !is(fs::FileType::is_block_device) => return wrong("a block device"),
        "Directory" | "File" | "Socket" | "CharDevice" | "BlockDevice" => {}
        other => return Err(format!("{other} is an invalid volume type")),
    }
    Ok(path)
}

/// What the group may do with the files of a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupRights {
    /// Only read them: the agent writes them.
    Read,
    /// Read and write them.
    ReadWrite,
}

/// Gives a volume to the pod's fsGroup: group ownership, group rights, setgid directories. Links are not followed.
///
/// # Errors
/// What the file system says.
pub fn own_by_group(root: &Path, group: u32, rights: GroupRights, on_root_mismatch_only: bool) -> io::Result<()> {
    let bits = match rights {
        GroupRights::Read => 0o440,
        GroupRights::ReadWrite => 0o660,
    };
    let meta = fs::symlink_metadata(root)?;
    if on_root_mismatch_only && meta.gid() == group && meta.permissions().mode() & 0o2070 == 0o2070 {
        return Ok(());
    }
    let mut stack = vec![root.to_path_buf()];
    while let Some(path) = stack.pop() {
        let meta = fs::symlink_metadata(&path)?;
        std::os::unix::fs::lchown(&path, None, Some(group))?;
        if meta.file_type().is_symlink() {
            continue;
        }
        let mut mode = meta.permissions().mode() | bits;
        if meta.is_dir() {
            mode |= 0o2110;
            for entry in fs::read_dir(&path)? {
                stack.push(entry?.path());
            }
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(mode & 0o7777))?;
    }
    Ok(())
}

/// Removes a pod's directory with all its volumes; what is mounted below it is unmounted, never deleted through.
///
/// # Errors
/// What the file system or umount(2) says; the caller tries again later.
pub fn clean_up(pod_directory: &Path) -> io::Result<()> {
    if !pod_directory.exists() {
        return Ok(());
    }
    let table = fs::read_to_string("/proc/self/mountinfo")?;
    let mut below: Vec<PathBuf> = table
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(|path| PathBuf::from(path.replace("\\040", " ")))
        .filter(|path| path.starts_with(pod_directory))
        .collect();
    below.sort();
    for path in below.iter().rev() {
        match unmount(path, UnmountFlags::DETACH) {
            // Somebody else has just done it: the pod's end may be noticed twice.
            Ok(()) | Err(Errno::NOENT | Errno::INVAL) => {}
            Err(error) => return Err(error.into()),
        }
    }
    match fs::remove_dir_all(pod_directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Removes the directories of all pods below `pods`, of which none runs any more.
///
/// # Errors
/// What the file system or umount(2) says.
pub fn clean_up_all(pods: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(pods) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        clean_up(&entry?.path())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

    #[test]
    fn host_paths_are_checked_by_type() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "x").unwrap();
        let of = |path: &Path, kind: &str| {
            host_path(&HostPathVolumeSource { path: path.to_str().unwrap().into(), type_: Some(kind.into()) })
        };
        assert!(of(&file, "File").is_ok());
        assert_eq!(
            of(&file, "Directory").unwrap_err(),
            format!("hostPath type check failed: {} is not a directory", file.display())
        );
        assert!(of(&dir.path().join("new/deep"), "DirectoryOrCreate").unwrap().is_dir());
        assert!(of(&dir.path().join("new/f"), "FileOrCreate").unwrap().is_file());
        assert!(of(&dir.path().join("none"), "Socket").is_err());
        assert!(of(Path::new("/dev/null"), "CharDevice").is_ok());
        assert!(of(&file, "Nonsense").is_err());
    }

    #[test]
    fn a_volume_in_memory_is_limited_and_removed() {
        let dir = tempfile::tempdir().unwrap();
        let pod = dir.path().join("pod");
        let volume = pod.join("volumes/cache");
        let size_limit = Some(Quantity("64Ki".into()));
        let source = EmptyDirVolumeSource { medium: Some("Memory".into()), size_limit, mode: None };
        memory_or_disk(&volume, &source, Some(1 << 30)).unwrap();
        assert!(is_mount_point(&volume).unwrap());
        assert!(fs::write(volume.join("big"), vec![0_u8; 1 << 20]).is_err(), "the size limit holds");
        own_by_group(&volume, 1234, GroupRights::ReadWrite, false).unwrap();
        let meta = fs::metadata(volume.join("big")).unwrap();
        assert_eq!((meta.gid(), meta.permissions().mode() & 0o060), (1234, 0o060));
        // The limit of the pod or the node holds where the volume has none, or a greater one.
        let unlimited = pod.join("volumes/unlimited");
        memory_or_disk(&unlimited, &EmptyDirVolumeSource { size_limit: None, ..source }, Some(64 << 10)).unwrap();
        assert!(fs::write(unlimited.join("big"), vec![0_u8; 1 << 20]).is_err());
        assert_eq!(fs::metadata(&unlimited).unwrap().permissions().mode() & 0o7777, 0o777);
        clean_up(&pod).unwrap();
        assert!(!pod.exists());
    }

    #[test]
    fn files_in_memory_are_mounted_once_and_never_over_files_of_before() {
        let dir = tempfile::tempdir().unwrap();
        let pod = dir.path().join("pod");
        let (memory, disk, old) = (pod.join("memory"), pod.join("disk"), pod.join("old"));
        fs::create_dir_all(&old).unwrap();
        fs::write(old.join("key"), "x").unwrap();
        for _ in 0..2 {
            files_directory(&memory, Some(1 << 20)).unwrap();
            files_directory(&disk, None).unwrap();
            files_directory(&old, Some(1 << 20)).unwrap();
        }
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let count = |path: &Path| mounts.lines().filter(|line| line.contains(&format!(" {} ", path.display()))).count();
        assert_eq!((count(&memory), count(&disk), count(&old)), (1, 0, 0));
        for path in [&memory, &disk] {
            assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o7777, 0o777, "{}", path.display());
        }
        clean_up(&pod).unwrap();
        assert!(!pod.exists());
    }
}
