//! `klynge down`: stops the server; with --purge nothing of the cluster stays on the machine.

use super::kubeconfig::{self, Invoker};
use super::{contexts, data_dir};
use crate::cli::{DownArguments, Failure, Global, Output};
use crate::server;
use crate::service::{daemon, systemd};
use std::path::Path;
use std::time::Duration;
use store::embedded::locked_by;

const STOP_TIMEOUT: Duration = Duration::from_secs(30);

pub(crate) fn run(global: &Global, arguments: &DownArguments, output: &Output) -> Result<(), Failure> {
    Failure::unless_root("klynge down")?;
    if arguments.purge {
        data_dir::check_purge(&global.data_dir)?;
    }
    let mut stopped = false;
    if systemd::present() && systemd::installed() {
        systemd::stop(arguments.purge)?;
        stopped = true;
    }
    stopped |= daemon::stop(&global.data_dir, STOP_TIMEOUT)?;
    refuse_foreground(&global.data_dir)?;
    output.progress(if stopped { "the server is stopped" } else { "no server was running" });
    if !arguments.purge {
        output.line(
            "Containers go on running; `klynge up` takes them up again, `klynge down --purge` removes everything.",
        );
        return Ok(());
    }
    if let Some(ours) = kubeconfig::read(&kubeconfig::admin_path(global))? {
        let user = Invoker::find();
        let mut others = vec![user.kubeconfig()];
        others.extend(global.kubeconfig.clone());
        contexts::leave(&global.data_dir, &others, &ours, user.ids)?;
    }
    server::purge(global)?;
    let left = data_dir::remove(&global.data_dir)?;
    output.line("Everything of the cluster is removed.");
    if !left.is_empty() {
        output.line(&format!(
            "{} stays: Klynge did not make what is in it ({}).",
            global.data_dir.display(),
            left.join(", ")
        ));
    }
    Ok(())
}

/// A server or an agent that somebody has started without `up` or `--background` is not ended, and nothing is taken away from under it.
fn refuse_foreground(data_dir: &Path) -> Result<(), Failure> {
    for (what, part) in [("server", "store"), ("agent", "agent")] {
        let Some(process) = locked_by(&data_dir.join(part)) else { continue };
        let process = if process == 0 { String::new() } else { format!(" (process {process})") };
        return Err(Failure::Failed(format!(
            "a `klynge {what}`{process} that was not started in the background runs on {}: end it where it was started, by Ctrl-C or \
             SIGTERM, then call `klynge down` again; a node of `klynge dev` ends with `klynge dev down`",
            data_dir.display()
        )));
    }
    Ok(())
}
