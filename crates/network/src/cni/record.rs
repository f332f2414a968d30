//! The record of an attachment: what plug-ins were told and what they answered, kept so that they can be told the same when it ends.

use super::config::is_identifier;
use super::error::Error;
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

const VERSION: u32 = 1;
/// Bytes of a record: the configuration and the answer have a megabyte each.
const BYTES_MAX: u64 = 4 << 20;

/// One pod's attachment.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub(super) struct Record {
    pub(super) version: u32,
    pub(super) uid: String,
    /// The network as it was configured then.
    pub(super) network: Value,
    /// The directories that programs were looked for in.
    pub(super) programs: Vec<PathBuf>,
    /// CNI_ARGS.
    pub(super) arguments: String,
    /// What plug-ins with these capabilities were given.
    pub(super) capabilities: BTreeMap<String, Value>,
    /// The process whose namespace it is, and the namespace's own number: process ids are given again.
    pub(super) process: u32,
    pub(super) namespace: u64,
    /// The chain's answer; none where it was not heard: then the attachment may be half made.
    pub(super) result: Option<Value>,
}

/// The path to a process's network namespace.
pub(super) fn namespace_path(process: u32) -> PathBuf {
    PathBuf::from(format!("/proc/{process}/ns/net"))
}

/// The number of a process's network namespace.
pub(super) fn namespace_number(process: u32) -> Option<u64> {
    std::fs::metadata(namespace_path(process)).ok().map(|metadata| metadata.ino())
}

impl Record {
    /// The path to the pod's namespace, while that is what it was; empty when it is gone, as the specification has it.
    pub(super) fn living_namespace(&self) -> String {
        if namespace_number(self.process) == Some(self.namespace) {
            namespace_path(self.process).display().to_string()
        } else {
            String::new()
        }
    }
}

/// The records of a node, a file for each pod.
#[derive(Debug)]
pub(super) struct Records {
    directory: PathBuf,
}

impl Records {
    pub(super) fn open(directory: PathBuf) -> Result<Self, Error> {
        std::fs::create_dir_all(&directory)
            .map_err(|error| Error::Record { path: directory.clone(), why: error.to_string() })?;
        Ok(Self { directory })
    }

    fn path(&self, uid: &str) -> Result<PathBuf, Error> {
        match is_identifier(uid) {
            true => Ok(self.directory.join(format!("{uid}.json"))),
            false => Err(Error::Id(uid.to_owned())),
        }
    }

    pub(super) fn write(&self, record: &Record) -> Result<(), Error> {
        let path = self.path(&record.uid)?;
        let write = || -> std::io::Result<()> {
            let beside = path.with_extension("new");
            let mut file =
                std::fs::OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(&beside)?;
            file.write_all(&serde_json::to_vec(record)?)?;
            file.sync_all()?;
            std::fs::rename(&beside, &path)
        };
        write().map_err(|error| Error::Record { path: path.clone(), why: error.to_string() })
    }

    pub(super) fn read(&self, uid: &str) -> Result<Option<Record>, Error> {
        let path = self.path(uid)?;
        read(&path).map_err(|why| Error::Record { path, why })
    }

    pub(super) fn remove(&self, uid: &str) -> Result<(), Error> {
        let path = self.path(uid)?;
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::Record { path, why: error.to_string() })
            }
            _ => Ok(()),
        }
    }

    /// The uids of all pods that have a record.
    pub(super) fn all(&self) -> Result<Vec<String>, Error> {
        let failed = |error: std::io::Error| Error::Record { path: self.directory.clone(), why: error.to_string() };
        let entries = std::fs::read_dir(&self.directory).map_err(failed)?;
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        Ok(names.filter_map(|name| name.strip_suffix(".json").map(str::to_owned)).collect())
    }
}

fn read(path: &Path) -> Result<Option<Record>, String> {
    let length = match std::fs::metadata(path) {
        Ok(metadata) => metadata.len(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.to_string()),
    };
    if length > BYTES_MAX {
        return Err(format!("{length} bytes, where {BYTES_MAX} are the most"));
    }
    let value: Value = serde_json::from_slice(&std::fs::read(path).map_err(|error| error.to_string())?)
        .map_err(|error| error.to_string())?;
    match value.get("version").and_then(Value::as_u64) {
        Some(version) if version == u64::from(VERSION) => {
            serde_json::from_value(value).map(Some).map_err(|error| error.to_string())
        }
        Some(version) if version > u64::from(VERSION) => {
            Err(format!("version {version} is of a newer Klynge; start that one, or remove the pod with it"))
        }
        _ => Err("it has no version".to_owned()),
    }
}

impl Record {
    /// A record without an answer yet.
    pub(super) fn begun(uid: &str, network: Value, arguments: String, process: u32, namespace: u64) -> Self {
        Self {
            version: VERSION,
            uid: uid.to_owned(),
            network,
            programs: Vec::new(),
            arguments,
            capabilities: BTreeMap::new(),
            process,
            namespace,
            result: None,
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn records_come_back_and_newer_ones_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let records = Records::open(directory.path().join("cni")).unwrap();
        assert_eq!(records.read("u-1").unwrap(), None);
        let process = std::process::id();
        let mut record = Record::begun("u-1", serde_json::json!({"name": "n"}), "A=b".to_owned(), process, 7);
        records.write(&record).unwrap();
        assert_eq!(records.read("u-1").unwrap().as_ref(), Some(&record));
        assert_eq!(records.all().unwrap(), ["u-1"]);
        assert_eq!(record.living_namespace(), "", "another namespace has the process id now");
        record.namespace = namespace_number(process).unwrap();
        assert_eq!(record.living_namespace(), format!("/proc/{process}/ns/net"));
        record.version = 2;
        records.write(&record).unwrap();
        assert!(records.read("u-1").unwrap_err().to_string().contains("newer"));
        records.remove("u-1").unwrap();
        records.remove("u-1").unwrap();
        assert!(matches!(records.read("../u"), Err(Error::Id(_))));
    }
}
