//! The node agent of this process: containers, network and the kubelet's role, and how the API reaches it.

use super::addresses::Ranges;
use super::agent_socket::AgentSocket;
use super::encryption;
use super::own_range;
use super::wiring::CLUSTER_DOMAIN;
use crate::cli::{DEFAULT_DATA_DIR, Failure, Global, records};
use crate::kubelet::{self, KubeletPort};
use api::{Connection, NodeConnector};
use async_trait::async_trait;
use client::ClusterClient;
use network::cni::{self, Plugins};
use network::dns::process::{self, Process};
use network::netlink::{Family, NetworkNamespace, Nft};
use network::pod_net::{self, Admission, OpenPort, PodNetwork};
use network::policy::{self, NamedPort, PodState, Policies};
use network::services::{self, Services, TransportProtocol};
use network::{Prefix, announce, dns};
use node::adapters::{CniAdapter, NetworkAdapter, RuntimeAdapter};
use node::volumes::HostDns;
use node::{Contact, Node};
use runtime::Runtime;
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr as UnixAddress, UnixListener};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::task::JoinHandle;

/// The address of cluster DNS is the tenth of the Services' range, as upstream's installers choose it.
const DNS_OFFSET: u32 = 10;
const DNS_PORT: u16 = 53;
/// How often the host's own firewalls are looked at: they may be reloaded at any time.
const FIREWALL_PERIOD: Duration = Duration::from_secs(10);

/// What the API needs before the node runs: how to reach it.
pub(crate) struct Prepared {
    name: String,
    node: Arc<OnceLock<Node>>,
    claim: HostClaim,
}

impl Prepared {
    /// For a node of this name; claims the host's network for it.
    pub(crate) fn new(name: &str) -> Result<Self, Failure> {
        let claim = HostClaim::take().map_err(failed("claim this host's network"))?.ok_or_else(|| {
            Failure::Failed(
                "another Klynge agent, with another data directory, has this host's network; stop it with `klynge down`, \
                 or give --no-agent"
                    .to_owned(),
            )
        })?;
        Ok(Prepared { name: name.to_owned(), node: Arc::default(), claim })
    }

    /// The node, once it runs.
    pub(crate) fn node(&self) -> Arc<OnceLock<Node>> {
        Arc::clone(&self.node)
    }

    /// Reaches the node inside the process.
    pub(super) fn connector(&self) -> Arc<dyn NodeConnector> {
        Arc::new(InProcess { name: self.name.clone(), node: Arc::clone(&self.node) })
    }
}

struct InProcess {
    name: String,
    node: Arc<OnceLock<Node>>,
}

#[async_trait]
impl NodeConnector for InProcess {
    async fn connect(&self, node: &str) -> io::Result<Box<dyn Connection>> {
        let refused = |why: String| io::Error::new(io::ErrorKind::NotConnected, why);
        if node != self.name {
            return Err(refused(format!("node {node} is not connected to this server")));
        }
        let node = self.node.get().ok_or_else(|| refused(format!("the agent of node {node} is starting")))?;
        Ok(Box::new(node.connection()))
    }
}

/// The claim on a host's network: its tables, addresses and interfaces belong to one agent at a time.
pub(super) struct HostClaim {
    _socket: UnixListener,
}

impl HostClaim {
    /// Takes it; None where another agent has it. Abstract names belong to a network namespace, and end with the process.
    pub(super) fn take() -> io::Result<Option<Self>> {
        let address = UnixAddress::from_abstract_name("klynge-agent")?;
        match UnixListener::bind_addr(&address) {
            Ok(socket) => Ok(Some(HostClaim { _socket: socket })),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// What an agent is told.
pub(crate) struct AgentOptions {
    /// The cluster, as system:node:NAME.
    pub(crate) client: Arc<dyn ClusterClient>,
    /// The cluster's ranges.
    pub(crate) ranges: Ranges,
    /// The node's addresses, the primary one first, at most one of a family.
    pub(crate) addresses: Vec<IpAddr>,
    /// The API's port on this host, for pods.
    pub(crate) api_port: u16,
    /// The port of the kubelet's endpoints; 0 for none.
    pub(crate) kubelet_port: u16,
    /// The cluster's authority (PEM).
    pub(crate) authority: String,
    /// Whether the machine joined a cluster elsewhere: then the deletion of its Node takes it out.
    pub(crate) joined: bool,
    /// What is heard of the server.
    pub(crate) contact: Arc<Contact>,
    /// The CNI plug-ins that attach pods; None for the built-in pod network.
    pub(crate) plugins: Option<cni::Options>,
    /// Whether what goes between nodes is encrypted.
    pub(crate) is_encrypted: bool,
}

/// A running agent.
pub(crate) struct Agent {
    _claim: HostClaim,
    node: Arc<OnceLock<Node>>,
    socket: AgentSocket,
    kubelet: Option<kubelet::Serving>,
    firewall: JoinHandle<()>,
}

/// Where the network keeps its files; also what purge works on.
pub(super) fn network_options(
    global: &Global,
    ranges: &Ranges,
    own: Vec<Prefix>,
    addresses: &[IpAddr],
) -> Result<pod_net::Options, Failure> {
    let namespace = NetworkNamespace::current().map_err(failed("open the network namespace"))?;
    Ok(pod_net::Options {
        namespace,
        pod_ranges: own,
        cluster_ranges: ranges.pods.clone(),
        service_ranges: ranges.services.clone(),
        node_addresses: addresses.to_vec(),
        directory: Some(global.data_dir.join("network")),
        mtu_bytes: None,
    })
}

/// The runtime's directories and control groups below the data directory.
pub(super) fn runtime_options(global: &Global) -> runtime::Options {
    let mut options = runtime::Options::below(global.data_dir.join("agent"));
    options.cgroup_name = cgroup_name(&global.data_dir);
    options
}

/// Control groups are shared by the whole machine: another data directory is another cluster, and gets its own,
/// so that removing one cluster never ends the pods of another.
fn cgroup_name(data_dir: &Path) -> String {
    if data_dir == Path::new(DEFAULT_DATA_DIR) {
        return "klynge".to_owned();
    }
    // FNV-1a: any stable hash of the path will do.
    let path = std::path::absolute(data_dir).unwrap_or_else(|_| data_dir.to_owned());
    let hash = path
        .as_os_str()
        .as_encoded_bytes()
        .iter()
        .fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193));
    format!("klynge-{hash:08x}")
}

/// The address that cluster DNS answers on.
pub(super) fn dns_address(ranges: &Ranges) -> IpAddr {
    ranges.service_address(DNS_OFFSET)
}

pub(super) fn failed<E: std::fmt::Display>(what: &'static str) -> impl Fn(E) -> Failure {
    move |error| Failure::Failed(format!("cannot {what}: {error}"))
}

impl Agent {
    /// Takes up what runs, starts the rest, and returns when the node is Ready.
    pub(crate) async fn start(prepared: Prepared, global: &Global, options: AgentOptions) -> Result<Self, Failure> {
        let AgentOptions {
            client,
            ranges,
            addresses,
            api_port,
            kubelet_port,
            authority,
            joined: is_joined,
            contact,
            plugins,
            is_encrypted,
        } = options;
        let registers_again = !is_joined;
        let kubelet = if kubelet_port == 0 { None } else { Some(KubeletPort::bind(kubelet_port).await?) };
        let containers = Runtime::open(runtime_options(global)).await.map_err(failed("start the container runtime"))?;
        let own = own_range::claim(global, &*client, &prepared.name, registers_again).await?;
        let mut network_options = network_options(global, &ranges, own, &addresses)?;
        let plugins = prepare_plugins(global, plugins, &network_options.namespace)?;
        let namespace = network_options.namespace.clone();
        let pod_ranges = network_options.pod_ranges.clone();
        if plugins.is_some() {
            // Addresses, masquerading and the ways to other nodes' pods are the plug-ins' matter.
            network_options.pod_ranges.clear();
            network_options.cluster_ranges.clear();
        }
        let dns_address = dns_address(&ranges);
        let opened = tokio::task::spawn_blocking(move || {
            let mut pod_network = PodNetwork::open(network_options)?;
            pod_network.set_local_address(dns_address, true)?;
            Ok::<_, pod_net::Error>(pod_network)
        });
        let pod_network =
            opened.await.map_err(failed("set up the pod network"))?.map_err(failed("set up the pod network"))?;
        // Before any other node is known: what goes there never goes in plain.
        let encrypted = encryption::begin(global, pod_network, is_encrypted, containers.shim_groups()).await?;
        let encryption::Begun { pod_network, encryption, health: encryption_health } = encrypted;
        let mut service_options = services::Options::new(namespace.clone());
        service_options.pod_ranges = ranges.pods.clone();
        service_options.service_ranges = ranges.services.clone();
        service_options.node_addresses = addresses.clone();
        service_options.local_addresses = vec![dns_address];
        let load_balancing =
            Services::start(service_options, HashMap::new()).map_err(failed("set up load balancing"))?;
        // So are policies, as upstream.
        let policies = match plugins {
            Some(_) => None,
            None => {
                let options = policy_options(&namespace, dns_address);
                Some(Policies::start(options).map_err(failed("set up network policies"))?)
            }
        };
        let adapter: Arc<dyn node::agent::PodNetwork> = match plugins {
            Some(plugins) => Arc::new(CniAdapter::new(plugins, pod_network)),
            None => Arc::new(NetworkAdapter::new(pod_network).with_policies(policies.clone())),
        };
        let announcer = announce::Announcer::start(announce::Options { namespace: namespace.clone() })
            .map_err(failed("start announcing addresses"))?;
        let subnets = announce::subnets(&namespace).map_err(failed("read the host's networks"))?;
        let dns_options = dns_options(global, &ranges, dns_address, containers.shim_groups());
        let resolvers = resolvers(&dns_options.setup.resolv_conf, dns_address);
        let names = Process::run(dns_options).await.map_err(failed("start cluster DNS"))?;

        let settings = kubelet::Settings {
            client: Arc::clone(&client),
            node_name: prepared.name.clone(),
            addresses: addresses.clone(),
            authority,
            directory: global.data_dir.join("agent"),
        };
        let options = node::Options {
            client,
            containers: Arc::new(RuntimeAdapter::new(containers.clone())),
            network: adapter,
            services: Some(load_balancing),
            policies,
            announcer: Some(announcer),
            subnets: subnets.iter().map(ToString::to_string).collect(),
            dns: Some(Arc::new(names)),
            // As upstream: a name that was given stands for the host's.
            hostname: prepared.name.clone(),
            name: prepared.name.clone(),
            addresses,
            labels: BTreeMap::new(),
            data_directory: global.data_dir.join("agent"),
            log_directory: global.data_dir.join("logs"),
            pod_ranges: pod_ranges.iter().map(ToString::to_string).collect(),
            pods_max: 110,
            endpoint_port: kubelet_port,
            resolvers,
            pulls_max: 3,
            starts_max: 8,
            encryption,
            encryption_health,
            registers_again,
            contact: is_joined.then_some(contact),
            thresholds: Default::default(),
            image_thresholds: Default::default(),
            version: concat!("v1.37.0+klynge.", env!("CARGO_PKG_VERSION")).to_owned(),
        };
        let node = Node::start(options).await.map_err(failed("start the node agent"))?;
        let node = prepared.node.get_or_init(|| node);
        node.registered().await;
        let socket =
            AgentSocket::start(&global.data_dir, containers).map_err(failed("listen on the agent's socket"))?;
        let kubelet = kubelet.map(|port| port.serve(Arc::clone(&prepared.node), settings)).transpose()?;
        let firewall = tokio::spawn(admit_pods(namespace, [api_port, kubelet_port], ranges.pods));
        Ok(Agent { _claim: prepared.claim, node: prepared.node, socket, kubelet, firewall })
    }

    /// Stops the agent; containers go on running.
    pub(crate) async fn stop(self) {
        self.socket.stop();
        if let Some(kubelet) = &self.kubelet {
            kubelet.stop();
        }
        self.firewall.abort();
        // The API's connector shares the node, which is therefore stopped where it stands.
        if let Some(node) = self.node.get() {
            node.stop().await;
        }
    }
}

const CHANGE_ADVICE: &str =
    "move this node's pods elsewhere (kubectl drain), or remove the node with `klynge down --purge`, first";

/// Makes sure that CNI plug-ins have attached no pod, which the built-in network could not take off.
pub(super) fn check_no_records(global: &Global) -> Result<(), Failure> {
    let records = records(global);
    match std::fs::read_dir(&records).map_or(0, Iterator::count) {
        0 => Ok(()),
        count => Err(Failure::Failed(format!(
            "CNI plug-ins have attached {count} pods of this node ({}): give --network cni; to change to the built-in \
             network, {CHANGE_ADVICE}",
            records.display()
        ))),
    }
}

/// Opens the plug-ins, where pods are theirs, and makes sure that no pod runs whom the other kind of network attached.
fn prepare_plugins(
    global: &Global,
    plugins: Option<cni::Options>,
    namespace: &NetworkNamespace,
) -> Result<Option<Plugins>, Failure> {
    let Some(options) = plugins else { return check_no_records(global).map(|()| None) };
    match pod_net::attached_pods(namespace).map_err(failed("look at the pod network"))? {
        0 => Plugins::open(options).map(Some).map_err(failed("open the records of CNI plug-ins")),
        count => Err(Failure::Failed(format!(
            "the built-in network has attached {count} pods of this node; to change to CNI plug-ins, {CHANGE_ADVICE}"
        ))),
    }
}

/// Cluster DNS counts as the pod that upstream's installers would run: policies that allow names say so by its labels and ports.
fn policy_options(namespace: &NetworkNamespace, dns_address: IpAddr) -> policy::Options {
    let port = |name: &str, protocol: TransportProtocol| NamedPort {
        name: name.to_owned(),
        protocol: protocol.number(),
        port: DNS_PORT,
    };
    let names = PodState {
        namespace: "kube-system".to_owned(),
        labels: BTreeMap::from([("k8s-app".to_owned(), "kube-dns".to_owned())]),
        ports: vec![port("dns", TransportProtocol::Udp), port("dns-tcp", TransportProtocol::Tcp)],
        addresses: vec![dns_address],
    };
    policy::Options {
        namespace: namespace.clone(),
        families: vec![Family::Ip, Family::Ip6],
        stand_ins: vec![("klynge:cluster-dns".to_owned(), names)],
    }
}

/// Where the processes beside the agent have their sockets and their logs.
pub(crate) fn beside_directory(global: &Global) -> PathBuf {
    global.data_dir.join("agent")
}

/// Cluster DNS runs as a process of its own, so that pods have names while this one is away.
fn dns_options(global: &Global, ranges: &Ranges, dns_address: IpAddr, groups: Vec<PathBuf>) -> process::Options {
    let usual = dns::Options::new(vec![SocketAddr::new(dns_address, DNS_PORT)], CLUSTER_DOMAIN);
    process::Options {
        directory: beside_directory(global),
        program: "/proc/self/exe".into(),
        setup: process::Setup {
            listen: usual.listen,
            domain: usual.domain,
            reverse_ranges: [ranges.pods.clone(), ranges.services.clone()].concat(),
            resolv_conf: usual.resolv_conf,
            groups,
        },
    }
}

/// What pods get as resolvers: cluster DNS, and the host's own search domains and servers for dnsPolicy Default.
fn resolvers(resolv_conf: &[PathBuf], dns_address: IpAddr) -> HostDns {
    let host = dns::host_resolvers(resolv_conf);
    HostDns {
        nameservers: host.servers.iter().map(|server| server.ip().to_string()).collect(),
        search: host.search,
        options: Vec::new(),
        cluster_servers: vec![dns_address],
        cluster_domain: CLUSTER_DOMAIN.to_owned(),
    }
}

/// Keeps pods' packets admitted by whatever firewalls the host runs.
async fn admit_pods(namespace: NetworkNamespace, ports: [u16; 2], pods: Vec<Prefix>) {
    let mut open_ports = vec![
        OpenPort { protocol: TransportProtocol::Udp, port: DNS_PORT },
        OpenPort { protocol: TransportProtocol::Tcp, port: DNS_PORT },
    ];
    let others = ports.iter().filter(|port| **port != 0);
    open_ports.extend(others.map(|port| OpenPort { protocol: TransportProtocol::Tcp, port: *port }));
    // Also what goes to pods of other nodes: a node port's client may be passed on.
    let admission = Arc::new(Admission { open_ports, cluster_ranges: pods });
    let mut period = tokio::time::interval(FIREWALL_PERIOD);
    let mut told: Vec<String> = Vec::new();
    loop {
        period.tick().await;
        let (namespace, admission) = (namespace.clone(), Arc::clone(&admission));
        let look = tokio::task::spawn_blocking(move || {
            let mut nft = Nft::open_in(&namespace)?;
            pod_net::admit(&mut nft, &admission)
        });
        match look.await {
            Ok(Ok(report)) => {
                for chain in &report.admitted {
                    tracing::info!(chain, "pods admitted in the host's firewall");
                }
                if report.refused != told {
                    told = report.refused;
                    for chain in &told {
                        tracing::warn!(
                            chain,
                            "this firewall belongs to a program that lets nobody change it: admit the pod range there"
                        );
                    }
                }
            }
            Ok(Err(error)) => tracing::warn!(%error, "cannot look at the host's firewalls"),
            Err(_) => return,
        }
    }
}

/// The file that names the ranges of a running cluster, so that purge needs no options.
pub(crate) fn ranges_path(global: &Global) -> PathBuf {
    global.data_dir.join("ranges")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_data_directory_has_its_own_control_groups() {
        assert_eq!(cgroup_name(Path::new(DEFAULT_DATA_DIR)), "klynge");
        assert_ne!(cgroup_name(Path::new("/a")), cgroup_name(Path::new("/b")));
        assert_eq!(cgroup_name(Path::new("/a")).len(), "klynge-".len() + 8);
    }
}
