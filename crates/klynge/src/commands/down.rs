//! `klynge down`: stops the server; with --purge nothing of the cluster stays on the machine.

use super::kubeconfig::{self, Invoker};
use crate::cli::{DownArguments, Failure, Global, Output};
use crate::server;
use crate::service::{daemon, systemd};
use std::fs;
use std::io;
use std::time::Duration;

const STOP_TIMEOUT: Duration = Duration::from_secs(30);

pub(crate) fn run(global: &Global, arguments: &DownArguments, output: &Output) -> Result<(), Failure> {
    Failure::unless_root("klynge down")?;
    let mut stopped = false;
    if systemd::present() && systemd::installed() {
        systemd::stop(arguments.purge)?;
        stopped = true;
    }
    stopped |= daemon::stop(&global.data_dir, STOP_TIMEOUT)?;
    output.progress(if stopped { "the server is stopped" } else { "no server was running" });
    if !arguments.purge {
        output.line(
            "Containers go on running; `klynge up` takes them up again, `klynge down --purge` removes everything.",
        );
        return Ok(());
    }
    let admin = kubeconfig::admin_path(global);
    if let Some(ours) = kubeconfig::read(&admin)? {
        let user = Invoker::find();
        kubeconfig::remove_from_file(&user.kubeconfig(), &ours, user.ids)?;
    }
    server::purge(global)?;
    for path in [&admin, &global.data_dir] {
        remove(path)?;
    }
    output.line("Everything of the cluster is removed.");
    Ok(())
}

fn remove(path: &std::path::Path) -> Result<(), Failure> {
    let outcome = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    match outcome {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Failure::Failed(format!("cannot remove {}: {error}", path.display())))
        }
        _ => Ok(()),
    }
}
