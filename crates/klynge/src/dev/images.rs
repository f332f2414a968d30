//! `klynge dev image import`: an archive to every node that runs, all at once.

use super::machine::{Condition, Machine};
use super::record::Record;
use crate::cli::{Failure, Output};
use crate::commands::image;
use std::path::{Path, PathBuf};

/// Refuses files that cannot be read, before anything is made.
pub(super) fn check(files: &[PathBuf]) -> Result<(), Failure> {
    for file in files {
        if file == Path::new("-") {
            return Err(Failure::Usage("an archive for several nodes cannot come from stdin; give a file".to_owned()));
        }
        std::fs::File::open(file)
            .map_err(|error| Failure::Usage(format!("cannot open the archive {}: {error}", file.display())))?;
    }
    Ok(())
}

/// Gives the archive's images to all nodes.
pub(super) fn give(record: &Record, file: &Path, output: &Output) -> Result<(), Failure> {
    check(&[file.to_owned()])?;
    let machines: Vec<Machine<'_>> = record.numbers().map(|number| Machine { record, number }).collect();
    let (up, away): (Vec<Machine<'_>>, Vec<Machine<'_>>) =
        machines.into_iter().partition(|machine| machine.condition() == Condition::Ready);
    if up.is_empty() {
        return Err(Failure::Failed(format!("no node of cluster {} is ready; see `klynge dev status`", record.name)));
    }
    let outcomes: Vec<(String, Result<Vec<String>, Failure>)> = std::thread::scope(|scope| {
        let threads: Vec<_> = up
            .iter()
            .map(|machine| (machine.name(), scope.spawn(|| image::import(&record.global(machine.number), file))))
            .collect();
        let joined = threads.into_iter().map(|(name, thread)| {
            let outcome = thread.join();
            (name, outcome.unwrap_or_else(|_| Err(Failure::Failed("the import panicked".to_owned()))))
        });
        joined.collect()
    });
    let mut names = Vec::new();
    for (node, outcome) in outcomes {
        names = outcome.map_err(|failure| Failure::Failed(format!("node {node}: {failure}")))?;
    }
    names.iter().for_each(|name| output.line(name));
    for machine in away {
        output.progress(&format!("node {} is not ready and has not got it", machine.name()));
    }
    Ok(())
}
