//! Attaches pods to the network and detaches them; finds and removes what a stopped agent left behind.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use super::addresses::AddressPool;
use super::compile::{AttachPlan, HOST_LINK_ADDRESS, HostPort, PodAttachment, compile, interface_name, parse_alias};
use super::error::Error;
use super::host_setup::{self, Options};
use super::peers_apply::PeerState;
use super::reaper::{Reaper, reap};
use super::rules;
use super::vxlan::tunnel_links;
use crate::POD_INTERFACE_PREFIX;
use crate::netlink::{
    self, Neighbour, NetworkNamespace, Nft, NftBatch, Route, RouteBatch, Rtnetlink, TableWatch, VethPair, Watched,
};

/// The name of the interface inside a pod.
const POD_INTERFACE: &str = "eth0";

/// A pod's place in the network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attached {
    /// The host's interface.
    pub interface: String,
    /// The pod's addresses, IPv4 first.
    pub addresses: Vec<IpAddr>,
    /// The largest packet.
    pub mtu_bytes: u32,
}

/// The pod network of one node. Calls block on the kernel, for a millisecond or two: use it from a blocking thread.
pub struct PodNetwork {
    pub(super) options: Options,
    pub(super) rtnetlink: Rtnetlink,
    pub(super) nft: Nft,
    pool: AddressPool,
    pub(super) mtu_bytes: u32,
    host_ports: HashMap<String, Vec<HostPort>>,
    pub(super) reaper: Reaper,
    watch: TableWatch,
    pub(super) peers: PeerState,
}

impl PodNetwork {
    /// Prepares the host: sysctls, routes of cluster addresses, masquerading. Pods attached before stay as they are.
    pub fn open(options: Options) -> Result<Self, Error> {
        let mut rtnetlink = Rtnetlink::open_in(&options.namespace)?;
        let nft = Nft::open_in(&options.namespace)?;
        if let Some(directory) = &options.directory {
            std::fs::create_dir_all(directory).map_err(|source| netlink::Error::System {
                operation: format!("make the directory {}", directory.display()),
                source,
            })?;
        }
        let path = options.directory.as_ref().map(|directory| directory.join("addresses.json"));
        let pool = AddressPool::open(options.pod_ranges.clone(), path)?;
        host_setup::set_sysctls(&options, &mut rtnetlink)?;
        host_setup::add_service_routes(&options, &mut rtnetlink)?;
        let mut mtu_bytes = host_setup::mtu(&options, &mut rtnetlink)?;
        if options.mtu_bytes.is_none() {
            // Until the peers are known, a tunnel that an earlier agent left says what pods have to fit into.
            let links = rtnetlink.links()?;
            mtu_bytes = tunnel_links(&links).fold(mtu_bytes, |least, (_, link)| least.min(link.mtu_bytes));
            mtu_bytes = host_setup::pods_mtu(&options, mtu_bytes);
        }
        let reaper = Reaper::start(Rtnetlink::open_in(&options.namespace)?).map_err(|source| {
            netlink::Error::System { operation: "start a thread that deletes interfaces".to_owned(), source }
        })?;
        let peers = PeerState::default();
        let watch = TableWatch::default();
        let host_ports = HashMap::new();
        let mut network = Self { options, rtnetlink, nft, pool, mtu_bytes, host_ports, reaper, watch, peers };
        network.rebuild_rules()?;
        Ok(network)
    }

    /// The MTU that new pods get.
    #[must_use]
    pub const fn mtu_bytes(&self) -> u32 {
        self.mtu_bytes
    }

    /// The addresses of a pod, if it has any.
    #[must_use]
    pub fn addresses_of(&self, uid: &str) -> Option<&[IpAddr]> {
        self.pool.addresses_of(uid)
    }

    /// Attaches a pod. A pod that is attached already keeps its interface and connections.
    pub fn attach(&mut self, pod: &PodAttachment) -> Result<Attached, Error> {
        self.check_host_ports(pod)?;
        let had_addresses = self.pool.addresses_of(&pod.uid).is_some();
        let addresses = self.pool.allocate(&pod.uid)?;
        let plan = compile(&pod.uid, &addresses, &self.options);
        if let Err(error) = self.attach_planned(pod, &plan, had_addresses) {
            if !had_addresses {
                // Best effort: the first error is the one to tell.
                let _ = self.detach(&pod.uid);
            }
            return Err(error);
        }
        Ok(Attached { interface: plan.interface, addresses, mtu_bytes: self.mtu_bytes })
    }

    fn attach_planned(&mut self, pod: &PodAttachment, plan: &AttachPlan, had_addresses: bool) -> Result<(), Error> {
        let mut batch = RouteBatch::new();
        batch.add_veth(&VethPair {
            name: &plan.interface,
            address: HOST_LINK_ADDRESS,
            peer_name: POD_INTERFACE,
            peer_address: plan.pod_link_address,
            peer_namespace: Some(&pod.namespace),
            mtu_bytes: self.mtu_bytes,
        });
        batch.set_alias(&plan.interface, &plan.alias);
        if !had_addresses && self.rtnetlink.index_of(&plan.interface).is_ok() {
            // A pod of this uid was detached a moment ago: its interface may still wait for deletion.
            reap(self.rtnetlink.socket())?;
        }
        // Looked for first: a batch goes on after a refusal, and would relabel an interface that is there already.
        if self.rtnetlink.index_of(&plan.interface).is_ok() {
            self.check_existing(pod, plan, &batch)?;
        } else {
            self.delete_block(&pod.uid)?;
            batch.send(self.rtnetlink.socket())?;
        }
        configure_pod(&pod.namespace, plan)?;
        configure_host(&mut self.rtnetlink, plan)?;
        self.set_host_ports(pod, plan)
    }

    /// The interface exists: keep a healthy one of the same pod, replace a half-made one.
    fn check_existing(&mut self, pod: &PodAttachment, plan: &AttachPlan, create: &RouteBatch) -> Result<(), Error> {
        if let Ok(existing) = self.rtnetlink.link_by_name(&plan.interface) {
            match parse_alias(&existing.alias) {
                Some((uid, _)) if uid == pod.uid => {}
                other => {
                    let other = other.map_or_else(|| existing.alias.clone(), |(uid, _)| uid);
                    return Err(Error::NameTaken { interface: plan.interface.clone(), other });
                }
            }
            let is_whole = existing.alias == plan.alias
                && pod.namespace.run(|| -> netlink::Result<bool> {
                    let links = Rtnetlink::open()?.links()?;
                    Ok(links
                        .iter()
                        .any(|link| link.name == POD_INTERFACE && link.address == Some(plan.pod_link_address)))
                })??;
            if is_whole {
                return Ok(());
            }
            self.delete_interface(&plan.interface)?;
        }
        self.delete_block(&pod.uid)?;
        Ok(create.send(self.rtnetlink.socket())?)
    }

    /// Detaches a pod and frees its addresses: its routes go at once, its interface within a second. A pod that is not attached is no error.
    pub fn detach(&mut self, uid: &str) -> Result<(), Error> {
        if let Some(ports) = self.host_ports.remove(uid) {
            let addresses = self.pool.addresses_of(uid).unwrap_or_default().to_vec();
            let mut batch = NftBatch::new();
            rules::change_host_ports(&mut batch, pairs(&ports, &addresses), false);
            if let Err(error) = batch.commit(self.nft.socket()) {
                tracing::warn!(%error, "host ports could not be withdrawn one by one; the rules are rebuilt");
                self.rebuild_rules()?;
            }
        }
        let interface = interface_name(uid);
        if let Ok(index) = self.rtnetlink.index_of(&interface) {
            let mut batch = RouteBatch::new();
            for route in compile(uid, self.pool.addresses_of(uid).unwrap_or_default(), &self.options).host_routes {
                batch.delete_route(&Route { interface: Some(index), source: None, ..route });
            }
            Reaper::mark(&mut batch, &interface);
            for outcome in batch.send_each(self.rtnetlink.socket())? {
                match outcome {
                    // The interface goes by itself when the pod's namespace ends.
                    Err(error) if !error.is_not_found() => return Err(error.into()),
                    _ => {}
                }
            }
            self.reaper.wake();
        }
        self.detach_block(uid)?;
        self.pool.release(uid)?;
        Ok(())
    }

    /// After a restart: adopts the pods that live and renews their routes, removes the interfaces and addresses of all others. Returns the interfaces removed.
    pub fn recover(&mut self, live: &[PodAttachment]) -> Result<Vec<String>, Error> {
        let by_uid: HashMap<&str, &PodAttachment> = live.iter().map(|pod| (pod.uid.as_str(), pod)).collect();
        let mut removed = Vec::new();
        let mut found = HashSet::new();
        for link in self.rtnetlink.links()?.into_iter().filter(|link| link.name.starts_with(POD_INTERFACE_PREFIX)) {
            match parse_alias(&link.alias) {
                Some((uid, addresses)) if by_uid.contains_key(uid.as_str()) => {
                    self.pool.adopt(&uid, &addresses);
                    // The kernel drops routes whose source address the host has lost: the node may have another one now.
                    configure_host(&mut self.rtnetlink, &compile(&uid, &addresses, &self.options))?;
                    found.insert(uid);
                }
                Some(_) => {
                    self.delete_interface(&link.name)?;
                    removed.push(link.name);
                }
                // Somebody else's interface that happens to begin like ours.
                None => {}
            }
        }
        self.remove_blocks(|uid| found.contains(uid))?;
        self.pool.retain(|uid| by_uid.contains_key(uid))?;
        self.host_ports = live
            .iter()
            .filter(|pod| found.contains(&pod.uid) && !pod.host_ports.is_empty())
            .map(|pod| (pod.uid.clone(), pod.host_ports.clone()))
            .collect();
        self.rebuild_rules()?;
        Ok(removed)
    }

    /// Makes the host answer on an address of the service range (cluster DNS), or stop answering.
    pub fn set_local_address(&mut self, address: IpAddr, present: bool) -> Result<(), Error> {
        Ok(host_setup::set_local_address(&mut self.rtnetlink, address, present)?)
    }

    pub(super) fn delete_interface(&mut self, name: &str) -> Result<(), Error> {
        Ok(delete_interface(&mut self.rtnetlink, name)?)
    }

    fn check_host_ports(&self, pod: &PodAttachment) -> Result<(), Error> {
        for port in &pod.host_ports {
            let taken = self
                .host_ports
                .iter()
                .find(|(uid, ports)| **uid != pod.uid && ports.iter().any(|other| rules::collide(port, other)));
            if let Some((other, _)) = taken {
                return Err(Error::HostPortTaken { port: port.host_port, other: other.clone() });
            }
        }
        Ok(())
    }

    fn set_host_ports(&mut self, pod: &PodAttachment, plan: &AttachPlan) -> Result<(), Error> {
        if pod.host_ports.is_empty() || self.host_ports.get(&pod.uid) == Some(&pod.host_ports) {
            return Ok(());
        }
        let mut batch = NftBatch::new();
        if let Some(old) = self.host_ports.remove(&pod.uid) {
            rules::change_host_ports(&mut batch, pairs(&old, &plan.addresses), false);
        }
        rules::change_host_ports(&mut batch, pairs(&pod.host_ports, &plan.addresses), true);
        host_setup::allow_loopback(&self.options, &plan.interface)?;
        batch.commit(self.nft.socket())?;
        self.host_ports.insert(pod.uid.clone(), pod.host_ports.clone());
        Ok(())
    }

    fn rebuild_rules(&mut self) -> Result<(), Error> {
        let mut batch = NftBatch::new();
        let pool = &self.pool;
        let host_ports =
            self.host_ports.iter().flat_map(|(uid, ports)| pairs(ports, pool.addresses_of(uid).unwrap_or_default()));
        rules::add_tables(&mut batch, &self.options, host_ports);
        let of_family = |family| Watched::made_by(&batch, family, rules::TABLE, rules::CHAINS);
        let watched = rules::families(&self.options).into_iter().map(of_family).collect();
        // Whatever fails from here on, the next look finds tables that it does not know.
        self.watch = TableWatch::default();
        batch.commit(self.nft.socket())?;
        self.watch = TableWatch::learn(&mut self.nft, watched)?;
        Ok(())
    }

    /// Looks whether masquerading and host ports are still there and whole, and rebuilds them if not; true if it had to. To be called every
    /// ten seconds or so: where nothing changed it costs one question to the kernel.
    pub fn verify_rules(&mut self) -> Result<bool, Error> {
        if self.watch.is_intact(&mut self.nft)? {
            return Ok(false);
        }
        tracing::warn!("the tables of the pod network were removed or changed by another program; they are rebuilt");
        self.rebuild_rules()?;
        Ok(true)
    }
}

fn pairs<'a>(ports: &'a [HostPort], addresses: &'a [IpAddr]) -> impl Iterator<Item = (&'a HostPort, IpAddr)> + Clone {
    ports.iter().flat_map(move |port| addresses.iter().map(move |address| (port, *address)))
}

fn configure_pod(namespace: &NetworkNamespace, plan: &AttachPlan) -> Result<(), Error> {
    namespace.run(|| -> netlink::Result<()> {
        let mut rtnetlink = Rtnetlink::open()?;
        let interface = rtnetlink.index_of(POD_INTERFACE)?;
        let mut batch = RouteBatch::new();
        batch.set_up(rtnetlink.index_of("lo")?);
        batch.set_up(interface);
        for address in &plan.addresses {
            batch.add_address(interface, *address, if address.is_ipv4() { 32 } else { 128 });
        }
        for neighbour in &plan.pod_neighbours {
            batch.add_neighbour(&Neighbour { interface, ..neighbour.clone() });
        }
        for route in &plan.pod_routes {
            batch.add_route(&Route { interface: Some(interface), ..route.clone() });
        }
        batch.send(rtnetlink.socket())
    })??;
    Ok(())
}

fn configure_host(rtnetlink: &mut Rtnetlink, plan: &AttachPlan) -> Result<(), Error> {
    let interface = rtnetlink.index_of(&plan.interface)?;
    let mut batch = RouteBatch::new();
    for neighbour in &plan.host_neighbours {
        batch.add_neighbour(&Neighbour { interface, ..neighbour.clone() });
    }
    for route in &plan.host_routes {
        batch.add_route(&Route { interface: Some(interface), ..route.clone() });
    }
    Ok(batch.send(rtnetlink.socket())?)
}

pub(crate) fn delete_interface(rtnetlink: &mut Rtnetlink, name: &str) -> netlink::Result<()> {
    let mut batch = RouteBatch::new();
    batch.delete_link(name);
    match batch.send(rtnetlink.socket()) {
        Err(error) if !error.is_not_found() => Err(error),
        _ => Ok(()),
    }
}
