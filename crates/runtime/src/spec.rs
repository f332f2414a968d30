//! What the node asks for: pods, containers, execs, and what it is told of them.

use std::{collections::BTreeMap, path::PathBuf};

use serde::{Deserialize, Serialize};

/// Limits of a pod or of a container, in the units of the cgroup files.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resources {
    /// Relative weight, 2 to 262144, 1024 for one CPU; translated for cgroup v2.
    pub cpu_shares: Option<u64>,
    /// CPU time per period; none means no limit.
    pub cpu_quota_us: Option<u64>,
    /// The period, 100,000 if not given.
    pub cpu_period_us: Option<u64>,
    /// Memory limit; swap is not granted beyond it.
    pub memory_limit_bytes: Option<u64>,
    /// How many tasks may exist.
    pub pids_limit: Option<u64>,
    /// Page size as the kernel spells it (`2MB`) to bytes.
    pub hugepage_limits_bytes: BTreeMap<String, u64>,
}

/// A pod's quality of service class, which decides where its cgroup lies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum QosClass {
    /// Limits equal requests.
    #[default]
    Guaranteed,
    /// Some requests or limits.
    Burstable,
    /// Neither.
    BestEffort,
}

/// A pod's sandbox.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct PodSpec {
    /// The pod's uid; letters, digits, `-` and `_`.
    pub uid: String,
    /// Its namespace, for people who look at the state directory.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The host name inside; ignored with the host's network.
    pub hostname: String,
    /// Share the host's network namespace.
    pub host_network: bool,
    /// Share the host's IPC namespace.
    pub host_ipc: bool,
    /// Kernel parameters of the pod's namespaces, with dots or slashes.
    pub sysctls: Vec<(String, String)>,
    /// Class of the pod.
    pub qos: QosClass,
    /// Limits of the whole pod.
    pub resources: Resources,
    /// Size of /dev/shm, 64 MiB if not given.
    pub shm_size_bytes: Option<u64>,
}

/// Which processes a container sees.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum PidNamespace {
    /// Only its own.
    #[default]
    Container,
    /// Those of the pod's containers (`shareProcessNamespace`).
    Pod,
    /// The host's.
    Host,
    /// Those of the running container with this id.
    Of(String),
}

/// How mounts that appear later travel between host and container.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Propagation {
    /// Not at all.
    #[default]
    None,
    /// From the host into the container.
    HostToContainer,
    /// Both ways.
    Bidirectional,
}

/// One volume in a container.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Mount {
    /// The path on the host.
    pub source: PathBuf,
    /// A path below the source, which links must not leave.
    pub sub_path: Option<String>,
    /// The path in the container.
    pub target: String,
    /// Not writable there.
    pub read_only: bool,
    /// Mounts below the source are not writable either (`recursiveReadOnly`).
    pub recursive_read_only: bool,
    /// How later mounts travel.
    pub propagation: Propagation,
}

/// A device node besides the standard ones.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Device {
    /// The node on the host.
    pub host_path: PathBuf,
    /// Its path in the container.
    pub container_path: String,
    /// `r`, `w`, `m`.
    pub permissions: String,
}

/// Which system calls a container may use.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Seccomp {
    /// The runtime's default list.
    #[default]
    RuntimeDefault,
    /// All.
    Unconfined,
    /// A profile in the format of Docker and the OCI runtime specification.
    Profile(String),
}

/// A process limit by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResourceLimit {
    /// `RLIMIT_*`.
    pub resource: u32,
    /// Soft limit.
    pub soft: u64,
    /// Hard limit.
    pub hard: u64,
}

/// A container's capabilities, by name with or without `CAP_`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// Added to the default ones; `ALL` is understood.
    pub add: Vec<String>,
    /// Taken away; `ALL` is understood.
    pub drop: Vec<String>,
}

/// A container.
#[derive(Clone, Debug, Default)]
pub struct ContainerSpec {
    /// Its name in the pod.
    pub name: String,
    /// How often it has been started before.
    pub attempt: u32,
    /// Id of the image, as `Images::resolve` gave it.
    pub image: String,
    /// Replaces the image's entrypoint (and drops its cmd) if not empty.
    pub command: Vec<String>,
    /// Replaces the image's cmd if not empty.
    pub args: Vec<String>,
    /// Added to the image's environment, `NAME=value`.
    pub env: Vec<(String, String)>,
    /// Replaces the image's working directory.
    pub working_directory: Option<String>,
    /// Volumes and files such as /etc/hosts, in order.
    pub mounts: Vec<Mount>,
    /// Devices besides the standard ones.
    pub devices: Vec<Device>,
    /// A user id or name, optionally `:group`; the image's user if not given.
    pub user: Option<String>,
    /// Replaces the user's primary group.
    pub group: Option<u32>,
    /// Added to the groups that the image's /etc/group gives.
    pub supplemental_groups: Vec<u32>,
    /// Only `supplemental_groups` and the primary one (`supplementalGroupsPolicy: Strict`).
    pub strict_groups: bool,
    /// Capabilities to add and drop.
    pub capabilities: Capabilities,
    /// Everything that root on the host may do.
    pub privileged: bool,
    /// The root file system cannot be written to.
    pub read_only_root: bool,
    /// Allowed system calls.
    pub seccomp: Seccomp,
    /// No process gains privileges by executing a file.
    pub no_new_privileges: bool,
    /// `procMount: Unmasked`.
    pub unmasked_proc: bool,
    /// Limits.
    pub resources: Resources,
    /// Give it a terminal.
    pub tty: bool,
    /// Keep its stdin open for attaching.
    pub stdin: bool,
    /// Where its output is logged, in CRI's format.
    pub log_path: Option<PathBuf>,
    /// The agent is told when the log passes this size; 0 means never.
    pub log_notice_bytes: u64,
    /// The log never grows beyond this size: before it would, the container's output waits for the rotation, 5 s at most,
    /// then the shim rotates by itself (at once if no agent is connected). At least 256 KiB; 0 means no cap.
    pub log_cap_bytes: u64,
    /// Which processes it sees.
    pub pid_namespace: PidNamespace,
    /// Its standing when memory runs out; lowering may be refused by the kernel, which fails nothing.
    pub oom_score_adj: i32,
    /// Process limits; those that the kernel refuses are skipped.
    pub limits: Vec<ResourceLimit>,
}

/// A process to run in a running container.
#[derive(Clone, Debug, Default)]
pub struct ExecSpec {
    /// The command and its arguments.
    pub args: Vec<String>,
    /// Added to the container's environment.
    pub env: Vec<(String, String)>,
    /// Give it a terminal; stderr then comes with stdout.
    pub tty: bool,
    /// Connect its stdin.
    pub stdin: bool,
    /// The terminal's size, columns and rows.
    pub size: Option<(u16, u16)>,
}

/// How a container stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ContainerState {
    /// Its directory is there, it was not started (the agent died in between, or the start failed).
    Created,
    /// It runs.
    Running {
        /// The pid in the agent's PID namespace.
        pid: i32,
        /// When it was started.
        started_ns: u64,
    },
    /// It ended.
    Exited(Exit),
}

/// How a container ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exit {
    /// The exit code; 128 and the signal's number if a signal ended it, as everywhere in Kubernetes.
    pub code: i32,
    /// The signal that ended it, or 0.
    pub signal: i32,
    /// When it was started (0 if that is not known any more).
    pub started_ns: u64,
    /// When it ended (0 if that is not known any more).
    pub finished_ns: u64,
    /// Memory ran out.
    pub oom_killed: bool,
    /// False if nobody saw it end: the machine was rebooted, or the shim was killed.
    pub observed: bool,
    /// Log lines lost to a full disk or the log's cap.
    pub dropped_log_lines: u64,
}

/// A container as the runtime knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerStatus {
    /// 64 hexadecimal digits.
    pub id: String,
    /// Its name in the pod.
    pub name: String,
    /// Which attempt it is.
    pub attempt: u32,
    /// The image's id.
    pub image: String,
    /// Its log.
    pub log_path: Option<PathBuf>,
    /// When it was made.
    pub created_ns: u64,
    /// How it stands.
    pub state: ContainerState,
}

/// What a pod tells unasked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PodEvent {
    /// A container ended.
    Exited {
        /// The container's id.
        id: String,
        /// How.
        exit: Exit,
    },
    /// A log passed its notice size and wants to be rotated.
    LogGrew {
        /// The container's id.
        id: String,
        /// Its size now.
        size_bytes: u64,
    },
    /// The shim is gone; what ran in the pod has been killed.
    Lost,
    /// The reader was too slow and missed events; `Pod::containers` tells how things stand.
    Missed,
}
