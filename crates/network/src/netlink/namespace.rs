//! Network namespaces by descriptor: opening them, and running code inside one on a thread of its own.

use std::fs::File;
use std::io::Read as _;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::error::{Error, Result};
use super::system;

/// A network namespace held open by a descriptor; cheap to clone.
#[derive(Clone, Debug)]
pub struct NetworkNamespace {
    descriptor: Arc<OwnedFd>,
}

impl NetworkNamespace {
    /// The namespace that the calling thread is in.
    pub fn current() -> Result<Self> {
        Self::from_path(Path::new("/proc/thread-self/ns/net"))
    }

    /// The namespace of a process.
    pub fn of_process(pid: u32) -> Result<Self> {
        Self::from_path(Path::new(&format!("/proc/{pid}/ns/net")))
    }

    /// The namespace that a file (under /proc or a bind mount) stands for.
    pub fn from_path(path: &Path) -> Result<Self> {
        let file = File::open(path)
            .map_err(|source| Error::system(format!("open the network namespace {}", path.display()), source))?;
        Ok(Self { descriptor: Arc::new(file.into()) })
    }

    /// The namespace behind a descriptor that the caller got elsewhere.
    #[must_use]
    pub fn from_descriptor(descriptor: OwnedFd) -> Self {
        Self { descriptor: Arc::new(descriptor) }
    }

    /// Makes a new namespace that lives as long as something holds it.
    pub fn create() -> Result<Self> {
        on_thread(|| {
            system::unshare_network().map_err(|source| Error::system("create a network namespace", source))?;
            Self::current()
        })
    }

    /// Runs `work` with its thread inside this namespace, and waits for it. The thread ends afterwards, so that no
    /// thread that something else uses (a tokio worker) ever changes its namespace.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        on_thread(|| {
            move_into_link_name_space(self.as_fd(), Some(LinkNameSpaceType::Network))
                .map_err(|source| Error::system("enter a network namespace", source))?;
            Ok(work())
        })
    }

    /// Writes one of the namespace's sysctls, named by its path below /proc/sys. Returns the value it had.
    pub fn write_sysctl(&self, name: &str, value: &str) -> Result<String> {
        self.run(|| swap_sysctl(name, value))?
    }
}

impl AsFd for NetworkNamespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

/// Writes a sysctl of the calling thread's namespace and returns the value it had. /proc/sys/net belongs to the thread that opens it.
pub(crate) fn swap_sysctl(name: &str, value: &str) -> Result<String> {
    let path = format!("/proc/sys/{name}");
    let mut old = String::new();
    File::open(&path)
        .and_then(|file| file.take(4096).read_to_string(&mut old))
        .map_err(|source| Error::system(format!("read the sysctl {name}"), source))?;
    let old = old.trim().to_owned();
    if old != value {
        std::fs::write(&path, value)
            .map_err(|source| Error::system(format!("set the sysctl {name} to {value}"), source))?;
    }
    Ok(old)
}

fn on_thread<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name("network-namespace".to_owned())
            .stack_size(256 * 1024)
            .spawn_scoped(scope, work)
            .map_err(|source| Error::system("start a thread", source))?;
        thread.join().unwrap_or_else(|payload| std::panic::resume_unwind(payload))
    })
}
