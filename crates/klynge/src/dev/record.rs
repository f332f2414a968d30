//! What is kept of a cluster: one file in its directory, written before anything is made, so that `down` knows what there may be.

use super::arguments::Direction;
use super::groups::{Hierarchy, Limits};
use super::lock::Lock;
use super::plan;
use super::slow::Slow;
use crate::cli::{DEFAULT_DATA_DIR, EncryptionKind, Failure, Global};
use crate::commands::contexts::Before;
use crate::commands::data_dir;
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
    /// The nodes' IPv6 addresses, where they have some.
    #[serde(default)]
    pub(super) subnet_ipv6: Option<String>,
    /// Whether the server replaces pods of silent nodes at once.
    #[serde(default)]
    pub(super) fast_failover: bool,
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
    /// What that file was before.
    #[serde(default)]
    pub(super) kubeconfig_before: Before,
    /// Thousandths of a CPU for each node.
    pub(super) cpus_milli: Option<u32>,
    /// Memory for each node.
    pub(super) memory_bytes: Option<u64>,
    /// How what goes between nodes is encrypted.
    #[serde(default)]
    pub(super) encryption: EncryptionKind,
    /// Which nodes lose which packets.
    #[serde(default)]
    pub(super) partitions: BTreeMap<u16, Direction>,
    /// Which nodes' links are slow or lossy, and how.
    #[serde(default)]
    pub(super) slow: BTreeMap<u16, Slow>,
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
            subnet_ipv6: None,
            fast_failover: false,
            namespace: 0,
            boot_id: boot_id(),
            hierarchies: Vec::new(),
            former_forwarding: None,
            kubeconfig: None,
            kubeconfig_before: Before::default(),
            cpus_milli: None,
            memory_bytes: None,
            encryption: EncryptionKind::default(),
            partitions: BTreeMap::new(),
            slow: BTreeMap::new(),
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

    /// The nodes' IPv4 addresses.
    pub(super) fn subnet(&self) -> Result<Prefix, Failure> {
        self.prefix(&self.subnet)
    }

    /// The nodes' addresses, of one family or both.
    pub(super) fn subnets(&self) -> Result<Vec<Prefix>, Failure> {
        [Some(&self.subnet), self.subnet_ipv6.as_ref()].into_iter().flatten().map(|text| self.prefix(text)).collect()
    }

    fn prefix(&self, text: &str) -> Result<Prefix, Failure> {
        text.parse().map_err(|error| Failure::Failed(format!("{}: {error}", self.directory.join(FILE).display())))
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

/// Refuses a directory of clusters that is a server's or an agent's own.
pub(super) fn check_base(base: &Path) -> Result<(), Failure> {
    if data_dir::is_ours(base) {
        return Err(Failure::Usage(format!(
            "{} is the data directory of a server or an agent; `klynge dev` needs one of its own: leave --data-dir out, or give another",
            base.display()
        )));
    }
    Ok(())
}

/// The names of the clusters: every directory that `dev up` has made, or begun to make.
pub(super) fn names(base: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(base) else { return Vec::new() };
    let mut names: Vec<String> = entries
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| plan::check_name(name).is_ok() && is_cluster(base, name))
        .collect();
    names.sort();
    names
}

/// True for a directory with a record, readable or not. One without is what an `up` left that was killed before it wrote it, or a `down` that
/// was killed after it removed it: its lock is beside it, and nothing is in it that `dev up` does not make.
pub(super) fn is_cluster(base: &Path, name: &str) -> bool {
    let directory = directory(base, name);
    if directory.join(FILE).symlink_metadata().is_ok() {
        return true;
    }
    Lock::is_there(base, name) && only_ours(&directory)
}

fn only_ours(directory: &Path) -> bool {
    let Ok(entries) = std::fs::read_dir(directory) else { return false };
    entries.flatten().all(|entry| {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let (number, ending) = name.split_once('.').unwrap_or((&name, ""));
        // `.tmp...` is a record that was being written.
        let of_a_node =
            number.parse::<u16>().is_ok() && ["", "sock", "log", "log.1", "json", "notify"].contains(&ending);
        of_a_node
            || name.starts_with(".tmp")
            || ["kubeconfig", "kubeconfig.klynge-new", "resolv.conf"].contains(&&*name)
    })
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

    #[test]
    fn only_what_dev_up_made_counts_as_a_cluster() {
        let base = tempfile::tempdir().unwrap();
        let make = |files: &[&str]| {
            for file in files {
                let path = base.path().join(file);
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::fs::write(path, "x").unwrap();
            }
        };
        // A server's, somebody's own, and one of others beside a lock's file.
        make(&[
            "server/store/FORMAT",
            "mine/file",
            "locked/file",
            "locked.lock",
            "locked-server/pki/FORMAT",
            "locked-server.lock",
        ]);
        assert_eq!(names(base.path()), Vec::<String>::new());
        // A whole one with a damaged record, one killed before its record, one killed in the midst of its removal.
        make(&[
            "whole/cluster.json",
            "begun/.tmpAbC",
            "begun.lock",
            "ending/1/store/FORMAT",
            "ending/2.log",
            "ending.lock",
        ]);
        std::fs::create_dir(base.path().join("empty")).unwrap();
        make(&["empty.lock"]);
        assert_eq!(names(base.path()), ["begun", "empty", "ending", "whole"]);
        assert!(check_base(base.path()).is_ok());
        assert!(matches!(check_base(&base.path().join("server")), Err(Failure::Usage(_))));
    }
}
