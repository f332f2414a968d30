//! Finds the network namespace that holds a cluster's bridge, from wherever the command is typed.

use crate::cli::Failure;
use network::netlink::NetworkNamespace;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// The inode by which a namespace is known.
pub(super) fn inode(path: &Path) -> Option<u64> {
    fs::metadata(path).ok().map(|found| found.ino())
}

/// The namespace that this command is in.
pub(super) fn current() -> Result<(NetworkNamespace, u64), Failure> {
    let path = Path::new("/proc/self/ns/net");
    let number = inode(path).ok_or_else(|| Failure::Failed("cannot see this network namespace in /proc".to_owned()))?;
    let namespace = NetworkNamespace::from_path(path).map_err(|error| Failure::Failed(error.to_string()))?;
    Ok((namespace, number))
}

/// The namespace with this inode; None where it is gone, and everything in it.
pub(super) fn find(wanted: u64) -> Option<NetworkNamespace> {
    let entries = |directory: &str, below: &'static str| {
        let listed = fs::read_dir(directory).into_iter().flatten().flatten();
        listed
            .map(move |entry| if below.is_empty() { entry.path() } else { entry.path().join(below) })
            .collect::<Vec<_>>()
    };
    let candidates = [PathBuf::from("/proc/self/ns/net")]
        .into_iter()
        .chain(entries("/run/netns", ""))
        .chain(entries("/proc", "ns/net"));
    let path = candidates.into_iter().find(|path| inode(path) == Some(wanted))?;
    NetworkNamespace::from_path(&path).ok()
}
