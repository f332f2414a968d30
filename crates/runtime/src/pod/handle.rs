//! The handle of a pod: cheap to clone, safe to drop at any moment.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::{OwnedRwLockReadGuard, RwLock, broadcast, mpsc};

use super::status;
use crate::{
    cgroup::{Cgroups, Stats},
    connection::Connection,
    error::{Error, Result},
    runtime::Shared,
    spec::{ContainerState, ContainerStatus, PodEvent, PodSpec, Resources},
    state::ContainerRecord,
    wire::{self, Message},
};

/// Events that a slow reader may lag behind before it is told that it missed some.
const EVENTS_MAX: usize = 256;

/// A pod with its sandbox.
#[derive(Clone)]
pub struct Pod {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub(super) shared: Arc<Shared>,
    pub(super) spec: PodSpec,
    pub(super) directory: PathBuf,
    pub(super) group: String,
    pub(super) pid: i32,
    pub(super) connection: Option<Connection>,
    pub(super) containers: Mutex<BTreeMap<String, Container>>,
    pub(super) events: broadcast::Sender<PodEvent>,
    /// Whoever makes something in the pod's directory or groups holds it for reading. Taken for writing once, by the pod's
    /// removal, which leaves true: so nothing appears in what is being removed.
    pub(super) removed: Arc<RwLock<bool>>,
}

#[derive(Clone)]
pub(super) struct Container {
    pub(super) record: ContainerRecord,
    pub(super) state: ContainerState,
}

/// What a pod tells unasked.
pub struct Events(broadcast::Receiver<PodEvent>);

impl Events {
    /// The next event; none once the pod's handle is gone.
    pub async fn next(&mut self) -> Option<PodEvent> {
        match self.0.recv().await {
            Ok(event) => Some(event),
            Err(broadcast::error::RecvError::Lagged(_)) => Some(PodEvent::Missed),
            Err(broadcast::error::RecvError::Closed) => None,
        }
    }
}

impl Pod {
    pub(crate) fn new(
        shared: Arc<Shared>,
        spec: PodSpec,
        directory: PathBuf,
        live: Option<(Connection, i32, mpsc::UnboundedReceiver<Message>)>,
    ) -> Pod {
        let group = Cgroups::pod(&spec.uid, spec.qos);
        let (connection, pid, notices) = match live {
            Some((connection, pid, notices)) => (Some(connection), pid, Some(notices)),
            None => (None, 0, None),
        };
        let inner = Arc::new(Inner {
            shared,
            spec,
            directory,
            group,
            pid,
            connection,
            containers: Mutex::new(BTreeMap::new()),
            events: broadcast::channel(EVENTS_MAX).0,
            removed: Arc::new(RwLock::new(false)),
        });
        if let Some(notices) = notices {
            tokio::spawn(status::follow(Arc::downgrade(&inner), notices));
        }
        Pod { inner }
    }

    /// What was asked for.
    pub fn spec(&self) -> &PodSpec {
        &self.inner.spec
    }
    /// The shim's pid: `/proc/<pid>/ns/net` is the pod's network namespace. 0 if the shim is gone.
    pub fn pid(&self) -> i32 {
        self.inner.pid
    }
    /// The pod's network namespace as a path.
    pub fn network_namespace(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/ns/net", self.inner.pid))
    }
    /// The pod's directory, for files such as /etc/hosts that the node makes.
    pub fn directory(&self) -> &Path {
        &self.inner.directory
    }
    /// False once the shim is gone (killed, or the machine was rebooted): the sandbox has to be made anew.
    pub fn is_alive(&self) -> bool {
        self.inner.connection.as_ref().is_some_and(|it| !it.lost())
    }
    /// Events from now on.
    pub fn events(&self) -> Events {
        Events(self.inner.events.subscribe())
    }
    /// All containers that were not removed.
    pub fn containers(&self) -> Vec<ContainerStatus> {
        self.inner.lock().values().map(Container::status).collect()
    }
    /// One container.
    pub fn container(&self, id: &str) -> Option<ContainerStatus> {
        self.inner.lock().get(id).map(Container::status)
    }

    /// Sends a signal to a container's first process.
    pub async fn signal(&self, id: &str, signal: i32) -> Result<()> {
        let token = self.inner.find(id)?.record.token;
        let message = Message { kind: wire::SIGNAL, token, a: signal as u64, ..Message::default() };
        self.inner.connection()?.ask("sending a signal", message, &[]).await.map(drop)
    }

    /// Goes on with a container's log in the file at its log path, after the old one was renamed.
    pub async fn reopen_log(&self, id: &str) -> Result<()> {
        let record = self.inner.find(id)?.record;
        let Some(path) = record.log_path else { return Err(Error::Invalid(format!("container {id} has no log"))) };
        let file = super::start::open_log(&path)?;
        let message = Message { kind: wire::LOG, token: record.token, ..Message::default() };
        let file = [std::os::fd::AsFd::as_fd(&file)];
        self.inner.connection()?.ask("reopening a log", message, &file).await.map(drop)
    }

    /// Changes a container's limits while it runs.
    pub async fn update_resources(&self, id: &str, resources: Resources) -> Result<()> {
        let group = self.inner.container_group(&self.inner.find(id)?.record.id);
        let shared = self.inner.shared.clone();
        crate::runtime::blocking(move || shared.cgroups.update(&group, &resources)).await
    }

    /// The directory that holds what a container wrote into its root file system.
    pub fn container_writes(&self, id: &str) -> Result<PathBuf> {
        Ok(self.inner.container_directory(&self.inner.find(id)?.record.id).join("upper"))
    }

    /// What the whole pod has used.
    pub fn stats(&self) -> Stats {
        self.inner.shared.cgroups.stats(&self.inner.group)
    }
    /// What a container has used.
    pub fn container_stats(&self, id: &str) -> Result<Stats> {
        let id = self.inner.find(id)?.record.id;
        Ok(self.inner.shared.cgroups.stats(&self.inner.container_group(&id)))
    }
}

impl Inner {
    pub(super) fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Container>> {
        self.containers.lock().unwrap_or_else(PoisonError::into_inner)
    }
    pub(super) fn find(&self, id: &str) -> Result<Container> {
        self.lock().get(id).cloned().ok_or_else(|| Error::NotFound(format!("container {id:?}")))
    }
    pub(super) fn connection(&self) -> Result<&Connection> {
        self.connection.as_ref().ok_or_else(|| Error::ShimLost("it ended before this agent started".to_owned()))
    }
    /// The right to make something of this pod; it may be shared with blocking work, which a dropped future does not end.
    pub(super) async fn making(&self) -> Result<Arc<OwnedRwLockReadGuard<bool>>> {
        let removed = Arc::clone(&self.removed).read_owned().await;
        if *removed { Err(Error::ShimLost("the pod was removed".to_owned())) } else { Ok(Arc::new(removed)) }
    }
    pub(super) fn container_group(&self, id: &str) -> String {
        format!("{}/{id}", self.group)
    }
    pub(super) fn container_directory(&self, id: &str) -> PathBuf {
        self.directory.join("containers").join(id.get(..16).unwrap_or(id))
    }
}

impl Container {
    fn status(&self) -> ContainerStatus {
        let record = &self.record;
        ContainerStatus {
            id: record.id.clone(),
            name: record.name.clone(),
            attempt: record.attempt,
            image: record.image.clone(),
            log_path: record.log_path.clone(),
            created_ns: record.created_ns,
            state: self.state.clone(),
        }
    }
}
