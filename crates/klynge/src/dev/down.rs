//! `klynge dev down`: nothing of a cluster stays, whatever was killed or half made before; may be called again.

use super::arguments::DevDownArguments;
use super::lock::Lock;
use super::record::{self, Record};
use super::switch::Switch;
use super::{groups, namespace, plan};
use crate::cli::{Failure, Global, Output};
use crate::commands::kubeconfig::{self, Invoker};
use network::Prefix;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::Path;

/// Removes one cluster, or all.
pub(super) fn run(global: &Global, arguments: &DevDownArguments, output: &Output) -> Result<(), Failure> {
    let base = record::base(global);
    let names = if arguments.all { record::names(&base) } else { vec![arguments.name.name.clone()] };
    if names.is_empty() {
        output.line("There is no cluster.");
    }
    for name in names {
        plan::check_name(&name).map_err(Failure::Usage)?;
        if remove(&base, &name, output)? {
            output.line(&format!("Everything of the cluster {name} is removed."));
        } else {
            output.line(&format!("There is no cluster {name}."));
        }
    }
    Ok(())
}

/// True where there was something.
fn remove(base: &Path, name: &str, output: &Output) -> Result<bool, Failure> {
    let directory = record::directory(base, name);
    if !base.exists() {
        return Ok(false);
    }
    // Before the lock is taken: its file tells whose the directory is.
    refuse_foreign(base, name)?;
    let lock = Lock::of_cluster(base, name)?;
    if !directory.exists() {
        lock.remove(base);
        return Ok(false);
    }
    let record = match Record::load(&directory) {
        Ok(Some(record)) => record,
        // Killed before it wrote its record, or the file is damaged: what a cluster of this name has here is removed all the same.
        Ok(None) => guess(&directory, name)?,
        Err(failure) => {
            output.progress(&failure.to_string());
            guess(&directory, name)?
        }
    };
    if let Some(path) = &record.kubeconfig
        && let Some(ours) = kubeconfig::read(&record.own_kubeconfig())?
    {
        kubeconfig::remove_from_file(path, &ours, Invoker::find().ids, &record.kubeconfig_before, None)?;
    }
    // Another boot has left files alone.
    if record.boot_id == record::boot_id() {
        groups::kill(&record.hierarchies, &record.group, None)?;
        groups::remove(&record.hierarchies, &record.group, None)?;
        // With its namespace everything in it is gone as well.
        if let Some(namespace) = namespace::find(record.namespace) {
            let subnets = record.subnets().unwrap_or_default();
            let switch = Switch { name, directory: &directory, subnets, namespace: &namespace };
            switch.remove(record.nodes, record.former_forwarding.as_deref())?;
        }
    }
    match fs::remove_dir_all(&directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(Failure::Failed(format!(
                "cannot remove {}: {error}; call `klynge dev down --name {name}` again",
                directory.display()
            )));
        }
        _ => {}
    }
    lock.remove(base);
    Ok(true)
}

/// Refuses a directory that `dev up` did not make; a missing one is fine.
pub(super) fn refuse_foreign(base: &Path, name: &str) -> Result<(), Failure> {
    let directory = record::directory(base, name);
    if directory.symlink_metadata().is_err() || record::is_cluster(base, name) {
        return Ok(());
    }
    Err(Failure::Usage(format!(
        "{} is not a cluster that `klynge dev up` made, and is left as it is; choose another --name or --data-dir",
        directory.display()
    )))
}

fn nowhere() -> Prefix {
    Prefix::host(IpAddr::from([0, 0, 0, 0]))
}

/// A record of what a cluster of this name would have made from here.
fn guess(directory: &Path, name: &str) -> Result<Record, Failure> {
    let mut record = Record::new(directory.to_owned(), name, plan::NODES_MAX, nowhere());
    record.hierarchies = groups::detect()?;
    record.namespace = namespace::current()?.1;
    Ok(record)
}
