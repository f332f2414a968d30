//! Who may use an image that is on the node: one that was pulled with credentials serves pods that have them, others have to show
//! theirs to the registry. Upstream's KEP-2535 with its default policy, NeverVerifyPreloadedImages.

use super::checkpoint;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

const VERSION: u32 = 1;
/// The name of the file, without its ending.
const FILE: &str = "pulled-images";
/// Secrets that are remembered of one image; pods with others ask the registry each time.
const SECRETS_MAX: usize = 100;

/// A pull secret, and what it says for one registry.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PullSecret {
    /// Its uid.
    pub uid: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// SHA-256 of the login, in hexadecimal.
    pub hash: String,
}

impl PullSecret {
    fn is_same_object(&self, other: &Self) -> bool {
        (&self.uid, &self.namespace, &self.name) == (&other.uid, &other.namespace, &other.name)
    }
}

/// Who may use an image under one name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Access {
    /// It came without credentials.
    everyone: bool,
    secrets: Vec<PullSecret>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Pulled {
    updated: Timestamp,
    /// By name without tag and digest: what one registry allows is nothing that another does.
    names: BTreeMap<String, Access>,
}

#[derive(Default, Serialize, Deserialize)]
struct State {
    version: u32,
    /// By the image's id.
    pulled: BTreeMap<String, Pulled>,
    /// Names whose pull a former agent did not see the end of: what is there under them has to be verified.
    unfinished: BTreeSet<String>,
    #[serde(skip)]
    running: BTreeMap<String, usize>,
}

/// The records; kept on the disk, because they have to outlive the agent.
pub struct PullRecords {
    directory: PathBuf,
    state: Mutex<State>,
}

impl PullRecords {
    /// Reads what a former agent left.
    ///
    /// # Errors
    /// A file that cannot be read, or of a newer version: without it, images would be open to everybody.
    pub fn open(directory: &Path) -> io::Result<Self> {
        let path = directory.join(format!("{FILE}.json"));
        let state = match fs::read(&path) {
            Ok(bytes) => {
                let named = |what: String| io::Error::other(format!("{}: {what}", path.display()));
                let state: State = serde_json::from_slice(&bytes).map_err(|error| named(error.to_string()))?;
                if state.version > VERSION {
                    return Err(named("it was written by a newer version of klynge".into()));
                }
                state
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => State::default(),
            Err(error) => return Err(error),
        };
        Ok(Self { directory: directory.to_owned(), state: Mutex::new(state) })
    }

    /// Whether a pod with these secrets may use the image with this id, which is on the node under this name.
    pub fn allows(&self, id: &str, reference: &str, repository: &str, secrets: &[PullSecret]) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let under_way = state.unfinished.contains(reference) || state.running.contains_key(reference);
        let Some(pulled) = state.pulled.get_mut(id) else { return !under_way };
        let Some(access) = pulled.names.get_mut(repository) else { return false };
        if access.everyone {
            return true;
        }
        let by_hash = |one: &&PullSecret| access.secrets.iter().any(|known| known.hash == one.hash);
        let by_object = |one: &&PullSecret| access.secrets.iter().any(|known| known.is_same_object(one));
        let Some(found) = secrets.iter().find(|one| by_hash(one) || by_object(one)) else { return false };
        if !access.secrets.contains(found) {
            remember(access, found.clone());
            pulled.updated = Timestamp::now();
            self.save(&state);
        }
        true
    }

    /// A pull of this name begins.
    pub fn begin(&self, reference: &str) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        *state.running.entry(reference.to_owned()).or_default() += 1;
        self.save(&state);
    }

    /// A pull of this name has failed.
    pub fn failed(&self, reference: &str) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        end(&mut state, reference);
        self.save(&state);
    }

    /// A pull of this name has brought the image with this id, with that secret or without any.
    pub fn pulled(&self, id: &str, reference: &str, repository: &str, secret: Option<PullSecret>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        end(&mut state, reference);
        state.unfinished.remove(reference);
        let fresh = || Pulled { updated: Timestamp::now(), names: BTreeMap::new() };
        let pulled = state.pulled.entry(id.to_owned()).or_insert_with(fresh);
        pulled.updated = Timestamp::now();
        let access = pulled.names.entry(repository.to_owned()).or_default();
        match secret {
            None => *access = Access { everyone: true, secrets: Vec::new() },
            Some(secret) if !access.everyone => remember(access, secret),
            Some(_) => {}
        }
        self.save(&state);
    }

    /// Forgets images that were not on the node any more at that time, given the ids and names of those that were.
    pub fn prune(&self, ids: &BTreeSet<&str>, names: &BTreeSet<&str>, at: Timestamp) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let before = (state.pulled.len(), state.unfinished.len());
        state.pulled.retain(|id, pulled| pulled.updated >= at || ids.contains(id.as_str()));
        state.unfinished.retain(|name| names.contains(name.as_str()));
        if before != (state.pulled.len(), state.unfinished.len()) {
            self.save(&state);
        }
    }

    fn save(&self, state: &State) {
        let unfinished = state.unfinished.iter().chain(state.running.keys()).cloned().collect();
        let written = State { version: VERSION, pulled: state.pulled.clone(), unfinished, ..State::default() };
        let saved = serde_json::to_vec(&written).map_err(io::Error::other);
        if let Err(error) = saved.and_then(|bytes| checkpoint::write(&self.directory, FILE, &bytes)) {
            tracing::warn!(%error, "who may use which image could not be written: free some space in the data directory");
        }
    }
}

fn end(state: &mut State, reference: &str) {
    if let Some(count) = state.running.get_mut(reference) {
        *count -= 1;
        if *count == 0 {
            state.running.remove(reference);
        }
    }
}

/// The newest login of a secret stands for it.
fn remember(access: &mut Access, secret: PullSecret) {
    access.secrets.retain(|known| !known.is_same_object(&secret));
    if access.secrets.len() < SECRETS_MAX {
        access.secrets.push(secret);
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    const NAME: &str = "r.example/app:1";
    const REPOSITORY: &str = "r.example/app";

    fn secret(uid: &str, hash: &str) -> PullSecret {
        PullSecret { uid: uid.into(), namespace: "d".into(), name: uid.into(), hash: hash.into() }
    }

    #[test]
    fn an_image_serves_who_could_pull_it() {
        let directory = tempfile::tempdir().unwrap();
        let records = PullRecords::open(directory.path()).unwrap();
        let may = |records: &PullRecords, secrets: &[PullSecret]| records.allows("id", NAME, REPOSITORY, secrets);
        assert!(may(&records, &[]), "what was there before is free");
        records.begin(NAME);
        assert!(!may(&records, &[]), "nobody knows yet what it took");
        records.pulled("id", NAME, REPOSITORY, Some(secret("one", "h1")));
        // Each state has to hold after a restart as well.
        for records in [&records, &PullRecords::open(directory.path()).unwrap()] {
            assert!(!may(records, &[]) && !may(records, &[secret("other", "h2")]));
            assert!(may(records, &[secret("other", "h2"), secret("one", "h1")]));
            assert!(may(records, &[secret("copy", "h1")]), "the same login in another secret");
            assert!(may(records, &[secret("one", "h3")]), "the same secret with another login");
            assert!(
                !records.allows("id", "r.example/copy:1", "r.example/copy", &[secret("one", "h1")]),
                "another name"
            );
        }
        assert!(may(&records, &[secret("third", "h3")]), "what was seen of a secret counts from then on");
        records.pulled("id", NAME, REPOSITORY, None);
        assert!(may(&records, &[]), "whoever asks may have it");
        records.pulled("id", NAME, REPOSITORY, Some(secret("one", "h1")));
        assert!(may(&records, &[]), "and that stays");
    }

    #[test]
    fn a_pull_without_an_end_leaves_something_to_verify() {
        let directory = tempfile::tempdir().unwrap();
        PullRecords::open(directory.path()).unwrap().begin(NAME);
        let records = PullRecords::open(directory.path()).unwrap();
        assert!(!records.allows("id", NAME, REPOSITORY, &[secret("one", "h1")]));
        records.begin(NAME);
        records.failed(NAME);
        assert!(!records.allows("id", NAME, REPOSITORY, &[]), "a failure tells nothing of what is there");
        let later = Timestamp::MAX;
        records.prune(&BTreeSet::new(), &BTreeSet::from([NAME]), later);
        assert!(!records.allows("id", NAME, REPOSITORY, &[]));
        records.prune(&BTreeSet::new(), &BTreeSet::new(), later);
        assert!(records.allows("id", NAME, REPOSITORY, &[]), "it is gone: the next of that name is another");
        records.pulled("id", NAME, REPOSITORY, Some(secret("one", "h1")));
        records.prune(&BTreeSet::new(), &BTreeSet::new(), Timestamp::UNIX_EPOCH);
        assert!(!records.allows("id", NAME, REPOSITORY, &[]), "younger than the list of images");
        fs::write(directory.path().join("pulled-images.json"), r#"{"version": 2, "pulled": {}, "unfinished": []}"#)
            .unwrap();
        assert!(PullRecords::open(directory.path()).is_err(), "a newer version");
    }
}
