//! `klynge up`: the server in the background, its cluster in the user's kubeconfig, and what to try next.

use super::cluster::Cluster;
use super::kubeconfig::{self, Invoker};
use super::{contexts, data_dir};
use crate::cli::{Arguments, Command, Failure, Global, Output, ServerArguments, UpArguments};
use crate::server;
use crate::service::{self, READY_TIMEOUT, daemon, systemd};
use clap::Parser as _;
use std::time::{Duration, Instant};

pub(crate) fn run(global: &Global, arguments: &UpArguments, output: &Output) -> Result<(), Failure> {
    Failure::unless_root("klynge up")?;
    let begun = Instant::now();
    if !global.data_dir.exists() {
        server::check(global, &arguments.server)?; // a wrong command line leaves no trace
    }
    data_dir::prepare(&global.data_dir)?;
    if already_up(global)? {
        output.progress("the cluster is up already");
        tell_ignored(global, &arguments.server, output);
    } else {
        server::check(global, &arguments.server)?;
        service::start(&global.data_dir, &words(global, &arguments.server), output)?;
        output.progress(&format!("ready after {:.2} s", begun.elapsed().as_secs_f64()));
    }
    let ours = kubeconfig::read(&kubeconfig::admin_path(global))?
        .ok_or_else(|| Failure::Failed("the server wrote no kubeconfig; see its log".to_owned()))?;
    let user = Invoker::find();
    let path = user.kubeconfig();
    let name = contexts::enter(&global.data_dir, &path, &ours, user.ids, true)?;
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

/// Says which of the options that were given the running server does not go by.
fn tell_ignored(global: &Global, server: &ServerArguments, output: &Output) {
    let running = if systemd::present() { systemd::words() } else { daemon::words(&global.data_dir) };
    let Some(running) = running else { return };
    let Ok(plain) = Arguments::try_parse_from(["klynge", "up"]) else { return };
    let Command::Up(plain) = plain.command else { return };
    let ignored = ignored(&words(global, server), &words(global, &plain.server), &running);
    if !ignored.is_empty() {
        output.progress(&format!(
            "it goes on with the options that it was started with, without {}; `klynge down`, then `klynge up` with the new ones \
             changes them (pods go on)",
            ignored.join(" ")
        ));
    }
}

/// The options of `wanted` that were given, so differ from the plain ones, and are not among those of `running`.
fn ignored(wanted: &[String], plain: &[String], running: &[String]) -> Vec<String> {
    let options = |words: &[String]| -> Vec<String> {
        let mut options: Vec<String> = Vec::new();
        for word in words.iter().skip(1) {
            match options.last_mut().filter(|last| !word.starts_with("--") && !last.contains(' ')) {
                Some(last) => *last = format!("{last} {word}"),
                None => options.push(word.clone()),
            }
        }
        options
    };
    let (plain, running) = (options(plain), options(running));
    options(wanted).into_iter().filter(|one| !plain.contains(one) && !running.contains(one)).collect()
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
    // What the cluster was made with needs no repetition, then and later.
    let kept = crate::server::Ranges::kept(global).ok().flatten();
    let is_kept = |given: &str, kept: &[network::Prefix]| given == crate::server::joined(kept);
    if let Some(range) = &server.pod_cidr
        && !kept.as_ref().is_some_and(|kept| is_kept(range, &kept.pods))
    {
        option("--pod-cidr", range.clone());
    }
    if let Some(range) = &server.service_cidr
        && !kept.as_ref().is_some_and(|kept| is_kept(range, &kept.services))
    {
        option("--service-cidr", range.clone());
    }
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
    words.extend(server.pod_network.words());
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_that_a_running_server_does_not_have_are_named() {
        let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let plain = words("server --data-dir /d --port 6443 --kubelet-port 10250");
        let wanted = words("server --data-dir /d --port 7443 --kubelet-port 10250 --no-agent");
        assert_eq!(ignored(&wanted, &plain, &plain), ["--port 7443", "--no-agent"]);
        assert_eq!(ignored(&wanted, &plain, &wanted), Vec::<String>::new());
        assert_eq!(ignored(&plain, &plain, &wanted), Vec::<String>::new(), "nothing was asked for");
    }
}
