//! Unpacks one layer into a directory, in the form that overlayfs wants, without ever leaving that directory.

use std::{
    ffi::OsStr,
    io::{self, Read},
    os::{
        fd::{AsFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::{Component, Path, PathBuf},
};

use rustix::fs::{
    self as rfs, AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid, XattrFlags,
};
use sha2::Digest;
use tar::EntryType;

use super::{error::ImageError, store::hex};

/// More entries are refused.
const ENTRIES_MAX: u64 = 2_000_000;
/// More unpacked bytes are refused.
const BYTES_MAX: u64 = 128 << 30;
/// Beyond the first 256 MiB, a layer may unpack to this many times its compressed size.
const RATIO_MAX: u64 = 400;
const RATIO_FREE_BYTES: u64 = 256 << 20;

fn invalid(reason: impl Into<String>) -> ImageError {
    ImageError::Invalid(reason.into())
}

/// Counts, hashes and bounds what is read.
struct Measured<R> {
    source: R,
    hash: sha2::Sha256,
    count: u64,
    limit: u64,
}

impl<R: Read> Read for Measured<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.source.read(buffer)?;
        self.hash.update(buffer.get(..count).unwrap_or_default());
        self.count += count as u64;
        if self.count > self.limit {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the layer unpacks to too many bytes"));
        }
        Ok(count)
    }
}

/// Unpacks a layer. `lower` are the directories of the layers below, topmost first. Returns the digest of the archive.
pub(crate) fn layer(
    source: impl Read,
    directory: &Path,
    lower: &[PathBuf],
    compressed: u64,
) -> Result<String, ImageError> {
    let limit = compressed.saturating_mul(RATIO_MAX).clamp(RATIO_FREE_BYTES, BYTES_MAX);
    let measured = Measured { source, hash: sha2::Sha256::new(), count: 0, limit };
    let mut archive = tar::Archive::new(measured);
    archive.set_ignore_zeros(false);
    let read = |error| ImageError::io("reading the layer", error);
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root =
        rfs::open(directory, flags, Mode::empty()).map_err(|error| ImageError::io("opening the layer", error))?;
    let _ = rfs::chmod(directory, Mode::from_raw_mode(0o755));
    let mut target = Target { root, lower, parent: None, times: Vec::new() };
    for (index, entry) in (0u64..).zip(archive.entries().map_err(read)?) {
        if index >= ENTRIES_MAX {
            return Err(invalid("the layer has too many entries"));
        }
        let mut entry = entry.map_err(read)?;
        target.entry(&mut entry)?;
    }
    target.set_times();
    let mut measured = archive.into_inner();
    io::copy(&mut measured, &mut io::sink()).map_err(read)?;
    Ok(format!("sha256:{}", hex(&measured.hash.finalize())))
}

/// The path of an entry, as components below the root. Going up is refused; a leading slash means nothing.
fn components(path: &Path) -> Result<Vec<&OsStr>, ImageError> {
    let mut parts = Vec::new();
    for component in path.components() {
        match component {
            Component::Normal(part) => parts.push(part),
            Component::RootDir | Component::CurDir => {}
            Component::ParentDir | Component::Prefix(_) => {
                return Err(invalid(format!("the entry {} leaves the layer", path.display())));
            }
        }
    }
    Ok(parts)
}

struct Target<'a> {
    root: OwnedFd,
    lower: &'a [PathBuf],
    /// The directory of the last entry, since the next one is mostly in the same.
    parent: Option<(PathBuf, OwnedFd)>,
    /// Directories get their times last: what is put into them changes these.
    times: Vec<(PathBuf, i64)>,
}

const RESOLVE: ResolveFlags = ResolveFlags::IN_ROOT.union(ResolveFlags::NO_MAGICLINKS);

impl Target<'_> {
    fn open_directory(&self, path: &Path) -> rustix::io::Result<OwnedFd> {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        rfs::openat2(&self.root, path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty(), RESOLVE)
    }

    /// Opens a directory of the layer; what is missing of it is made with the owner and mode that it has further down.
    fn directory(&mut self, path: &Path) -> Result<OwnedFd, ImageError> {
        if let Some((of, directory)) = &self.parent
            && of == path
        {
            return rustix::io::dup(directory).map_err(|error| ImageError::io("duplicating a directory", error));
        }
        let opened = match self.open_directory(path) {
            Err(rustix::io::Errno::NOENT) => {
                let mut prefix = PathBuf::new();
                let mut at =
                    self.open_directory(&prefix).map_err(|error| ImageError::io("opening the layer", error))?;
                for part in path {
                    prefix.push(part);
                    at = match self.open_directory(&prefix) {
                        Err(rustix::io::Errno::NOENT) => {
                            self.imply(&at, part, &prefix)?;
                            self.open_directory(&prefix)
                        }
                        other => other,
                    }
                    .map_err(|error| ImageError::io(format!("opening {} in the layer", prefix.display()), error))?;
                }
                at
            }
            other => {
                other.map_err(|error| ImageError::io(format!("opening {} in the layer", path.display()), error))?
            }
        };
        let kept = rustix::io::dup(&opened).map_err(|error| ImageError::io("duplicating a directory", error))?;
        self.parent = Some((path.to_owned(), kept));
        Ok(opened)
    }

    fn imply(&self, parent: &OwnedFd, name: &OsStr, path: &Path) -> Result<(), ImageError> {
        let failed = |error| ImageError::io(format!("making {} in the layer", path.display()), error);
        rfs::mkdirat(parent, name, Mode::from_raw_mode(0o755)).map_err(failed)?;
        for layer in self.lower {
            let Ok(metadata) = std::fs::symlink_metadata(layer.join(path)) else { continue };
            if metadata.is_dir() {
                use std::os::unix::fs::MetadataExt;
                own(parent.as_fd(), name, metadata.uid(), metadata.gid()).map_err(failed)?;
                let mode = Mode::from_raw_mode(metadata.mode() & 0o7777);
                rfs::chmodat(parent, name, mode, AtFlags::empty()).map_err(failed)?;
            }
            break;
        }
        Ok(())
    }

    fn entry<R: Read>(&mut self, entry: &mut tar::Entry<'_, R>) -> Result<(), ImageError> {
        let raw = entry.path_bytes().into_owned();
        if raw.contains(&0) || raw.len() > 4096 {
            return Err(invalid("an entry has an impossible name"));
        }
        let path = PathBuf::from(OsStr::from_bytes(&raw));
        let parts = components(&path)?;
        let kind = entry.header().entry_type();
        if matches!(kind, EntryType::XGlobalHeader | EntryType::GNULongName | EntryType::GNULongLink) {
            return Ok(());
        }
        let Some((name, above)) = parts.split_last() else { return self.root_entry(entry) };
        let above: PathBuf = above.iter().collect();
        let parent = self.directory(&above)?;
        let failed = |error: rustix::io::Errno| ImageError::io(format!("unpacking {}", path.display()), error);
        if let Some(hidden) = name.as_bytes().strip_prefix(b".wh.") {
            return self.whiteout(&parent, &above, hidden).map_err(failed);
        }
        let header = entry.header();
        let mode = header.mode().map_err(|error| invalid(format!("{}: {error}", path.display())))? & 0o7777;
        let number = |it: io::Result<u64>| {
            it.map(|it| it as u32).map_err(|error| invalid(format!("{}: {error}", path.display())))
        };
        let (uid, gid) = (number(header.uid())?, number(header.gid())?);
        let mtime = header.mtime().unwrap_or(0) as i64;
        let existing = rfs::statat(&parent, *name, AtFlags::SYMLINK_NOFOLLOW);
        let is_directory = existing.as_ref().is_ok_and(|it| FileType::from_raw_mode(it.st_mode) == FileType::Directory);
        if existing.is_ok() && !(is_directory && kind == EntryType::Directory) {
            self.parent = None;
            remove(&parent, name, is_directory).map_err(failed)?;
        }
        let parent = parent.as_fd();
        match kind {
            EntryType::Directory => {
                if !is_directory {
                    rfs::mkdirat(parent, *name, Mode::from_raw_mode(0o755)).map_err(failed)?;
                }
                self.times.push((above.join(name), mtime));
            }
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let file = rfs::openat(parent, *name, flags, Mode::from_raw_mode(0o600)).map_err(failed)?;
                let mut file = std::fs::File::from(file);
                io::copy(entry, &mut file)
                    .map_err(|error| ImageError::io(format!("unpacking {}", path.display()), error))?;
            }
            EntryType::Symlink => {
                let target =
                    entry.link_name_bytes().ok_or_else(|| invalid(format!("{} links nowhere", path.display())))?;
                rfs::symlinkat(OsStr::from_bytes(&target), parent, *name).map_err(failed)?;
            }
            EntryType::Link => {
                let target =
                    entry.link_name_bytes().ok_or_else(|| invalid(format!("{} links nowhere", path.display())))?;
                let target = PathBuf::from(OsStr::from_bytes(&target));
                let target_parts = components(&target)?;
                let Some((of, of_above)) = target_parts.split_last() else {
                    return Err(invalid(format!("{} links to the root", path.display())));
                };
                let directory = self.open_directory(&of_above.iter().collect::<PathBuf>()).map_err(failed)?;
                // The link shares the owner, mode and times of what it links to.
                return rfs::linkat(&directory, *of, parent, *name, AtFlags::empty()).map_err(failed);
            }
            EntryType::Char | EntryType::Block | EntryType::Fifo => {
                let kind = match kind {
                    EntryType::Char => FileType::CharacterDevice,
                    EntryType::Block => FileType::BlockDevice,
                    _ => FileType::Fifo,
                };
                let part = |it: io::Result<Option<u32>>| it.ok().flatten().unwrap_or(0);
                let device = rfs::makedev(part(entry.header().device_major()), part(entry.header().device_minor()));
                rfs::mknodat(parent, *name, kind, Mode::from_raw_mode(0o600), device).map_err(failed)?;
            }
            other => return Err(invalid(format!("{} is of the unknown kind {other:?}", path.display()))),
        }
        own(parent, name, uid, gid).map_err(failed)?;
        if kind != EntryType::Symlink {
            rfs::chmodat(parent, *name, Mode::from_raw_mode(mode), AtFlags::empty()).map_err(failed)?;
        }
        attributes(entry, parent, name)?;
        if kind != EntryType::Directory {
            set_time(parent, name, mtime);
        }
        Ok(())
    }

    /// The entry `./` gives the root's mode and owner.
    fn root_entry<R: Read>(&mut self, entry: &tar::Entry<'_, R>) -> Result<(), ImageError> {
        let header = entry.header();
        if header.entry_type() != EntryType::Directory {
            return Err(invalid("the root of a layer must be a directory"));
        }
        let (uid, gid) = (header.uid().unwrap_or(0) as u32, header.gid().unwrap_or(0) as u32);
        let mode = Mode::from_raw_mode(header.mode().unwrap_or(0o755) & 0o7777);
        let root = self.open_directory(Path::new("")).map_err(|error| ImageError::io("opening the layer", error))?;
        let failed = |error| ImageError::io("setting the layer's root", error);
        own(root.as_fd(), OsStr::new("."), uid, gid).map_err(failed)?;
        rfs::chmodat(&root, ".", mode, AtFlags::empty()).map_err(failed)
    }

    /// `.wh.name` hides what lower layers have there; `.wh..wh..opq` everything in its directory.
    fn whiteout(&mut self, parent: &OwnedFd, above: &Path, hidden: &[u8]) -> rustix::io::Result<()> {
        match hidden {
            b".wh..opq" => {
                let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(parent));
                let _ = above;
                rfs::setxattr(path, "trusted.overlay.opaque", b"y", XattrFlags::empty())
            }
            // Other names with this prefix are aufs' own book-keeping.
            hidden if hidden.starts_with(b".wh.") => Ok(()),
            b"" | b"." | b".." => Err(rustix::io::Errno::INVAL),
            hidden => {
                let made = rfs::mknodat(parent, OsStr::from_bytes(hidden), FileType::CharacterDevice, Mode::empty(), 0);
                // What this layer itself brings under that name stays.
                if made == Err(rustix::io::Errno::EXIST) { Ok(()) } else { made }
            }
        }
    }

    fn set_times(&self) {
        for (path, mtime) in self.times.iter().rev() {
            let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { continue };
            if let Ok(parent) = self.open_directory(parent) {
                set_time(parent.as_fd(), name, *mtime);
            }
        }
    }
}

fn own(parent: std::os::fd::BorrowedFd<'_>, name: &OsStr, uid: u32, gid: u32) -> rustix::io::Result<()> {
    if uid == 0 && gid == 0 {
        // New files are root's already, but a directory may have handed its group down.
        let same =
            rfs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW).is_ok_and(|it| it.st_uid == 0 && it.st_gid == 0);
        if same {
            return Ok(());
        }
    }
    if uid == u32::MAX || gid == u32::MAX {
        return Err(rustix::io::Errno::INVAL);
    }
    rfs::chownat(parent, name, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)), AtFlags::SYMLINK_NOFOLLOW)
}

fn set_time(parent: std::os::fd::BorrowedFd<'_>, name: &OsStr, mtime: i64) {
    let time = Timespec { tv_sec: mtime, tv_nsec: 0 };
    let _ = rfs::utimensat(
        parent,
        name,
        &Timestamps { last_access: time, last_modification: time },
        AtFlags::SYMLINK_NOFOLLOW,
    );
}

/// Capabilities of files and users' attributes are kept; those that mean something to overlayfs or to the host are not.
fn attributes<R: Read>(
    entry: &mut tar::Entry<'_, R>,
    parent: std::os::fd::BorrowedFd<'_>,
    name: &OsStr,
) -> Result<(), ImageError> {
    let Ok(Some(extensions)) = entry.pax_extensions() else { return Ok(()) };
    for extension in extensions.flatten() {
        let Ok(Some(key)) = extension.key().map(|key| key.strip_prefix("SCHILY.xattr.")) else { continue };
        if key != "security.capability" && !key.starts_with("user.") || key.starts_with("user.overlay.") {
            continue;
        }
        let path = Path::new("/proc/self/fd").join(std::os::fd::AsRawFd::as_raw_fd(&parent).to_string()).join(name);
        match rfs::lsetxattr(&path, key, extension.value_bytes(), XattrFlags::empty()) {
            // User attributes on links and devices, or a file system without them: nothing depends on it.
            Ok(()) | Err(rustix::io::Errno::PERM | rustix::io::Errno::OPNOTSUPP) => {}
            Err(error) => return Err(ImageError::io(format!("setting {key}"), error)),
        }
    }
    Ok(())
}

/// Removes what an earlier entry of the same layer put there.
fn remove(parent: &OwnedFd, name: &OsStr, is_directory: bool) -> rustix::io::Result<()> {
    if !is_directory {
        return rfs::unlinkat(parent, name, AtFlags::empty());
    }
    let path = Path::new("/proc/self/fd").join(std::os::fd::AsRawFd::as_raw_fd(parent).to_string()).join(name);
    std::fs::remove_dir_all(path)
        .map_err(|error| rustix::io::Errno::from_io_error(&error).unwrap_or(rustix::io::Errno::IO))
}

/// The bytes of the files below a directory.
pub(crate) fn size(directory: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(directory) else { return 0 };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => size(&entry.path()),
            Ok(metadata) => metadata.len(),
            Err(_) => 0,
        })
        .sum()
}
