//! Puts one container's launch together from everything that concerns it.

use super::launch::{ImageConfig, Launch, LaunchError, Mount, MountPropagation, Processes};
use super::{container_limits, oom_score_adjust, security};
use crate::environment::{FieldContext, LinkedService, command_line, environment, expand};
use crate::volumes::{Inputs, Prepared, make_sub_path};
use k8s_openapi::api::core::v1::{Container, EphemeralContainer, Pod};
use std::path::{Path, PathBuf};

/// What surrounds a container.
pub struct Surroundings<'a> {
    /// The pod's volumes.
    pub volumes: &'a [Prepared],
    /// The pod's directory, which holds hosts, resolv.conf and the containers' own files.
    pub pod_directory: &'a Path,
    /// Where the pod's logs go.
    pub log_directory: &'a Path,
    /// Services that the container is told of.
    pub services: &'a [LinkedService],
    /// Referenced objects.
    pub inputs: &'a Inputs,
    /// Addresses and the node's size.
    pub context: &'a FieldContext,
    /// Where Localhost seccomp profiles are.
    pub seccomp_root: &'a Path,
}

/// The launch of one run of a container.
///
/// # Errors
/// What is missing or contradicts itself, with upstream's reason.
pub fn launch(
    pod: &Pod,
    container: &Container,
    attempt: u32,
    image: &ImageConfig,
    around: &Surroundings<'_>,
) -> Result<Launch, LaunchError> {
    let spec = pod.spec.as_ref().ok_or_else(|| LaunchError::config("the pod has no spec"))?;
    let variables =
        environment(pod, container, around.services, around.inputs, around.context).map_err(LaunchError::config)?;
    let command = command_line(container, &variables, &image.entrypoint, &image.arguments);
    if command.is_empty() {
        return Err(LaunchError::create("no command specified: neither the image nor the container has one"));
    }
    let lookup = |name: &str| variables.iter().rev().find(|(have, _)| have == name).map(|(_, value)| value.clone());
    let mut mounts = Vec::new();
    for mount in container.volume_mounts.iter().flatten() {
        let volume = around.volumes.iter().find(|volume| volume.name == mount.name).ok_or_else(|| {
            LaunchError::config(format!(
                "cannot find volume {:?} to mount into container {:?}",
                mount.name, container.name
            ))
        })?;
        let expression = mount.sub_path_expr.as_deref().filter(|text| !text.is_empty());
        let sub_path = match expression {
            Some(text) => {
                let expanded = expand(text, lookup);
                if expanded.contains("$(") {
                    return Err(LaunchError::config(format!(
                        "failed to expand subPathExpr {text:?}: a variable is missing"
                    )));
                }
                Some(expanded)
            }
            None => mount.sub_path.clone().filter(|text| !text.is_empty()),
        };
        if let Some(path) = &sub_path
            && (path.starts_with('/') || path.split('/').any(|part| part == ".."))
        {
            return Err(LaunchError::config(format!(
                "invalid subPath {path:?}: it must be relative and must not contain \"..\""
            )));
        }
        if let Some(path) = &sub_path {
            make_sub_path(&volume.path, path).map_err(|error| {
                tracing::warn!(%error, volume = %volume.path.display(), path, "a subPath could not be made");
                // The error itself would tell the pod's owner about the node's file system.
                LaunchError::config(format!(
                    "failed to create subPath directory for volumeMount {:?} of container {:?}",
                    mount.name, container.name
                ))
            })?;
        }
        let read_only = mount.read_only.unwrap_or(false) || volume.read_only;
        let recursive = mount.recursive_read_only.as_deref().unwrap_or("Disabled");
        mounts.push(Mount {
            source: volume.path.clone(),
            sub_path,
            target: mount.mount_path.clone(),
            read_only,
            recursive_read_only: read_only && recursive != "Disabled",
            propagation: match mount.mount_propagation.as_deref() {
                Some("Bidirectional") => MountPropagation::Bidirectional,
                Some("HostToContainer") => MountPropagation::HostToContainer,
                _ => MountPropagation::None,
            },
        });
    }
    let taken = |target: &str| container.volume_mounts.iter().flatten().any(|mount| mount.mount_path == target);
    let own = |source: PathBuf, target: &str| Mount { source, target: target.into(), ..Mount::default() };
    for (file, target) in
        [("etc-hosts", "/etc/hosts"), ("resolv.conf", "/etc/resolv.conf"), ("hostname", "/etc/hostname")]
    {
        if !taken(target) {
            mounts.push(own(around.pod_directory.join(file), target));
        }
    }
    let message_path = container.termination_message_path.as_deref().unwrap_or("/dev/termination-log");
    if !message_path.is_empty() && !taken(message_path) {
        mounts.push(own(termination_log(around.pod_directory, &container.name, attempt), message_path));
    }
    let security = security(pod, container, image, around.seccomp_root)?;
    let shared = spec.share_process_namespace.unwrap_or(false);
    let processes = match (spec.host_pid.unwrap_or(false), shared, target_of(pod, &container.name)) {
        (true, ..) => Processes::Host,
        (false, true, _) => Processes::Pod,
        (false, false, Some(target)) => Processes::Of(target),
        (false, false, None) => Processes::Container,
    };
    Ok(Launch {
        name: container.name.clone(),
        attempt,
        image: image.id.clone(),
        command,
        environment: variables,
        working_directory: container.working_dir.clone().filter(|path| !path.is_empty()),
        mounts,
        security,
        limits: container_limits(container),
        oom_score_adjust: oom_score_adjust(spec, container, around.context.memory_bytes),
        tty: container.tty.unwrap_or(false),
        stdin: container.stdin.unwrap_or(false),
        log_path: around.log_directory.join(&container.name).join(format!("{attempt}.log")),
        processes,
    })
}

/// The container whose processes an ephemeral container has to see.
fn target_of(pod: &Pod, name: &str) -> Option<String> {
    let ephemeral: &[EphemeralContainer] = pod.spec.as_ref().and_then(|spec| spec.ephemeral_containers.as_deref())?;
    let own = ephemeral.iter().find(|one| one.name == name)?;
    own.target_container_name.clone().filter(|target| !target.is_empty())
}

/// The file behind a run's termination message path.
#[must_use]
pub fn termination_log(pod_directory: &Path, container: &str, attempt: u32) -> PathBuf {
    pod_directory.join("containers").join(container).join(format!("{attempt}.termination-log"))
}
