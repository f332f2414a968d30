//! What is kept of a cluster: one file in its directory, written before anything is made, so that `down` knows what there may be.

use super::arguments::Direction;
use super::groups::{Hierarchy, Limits};
use super::plan;
use crate::cli::{DEFAULT_DATA_DIR, Failure, Global};
use network::Prefix;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

/// The version of the file; a newer one is refused.
const FORMAT: u32 = 1;
const DEFAULT_DIRECTORY: &str = "/var/lib/klynge-dev";
const FILE: &str = "cluster.json";

/// Where all clusters are kept.
pub(super) fn base(global: &Global) -> PathBuf {
    if global.data_dir == Path::new(DEFAULT_DATA_DIR) {
        return PathBuf::from(DEFAULT_DIRECTORY);
    }
    std::path::absolute(&global.data_dir).unwrap_or_else(|_| global.data_dir.clone())
}

/// A cluster.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) format: u32,
    pub(super) name: String,
    /// How many nodes.
    pub(super) nodes: u16,
    pub(super) subnet: String,
    /// Inode of the network namespace that holds the bridge.
    pub(super) namespace: u64,
    /// The boot in which the control groups were made.
    pub(super) boot_id: String,
    pub(super) hierarchies: Vec<Hierarchy>,
    /// The name of its control groups.
    pub(super) group: String,
    /// What net.ipv4.ip_forward was, where it was changed.
    pub(super) former_forwarding: Option<String>,
    /// The user's kubeconfig that the cluster was put into.
    pub(super) kubeconfig: Option<PathBuf>,
    /// Thousandths of a CPU for each node.
    pub(super) cpus_milli: Option<u32>,
    /// Memory for each node.
    pub(super) memory_bytes: Option<u64>,
    /// Which nodes lose which packets.
    #[serde(default)]
    pub(super) partitions: BTreeMap<u16, Direction>,
    /// Where the cluster is.
    #[serde(skip)]
    pub(super) directory: PathBuf,
}

/// The directory of a cluster.
pub(super) fn directory(base: &Path, name: &str) -> PathBuf {
    base.join(name)
}

/// The id of this boot: nothing but files outlives one.
pub(super) fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

impl Record {
    /// A new one.
    pub(super) fn new(directory: PathBuf, name: &str, nodes: u16, subnet: Prefix) -> Self {
        let is_default = directory.parent() == Some(Path::new(DEFAULT_DIRECTORY));
        Record {
            group: plan::group(&directory, name, is_default),
            format: FORMAT,
            name: name.to_owned(),
            nodes,
            subnet: subnet.to_string(),
            namespace: 0,
            boot_id: boot_id(),
            hierarchies: Vec::new(),
            former_forwarding: None,
            kubeconfig: None,
            cpus_milli: None,
            memory_bytes: None,
            partitions: BTreeMap::new(),
            directory,
        }
    }

    /// Reads it; None where there is none.
    pub(super) fn load(directory: &Path) -> Result<Option<Self>, Failure> {
        let path = directory.join(FILE);
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                return Err(Failure::NotRoot(format!("{} may be read by root only; run it with sudo", path.display())));
            }
            Err(error) => return Err(Failure::Failed(format!("cannot read {}: {error}", path.display()))),
        };
        #[derive(Deserialize)]
        struct Version {
            format: u32,
        }
        let damaged = |error: serde_json::Error| {
            Failure::Failed(format!("{} is damaged: {error}; `klynge dev down` removes the cluster", path.display()))
        };
        let version: Version = serde_json::from_slice(&bytes).map_err(damaged)?;
        if version.format > FORMAT {
            return Err(Failure::Failed(format!(
                "{} has format {}, this release knows {FORMAT}: use the release that made the cluster",
                path.display(),
                version.format
            )));
        }
        let mut record: Record = serde_json::from_slice(&bytes).map_err(damaged)?;
        record.directory = directory.to_owned();
        Ok(Some(record))
    }

    /// The record of this cluster, or an error that says how to get one.
    pub(super) fn existing(base: &Path, name: &str) -> Result<Self, Failure> {
        plan::check_name(name).map_err(Failure::Usage)?;
        Self::load(&directory(base, name))?.ok_or_else(|| {
            Failure::NotFound(format!(
                "there is no cluster {name} in {}; `klynge dev ls` lists them, `klynge dev up --name {name}` makes it",
                base.display()
            ))
        })
    }

    /// Writes it, all or nothing.
    pub(super) fn save(&self) -> Result<(), Failure> {
        let path = self.directory.join(FILE);
        let failed = |error: io::Error| Failure::Failed(format!("cannot write {}: {error}", path.display()));
        let bytes = serde_json::to_vec_pretty(self).map_err(|error| failed(error.into()))?;
        let mut file = tempfile::NamedTempFile::new_in(&self.directory).map_err(failed)?;
        file.write_all(&bytes).map_err(failed)?;
        file.as_file().sync_all().map_err(failed)?;
        file.persist(&path).map_err(|error| failed(error.error))?;
        Ok(())
    }

    /// The nodes' addresses.
    pub(super) fn subnet(&self) -> Result<Prefix, Failure> {
        self.subnet
            .parse()
            .map_err(|error| Failure::Failed(format!("{}: {error}", self.directory.join(FILE).display())))
    }

    /// Each node's share of the machine.
    pub(super) fn limits(&self) -> Limits {
        Limits { cpus_milli: self.cpus_milli, memory_bytes: self.memory_bytes }
    }

    /// The numbers of its nodes.
    pub(super) fn numbers(&self) -> impl Iterator<Item = u16> + use<> {
        1..=self.nodes
    }

    /// A node's data directory. The name is short, since sockets lie below it.
    pub(super) fn data_dir(&self, number: u16) -> PathBuf {
        self.directory.join(number.to_string())
    }

    /// A file beside it: `sock`, `log`, `json`, `notify`.
    pub(super) fn file(&self, number: u16, ending: &str) -> PathBuf {
        self.directory.join(format!("{number}.{ending}"))
    }

    /// The administrator's kubeconfig, as it is used from this machine.
    pub(super) fn own_kubeconfig(&self) -> PathBuf {
        self.directory.join("kubeconfig")
    }

    /// The global options for a command to the node.
    pub(super) fn global(&self, number: u16) -> Global {
        Global { data_dir: self.data_dir(number), kubeconfig: Some(self.own_kubeconfig()), output: None, quiet: true }
    }
}

/// The names of the clusters: every directory with a name that a cluster can have.
pub(super) fn names(base: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(base) else { return Vec::new() };
    let mut names: Vec<String> = entries
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| plan::check_name(name).is_ok())
        .collect();
    names.sort();
    names
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn records_read_back_and_newer_or_damaged_ones_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().to_owned();
        assert!(Record::load(&path).unwrap().is_none());
        let mut record = Record::new(path.clone(), "dev", 3, "10.84.0.0/24".parse().unwrap());
        record.former_forwarding = Some("0".to_owned());
        record.save().unwrap();
        let found = Record::load(&path).unwrap().unwrap();
        assert_eq!((found.name.as_str(), found.nodes, found.former_forwarding.as_deref()), ("dev", 3, Some("0")));
        assert_eq!(found.data_dir(2), path.join("2"));
        std::fs::write(path.join(FILE), r#"{"format":2,"new":true}"#).unwrap();
        assert!(Record::load(&path).unwrap_err().to_string().contains("format 2"));
        std::fs::write(path.join(FILE), "{").unwrap();
        assert!(Record::load(&path).unwrap_err().to_string().contains("damaged"));
    }
}
