//! How the control loop is started and stopped.

use std::sync::Arc;

use client::ClusterClient;
use controllers::{Resource, Settings};
use jiff::Timestamp;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::core;

/// Where the time comes from.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

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
    /// Every other resource that objects may live in (from the resource table), so that owners and namespaces see all of them.
    pub other_resources: Vec<Resource>,
    /// True while this server leads; none where there is only one server.
    pub leadership: Option<watch::Receiver<bool>>,
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
    Settings { root_ca: options.root_ca.clone(), mirrored: named.collect(), incomplete: true }
}
