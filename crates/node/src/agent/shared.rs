//! What all workers share: the client, the seams, directories and limits.

use super::api::Api;
use super::events::Recorder;
use super::pull_records::PullRecords;
use super::references::References;
use super::seams::{Containers, PodNetwork};
use super::serving::Serving;
use super::tasks::Tasks;
use super::tokens::Tokens;
use crate::environment::LinkedService;
use crate::lifecycle::NodeAddresses;
use crate::volumes::HostDns;
use k8s_openapi::api::core::v1::Pod;
use std::path::PathBuf;
use std::sync::{Arc, RwLock};
use tokio::sync::{Semaphore, watch};

/// Where the agent keeps things.
#[derive(Clone, Debug)]
pub struct Paths {
    /// The agent's data directory.
    pub data: PathBuf,
    /// Where pods' logs go, upstream's /var/log/pods.
    pub logs: PathBuf,
}

impl Paths {
    /// A pod's directory.
    #[must_use]
    pub fn pod(&self, uid: &str) -> PathBuf {
        self.pods().join(uid)
    }

    /// Where pods' directories are.
    #[must_use]
    pub fn pods(&self) -> PathBuf {
        self.data.join("pods")
    }

    /// A pod's log directory: `namespace_name_uid`.
    #[must_use]
    pub fn pod_logs(&self, pod: &Pod) -> PathBuf {
        let text = |value: &Option<String>| value.clone().unwrap_or_default();
        let meta = &pod.metadata;
        self.logs.join(format!("{}_{}_{}", text(&meta.namespace), text(&meta.name), text(&meta.uid)))
    }

    /// Where checkpoints are.
    #[must_use]
    pub fn checkpoints(&self) -> PathBuf {
        self.data.join("checkpoints")
    }

    /// Where Localhost seccomp profiles are.
    #[must_use]
    pub fn seccomp(&self) -> PathBuf {
        self.data.join("seccomp")
    }
}

/// Everything that workers share.
pub struct Shared {
    /// The API, as this node.
    pub api: Api,
    /// The runtime.
    pub containers: Arc<dyn Containers>,
    /// The pod network.
    pub network: Arc<dyn PodNetwork>,
    /// Who may use which image.
    pub pull_records: PullRecords,
    /// Events.
    pub recorder: Recorder,
    /// ConfigMaps and Secrets.
    pub references: References,
    /// Service account tokens.
    pub tokens: Tokens,
    /// Everything that runs for the agent.
    pub tasks: Tasks,
    /// Directories.
    pub paths: Paths,
    /// The node's name.
    pub node: String,
    /// The node's addresses.
    pub addresses: NodeAddresses,
    /// Resolver settings.
    pub dns: HostDns,
    /// Pulls at the same time.
    pub pulls: Semaphore,
    /// Pods that are set up at the same time.
    pub starts: Semaphore,
    /// Which pods stand behind Services.
    pub serving: Arc<Serving>,
    /// The services of each namespace, for environment variables; None until they are known.
    pub services: watch::Sender<Option<Arc<ServiceLinks>>>,
    /// The node's labels, for the node selectors of pods.
    pub labels: RwLock<Arc<std::collections::BTreeMap<String, String>>>,
    /// The pressures that the machine is under, by the names of their conditions.
    pub pressures: RwLock<Vec<&'static str>>,
    /// Allocatable CPU in thousandths, memory and ephemeral storage in bytes.
    pub size: (i64, i64, i64),
}

/// Services by namespace, and the API's own.
#[derive(Clone, Debug, Default)]
pub struct ServiceLinks {
    /// By namespace.
    pub by_namespace: std::collections::BTreeMap<String, Vec<LinkedService>>,
    /// The API's own service, which every pod is told of.
    pub api: Option<LinkedService>,
}
