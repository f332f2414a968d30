//! `klynge server`: control plane and node agent in one process, wired together.

mod addresses;
mod agent;
mod agent_socket;
mod authority;
mod cluster_facts;
mod encryption;
mod heartbeats;
mod own_range;
mod purge;
mod wiring;

pub(crate) use addresses::{Chosen, Ranges, advertised, check_held, joined, listed, node_addresses};
pub(crate) use agent::{Agent, AgentOptions, Prepared, beside_directory, ranges_path};
pub(crate) use cluster_facts::{ClusterFacts, NAME as CLUSTER_FACTS};
pub(crate) use own_range::forget as forget_own_range;
pub(crate) use purge::purge;
pub(crate) use wiring::check;

use crate::cli::{Failure, Global, ServerArguments};
use crate::commands::data_dir;
use std::io;
use tracing_subscriber::EnvFilter;

/// Runs until SIGTERM or SIGINT; containers go on running afterwards.
pub(crate) fn run(global: &Global, arguments: &ServerArguments) -> Result<(), Failure> {
    if !arguments.no_agent {
        Failure::unless_root("klynge server (without --no-agent)")?;
    }
    block_on(global, wiring::serve(global, arguments))
}

/// A node's name as given, or after the host.
pub(crate) fn checked_node_name(given: Option<&str>) -> Result<String, Failure> {
    match given {
        Some(name) => addresses::check_node_name(name)
            .map(|()| name.to_owned())
            .map_err(|why| Failure::Usage(format!("--node-name {name}: {why}"))),
        None => addresses::node_name(),
    }
}

/// Runs a long-lived command on threads of its own, with logging and the data directory set up.
pub(crate) fn block_on(global: &Global, work: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let filter = EnvFilter::try_from_env("KLYNGE_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_ansi(false);
    subscriber.init();
    data_dir::prepare(&global.data_dir)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .worker_threads(std::thread::available_parallelism().map_or(2, |cores| cores.get().clamp(2, 16)))
        .build()
        .map_err(|error| Failure::Failed(format!("cannot start threads: {error}")))?;
    runtime.block_on(work)
}
