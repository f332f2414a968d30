//! How the control loop is started and stopped.

use std::sync::Arc;

use client::ClusterClient;
use controllers::node_ranges::PodRange;
use controllers::{Picture, Resource, Settings};
use jiff::Timestamp;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::core;

/// Where the time comes from.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// The cluster's certificate authority.
pub trait Signer: Send + Sync {
    /// The certificate (PEM) for an approved request, which holds for so many seconds from now.
    ///
    /// # Errors
    /// A sentence that says what about the request cannot be signed.
    fn sign(&self, request: &CertificateSigningRequest, lifetime_seconds: i64) -> Result<String, String>;
}

/// What the control loop needs.
pub struct Options {
    /// The cluster. Controllers act as their service accounts where the client can say so.
    pub client: Arc<dyn ClusterClient>,
    /// Breaks ties between equally good nodes.
    pub seed: u64,
    /// Where the time comes from.
    pub clock: Clock,
    /// The cluster's certificate authority in PEM.
    pub root_ca: String,
    /// Signs approved CertificateSigningRequests; none where somebody else does that.
    pub signer: Option<Arc<dyn Signer>>,
    /// What nodes' pod ranges are cut from; empty where somebody else does that.
    pub pod_ranges: Vec<PodRange>,
    /// Every other resource that objects may live in (from the resource table), so that owners and namespaces see all of them.
    pub other_resources: Vec<Resource>,
    /// True while this server leads; none where there is only one server.
    pub leadership: Option<watch::Receiver<bool>>,
    /// What heartbeats tell of nodes; none where all are judged by their Leases.
    pub heartbeats: Option<watch::Receiver<Arc<Picture>>>,
    /// Whether all pods want fast failover that do not say otherwise.
    pub fast_failover: bool,
}

/// The control loop.
#[derive(Debug)]
pub struct ControlLoop;

/// Stops the control loop.
#[derive(Debug)]
pub struct Handle {
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl ControlLoop {
    /// Starts mirrors, controllers and the scheduler on the current runtime.
    pub fn run(options: Options) -> Handle {
        let (stop, stopped) = watch::channel(false);
        let task = tokio::spawn(core::run(options, stopped));
        Handle { stop, task }
    }
}

impl Handle {
    /// Tells whether the loop still runs, for as long as anybody asks.
    pub fn liveness(&self) -> impl Fn() -> bool + Send + Sync + use<> {
        let task = self.task.abort_handle();
        move || !task.is_finished()
    }

    /// Stops planning, lets what is under way end, and returns.
    pub async fn stop(self) {
        self.stop.send_replace(true);
        if let Err(error) = self.task.await {
            tracing::error!(%error, "the control loop ended abnormally");
        }
    }
}

/// What controllers are told besides objects. Absence of an owner is only proof where everything is mirrored.
pub(crate) fn settings(options: &Options, resources: &[Resource]) -> Settings {
    let named = resources.iter().map(|resource| ((resource.group.clone(), resource.kind.clone()), resource.clone()));
    Settings {
        root_ca: options.root_ca.clone(),
        pod_ranges: options.pod_ranges.clone(),
        mirrored: named.collect(),
        incomplete: true,
        seen: options.heartbeats.as_ref().map(|picture| Arc::clone(&picture.borrow())).unwrap_or_default(),
        fast_failover: options.fast_failover,
    }
}
