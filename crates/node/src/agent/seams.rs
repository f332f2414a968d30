//! What the agent needs from the runtime and the network: two narrow traits, the lowest seam at which tests put fakes.

use super::pull_records::PullSecret;
use crate::container::{ImageConfig, Launch, LaunchError, SandboxSpec};
use crate::lifecycle::RecoveredContainer;
use crate::streaming::{ExecRequest, Process};
use async_trait::async_trait;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use network::pod_net::Peer;
use std::net::IpAddr;
use std::sync::Arc;
use tokio::sync::mpsc;

/// An image that has to be pulled.
#[derive(Clone, Debug, Default)]
pub struct ImageWish {
    /// The reference as the spec writes it.
    pub reference: String,
    /// Logins for its registry, from the pod's pull secrets; asked in order, none means anonymously.
    pub logins: Vec<RegistryLogin>,
}

/// A login at a registry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RegistryLogin {
    /// The registry's host, as the secret writes it.
    pub registry: String,
    /// The user.
    pub user: String,
    /// The password or token.
    pub password: String,
    /// Where it comes from.
    pub secret: PullSecret,
}

/// An image that is there.
#[derive(Clone, Debug, Default)]
pub struct ImageFound {
    /// status imageID: `repository@sha256:...`.
    pub image_id: String,
    /// What matters for starting it.
    pub config: ImageConfig,
    /// Bytes and seconds of the pull; None where it was there.
    pub pulled: Option<(u64, f64)>,
    /// The secret whose login the registry took; None where it asked for none, or where the image was there.
    pub secret: Option<PullSecret>,
}

/// An image of the node.
#[derive(Clone, Debug, Default)]
pub struct ImageOnNode {
    /// The runtime's id.
    pub id: String,
    /// Names with tags and digests.
    pub names: Vec<String>,
    /// Bytes.
    pub size_bytes: u64,
}

/// Why an image cannot be had: upstream's reason and the sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageFailure {
    /// ErrImagePull, InvalidImageName, ErrImageNeverPull.
    pub reason: String,
    /// The sentence.
    pub message: String,
}

/// How a container's process ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuntimeExit {
    /// Exit code, 128 + signal for signals.
    pub code: i32,
    /// The kernel ended it for want of memory.
    pub oom_killed: bool,
    /// False where nobody saw it end.
    pub observed: bool,
    /// When it began.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub finished_at: Timestamp,
}

/// What a pod's shim tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RuntimeEvent {
    /// A container ended.
    Exited(String, RuntimeExit),
    /// A container's log wants to be rotated.
    LogGrew(String),
    /// The shim with this pid is gone, and all containers with it.
    Lost {
        /// As `create_sandbox` or `recover` told it.
        pid: u32,
    },
}

/// A pod that still runs when the agent comes back.
#[derive(Clone, Debug)]
pub struct RecoveredPod {
    /// The pod's uid.
    pub uid: String,
    /// The process that holds its namespaces; None where the sandbox is dead.
    pub pid: Option<u32>,
    /// Its containers.
    pub containers: Vec<RecoveredContainer>,
}

/// CPU and memory of a container or pod.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Nanoseconds of CPU since the start.
    pub cpu_ns: u64,
    /// Bytes that cannot be taken back easily.
    pub working_set_bytes: u64,
    /// Bytes in all.
    pub usage_bytes: u64,
    /// Processes and threads.
    pub tasks: u64,
}

/// The runtime as the agent uses it.
#[async_trait]
pub trait Containers: Send + Sync + 'static {
    /// The image that is on the node under this name, if there is one.
    ///
    /// # Errors
    /// A name that is none.
    async fn present(&self, reference: &str) -> Result<Option<ImageFound>, ImageFailure>;
    /// Asks the registry for an image, and has what of it is missing.
    async fn pull(&self, wish: ImageWish) -> Result<ImageFound, ImageFailure>;
    /// The images of the node.
    async fn images(&self) -> Vec<ImageOnNode>;
    /// Removes an image that no container uses.
    async fn remove_image(&self, id: &str) -> Result<(), String>;
    /// Makes a pod's namespaces; events about its containers go to `events`.
    async fn create_sandbox(
        &self,
        spec: SandboxSpec,
        events: mpsc::UnboundedSender<RuntimeEvent>,
    ) -> Result<u32, String>;
    /// Starts a container: its id and when it was started.
    async fn start(&self, uid: &str, launch: Launch) -> Result<(String, Timestamp), LaunchError>;
    /// Sends a signal by its number.
    async fn signal(&self, uid: &str, id: &str, signal: i32) -> Result<(), String>;
    /// Removes an ended container.
    async fn remove_container(&self, uid: &str, id: &str) -> Result<(), String>;
    /// Removes a pod with everything in it.
    async fn destroy(&self, uid: &str) -> Result<(), String>;
    /// Runs a command in a container.
    async fn exec(&self, uid: &str, id: &str, request: ExecRequest) -> Result<Process, String>;
    /// Attaches to a container.
    async fn attach(&self, uid: &str, id: &str, request: ExecRequest) -> Result<Process, String>;
    /// Opens a container's log anew after it was renamed.
    async fn reopen_log(&self, uid: &str, id: &str) -> Result<(), String>;
    /// What still runs from before.
    async fn recover(&self) -> Result<Vec<RecoveredPod>, String>;
    /// Sends a recovered pod's events.
    async fn subscribe(&self, uid: &str, events: mpsc::UnboundedSender<RuntimeEvent>);
    /// What a container uses; None where it does not run.
    async fn usage(&self, uid: &str, id: &str) -> Option<Usage>;
    /// Where a container keeps what it writes into its root file system; None where that is not known.
    fn written(&self, uid: &str, id: &str) -> Option<std::path::PathBuf>;
}

/// A pod's place in the network.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Connected {
    /// Its addresses, the primary one first.
    pub addresses: Vec<IpAddr>,
    /// Why its bandwidth is not limited though it asks for that; none where it is as wanted.
    pub unlimited: Option<String>,
}

/// The pod network as the agent uses it.
#[async_trait]
pub trait PodNetwork: Send + Sync + 'static {
    /// Connects a pod. A pod of the host's network is not given here.
    async fn attach(&self, pod: &Arc<Pod>, uid: &str, pid: u32) -> Result<Connected, String>;
    /// Takes a pod off the network; one that is not there is no error.
    async fn detach(&self, uid: &str) -> Result<(), String>;
    /// Keeps routes to the pods of exactly these other nodes; sentences about those for which that cannot be.
    async fn set_peers(&self, peers: Vec<Peer>) -> Result<Vec<String>, String>;
    /// Repairs what others removed of these routes; sentences as of [`Self::set_peers`].
    async fn verify_peers(&self) -> Result<Vec<String>, String>;
    /// Makes rules anew that other programs removed: masquerading, host ports.
    async fn verify_rules(&self) -> Result<(), String>;
    /// After a restart: keeps exactly these pods.
    async fn recover(&self, live: Vec<(Arc<Pod>, String, u32)>) -> Result<(), String>;
    /// Whether pods can be attached; why not, as upstream's runtimes say it.
    async fn readiness(&self) -> Result<(), String> {
        Ok(())
    }
    /// Whether pods are taken off while their namespaces are there. Else it is quicker the other way round.
    fn detaches_first(&self) -> bool {
        false
    }
}
