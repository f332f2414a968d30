//! What pods take of the disk: measured only where somebody asks, and told in upstream's words where it is more than a pod may
//! take (sizeLimit of an emptyDir, limits of ephemeral-storage).

use k8s_openapi::api::core::v1::{Container, PodSpec};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// More entries of one pod are not counted; what was found until then decides.
const ENTRIES_MAX: usize = 1_000_000;

/// Bytes and inodes below a directory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Taken {
    /// As the disk counts them.
    pub(super) bytes: u64,
    /// Files, directories, links.
    pub(super) inodes: u64,
}

impl Taken {
    fn plus(self, other: Taken) -> Taken {
        Taken { bytes: self.bytes.saturating_add(other.bytes), inodes: self.inodes.saturating_add(other.inodes) }
    }
}

/// Where a pod's things are.
#[derive(Clone, Debug, Default)]
pub(super) struct Places {
    /// The pod's directory.
    pub(super) pod: PathBuf,
    /// By container, also those that have ended: the directories of its root file system's changes and of its logs.
    pub(super) containers: Vec<(String, Vec<PathBuf>)>,
}

/// What each container of a pod and each emptyDir on the disk takes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Storage {
    pub(super) containers: Vec<(String, Taken)>,
    pub(super) volumes: Vec<(String, Taken)>,
}

impl Storage {
    /// Walks through all of it.
    pub(super) fn measure(places: &Places, spec: &PodSpec) -> Storage {
        let mut budget = ENTRIES_MAX;
        let volumes = on_disk(spec).map(|(name, _)| (name.clone(), taken(&volume(&places.pod, name), &mut budget)));
        let volumes = volumes.collect();
        let of_container = |directories: &[PathBuf], budget: &mut usize| {
            directories.iter().fold(Taken::default(), |sum, directory| sum.plus(taken(directory, budget)))
        };
        let containers =
            places.containers.iter().map(|(name, all)| (name.clone(), of_container(all, &mut budget))).collect();
        Storage { containers, volumes }
    }

    /// All of the volumes.
    pub(super) fn in_volumes(&self) -> Taken {
        self.volumes.iter().fold(Taken::default(), |sum, (_, taken)| sum.plus(*taken))
    }

    fn of_container(&self, name: &str) -> u64 {
        self.containers.iter().filter(|(other, _)| other == name).map(|(_, taken)| taken.bytes).sum()
    }

    /// The message of the eviction, where the pod takes more than it may.
    pub(super) fn over_limit(&self, spec: &PodSpec) -> Option<String> {
        for (name, limit) in on_disk(spec) {
            let Some((bytes, text)) = limit else { continue };
            if self.volumes.iter().any(|(other, taken)| other == name && taken.bytes > bytes) {
                return Some(format!("Usage of EmptyDir volume \"{name}\" exceeds the limit \"{text}\". "));
            }
        }
        let limits: Vec<(&str, u64, &str)> = spec
            .containers
            .iter()
            .filter_map(|one| limit(one).map(|(bytes, text)| (one.name.as_str(), bytes, text)))
            .collect();
        // As upstream: the pod's limit is the sum of those that its containers have.
        let sum = limits.iter().fold(0_u64, |sum, (_, bytes, _)| sum.saturating_add(*bytes));
        let all =
            self.containers.iter().fold(self.in_volumes().bytes, |sum, (_, taken)| sum.saturating_add(taken.bytes));
        if !limits.is_empty() && all > sum {
            let sum = super::eviction::Resource::EphemeralStorage.quantity(sum);
            return Some(format!("Pod ephemeral local storage usage exceeds the total limit of containers {sum}. "));
        }
        let over = limits.into_iter().find(|(name, bytes, _)| self.of_container(name) > *bytes)?;
        Some(format!("Container {} exceeded its local ephemeral storage limit \"{}\". ", over.0, over.2))
    }
}

/// The smallest limit of a pod that its use of the disk is to be compared with; None where it has none.
pub(super) fn smallest_limit(spec: &PodSpec) -> Option<u64> {
    let volumes = on_disk(spec).filter_map(|(_, limit)| limit.map(|(bytes, _)| bytes));
    volumes.chain(spec.containers.iter().filter_map(|one| limit(one).map(|(bytes, _)| bytes))).min()
}

fn limit(container: &Container) -> Option<(u64, &str)> {
    let text = container.resources.as_ref()?.limits.as_ref()?.get("ephemeral-storage")?.0.as_str();
    Some((positive(text)?, text))
}

fn positive(text: &str) -> Option<u64> {
    crate::quantity::value(text).and_then(|bytes| u64::try_from(bytes).ok()).filter(|bytes| *bytes > 0)
}

/// The emptyDir volumes that are not in memory, where the kernel enforces the limit; each with its limit, if it has one.
fn on_disk(spec: &PodSpec) -> impl Iterator<Item = (&String, Option<(u64, &str)>)> {
    spec.volumes.iter().flatten().filter_map(|volume| {
        let source = volume.empty_dir.as_ref()?;
        if source.medium.as_deref().is_some_and(|medium| !medium.is_empty()) {
            return None;
        }
        let limit = source.size_limit.as_ref().and_then(|text| Some((positive(&text.0)?, text.0.as_str())));
        Some((&volume.name, limit))
    })
}

fn volume(pod_directory: &Path, name: &str) -> PathBuf {
    pod_directory.join("volumes/kubernetes.io~empty-dir").join(name)
}

/// What lies below `root`. Links are counted, not followed; another file system that is mounted there is not entered.
fn taken(root: &Path, budget: &mut usize) -> Taken {
    let mut sum = Taken::default();
    let Ok(device) = fs::symlink_metadata(root).map(|meta| meta.dev()) else { return sum };
    let mut stack = vec![root.to_path_buf()];
    while let Some(path) = stack.pop() {
        for entry in fs::read_dir(&path).into_iter().flatten().flatten() {
            if *budget == 0 {
                return sum;
            }
            *budget -= 1;
            // The pod goes on writing and removing meanwhile: what is gone counts nothing.
            let Ok(meta) = entry.metadata() else { continue };
            if meta.dev() != device {
                continue;
            }
            sum = sum.plus(Taken { bytes: meta.blocks().saturating_mul(512), inodes: 1 });
            if meta.is_dir() {
                stack.push(entry.path());
            }
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use serde_json::{Value, json};

    fn spec(volumes: Value, containers: Value) -> PodSpec {
        serde_json::from_value(json!({"containers": containers, "volumes": volumes})).unwrap()
    }

    #[test]
    fn only_what_is_on_the_disk_counts() {
        let pod = tempfile::tempdir().unwrap();
        let (written, logs) = (pod.path().join("upper"), pod.path().join("logs"));
        let of = |name: &str| volume(pod.path(), name);
        for directory in [of("free"), of("small"), of("memory"), written.clone(), logs.clone()] {
            fs::create_dir_all(directory.join("below")).unwrap();
            fs::write(directory.join("below/file"), vec![1; 300_000]).unwrap();
            std::os::unix::fs::symlink("/usr", directory.join("link")).unwrap();
        }
        let volumes = json!([{"name": "free", "emptyDir": {}}, {"name": "memory", "emptyDir": {"medium": "Memory", "sizeLimit": "1"}},
            {"name": "small", "emptyDir": {"sizeLimit": "1Mi"}}, {"name": "away", "emptyDir": {"sizeLimit": "1"}}]);
        let spec = spec(volumes, json!([{"name": "c"}]));
        let places = Places { pod: pod.path().to_owned(), containers: vec![("c".into(), vec![written, logs])] };
        let storage = Storage::measure(&places, &spec);
        let names: Vec<&str> = storage.volumes.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["free", "small", "away"]);
        assert!((600_000..700_000).contains(&storage.in_volumes().bytes), "{storage:?}");
        assert_eq!(storage.in_volumes().inodes, 6);
        assert_eq!(storage.containers[0].1.inodes, 6);
        assert!((600_000..700_000).contains(&storage.containers[0].1.bytes), "{storage:?}");
        assert_eq!(storage.over_limit(&spec), None);
        assert_eq!(smallest_limit(&spec), Some(1));
    }

    #[test]
    fn each_limit_has_its_sentence() {
        let taken = |bytes: u64| Taken { bytes: bytes << 10, inodes: 1 };
        let storage = Storage {
            containers: vec![("a".into(), taken(300)), ("b".into(), taken(100))],
            volumes: vec![("v".into(), taken(200))],
        };
        let container = |name: &str, limit: &str| match limit {
            "" => json!({"name": name}),
            limit => json!({"name": name, "resources": {"limits": {"ephemeral-storage": limit}}}),
        };
        let volumes = |limit: Value| json!([{"name": "v", "emptyDir": {"sizeLimit": limit}}]);
        for (volumes, a, b, expected) in [
            (volumes(Value::Null), "", "", None),
            (volumes(json!("200Ki")), "", "", None),
            (volumes(json!("100Ki")), "", "", Some("Usage of EmptyDir volume \"v\" exceeds the limit \"100Ki\". ")),
            (volumes(json!("1Mi")), "400Ki", "200Ki", None),
            (
                volumes(json!("1Mi")),
                "300Ki",
                "212Ki",
                Some("Pod ephemeral local storage usage exceeds the total limit of containers 512Ki. "),
            ),
            (
                volumes(json!("1Mi")),
                "200Ki",
                "",
                Some("Pod ephemeral local storage usage exceeds the total limit of containers 200Ki. "),
            ),
            (
                volumes(json!("1Mi")),
                "200Ki",
                "1Mi",
                Some("Container a exceeded its local ephemeral storage limit \"200Ki\". "),
            ),
        ] {
            let spec = spec(volumes, json!([container("a", a), container("b", b)]));
            assert_eq!(storage.over_limit(&spec).as_deref(), expected, "{a} {b}");
        }
    }
}
