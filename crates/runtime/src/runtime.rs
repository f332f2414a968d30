//! The room's door: opens the directories, makes pods, finds them again, and cleans everything up.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use tokio::sync::mpsc;

use crate::{
    cgroup::Cgroups,
    connection::Connection,
    error::{Context, Error, Result},
    images::{Image, Images},
    launch::{self, ResolvedUser},
    pod::{Pod, remove_directory},
    shim,
    spec::PodSpec,
    state::{self, ContainerRecord, PodRecord},
};

/// Where a runtime keeps its things.
#[derive(Clone, Debug)]
pub struct Options {
    /// Images and layers.
    pub data_directory: PathBuf,
    /// Pods; on a file system that an overlay's upper directory may lie on.
    pub state_directory: PathBuf,
    /// The name of our control groups. Agents on one machine need different ones.
    pub cgroup_name: String,
}

impl Options {
    /// The usual layout below one directory.
    pub fn below(data_directory: impl Into<PathBuf>) -> Options {
        let data_directory = data_directory.into();
        Options { state_directory: data_directory.join("run"), data_directory, cgroup_name: "klynge".to_owned() }
    }
}

/// Images, pods and containers of one machine. A cheap handle.
#[derive(Clone)]
pub struct Runtime {
    shared: Arc<Shared>,
}

pub(crate) struct Shared {
    pub(crate) images: Images,
    pub(crate) cgroups: Cgroups,
    pub(crate) shim_executable: PathBuf,
    /// An empty directory, bound over what containers must not see.
    pub(crate) empty: PathBuf,
    pods: PathBuf,
    boot_id: String,
}

/// Runs what blocks where blocking is allowed.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(Error::io("running a blocking operation", std::io::Error::other(error))),
    }
}

impl Runtime {
    /// Opens the runtime; makes what is missing.
    pub async fn open(options: Options) -> Result<Runtime> {
        blocking(move || {
            if !rustix::process::geteuid().is_root() {
                return Err(Error::Unsupported(
                    "containers need root; start klynge as root, for instance with sudo".to_owned(),
                ));
            }
            let make = |path: &Path| {
                fs::DirBuilder::new().recursive(true).mode(0o700).create(path).context("making the directory", path)
            };
            let absolute = |path: &Path| {
                make(path)?;
                fs::canonicalize(path).context("resolving", path)
            };
            let state = absolute(&options.state_directory)?;
            let data = absolute(&options.data_directory)?;
            let (pods, empty) = (state.join("pods"), state.join("empty"));
            make(&pods)?;
            make(&empty)?;
            let shared = Shared {
                images: Images::open(&data)?,
                cgroups: Cgroups::open(&options.cgroup_name, &state)?,
                shim_executable: shim::install(&state)?,
                empty,
                pods,
                boot_id: state::boot_id()?,
            };
            Ok(Runtime { shared: Arc::new(shared) })
        })
        .await
    }

    /// The files that a process with one thread writes 0 into to be where the shims are, outside its service's groups.
    pub fn shim_groups(&self) -> Vec<PathBuf> {
        match self.shared.cgroups.shim_entry() {
            (files, None) => files,
            (_, Some(group)) => vec![group.join("cgroup.procs")],
        }
    }

    /// The images.
    pub fn images(&self) -> &Images {
        &self.shared.images
    }

    /// Looks a user up as a container of this image would: `nginx`, `1000`, `1000:1000`, or nothing for the image's own.
    pub fn resolve_user(&self, image: &Image, user: Option<&str>) -> Result<ResolvedUser> {
        let directory = self.shared.images.layers_directory();
        let layers: Vec<PathBuf> = image.layers.iter().rev().map(|it| directory.join(it)).collect();
        launch::resolve_user(&layers, user.unwrap_or(&image.config.user))
    }

    /// The ids of the images that containers of this machine were made from, whether they run or not.
    pub async fn images_in_use(&self) -> Result<BTreeSet<String>> {
        let pods = self.shared.pods.clone();
        blocking(move || {
            let mut used = BTreeSet::new();
            for pod in fs::read_dir(&pods).context("reading", &pods)?.flatten() {
                for container in fs::read_dir(pod.path().join("containers")).into_iter().flatten().flatten() {
                    if let Ok(record) = state::read::<ContainerRecord>(&container.path().join("container.json")) {
                        used.insert(record.image);
                    }
                }
            }
            Ok(used)
        })
        .await
    }

    /// The pods, as namespace/name, with containers that were made from the image of this id, whether they run or not.
    pub async fn pods_of_image(&self, id: &str) -> Result<BTreeSet<String>> {
        let (pods, id) = (self.shared.pods.clone(), id.to_owned());
        blocking(move || {
            let mut users = BTreeSet::new();
            for pod in fs::read_dir(&pods).context("reading", &pods)?.flatten() {
                let mut containers = fs::read_dir(pod.path().join("containers")).into_iter().flatten().flatten();
                let uses = containers.any(|container| {
                    state::read::<ContainerRecord>(&container.path().join("container.json"))
                        .is_ok_and(|record| record.image == id)
                });
                if uses && let Ok(record) = state::read::<PodRecord>(&pod.path().join("pod.json")) {
                    users.insert(format!("{}/{}", record.spec.namespace, record.spec.name));
                }
            }
            Ok(users)
        })
        .await
    }

    /// Removes an image, by id or name, unless a container was made from it. One of several tags goes alone.
    pub async fn remove_image(&self, name: &str) -> Result<()> {
        let _nobody_starts = self.shared.images.in_use().write().await;
        let used = self.images_in_use().await?;
        self.shared.images.remove(name, used).await
    }

    /// Makes a pod's sandbox. An error leaves nothing of it behind.
    pub async fn create_pod(&self, spec: PodSpec) -> Result<Pod> {
        let allowed = |it: char| it.is_ascii_alphanumeric() || it == '-' || it == '_';
        if spec.uid.is_empty() || spec.uid.len() > 64 || !spec.uid.chars().all(allowed) {
            return Err(Error::Invalid(format!("{:?} cannot be a pod's uid", spec.uid)));
        }
        let directory = self.shared.pods.join(&spec.uid);
        let (shared, spec_copy, directory_copy) = (self.shared.clone(), spec.clone(), directory.clone());
        blocking(move || {
            fs::create_dir(&directory_copy).context("making the pod's directory", &directory_copy)?;
            let made = make_pod(&shared, &spec_copy, &directory_copy);
            if made.is_err() {
                let _ = shared.cgroups.remove(&Cgroups::pod(&spec_copy.uid, spec_copy.qos));
                let _ = fs::remove_dir_all(&directory_copy);
            }
            made
        })
        .await?;
        self.connect(spec, directory).await
    }

    async fn connect(&self, spec: PodSpec, directory: PathBuf) -> Result<Pod> {
        let (sender, notices) = mpsc::unbounded_channel();
        let (connection, pid) = Connection::open(&directory, sender).await?;
        Ok(Pod::new(self.shared.clone(), spec, directory, Some((connection, pid, notices))))
    }

    /// Finds the pods of an earlier agent again, with their containers as they stand now. A pod whose shim is gone comes
    /// back with `is_alive` false: what was left of it has been killed, and its exits are told as far as they are known.
    pub async fn recover(&self) -> Result<Vec<Pod>> {
        let entries = fs::read_dir(&self.shared.pods).context("reading", &self.shared.pods)?;
        let mut pods = Vec::new();
        for entry in entries.flatten() {
            let directory = entry.path();
            let record: PodRecord = match state::read(&directory.join("pod.json")) {
                Ok(record) => record,
                Err(Error::State { path, reason }) if reason.contains("newer klynge") => {
                    return Err(Error::State { path, reason });
                }
                Err(error) => {
                    // It was being made, or being removed, when the agent ended.
                    tracing::warn!(%error, "a pod without record is removed");
                    remove_directory(&directory)?;
                    continue;
                }
            };
            let same_boot = record.boot_id == self.shared.boot_id;
            let connected = match same_boot {
                true => self.connect(record.spec.clone(), directory.clone()).await,
                false => Err(Error::ShimLost("the machine was rebooted".to_owned())),
            };
            let pod = match connected {
                Ok(pod) => pod,
                Err(Error::ShimLost(_)) => Pod::new(self.shared.clone(), record.spec, directory, None),
                Err(error) => return Err(error),
            };
            pod.restore().await?;
            pods.push(pod);
        }
        let (used, images) = (self.images_in_use().await?, self.shared.images.clone());
        blocking(move || images.collect_layers(&used)).await?;
        Ok(pods)
    }

    /// Kills every pod and removes all that the runtime ever made, images included. The runtime is of no use afterwards.
    pub async fn purge(&self) -> Result<()> {
        let shared = self.shared.clone();
        blocking(move || {
            shared.cgroups.purge()?;
            remove_directory(&shared.pods)?;
            shared.images.purge()?;
            let state = shared.pods.parent().map(Path::to_owned).unwrap_or_default();
            for name in ["empty", "cgroups.json"] {
                let path = state.join(name);
                let _ = fs::remove_dir(&path).or_else(|_| fs::remove_file(&path));
            }
            let _ = fs::remove_file(&shared.shim_executable);
            let _ = fs::remove_dir(&state);
            Ok(())
        })
        .await
    }
}

fn make_pod(shared: &Shared, spec: &PodSpec, directory: &Path) -> Result<()> {
    for below in ["exits", "containers", "shm"] {
        let path = directory.join(below);
        fs::create_dir(&path).context("making the directory", &path)?;
    }
    shared.cgroups.create(&Cgroups::pod(&spec.uid, spec.qos), &spec.resources, true)?;
    let program = launch::pod(spec, directory, &shared.cgroups);
    let group = shared.cgroups.shim_entry().1;
    // The record comes before the shim: a shim that no record names would never be found again.
    let record = PodRecord { boot_id: shared.boot_id.clone(), spec: spec.clone() };
    state::write(&directory.join("pod.json"), &record)?;
    shim::spawn(&shared.shim_executable, directory, program, group.as_deref()).map(drop)
}
