//! The node: puts the agent, the machine's presence, the feed and the endpoints together.

use crate::agent::{
    Api, Containers, Dispatcher, NodeBackend, Paths, PodNetwork, PodRegistry, PullRecords, Recorder, References,
    Shared, Tasks, Tokens,
};
use crate::feed::{
    Announcing, Beside, CLUSTER_DNS, ENCRYPTION, Encryption, Feed, PolicyFeed, Sinks, keep_dns_config, keep_peers,
    keep_vigil, tell_health,
};
use crate::lifecycle::{Allocatable, NodeAddresses, Requests};
use crate::machine::{
    Contact, Facts, ImageThresholds, Machine, MachineOptions, Thresholds, renew_lease, stop_when_cut_off,
};
use crate::streaming::{Backend, Gate, serve};
use crate::volumes::HostDns;
use client::ClusterClient;
use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, RwLock};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream};
use tokio::sync::{Semaphore, watch};

/// What a node is made of.
pub struct Options {
    /// The cluster, as `system:node:NAME` of the group `system:nodes`.
    pub client: Arc<dyn ClusterClient>,
    /// The runtime.
    pub containers: Arc<dyn Containers>,
    /// The pod network.
    pub network: Arc<dyn PodNetwork>,
    /// Load balancing; None leaves Services alone.
    pub services: Option<network::services::Handle>,
    /// Announces addresses of load balancers; None leaves that to others.
    pub announcer: Option<network::announce::Handle>,
    /// The subnets where it can be heard.
    pub subnets: Vec<String>,
    /// Cluster DNS; None leaves it alone.
    pub dns: Option<Arc<network::dns::process::Handle>>,
    /// Network policies; None leaves them alone. The pod network has to know them, too.
    pub policies: Option<network::policy::Handle>,
    /// The node's name.
    pub name: String,
    /// The host name.
    pub hostname: String,
    /// Addresses, the primary one first.
    pub addresses: Vec<IpAddr>,
    /// More labels of the Node.
    pub labels: BTreeMap<String, String>,
    /// The agent's data directory.
    pub data_directory: PathBuf,
    /// Pods' logs; upstream's is /var/log/pods.
    pub log_directory: PathBuf,
    /// The node's pod ranges.
    pub pod_ranges: Vec<String>,
    /// Pods that the node takes.
    pub pods_max: i64,
    /// The port of the kubelet-compatible endpoints; 0 where there is none on the network.
    pub endpoint_port: u16,
    /// Resolver settings: the cluster's server and domain, and the host's.
    pub resolvers: HostDns,
    /// Pulls at the same time.
    pub pulls_max: usize,
    /// Sandboxes and containers that are started at the same time.
    pub starts_max: usize,
    /// When the machine is short.
    pub thresholds: Thresholds,
    /// When images are removed.
    pub image_thresholds: ImageThresholds,
    /// How what goes between nodes is encrypted; None where nothing is.
    pub encryption: Option<Encryption>,
    /// How the process is that encrypts in user space; None where the kernel does.
    pub encryption_health: Option<watch::Receiver<network::process::Health>>,
    /// Whether a Node object that somebody deletes is made again; else its deletion takes the machine out of the cluster.
    pub registers_again: bool,
    /// What is heard of the server on the heartbeat; None where the server is this process.
    pub contact: Option<Arc<Contact>>,
    /// The version that is shown, such as `v1.37.0+klynge.0.1.0`.
    pub version: String,
}

/// A running node. Dropping it stops the agent; what runs goes on.
pub struct Node {
    backend: Arc<dyn Backend>,
    registry: PodRegistry,
    registered: watch::Receiver<bool>,
    removed: watch::Receiver<bool>,
    tasks: Tasks,
}

impl Drop for Node {
    fn drop(&mut self) {
        self.tasks.abort();
    }
}

impl Node {
    /// Takes up what ran before and starts everything. Does not wait for the API.
    ///
    /// # Errors
    /// A data directory that cannot be used, or checkpoints of a newer version.
    pub async fn start(options: Options) -> io::Result<Node> {
        let data = options.data_directory.clone();
        std::fs::create_dir_all(&data)?;
        std::fs::create_dir_all(&options.log_directory)?;
        let facts = Facts::read(&data);
        let api = Api(Arc::clone(&options.client));
        let tasks = Tasks::default();
        let recorder = Recorder::start(&tasks, api.clone(), options.name.clone());
        let (references, changed) = References::new(Arc::clone(&options.client), tasks.clone());
        let dns_health = options.dns.as_ref().map(|dns| dns.health());
        let all = [(&CLUSTER_DNS, dns_health), (&ENCRYPTION, options.encryption_health)];
        let beside = all.into_iter().filter_map(|(words, health)| Some(Beside { words, health: health? }));
        let beside: Vec<Beside> = beside.collect();
        for one in &beside {
            tasks.spawn(tell_health(one.clone(), recorder.clone(), options.name.clone()));
        }
        let shared = Arc::new(Shared {
            tasks: tasks.clone(),
            tokens: Tokens::new(api.clone()),
            api: api.clone(),
            containers: options.containers,
            network: options.network,
            pull_records: PullRecords::open(&data)?,
            recorder,
            references,
            paths: Paths { data: data.clone(), logs: options.log_directory },
            node: options.name.clone(),
            addresses: NodeAddresses(options.addresses.clone()),
            dns: options.resolvers,
            pulls: Semaphore::new(options.pulls_max.max(1)),
            starts: Semaphore::new(options.starts_max.max(1)),
            serving: Arc::default(),
            services: watch::channel(None).0,
            labels: RwLock::default(),
            pressures: RwLock::default(),
            size: (facts.cpus.saturating_mul(1000), facts.memory_bytes, facts.ephemeral_bytes),
        });
        let offered = Allocatable {
            requests: Requests {
                cpu_milli: facts.cpus.saturating_mul(1000),
                memory_bytes: facts.memory_bytes,
                ephemeral_bytes: facts.ephemeral_bytes,
            },
            pods: options.pods_max,
        };
        if let Some(dns) = &options.dns {
            let kept = data.join("dns.json");
            tasks.spawn(keep_dns_config(Arc::clone(&options.client), Arc::clone(dns), kept));
        }
        // Services first: pods that go on need their addresses at once.
        let for_links = Arc::clone(&shared);
        let sinks = Sinks {
            services: options.services,
            announcing: options.announcer.map(|handle| Announcing::new(handle, shared.recorder.clone())),
            dns: options.dns,
            serving: Arc::clone(&shared.serving),
            links: Box::new(move |links| drop(for_links.services.send_replace(Some(links)))),
        };
        let feed = Feed::new(options.name.clone(), sinks, data.join("services.json"));
        // Upstream's nodes may not read endpoints; its proxy may. Where the client can say so, the feed is the proxy.
        let as_proxy = options.client.acting_as("system:kube-proxy", &["system:authenticated"]);
        let (tell_absent, absent) = watch::channel(Arc::default());
        let (tell_hosts, hosts) = watch::channel(BTreeMap::new());
        tasks.spawn(feed.run(as_proxy.unwrap_or_else(|| Arc::clone(&options.client)), absent));
        if let Some(policies) = options.policies {
            let feed = PolicyFeed::new(policies, data.join("policies.json"));
            tasks.spawn(feed.run(Arc::clone(&options.client)));
        }
        let (own_name, client) = (options.name.clone(), Arc::clone(&options.client));
        tasks.spawn(keep_peers(own_name, client, Arc::clone(&shared.network), tell_hosts, shared.recorder.clone()));
        let dispatcher = Dispatcher::recover(Arc::clone(&shared), offered).await?;
        let registry = dispatcher.registry();
        let machine_options = MachineOptions {
            name: options.name.clone(),
            hostname: options.hostname,
            labels: options.labels,
            addresses: options.addresses,
            pods_max: options.pods_max,
            pod_ranges: options.pod_ranges,
            endpoint_port: options.endpoint_port,
            version: options.version,
            thresholds: options.thresholds,
            image_thresholds: options.image_thresholds,
            registers_again: options.registers_again,
            encryption: options.encryption,
            beats: options.contact.is_some(),
            subnets: options.subnets,
            beside,
        };
        tasks.spawn(keep_vigil(options.contact.clone(), hosts, tell_absent, data.join("hosts.json")));
        if let Some(contact) = options.contact {
            tasks.spawn(stop_when_cut_off(contact, registry.clone()));
        }
        let mut machine =
            Machine::new(machine_options, facts, Arc::clone(&shared), registry.clone(), dispatcher.resync());
        let removed = machine.removed();
        let (tell_registered, registered) = watch::channel(false);
        let name = options.name;
        tasks.spawn(async move {
            let uid = machine.register().await;
            let _ = tell_registered.send(true);
            tokio::join!(machine.run(), renew_lease(api, name, uid));
        });
        tasks.spawn(dispatcher.run(changed));
        let backend: Arc<dyn Backend> = Arc::new(NodeBackend::new(shared, registry.clone()));
        Ok(Node { backend, registry, registered, removed, tasks })
    }

    /// Waits until the Node object is there and says Ready.
    pub async fn registered(&self) {
        let _ = self.registered.clone().wait_for(|registered| *registered).await;
    }

    /// Waits until the Node object was deleted (never, where it is made again).
    pub async fn removed(&self) {
        if self.removed.clone().wait_for(|removed| *removed).await.is_err() {
            // The machine's presence ended without that: the node is being stopped.
            std::future::pending::<()>().await;
        }
    }

    /// An HTTP/1.1 connection to the node's endpoints, inside the process.
    #[must_use]
    pub fn connection(&self) -> DuplexStream {
        let (ours, theirs) = tokio::io::duplex(256 << 10);
        self.serve(theirs);
        ours
    }

    /// Serves the node's endpoints on a connection whose client was authenticated and authorised by the caller.
    pub fn serve(&self, connection: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
        self.tasks.spawn(serve(connection, None, Arc::clone(&self.backend), self.tasks.clone()));
    }

    /// Serves the node's endpoints on a connection of anybody's until it ends; `gate` judges each of its requests.
    pub async fn serve_gated(
        &self,
        connection: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        gate: Arc<dyn Gate>,
    ) {
        serve(connection, Some(gate), Arc::clone(&self.backend), self.tasks.clone()).await;
    }

    /// The node's pods.
    #[must_use]
    pub fn pods(&self) -> PodRegistry {
        self.registry.clone()
    }

    /// Stops the agent and leaves every container running. All its tasks have ended afterwards, but for blocking work that
    /// takes longer than some seconds.
    pub async fn stop(&self) {
        self.tasks.stop().await;
    }
}
