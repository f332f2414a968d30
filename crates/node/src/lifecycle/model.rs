//! What the lifecycle machine knows of a pod, what it is told, and what it asks for. Data only.

use super::BackOff;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

/// Everything the node remembers of one pod; checkpointed, so that a restarted agent goes on where it was.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PodState {
    /// The object as the API last showed it.
    pub pod: Arc<Pod>,
    /// The pod's namespaces.
    pub sandbox: Sandbox,
    /// The pod's volumes.
    pub volumes: Volumes,
    /// Init containers and sidecars in order, then app containers in order, then ephemeral containers.
    pub containers: Vec<Container>,
    /// When this node accepted the pod.
    pub start_time: Option<Timestamp>,
    /// Set once the pod has to end; everything running is stopped until then.
    pub terminate_by: Option<Timestamp>,
    /// Why the pod fails as a whole (eviction, deadline, rejection).
    pub terminal: Option<Terminal>,
    /// True once containers and namespaces are gone for good.
    pub torn_down: bool,
    /// True once the API no longer has the object.
    pub removed: bool,
    /// True once the deletion was asked to be finished, so that it is asked once.
    pub deletion_asked: bool,
    /// True from the loss of a sandbox until the init containers have run in the new one.
    #[serde(default)]
    pub reinitializing: bool,
    /// Status and transition time of each condition, so that times move only with the status.
    pub condition_times: BTreeMap<String, (String, Timestamp)>,
}

/// A failure of the pod as a whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terminal {
    /// status.reason
    pub reason: String,
    /// status.message
    pub message: String,
    /// Whether it was ended for the node's sake: condition DisruptionTarget, reason TerminationByKubelet.
    #[serde(default)]
    pub disrupted: bool,
}

impl Terminal {
    /// A failure that is the pod's own.
    #[must_use]
    pub fn new(reason: &str, message: String) -> Self {
        Terminal { reason: reason.to_owned(), message, disrupted: false }
    }
}

/// The pod's namespaces, held by its shim.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Sandbox {
    /// Not made yet, or gone.
    #[default]
    Absent,
    /// Asked for.
    Creating {
        /// How often it failed in a row before.
        failures: u32,
    },
    /// There, with the pod's addresses, the primary one first.
    Ready {
        /// The process that holds the namespaces.
        pid: u32,
        /// The pod's addresses.
        addresses: Vec<IpAddr>,
    },
    /// Failed; tried again at `retry_at`.
    Failed {
        /// When to try again.
        retry_at: Timestamp,
        /// How often it failed in a row.
        failures: u32,
    },
    /// Asked to be removed.
    Destroying,
}

/// The pod's volumes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Volumes {
    /// Not made yet.
    #[default]
    Absent,
    /// Asked for.
    Preparing {
        /// How often it failed in a row before.
        failures: u32,
    },
    /// All there.
    Ready,
    /// Failed; tried again at `retry_at` or when a referenced object changes.
    Failed {
        /// When to try again.
        retry_at: Timestamp,
        /// How often it failed in a row.
        failures: u32,
    },
}

/// What a container is to its pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Role {
    /// Runs to its end before the next.
    Init,
    /// An init container with restartPolicy Always.
    Sidecar,
    /// An ordinary container.
    App,
    /// Added by a person for debugging; never restarted.
    Ephemeral,
}

/// One container of a pod.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Container {
    /// spec name
    pub name: String,
    /// Its role.
    pub role: Role,
    /// Where it stands.
    pub phase: Phase,
    /// Where its image stands.
    pub image: Image,
    /// How often it was started again.
    pub restart_count: u32,
    /// The end of the run before this one.
    pub last: Option<Exit>,
    /// Back-off of restarts.
    pub back_off: BackOff,
    /// Back-off of pulls.
    pub pull_back_off: BackOff,
    /// The startup probe.
    pub startup: ProbeState,
    /// The liveness probe.
    pub liveness: ProbeState,
    /// The readiness probe.
    pub readiness: ProbeState,
    /// True once an event said that its restart is backed off, so that the status can say so as well.
    pub backing_off: bool,
}

/// Where a container stands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Phase {
    /// Not started in this round.
    Waiting {
        /// Shown as state.waiting.reason; empty for the default of the pod's progress.
        reason: String,
        /// Shown as state.waiting.message.
        message: String,
        /// Not before; None for as soon as everything is there.
        retry_at: Option<Timestamp>,
    },
    /// The runtime was asked to start it.
    Starting,
    /// Its process runs.
    Running(Running),
    /// Its process ended.
    Exited(Exit),
}

/// A running container.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Running {
    /// The runtime's id, without the `klynge://` prefix.
    pub id: String,
    /// When its process was started.
    pub started_at: Timestamp,
    /// The postStart hook.
    pub post_start: HookStage,
    /// Set while it is being stopped.
    pub stopping: Option<Stopping>,
}

/// Progress of a hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum HookStage {
    /// Under way.
    Running,
    /// Done, or there is none.
    Done,
}

/// A container that is being stopped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stopping {
    /// When the process is killed.
    pub kill_at: Timestamp,
    /// How far it is.
    pub stage: Stage,
}

/// The steps of a stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stage {
    /// The preStop hook runs.
    PreStop,
    /// The stop signal was sent.
    Terminating,
    /// SIGKILL was sent.
    Killing,
}

/// The end of a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// The runtime's id; empty where the container never was.
    pub id: String,
    /// Exit code; 128 + signal for signals.
    pub code: i32,
    /// Completed, Error, OOMKilled, ContainerStatusUnknown, ...
    pub reason: String,
    /// The termination message.
    pub message: String,
    /// When it was started.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub finished_at: Timestamp,
}

/// Where a container's image stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Image {
    /// Not looked at in this round.
    #[default]
    Unknown,
    /// Asked for.
    Pulling,
    /// There.
    Ready {
        /// status imageID: `name@sha256:...`.
        id: String,
    },
    /// The pull failed.
    Failed {
        /// ErrImagePull, InvalidImageName, ErrImageNeverPull, ...
        reason: String,
        /// The runtime's sentence.
        message: String,
        /// When it failed.
        at: Timestamp,
        /// True once the back-off was told.
        backing_off: bool,
    },
}

/// The three probes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ProbeKind {
    /// startupProbe
    Startup,
    /// livenessProbe
    Liveness,
    /// readinessProbe
    Readiness,
}

/// The counters of one probe of one run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeState {
    /// The last single outcome.
    pub last: Option<bool>,
    /// How often it came in a row.
    pub run: u32,
    /// The outcome that passed its threshold.
    pub result: Option<bool>,
    /// A probe is under way.
    pub in_flight: bool,
    /// When the next is due; None before the first.
    pub next_at: Option<Timestamp>,
}

/// What became of something that was asked for, with the sentence for people where it failed.
pub type Outcome = Result<(), String>;

/// Why a start failed, and with that whether it counts as a run of the container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartFailure {
    /// The spec, or what it refers to, does not say how: no run, tried again when what is missing comes.
    Configuration,
    /// The container could not be made: no run, tried again later.
    Creation,
    /// Its process could not be prepared, by our or the machine's fault: no run, tried again later.
    SetUp,
    /// It was made, but what it is told to run cannot be started: a run that ended before it began.
    Command,
    /// The pod's namespaces are gone: no failure of the container, which is started in new ones.
    SandboxLost,
}

impl StartFailure {
    /// What clients see it called.
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            StartFailure::Configuration => "CreateContainerConfigError",
            StartFailure::Creation | StartFailure::SandboxLost => "CreateContainerError",
            StartFailure::SetUp => "RunContainerError",
            StartFailure::Command => "StartError",
        }
    }
}

/// A container that the runtime still knows when the agent comes back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecoveredContainer {
    /// spec name
    pub name: String,
    /// The runtime's id.
    pub id: String,
    /// When it was started.
    pub started_at: Timestamp,
    /// Its end, where it has ended.
    pub exit: Option<Exit>,
}

/// What the machine is told: the closed set.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The object is new or changed.
    Changed(Arc<Pod>),
    /// The object is gone from the API without our doing.
    Removed,
    /// The node refuses the pod, or evicts it with a grace in seconds.
    Failed(Terminal, i64),
    /// The volumes are there.
    VolumesReady,
    /// The volumes could not be made.
    VolumesFailed(String),
    /// Something that the pod refers to has changed: what failed for want of it may be tried at once.
    ReferencesChanged,
    /// The namespaces are there.
    SandboxReady {
        /// The process that holds them.
        pid: u32,
        /// The pod's addresses.
        addresses: Vec<IpAddr>,
    },
    /// The namespaces could not be made.
    SandboxFailed(String),
    /// The shim died under us, and with it every container; each one's end is told by an `Exited` of its own.
    SandboxLost,
    /// The namespaces were removed as asked.
    SandboxDestroyed,
    /// An image is there.
    ImageReady {
        /// The container that needs it.
        container: String,
        /// `name@sha256:...`
        id: String,
        /// Size in bytes and seconds that the pull took; None where it was there already.
        pulled: Option<(u64, f64)>,
    },
    /// An image could not be had.
    ImageFailed {
        /// The container that needs it.
        container: String,
        /// ErrImagePull, InvalidImageName, ErrImageNeverPull, RegistryUnavailable.
        reason: String,
        /// The sentence for people.
        message: String,
    },
    /// A container runs.
    Started {
        /// Which.
        container: String,
        /// The runtime's id.
        id: String,
        /// Since when.
        started_at: Timestamp,
    },
    /// A container could not be started.
    StartFailed {
        /// Which.
        container: String,
        /// What failed.
        failure: StartFailure,
        /// The sentence for people.
        message: String,
    },
    /// A container ended.
    Exited {
        /// Which.
        container: String,
        /// How.
        exit: Exit,
    },
    /// A hook ended.
    HookDone {
        /// Which container's.
        container: String,
        /// The run it belongs to.
        id: String,
        /// Which hook.
        hook: Hook,
        /// How.
        outcome: Outcome,
    },
    /// A probe ended.
    Probed {
        /// Which container's.
        container: String,
        /// The run it belongs to.
        id: String,
        /// Which probe.
        kind: ProbeKind,
        /// How.
        outcome: Outcome,
    },
    /// The agent came back and asked the runtime: the pid and addresses of the sandbox where it lives, and its containers.
    Recovered {
        /// The sandbox, where it lives.
        sandbox: Option<(u32, Vec<IpAddr>)>,
        /// Its containers.
        containers: Vec<RecoveredContainer>,
    },
    /// The time that `next_wake` named has come.
    Woken,
}

/// The two hooks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Hook {
    /// lifecycle.postStart
    PostStart,
    /// lifecycle.preStop
    PreStop,
}

/// How a container is told to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// The stop signal: lifecycle.stopSignal, the image's, or SIGTERM.
    Stop,
    /// SIGKILL.
    Kill,
}

/// Normal or Warning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// Normal
    Normal,
    /// Warning
    Warning,
}

/// An Event object to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// type
    pub severity: Severity,
    /// reason
    pub reason: String,
    /// message
    pub message: String,
    /// The container it is about; empty for the pod.
    pub container: String,
}

/// What the machine asks for. Every request is answered by exactly one event, in the end.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Make the volumes: answered by VolumesReady or VolumesFailed.
    PrepareVolumes,
    /// Make namespaces and network: answered by SandboxReady or SandboxFailed.
    CreateSandbox,
    /// Have the image by the container's pull policy: answered by ImageReady or ImageFailed.
    EnsureImage {
        /// For which container.
        container: String,
    },
    /// Start a container: answered by Started or StartFailed.
    Start {
        /// Which.
        container: String,
        /// Which run of it, from 0.
        attempt: u32,
    },
    /// Run a hook: answered by HookDone.
    RunHook {
        /// Whose.
        container: String,
        /// In which run.
        id: String,
        /// Which.
        hook: Hook,
        /// At most so long.
        timeout_seconds: i64,
    },
    /// Probe once: answered by Probed.
    Probe {
        /// Whom.
        container: String,
        /// In which run.
        id: String,
        /// Which probe.
        kind: ProbeKind,
    },
    /// Send a signal; the answer is Exited once the process ends.
    Signal {
        /// To which container.
        container: String,
        /// In which run.
        id: String,
        /// Which.
        signal: Signal,
    },
    /// Forget an earlier run: its root file system; the log stays as upstream keeps one before.
    RemoveContainer {
        /// The run.
        id: String,
    },
    /// Remove namespaces, network and containers: answered by SandboxDestroyed.
    DestroySandbox,
    /// Remove volumes and directories; the pod is over for this node.
    CleanUp,
    /// Tell the API that the pod is gone: delete with grace 0 and the uid as a condition, after the last status.
    FinishDeletion,
    /// Write an Event object.
    Report(Report),
}
