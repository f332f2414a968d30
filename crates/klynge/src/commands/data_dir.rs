//! The data directory as Klynge's own: it is marked before anything is put into it, and only what carries the mark is purged.

use crate::cli::Failure;
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;

/// The mark: a file with the format's number. A directory that it is put into held nothing under the names below.
const MARKER: &str = "klynge-data";
const FORMAT: &str = "1\n";

/// What is made in it with others' data at risk where they have the same names.
const GUARDED: [&str; 7] = ["store", "pki", "agent", "network", "logs", "uploads", "ranges"];
/// The rest of what is made in it.
const FILES: [&str; 8] = [
    "answering-hosts",
    "server.log",
    "server.pid",
    "up.sock",
    "agent.sock",
    "contexts.json",
    "kubeconfig",
    "kubeconfig.klynge-new",
];
/// What releases before the mark leave, each with a name that nobody else gives: any of them tells whose directory it is.
const SHAPES: [&[&str]; 5] = [
    &["store/FORMAT"],
    &["pki/FORMAT"],
    &["agent/identity.json"],
    &["agent/own-range"],
    // A first start that failed early.
    &["server.pid", "server.log"],
];

fn holds(directory: &Path, name: &str) -> bool {
    directory.join(name).symlink_metadata().is_ok()
}

/// True for the data directory of a server or an agent, also of one that was only begun.
pub(crate) fn is_ours(directory: &Path) -> bool {
    holds(directory, MARKER) || SHAPES.iter().any(|names| names.iter().all(|name| holds(directory, name)))
}

fn is_empty(directory: &Path) -> bool {
    fs::read_dir(directory).is_ok_and(|mut entries| entries.next().is_none())
}

fn refuse_file(directory: &Path) -> Result<(), Failure> {
    if directory.exists() && !directory.is_dir() {
        return Err(Failure::Usage(format!(
            "the data directory {} is not a directory; give another with --data-dir",
            directory.display()
        )));
    }
    Ok(())
}

/// Makes it where it is missing, for root only since keys and pods' logs are below it, and marks it.
pub(crate) fn prepare(directory: &Path) -> Result<(), Failure> {
    refuse_file(directory)?;
    let failed =
        |error: io::Error| Failure::Failed(format!("cannot make the data directory {}: {error}", directory.display()));
    fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(failed)?;
    if holds(directory, MARKER) {
        return Ok(());
    }
    if !is_ours(directory)
        && let Some(name) = GUARDED.iter().find(|name| holds(directory, name))
    {
        return Err(Failure::Usage(format!(
            "{} holds {name}, which Klynge did not make; give an empty directory with --data-dir",
            directory.display()
        )));
    }
    fs::write(directory.join(MARKER), FORMAT).map_err(failed)
}

/// Refuses to purge what is not ours; an empty or missing directory is fine.
pub(crate) fn check_purge(directory: &Path) -> Result<(), Failure> {
    refuse_file(directory)?;
    if !directory.exists() || is_empty(directory) || is_ours(directory) {
        return Ok(());
    }
    Err(Failure::Usage(format!(
        "{} is not the data directory of a Klynge server or agent (it has no {MARKER}, no store and no identity), so nothing in \
         it is removed; the right one is given with --data-dir",
        directory.display()
    )))
}

/// Removes what Klynge made, then the directory if it is empty; the names of what is left, at most ten. The mark goes last, so that
/// a purge that was cut short can be done again.
pub(crate) fn remove(directory: &Path) -> Result<Vec<String>, Failure> {
    check_purge(directory)?;
    for name in GUARDED.iter().chain(&FILES).chain(&[MARKER]) {
        remove_entry(&directory.join(name))?;
    }
    match fs::remove_dir(directory) {
        Ok(()) => return Ok(Vec::new()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(_) => {} // what is left is told
    }
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut left: Vec<String> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    left.sort();
    if left.is_empty() {
        // A mount point, or a link to a directory.
        left.push("the empty directory itself".to_owned());
    }
    left.truncate(10);
    Ok(left)
}

fn remove_entry(path: &Path) -> Result<(), Failure> {
    let is_directory = path.symlink_metadata().is_ok_and(|found| found.is_dir());
    let outcome = if is_directory { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    match outcome {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Failure::Failed(format!("cannot remove {}: {error}", path.display())))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn below(files: &[&str]) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        for file in files {
            let path = directory.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "x").unwrap();
        }
        directory
    }

    #[test]
    fn only_marked_directories_are_purged() {
        for foreign in [&["a"][..], &["logs/mine"], &["store/a", "agent/b"], &["server.log"]] {
            let directory = below(foreign);
            let refused = remove(directory.path()).unwrap_err();
            assert!(matches!(refused, Failure::Usage(_)), "{foreign:?}: {refused}");
            assert!(foreign.iter().all(|file| directory.path().join(file).exists()), "{foreign:?}");
        }
        let old = ["store/FORMAT", "pki/FORMAT", "agent/identity.json", "agent/own-range"];
        for ours in old.map(|one| vec![one]).into_iter().chain([vec!["server.pid", "server.log"], vec![]]) {
            let directory = below(&ours);
            assert_eq!(remove(directory.path()).unwrap(), Vec::<String>::new(), "{ours:?}");
            assert!(!directory.path().exists(), "{ours:?}");
        }
        assert!(remove(Path::new("/nowhere/at/all")).unwrap().is_empty());
    }

    #[test]
    fn what_others_put_there_stays() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("data");
        prepare(&path).unwrap();
        prepare(&path).unwrap();
        for file in ["mine", "logs", "ranges"] {
            fs::write(path.join(file), "x").unwrap();
        }
        assert_eq!(remove(&path).unwrap(), ["mine"]);
        assert!(path.join("mine").exists());
        assert!(matches!(remove(&path), Err(Failure::Usage(_))), "the mark is gone with the rest");
    }

    #[test]
    fn a_directory_with_names_of_others_is_not_taken() {
        let directory = below(&["logs/mine"]);
        assert!(matches!(prepare(directory.path()), Err(Failure::Usage(_))));
        assert!(!is_ours(directory.path()));
        let file = directory.path().join("logs/mine");
        assert!(matches!(prepare(&file), Err(Failure::Usage(_))));
        assert!(matches!(check_purge(&file), Err(Failure::Usage(_))));
    }
}
