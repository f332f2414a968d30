//! The seam below the engine: the file operations it uses, so that tests can make the disk fail.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// A disk. Errors carry the operating system's code: `ENOSPC` and `EDQUOT` mean that space has run out.
pub trait Disk: Send + Sync {
    /// Creates a directory (mode 0700) and its parents; an existing one is fine.
    fn create_directory(&self, path: &Path) -> io::Result<()>;
    /// The names in a directory.
    fn list(&self, path: &Path) -> io::Result<Vec<String>>;
    /// Creates a file (mode 0600) for reading and writing, emptying what was there.
    fn create(&self, path: &Path) -> io::Result<Box<dyn File>>;
    /// Opens an existing file for reading and writing.
    fn open(&self, path: &Path) -> io::Result<Box<dyn File>>;
    /// Moves a file over another name.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Makes creations, renames and removals in a directory durable.
    fn sync_directory(&self, path: &Path) -> io::Result<()>;
}

/// An open file.
pub trait File: Send + Sync {
    /// Its length in bytes.
    fn length(&self) -> io::Result<u64>;
    /// Reads up to the buffer's length; 0 at the end.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize>;
    /// Writes up to all of the bytes; may be short.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<usize>;
    /// Makes the contents durable (fdatasync).
    fn sync(&self) -> io::Result<()>;
    /// Sets the length.
    fn truncate(&self, length: u64) -> io::Result<()>;
    /// Reserves space for the first `length` bytes without changing the file's length.
    fn reserve(&self, length: u64) -> io::Result<()>;
}

/// The operating system's disk.
#[derive(Copy, Clone, Debug, Default)]
pub struct RealDisk;

struct RealFile(fs::File);

impl Disk for RealDisk {
    fn create_directory(&self, path: &Path) -> io::Result<()> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(path)? {
            names.push(entry?.file_name().to_string_lossy().into_owned());
        }
        names.sort();
        Ok(names)
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn File>> {
        let file = fs::OpenOptions::new().read(true).write(true).create(true).truncate(true).mode(0o600).open(path)?;
        Ok(Box::new(RealFile(file)))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn File>> {
        Ok(Box::new(RealFile(fs::OpenOptions::new().read(true).write(true).open(path)?)))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        fs::File::open(path)?.sync_all()
    }
}

impl File for RealFile {
    fn length(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read_at(buffer, offset)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<usize> {
        self.0.write_at(bytes, offset)
    }

    fn sync(&self) -> io::Result<()> {
        rustix::fs::fdatasync(&self.0)?;
        // A file without a name is durable for nobody: whoever removed it has removed what is written to it as well.
        if rustix::fs::fstat(&self.0)?.st_nlink == 0 {
            return Err(io::Error::other("somebody has removed the file while it is in use; restore a backup"));
        }
        Ok(())
    }

    fn truncate(&self, length: u64) -> io::Result<()> {
        self.0.set_len(length)
    }

    fn reserve(&self, length: u64) -> io::Result<()> {
        Ok(rustix::fs::fallocate(&self.0, rustix::fs::FallocateFlags::KEEP_SIZE, 0, length)?)
    }
}

/// Whether an error means that there is no space.
#[must_use]
pub fn is_no_space(error: &io::Error) -> bool {
    let code = error.raw_os_error();
    [libc::ENOSPC, libc::EDQUOT, libc::EFBIG].into_iter().any(|no_space| code == Some(no_space))
}

/// Writes all bytes, going on after short writes and interruptions.
pub(crate) fn write_all(file: &dyn File, mut offset: u64, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match file.write_at(offset, bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => {
                bytes = &bytes[written..];
                offset += written as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Reads up to `length` bytes, fewer only at the end of the file.
pub(crate) fn read_up_to(file: &dyn File, offset: u64, length: usize) -> io::Result<Vec<u8>> {
    let mut buffer = vec![0; length];
    let mut filled = 0;
    while filled < length {
        match file.read_at(offset + filled as u64, &mut buffer[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    buffer.truncate(filled);
    Ok(buffer)
}

/// Creates a file completely or not at all: temporary name, contents, fsync, rename, fsync of the directory.
pub(crate) fn publish_file(
    disk: &dyn Disk,
    directory: &Path,
    name: &str,
    fill: impl FnOnce(&dyn File) -> io::Result<()>,
) -> io::Result<Box<dyn File>> {
    let temporary = directory.join(format!("{name}{TEMPORARY_SUFFIX}"));
    let path: PathBuf = directory.join(name);
    let attempt = || -> io::Result<Box<dyn File>> {
        let file = disk.create(&temporary)?;
        fill(&*file)?;
        file.sync()?;
        disk.rename(&temporary, &path)?;
        disk.sync_directory(directory)?;
        Ok(file)
    };
    attempt().inspect_err(|_| {
        // What cannot be removed now is removed when the store is opened next.
        let _ = disk.remove(&temporary);
    })
}

/// Ends the names of files that are not complete; they are removed when the store is opened.
pub(crate) const TEMPORARY_SUFFIX: &str = ".tmp";
