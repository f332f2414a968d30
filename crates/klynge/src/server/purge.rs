//! Removing everything of a cluster from a machine whose server is stopped.

use super::addresses::Ranges;
use super::agent;
use super::own_range;
use crate::cli::{Failure, Global, records};
use network::cni;
use network::dns::process;
use network::netlink::NetworkNamespace;
use network::pod_net;
use network::{policy, services, wireguard};
use runtime::Runtime;
use std::net::IpAddr;
use std::path::PathBuf;

/// Containers, control groups, interfaces, nftables, sysctls, images; the rest of the data directory is the caller's.
pub(crate) fn purge(global: &Global) -> Result<(), Failure> {
    let failed = |what: &str, error: &dyn std::fmt::Display| Failure::Failed(format!("cannot remove {what}: {error}"));
    if records(global).exists() {
        // While the pods' namespaces are there: plug-ins look into them.
        let options = cni::Options { configuration: PathBuf::new(), programs: Vec::new(), records: records(global) };
        let purged = cni::Plugins::open(options).and_then(|plugins| plugins.purge());
        let what = format!(
            "what CNI plug-ins attached ({}; to leave it behind, remove {})",
            cni::PURGE_HINT,
            records(global).display()
        );
        purged.map_err(|error| failed(&what, &error))?;
        // The directory is empty; if it is not, the rest of the data directory goes with it.
        let _ = std::fs::remove_dir(records(global));
    }
    if global.data_dir.join("agent").exists() {
        let beside = agent::beside_directory(global);
        process::end(&beside).map_err(|error| failed("cluster DNS", &error))?;
        wireguard::end(&beside).map_err(|error| failed("the encryption", &error))?;
        let threads = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let threads = threads.map_err(|error| failed("containers", &error))?;
        threads.block_on(async {
            let containers = Runtime::open(agent::runtime_options(global)).await;
            let containers = containers.map_err(|error| failed("containers", &error))?;
            containers.purge().await.map_err(|error| failed("containers", &error))
        })?;
        // Volumes in memory are mounts, which would keep the directory from being removed.
        let pods = global.data_dir.join("agent").join("pods");
        node::volumes::clean_up_all(&pods).map_err(|error| failed("the pods' volumes", &error))?;
    }
    let Some(ranges) = Ranges::load(&agent::ranges_path(global))? else { return Ok(()) };
    let Some(_claim) = agent::HostClaim::take().map_err(|error| failed("the network", &error))? else {
        return Ok(()); // another cluster's agent has the host's network, so nothing of this one is in it
    };
    let namespace = NetworkNamespace::current().map_err(|error| failed("the network", &error))?;
    services::purge(&namespace).map_err(|error| failed("load balancing", &error))?;
    policy::purge(&namespace).map_err(|error| failed("network policies", &error))?;
    let options = agent::network_options(global, &ranges, own_range::load(global), &[IpAddr::from([127, 0, 0, 1])])?;
    pod_net::purge(&options, &[agent::dns_address(&ranges)]).map_err(|error| failed("the pod network", &error))
}
