//! Which kubeconfig files a cluster was put into, and what they were before: kept in the data directory, so that `down` undoes it.

use super::kubeconfig::{self, Merged};
use super::lock::Lock;
use crate::cli::Failure;
use object::Value;
use serde::{Deserialize, Serialize};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

/// The version of the file; a newer one is refused.
const FORMAT: u32 = 1;
const FILE: &str = "contexts.json";
/// More files than anybody has; the oldest are forgotten, and keep their entries.
const FILES_MAX: usize = 64;

/// What one kubeconfig was before the cluster came into it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Before {
    /// Whether the file was not there.
    #[serde(default)]
    pub(crate) made: bool,
    /// The context that was current.
    #[serde(default)]
    pub(crate) former: Option<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Entry {
    path: PathBuf,
    #[serde(flatten)]
    before: Before,
}

#[derive(Debug, Serialize, Deserialize)]
struct Contexts {
    format: u32,
    files: Vec<Entry>,
}

impl Before {
    /// The same after another merge.
    pub(crate) fn followed_by(self, merged: &Merged) -> Self {
        Before { made: self.made || merged.made, former: merged.former.clone().or(self.former) }
    }
}

fn load(data_dir: &Path) -> Result<Contexts, Failure> {
    let path = data_dir.join(FILE);
    let bytes = match std::fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Ok(Contexts { format: FORMAT, files: Vec::new() });
        }
        Err(error) => return Err(Failure::Failed(format!("cannot read {}: {error}", path.display()))),
    };
    let contexts: Contexts = serde_json::from_slice(&bytes)
        .map_err(|error| Failure::Failed(format!("{} is damaged: {error}; remove the file", path.display())))?;
    if contexts.format > FORMAT {
        return Err(Failure::Failed(format!(
            "{} has format {}, this release knows {FORMAT}: use the newer release",
            path.display(),
            contexts.format
        )));
    }
    Ok(contexts)
}

/// Puts the cluster of `ours` into the file at `path`, and notes it in the data directory; the name of its context there.
pub(crate) fn enter(
    data_dir: &Path,
    path: &Path,
    ours: &Value,
    ids: (u32, u32),
    switches: bool,
) -> Result<String, Failure> {
    let lock = Lock::of(data_dir)?;
    let mut contexts = load(data_dir)?;
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let merged = kubeconfig::merge_file(&path, ours, ids, switches, Some(&lock))?;
    let before = contexts.files.iter().position(|one| one.path == path).map(|at| contexts.files.remove(at).before);
    contexts.files.push(Entry { path, before: before.unwrap_or_default().followed_by(&merged) });
    let surplus = contexts.files.len().saturating_sub(FILES_MAX);
    contexts.files.drain(..surplus);
    let failed = |error: io::Error| Failure::Failed(format!("cannot write {}: {error}", data_dir.join(FILE).display()));
    let bytes = serde_json::to_vec_pretty(&contexts).map_err(|error| failed(error.into()))?;
    let mut file = tempfile::NamedTempFile::new_in(data_dir).map_err(failed)?;
    file.write_all(&bytes).map_err(failed)?;
    file.persist(data_dir.join(FILE)).map_err(|error| failed(error.error))?;
    Ok(merged.name)
}

/// Takes the cluster of `ours` out of every file that it was put into, and out of `others`, which may be of releases that kept no note.
pub(crate) fn leave(data_dir: &Path, others: &[PathBuf], ours: &Value, ids: (u32, u32)) -> Result<(), Failure> {
    let lock = Lock::of(data_dir)?;
    let contexts = load(data_dir)?;
    for entry in &contexts.files {
        kubeconfig::remove_from_file(&entry.path, ours, ids, &entry.before, Some(&lock))?;
    }
    for path in others {
        let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        if !contexts.files.iter().any(|entry| entry.path == path) {
            kubeconfig::remove_from_file(&path, ours, ids, &Before::default(), Some(&lock))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use object::{Limits, yaml};
    use std::fs;

    fn config(name: &str, authority: &str) -> String {
        format!(
            "{{clusters: [{{name: {name}, cluster: {{server: 'https://{authority}', certificate-authority-data: {authority}}}}}], \
             users: [{{name: {name}-admin, user: {{token: t}}}}], contexts: [{{name: {name}, context: {{cluster: {name}, user: {name}-admin}}}}], \
             current-context: {name}}}"
        )
    }

    fn value(text: &str) -> Value {
        yaml::decode(text.as_bytes(), &Limits::default()).unwrap().value
    }

    #[test]
    fn others_entries_stay_and_the_former_context_comes_back() {
        let directory = tempfile::tempdir().unwrap();
        let (theirs, made) = (directory.path().join("theirs"), directory.path().join("made"));
        fs::write(&theirs, config("work", "W")).unwrap();
        let ids = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
        let ours = value(&config("klynge", "K"));
        for _ in 0..2 {
            enter(directory.path(), &theirs, &ours, ids, true).unwrap();
            enter(directory.path(), &made, &ours, ids, false).unwrap();
        }
        let now = value(&fs::read_to_string(&theirs).unwrap());
        assert_eq!(now.at(&["clusters"]).and_then(Value::as_array).unwrap().len(), 2);
        assert_eq!(now.str_at(&["current-context"]), Some("klynge"));
        leave(directory.path(), std::slice::from_ref(&theirs), &ours, ids).unwrap();
        assert_eq!(value(&fs::read_to_string(&theirs).unwrap()), value(&config("work", "W")));
        assert!(!made.exists(), "nothing else was in it, and it was not there before");
    }

    #[test]
    fn commands_at_the_same_time_lose_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let ids = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
        let (data, ours) = (directory.path(), value(&config("klynge", "K")));
        let files: Vec<PathBuf> = (0..16).map(|number| data.join(format!("file-{number}"))).collect();
        let both = |file: &PathBuf| {
            enter(data, file, &ours, ids, true).unwrap();
            // One file that all of them change has all entries as well.
            let own = value(&config(&file.file_name().unwrap().to_string_lossy(), &file.to_string_lossy()));
            enter(data, &data.join("common"), &own, ids, false).unwrap();
        };
        std::thread::scope(|scope| files.iter().for_each(|file| drop(scope.spawn(|| both(file)))));
        assert_eq!(load(data).unwrap().files.len(), files.len() + 1);
        let common = value(&fs::read_to_string(data.join("common")).unwrap());
        assert_eq!(common.at(&["clusters"]).and_then(Value::as_array).unwrap().len(), files.len());
        leave(data, &[], &ours, ids).unwrap();
        assert!(files.iter().all(|file| !file.exists()));
    }

    #[test]
    fn a_file_that_is_not_ours_is_left_even_when_it_is_empty_then() {
        let directory = tempfile::tempdir().unwrap();
        let theirs = directory.path().join("theirs");
        fs::write(&theirs, "").unwrap();
        let ids = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
        let ours = value(&config("klynge", "K"));
        enter(directory.path(), &theirs, &ours, ids, true).unwrap();
        leave(directory.path(), &[], &ours, ids).unwrap();
        assert!(theirs.exists());
    }

    #[test]
    fn a_start_does_not_switch_back_what_the_user_switched() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        fs::write(&file, config("work", "W")).unwrap();
        let ids = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
        let ours = value(&config("klynge", "K"));
        let current = || value(&fs::read_to_string(&file).unwrap()).str_at(&["current-context"]).map(str::to_owned);
        enter(directory.path(), &file, &ours, ids, false).unwrap();
        assert_eq!(current().as_deref(), Some("klynge"), "it was not there before");
        let mut config = value(&fs::read_to_string(&file).unwrap());
        config.set(&["current-context"], "work".into());
        fs::write(&file, yaml::encode(&config)).unwrap();
        enter(directory.path(), &file, &ours, ids, false).unwrap();
        assert_eq!(current().as_deref(), Some("work"));
    }
}
