//! CNI plug-ins behind the agent's seam. Programs run while its calls wait, so they wait on threads for blocking work.

use super::network::host_ports;
use crate::agent::{Connected, PodNetwork};
use crate::bandwidth;
use async_trait::async_trait;
use k8s_openapi::api::core::v1::Pod;
use network::cni::{Attachment, Error, Plugins, PortMapping};
use network::pod_net::{HostPort, Peer};
use network::services::TransportProtocol;
use std::collections::HashSet;
use std::sync::{Arc, Mutex};

/// A node whose pods are attached by CNI plug-ins.
#[derive(Clone)]
pub struct CniAdapter {
    plugins: Arc<Plugins>,
    /// The host's side that stays ours: the address of cluster DNS, the way to Services.
    _host: Arc<Mutex<network::pod_net::PodNetwork>>,
}

impl CniAdapter {
    /// Over plug-ins, beside a pod network without pods.
    #[must_use]
    pub fn new(plugins: Plugins, host: network::pod_net::PodNetwork) -> Self {
        Self { plugins: Arc::new(plugins), _host: Arc::new(Mutex::new(host)) }
    }

    async fn with<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Plugins) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, String> {
        let plugins = Arc::clone(&self.plugins);
        let done = tokio::task::spawn_blocking(move || work(&plugins)).await;
        done.map_err(|error| error.to_string())?.map_err(|error| error.to_string())
    }
}

fn mapping(port: &HostPort) -> PortMapping {
    let protocol = match port.protocol {
        TransportProtocol::Tcp => "tcp",
        TransportProtocol::Udp => "udp",
        TransportProtocol::Sctp => "sctp",
    };
    PortMapping { protocol, host_ip: port.host_ip, host_port: port.host_port, container_port: port.container_port }
}

#[async_trait]
impl PodNetwork for CniAdapter {
    async fn attach(&self, pod: &Arc<Pod>, uid: &str, pid: u32) -> Result<Connected, String> {
        let bandwidth = bandwidth::of_pod(pod)?;
        let text = |value: &Option<String>| value.clone().unwrap_or_default();
        let attachment = Attachment {
            uid: uid.to_owned(),
            namespace: text(&pod.metadata.namespace),
            name: text(&pod.metadata.name),
            process: pid,
            port_mappings: host_ports(pod).iter().map(mapping).collect(),
            ingress_bits_per_second: bandwidth.ingress_bits_per_second,
            egress_bits_per_second: bandwidth.egress_bits_per_second,
        };
        let attached = self.with(move |plugins| plugins.attach(&attachment)).await;
        let addresses = attached.map_err(|why| format!("failed to setup network for sandbox {uid:?}: {why}"))?;
        Ok(Connected { addresses, unlimited: None })
    }

    async fn detach(&self, uid: &str) -> Result<(), String> {
        let name = uid.to_owned();
        let detached = self.with(move |plugins| plugins.detach(&name)).await;
        detached.map_err(|why| format!("failed to destroy network for sandbox {uid:?}: {why}"))
    }

    // Ways between nodes are the plug-ins' matter.
    async fn set_peers(&self, _: Vec<Peer>) -> Result<Vec<String>, String> {
        Ok(Vec::new())
    }

    async fn verify_peers(&self) -> Result<Vec<String>, String> {
        Ok(Vec::new())
    }

    async fn verify_rules(&self) -> Result<(), String> {
        Ok(())
    }

    async fn recover(&self, live: Vec<(Arc<Pod>, String, u32)>) -> Result<(), String> {
        let live: HashSet<String> = live.into_iter().map(|(_, uid, _)| uid).collect();
        self.with(move |plugins| plugins.recover(|uid| live.contains(uid))).await
    }

    async fn readiness(&self) -> Result<(), String> {
        self.with(Plugins::readiness).await
    }

    fn detaches_first(&self) -> bool {
        true
    }
}
