//! `klynge up`: the server in the background, its cluster in the user's kubeconfig, and what to try next.

use super::cluster::Cluster;
use super::kubeconfig::{self, Invoker};
use crate::cli::{Failure, Global, Output, ServerArguments, UpArguments};
use crate::service::{self, READY_TIMEOUT, daemon, systemd};
use std::fs;
use std::os::unix::fs::DirBuilderExt as _;
use std::time::{Duration, Instant};

pub(crate) fn run(global: &Global, arguments: &UpArguments, output: &Output) -> Result<(), Failure> {
    Failure::unless_root("klynge up")?;
    let begun = Instant::now();
    // Keys and pods' logs are below it: for root only, as where the server makes it.
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&global.data_dir);
    made.map_err(|error| Failure::Failed(format!("cannot make {}: {error}", global.data_dir.display())))?;
    if already_up(global)? {
        output.progress("the cluster is up already");
    } else {
        service::start(&global.data_dir, &words(global, &arguments.server), output)?;
        output.progress(&format!("ready after {:.2} s", begun.elapsed().as_secs_f64()));
    }
    let ours = kubeconfig::read(&kubeconfig::admin_path(global))?
        .ok_or_else(|| Failure::Failed("the server wrote no kubeconfig; see its log".to_owned()))?;
    let user = Invoker::find();
    let path = user.kubeconfig();
    let name = kubeconfig::merge_file(&path, &ours, user.ids)?;
    output.progress(&format!("context {name} added to {}", path.display()));
    output.line("The cluster is up. Try:");
    output.line("  kubectl get nodes");
    output.line("  klynge run web nginx --publish 80");
    output.line("  klynge status");
    Ok(())
}

/// Whether the server runs and serves. One that is still starting is waited for: a second one could only fail.
fn already_up(global: &Global) -> Result<bool, Failure> {
    // This machine's own cluster, not the one that the user's kubeconfig happens to point to.
    let own = Global { kubeconfig: Some(kubeconfig::admin_path(global)), ..global.clone() };
    let serves = || Cluster::connect(&own).is_ok_and(|cluster| cluster.ready());
    if systemd::present() {
        return Ok(systemd::installed() && serves());
    }
    let deadline = Instant::now() + READY_TIMEOUT;
    while let Some(process) = daemon::running(&global.data_dir) {
        if serves() {
            return Ok(true);
        }
        if Instant::now() > deadline {
            return Err(Failure::TimedOut(format!(
                "the server (process {}) runs but is not ready after {} s; see {}, or stop it with `klynge down`",
                process.as_raw_nonzero(),
                READY_TIMEOUT.as_secs(),
                daemon::log_path(&global.data_dir).display()
            )));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(false)
}

/// The command line of `klynge server` for these options.
fn words(global: &Global, server: &ServerArguments) -> Vec<String> {
    let mut words = vec!["server".to_owned()];
    let mut option = |name: &str, value: String| words.extend([name.to_owned(), value]);
    option("--data-dir", global.data_dir.display().to_string());
    if let Some(path) = &global.kubeconfig {
        option("--kubeconfig", path.display().to_string());
    }
    option("--bind", server.bind.to_string());
    option("--port", server.port.to_string());
    option("--kubelet-port", server.kubelet_port.to_string());
    option("--pod-cidr", server.pod_cidr.clone());
    option("--service-cidr", server.service_cidr.clone());
    if !server.advertise.is_empty() {
        option("--advertise", crate::server::listed(&server.advertise));
    }
    for name in &server.tls_san {
        option("--tls-san", name.clone());
    }
    if let Some(name) = &server.node_name {
        option("--node-name", name.clone());
    }
    if server.no_agent {
        words.push("--no-agent".to_owned());
    }
    if server.fast_failover {
        words.push("--fast-failover".to_owned());
    }
    words
}
