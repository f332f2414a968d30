//! The pod network behind the agent's seam. Its calls block on netlink, so they run on threads for blocking work.

use crate::agent::{Connected, PodNetwork};
use crate::bandwidth;
use crate::feed::pod_state;
use async_trait::async_trait;
use k8s_openapi::api::core::v1::Pod;
use network::netlink::NetworkNamespace;
use network::pod_net::{HostPort, Peer, PodAttachment, interface_name};
use network::policy::{self, Change, LocalPod};
use network::services::TransportProtocol;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

/// The node's pod network, and the policies that hold in it.
#[derive(Clone)]
pub struct NetworkAdapter {
    network: Arc<Mutex<network::pod_net::PodNetwork>>,
    policies: Option<policy::Handle>,
}

impl NetworkAdapter {
    /// Over an opened pod network.
    #[must_use]
    pub fn new(network: network::pod_net::PodNetwork) -> Self {
        Self { network: Arc::new(Mutex::new(network)), policies: None }
    }

    /// With policies: no pod runs before its rules are in the kernel.
    #[must_use]
    pub fn with_policies(mut self, policies: Option<policy::Handle>) -> Self {
        self.policies = policies;
        self
    }

    /// The pod network, for what else has to be told to it (local addresses, purge).
    #[must_use]
    pub fn inner(&self) -> Arc<Mutex<network::pod_net::PodNetwork>> {
        Arc::clone(&self.network)
    }

    async fn with<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut network::pod_net::PodNetwork) -> Result<T, String> + Send + 'static,
    ) -> Result<T, String> {
        let network = Arc::clone(&self.network);
        let run = move || work(&mut network.lock().unwrap_or_else(PoisonError::into_inner));
        tokio::task::spawn_blocking(run).await.map_err(|error| error.to_string())?
    }
}

pub(crate) fn protocol(name: Option<&str>) -> TransportProtocol {
    match name {
        Some("UDP") => TransportProtocol::Udp,
        Some("SCTP") => TransportProtocol::Sctp,
        _ => TransportProtocol::Tcp,
    }
}

fn local_pod(pod: &Pod, uid: &str, addresses: Vec<IpAddr>) -> LocalPod {
    let state = policy::PodState { addresses, ..pod_state(pod) };
    LocalPod { uid: uid.to_owned(), interface: interface_name(uid), state }
}

/// The ports of the host that a pod asks for.
pub(super) fn host_ports(pod: &Pod) -> Vec<HostPort> {
    let spec = pod.spec.as_ref();
    let containers = spec.iter().flat_map(|spec| spec.init_containers.iter().flatten().chain(&spec.containers));
    let number = |port: i32| u16::try_from(port).ok();
    containers
        .flat_map(|container| container.ports.iter().flatten())
        .filter_map(|port| {
            Some(HostPort {
                protocol: protocol(port.protocol.as_deref()),
                host_ip: port
                    .host_ip
                    .as_deref()
                    .and_then(|ip| ip.parse().ok())
                    .filter(|ip: &IpAddr| !ip.is_unspecified()),
                host_port: number(port.host_port?).filter(|port| *port > 0)?,
                container_port: number(port.container_port)?,
            })
        })
        .collect()
}

fn attachment(pod: &Pod, uid: &str, pid: u32) -> Result<PodAttachment, String> {
    let namespace = NetworkNamespace::of_process(pid).map_err(|error| error.to_string())?;
    Ok(PodAttachment { uid: uid.to_owned(), namespace, host_ports: host_ports(pod) })
}

#[async_trait]
impl PodNetwork for NetworkAdapter {
    async fn attach(&self, pod: &Arc<Pod>, uid: &str, pid: u32) -> Result<Connected, String> {
        let bandwidth = bandwidth::of_pod(pod)?;
        let (object, name) = (Arc::clone(pod), uid.to_owned());
        let attach = move |network: &mut network::pod_net::PodNetwork| {
            let attachment = attachment(&object, &name, pid)?;
            let attached = network.attach(&attachment).map_err(|error| error.to_string())?;
            // A kernel without the queues is no reason to keep a pod from running.
            let unlimited = network.limit(&name, bandwidth).err().map(|error| error.to_string());
            Ok(Connected { addresses: attached.addresses, unlimited })
        };
        let connected = self.with(attach).await?;
        if let Some(policies) = &self.policies
            && let Err(error) = policies.admit(local_pod(pod, uid, connected.addresses.clone())).await
        {
            // The first error is the one to tell.
            let _ = self.detach(uid).await;
            return Err(error.to_string());
        }
        Ok(connected)
    }

    async fn detach(&self, uid: &str) -> Result<(), String> {
        let uid = uid.to_owned();
        // First, so that it is told before the address can be another pod's.
        if let Some(policies) = &self.policies {
            policies.update(vec![Change::Detached(uid.clone())]).map_err(|error| error.to_string())?;
        }
        self.with(move |network| network.detach(&uid).map_err(|error| error.to_string())).await
    }

    async fn set_peers(&self, peers: Vec<Peer>) -> Result<Vec<String>, String> {
        self.with(move |network| {
            let report = network.set_peers(&peers).map_err(|error| error.to_string())?;
            Ok(report.problems.iter().map(ToString::to_string).collect())
        })
        .await
    }

    async fn verify_peers(&self) -> Result<Vec<String>, String> {
        self.with(move |network| {
            let report = network.verify_peers().map_err(|error| error.to_string())?;
            Ok(report.problems.iter().map(ToString::to_string).collect())
        })
        .await
    }

    async fn verify_rules(&self) -> Result<(), String> {
        self.with(move |network| network.verify_rules().map(drop).map_err(|error| error.to_string())).await
    }

    async fn recover(&self, live: Vec<(Arc<Pod>, String, u32)>) -> Result<(), String> {
        let recovered = move |network: &mut network::pod_net::PodNetwork| {
            // A pod whose process went away meanwhile has no namespace any more: it is not live.
            let attachments: Vec<PodAttachment> =
                live.iter().filter_map(|(pod, uid, pid)| attachment(pod, uid, *pid).ok()).collect();
            network.recover(&attachments).map_err(|error| error.to_string())?;
            let local = live.iter().filter_map(|(pod, uid, _)| {
                let addresses = network.addresses_of(uid)?.to_vec();
                Some(local_pod(pod, uid, addresses))
            });
            Ok(local.collect())
        };
        let local = self.with(recovered).await?;
        match &self.policies {
            Some(policies) => policies.update(vec![Change::Recovered(local)]).map_err(|error| error.to_string()),
            None => Ok(()),
        }
    }
}
