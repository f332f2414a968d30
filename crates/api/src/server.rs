//! The server: options in, a handle out.

use crate::auth::{Authenticator, Authorizer, NodeGraph, Reviewer, Tokens, User, removed_nodes};
use crate::bootstrap;
use crate::core::{Core, StoredObjects};
use crate::heartbeat::{self, Heartbeats, Picture};
use crate::housekeeping;
use crate::local::LocalClient;
use crate::pki::{self, Pki};
use crate::proxy::{NodeConnector, Tunnels};
use crate::serve::{self, Limits, metrics::Metrics, openapi::Documents};
use crate::write::address_range::AddressRange;
use client::ClusterClient;
use kinds::Table;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, RwLock};
use store::Store;
use tokio::task::JoinHandle;

/// What a server is made of.
pub struct Options {
    /// The cluster's state.
    pub store: Arc<dyn Store>,
    /// The kinds that are served.
    pub table: Table,
    /// Keys and certificates.
    pub pki: Arc<Pki>,
    /// Where to listen.
    pub bind: SocketAddr,
    /// The address by which clients and pods reach the server.
    pub advertise: IpAddr,
    /// The range of Services' addresses.
    pub service_range: AddressRange,
    /// A range of the other family, for dual-stack Services.
    pub second_service_range: Option<AddressRange>,
    /// The cluster's DNS domain, such as `cluster.local`.
    pub cluster_domain: String,
    /// How nodes' agents are reached.
    pub connector: Arc<dyn NodeConnector>,
    /// The node of this process, if it has one: it lives as long as the server does.
    pub own_node: Option<String>,
    /// The file that keeps which nodes' hosts have answered, for the server that comes after this one; none is kept without.
    pub kept_hosts: Option<PathBuf>,
}

/// Why a server does not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The port is taken, or the address is not ours.
    #[error("cannot listen on {address}: {}", why_not(*address, source))]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the kernel said.
        #[source]
        source: std::io::Error,
    },
    /// TLS cannot be set up.
    #[error("cannot set up TLS: {0}")]
    Tls(#[from] rustls::Error),
    /// The objects that every cluster has cannot be written.
    #[error("cannot write the cluster's first objects: {0}")]
    Bootstrap(object::Status),
}

/// The records of nodes that were removed.
pub struct Removals(StoredObjects);

impl Removals {
    /// When the node of this name was removed last; none where it was not.
    #[must_use]
    pub fn at(&self, node: &str) -> Option<jiff::Timestamp> {
        removed_nodes::removed_at(&self.0, node)
    }
}

/// A running server. Dropping it stops nothing; call [`Server::stop`].
pub struct Server {
    core: Arc<Core>,
    address: SocketAddr,
    listener: JoinHandle<()>,
    chores: JoinHandle<()>,
    beats: JoinHandle<()>,
    removals: JoinHandle<()>,
}

impl Server {
    /// Listens, writes what every cluster has, and serves.
    ///
    /// # Errors
    /// A taken port, TLS that cannot be set up, a store that refuses writes.
    pub async fn start(options: Options) -> Result<Self, Error> {
        let Options { store, table, pki, bind, advertise, cluster_domain, connector, own_node, kept_hosts, .. } =
            options;
        let (service_range, second_service_range) = (options.service_range, options.second_service_range);
        let failed = |source| Error::Listen { address: bind, source };
        let listener = crate::listen(bind).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let tls = Arc::new(pki::server_config(Arc::clone(&pki))?);
        let tokens = Arc::new(Tokens::new(&pki, &format!("https://kubernetes.default.svc.{cluster_domain}")));
        let objects = Arc::new(StoredObjects(Arc::clone(&store)));
        let authorizer = Arc::new(Authorizer::new(NodeGraph::new(Arc::clone(&store))));
        let (stopping, _) = tokio::sync::watch::channel(false);
        let core = Arc::new(Core {
            authenticator: Authenticator::new(
                Arc::clone(&pki),
                Arc::clone(&tokens),
                objects.clone(),
                Arc::clone(&authorizer),
            ),
            reviewer: Reviewer {
                authorizer: Arc::clone(&authorizer),
                tokens: Arc::clone(&tokens),
                objects: objects.clone(),
            },
            store,
            table: RwLock::new(Arc::new(table)),
            authorizer,
            tokens,
            pki: Arc::clone(&pki),
            connector,
            tunnels: Tunnels::default(),
            heartbeats: Heartbeats::new(kept_hosts),
            service_range,
            second_service_range,
            advertise,
            port: address.port(),
            metrics: Metrics::default(),
            documents: Documents::default(),
            control_plane: OnceLock::new(),
            ready: AtomicBool::new(false),
            removals: tokio::sync::watch::channel(0).0,
            stopping,
        });
        core.authorizer.refresh(objects.as_ref());
        // Health and version are answered while the first objects are written.
        let serving = tokio::spawn(serve::serve(Arc::clone(&core), listener, tls, Limits::default()));
        if let Err(status) = bootstrap::run(&core).await {
            serving.abort();
            return Err(Error::Bootstrap(status));
        }
        core.ready.store(true, Ordering::Release);
        core.authorizer.refresh(objects.as_ref());
        if let Some(node) = own_node {
            core.heartbeats.set_own(&node);
        }
        let removals = tokio::spawn(removed_nodes::run(Arc::clone(&core)));
        let beats = tokio::spawn(heartbeat::run(Arc::clone(&core)));
        let chores = tokio::spawn(housekeeping::run(Arc::clone(&core), pki));
        Ok(Server { core, address, listener: serving, chores, beats, removals })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The cluster as `user` sees it, in process.
    #[must_use]
    pub fn client(&self, user: &str, groups: &[&str]) -> Arc<dyn ClusterClient> {
        Arc::new(LocalClient::new(Arc::clone(&self.core), User::named(user, groups)))
    }

    /// What is known of the nodes that have heartbeats, at each change.
    #[must_use]
    pub fn heartbeats(&self) -> tokio::sync::watch::Receiver<Arc<Picture>> {
        self.core.heartbeats.picture()
    }

    /// Scheduler and controllers were started; `lives` tells whether they run. For ComponentStatus.
    pub fn control_plane(&self, lives: impl Fn() -> bool + Send + Sync + 'static) {
        // They are started once.
        let _ = self.core.control_plane.set(Box::new(lives));
    }

    /// Tells when a node was removed last, for whoever signs certificates.
    #[must_use]
    pub fn removals(&self) -> Removals {
        Removals(StoredObjects(Arc::clone(&self.core.store)))
    }

    /// Ends watches, lets requests finish for a few seconds, and closes.
    pub async fn stop(self) {
        self.core.stopping.send_replace(true);
        // A listener that panicked has nothing left to close.
        let _ = self.listener.await;
        let _ = self.chores.await;
        let _ = self.beats.await;
        let _ = self.removals.await;
    }
}

/// What to do about an address that cannot be listened on.
fn why_not(address: std::net::SocketAddr, source: &std::io::Error) -> String {
    match source.kind() {
        std::io::ErrorKind::AddrInUse => {
            let port = address.port();
            format!("port {port} is taken by another server or another program; choose another with --port")
        }
        std::io::ErrorKind::AddrNotAvailable => format!("{source}: it is not an address of this machine"),
        _ => source.to_string(),
    }
}
