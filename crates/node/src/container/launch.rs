//! What the node asks the runtime for, in plain data.

use crate::lifecycle::StartFailure;
use std::path::PathBuf;

/// Limits as the control groups take them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// CPU weight in the notation of cgroup v1: 2 to 262144.
    pub cpu_shares: Option<u64>,
    /// Microseconds of CPU in each period of 100 ms.
    pub cpu_quota_us: Option<u64>,
    /// Bytes.
    pub memory_limit_bytes: Option<u64>,
}

/// A pod's namespaces.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SandboxSpec {
    /// The pod's uid.
    pub uid: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The host name inside.
    pub hostname: String,
    /// In the host's network.
    pub host_network: bool,
    /// In the host's IPC namespace.
    pub host_ipc: bool,
    /// Namespaced kernel parameters.
    pub sysctls: Vec<(String, String)>,
    /// Guaranteed, Burstable or BestEffort.
    pub qos_class: String,
    /// Limits of all containers together.
    pub limits: Limits,
}

/// How mounts travel after the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MountPropagation {
    /// Not at all.
    #[default]
    None,
    /// From the host.
    HostToContainer,
    /// Both ways.
    Bidirectional,
}

/// A mount of a container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mount {
    /// On the host.
    pub source: PathBuf,
    /// Below the source, resolved by the runtime without following links out of it.
    pub sub_path: Option<String>,
    /// In the container.
    pub target: String,
    /// Not writable.
    pub read_only: bool,
    /// Nor anything mounted below it.
    pub recursive_read_only: bool,
    /// How later mounts travel.
    pub propagation: MountPropagation,
}

/// Which processes a container sees.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Processes {
    /// Its own.
    #[default]
    Container,
    /// The pod's.
    Pod,
    /// The host's.
    Host,
    /// Those of the container with this name, which has to run.
    Of(String),
}

/// Which system calls a container may use.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Seccomp {
    /// The runtime's default list.
    #[default]
    RuntimeDefault,
    /// All.
    Unconfined,
    /// A profile's text.
    Profile(String),
}

/// What of an image matters for starting it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageConfig {
    /// The runtime's id of the image.
    pub id: String,
    /// Entrypoint.
    pub entrypoint: Vec<String>,
    /// Arguments.
    pub arguments: Vec<String>,
    /// The user as the image names it; empty for root.
    pub user: String,
    /// The user's number, where it is one or the image's passwd knows it.
    pub user_id: Option<u32>,
    /// The signal that asks it to stop; None for SIGTERM.
    pub stop_signal: Option<String>,
}

/// A container to be started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Launch {
    /// Its name in the pod.
    pub name: String,
    /// Which run of it.
    pub attempt: u32,
    /// The image's id.
    pub image: String,
    /// The whole command line.
    pub command: Vec<String>,
    /// Variables.
    pub environment: Vec<(String, String)>,
    /// Working directory; None for the image's.
    pub working_directory: Option<String>,
    /// Mounts in order.
    pub mounts: Vec<Mount>,
    /// Rights and identities.
    pub security: super::Security,
    /// Limits.
    pub limits: Limits,
    /// OOM score.
    pub oom_score_adjust: i32,
    /// A terminal.
    pub tty: bool,
    /// Standard input stays open.
    pub stdin: bool,
    /// Where its output goes.
    pub log_path: PathBuf,
    /// Which processes it sees.
    pub processes: Processes,
}

/// Why a container could not be started: what failed, and the sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaunchError {
    /// What failed.
    pub failure: StartFailure,
    /// The sentence.
    pub message: String,
}

impl LaunchError {
    /// What the spec or its references lack.
    pub fn config(message: impl Into<String>) -> Self {
        Self { failure: StartFailure::Configuration, message: message.into() }
    }

    /// What the runtime could not make.
    pub fn create(message: impl Into<String>) -> Self {
        Self { failure: StartFailure::Creation, message: message.into() }
    }
}
