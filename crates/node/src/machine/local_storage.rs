//! emptyDir volumes that outgrow their sizeLimit: what they hold is counted, and the pod is evicted in upstream's words.

use k8s_openapi::api::core::v1::PodSpec;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// More entries of one volume are not counted; what was found until then decides.
const ENTRIES_MAX: usize = 1_000_000;

/// The message of the eviction, where a volume on the disk holds more than its limit. In memory the kernel enforces it.
pub(super) fn over_limit(pod_directory: &Path, spec: &PodSpec) -> Option<String> {
    for volume in spec.volumes.iter().flatten() {
        let Some(source) = &volume.empty_dir else { continue };
        if source.medium.as_deref().is_some_and(|medium| !medium.is_empty()) {
            continue;
        }
        let Some(limit) = &source.size_limit else { continue };
        let Some(bytes) = crate::quantity::value(&limit.0).and_then(|bytes| u64::try_from(bytes).ok()) else {
            continue;
        };
        let path = pod_directory.join("volumes/kubernetes.io~empty-dir").join(&volume.name);
        if bytes > 0 && holds_more(&path, bytes) {
            return Some(format!("Usage of EmptyDir volume \"{}\" exceeds the limit \"{}\". ", volume.name, limit.0));
        }
    }
    None
}

/// True once what lies below `root` takes more than `limit` bytes of the disk. Links are counted, not followed.
fn holds_more(root: &Path, limit: u64) -> bool {
    let (mut total, mut seen) = (0_u64, 0_usize);
    let mut stack = vec![root.to_path_buf()];
    while let Some(path) = stack.pop() {
        for entry in fs::read_dir(&path).into_iter().flatten().flatten() {
            seen += 1;
            // The pod goes on writing and removing meanwhile: what is gone counts nothing.
            let Ok(meta) = entry.metadata() else { continue };
            total = total.saturating_add(meta.blocks().saturating_mul(512));
            if total > limit || seen > ENTRIES_MAX {
                return total > limit;
            }
            if meta.is_dir() {
                stack.push(entry.path());
            }
        }
    }
    false
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use serde_json::json;

    #[test]
    fn only_what_is_on_the_disk_and_over_its_limit_counts() {
        let pod = tempfile::tempdir().unwrap();
        let of = |name: &str| pod.path().join("volumes/kubernetes.io~empty-dir").join(name);
        for name in ["free", "small", "memory"] {
            fs::create_dir_all(of(name).join("below")).unwrap();
            fs::write(of(name).join("below/file"), vec![1; 300_000]).unwrap();
            std::os::unix::fs::symlink("/usr", of(name).join("link")).unwrap();
        }
        let spec = |limit: &str| -> PodSpec {
            serde_json::from_value(json!({"containers": [], "volumes": [
                {"name": "free", "emptyDir": {}}, {"name": "memory", "emptyDir": {"medium": "Memory", "sizeLimit": "1"}},
                {"name": "small", "emptyDir": {"sizeLimit": limit}}, {"name": "away", "emptyDir": {"sizeLimit": "1"}}]}))
            .unwrap()
        };
        assert_eq!(over_limit(pod.path(), &spec("1Mi")), None);
        assert_eq!(
            over_limit(pod.path(), &spec("100Ki")).unwrap(),
            "Usage of EmptyDir volume \"small\" exceeds the limit \"100Ki\". "
        );
    }
}
