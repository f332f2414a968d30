//! Makes a pod's volumes and keeps those up to date whose objects change.

use super::shared::Shared;
use crate::container::memory_limits;
use crate::environment::{FieldContext, needs};
use crate::volumes::{
    GroupRights, Inputs, Ownership, Payload, Prepared, clean_up, downward, files_directory, from_config_map,
    from_secret, host_path, memory_or_disk, own_by_group, projected, token_wishes, write_atomically,
};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, Volume};
use std::path::{Path, PathBuf};
use std::sync::Arc;

const CONFIG_MAP: &str = "kubernetes.io~configmap";
/// What files in memory may take: two versions of 64 MiB, which is the most that one may hold, and their directories.
const FILES_BYTES_MAX: u64 = (2 * 64 + 1) << 20;

/// What came out of making volumes.
pub(super) struct Made {
    /// The volumes.
    pub(super) prepared: Vec<Prepared>,
    /// When a token has to be renewed; None where there is none.
    pub(super) refresh_at: Option<Timestamp>,
}

fn directory(pod_directory: &Path, plugin: &str, name: &str) -> PathBuf {
    pod_directory.join("volumes").join(plugin).join(name)
}

/// The referenced objects with the tokens of the pod's projected volumes.
async fn gather(shared: &Shared, pod: &Pod, uid: &str) -> Result<(Inputs, Option<Timestamp>), String> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
    let mut inputs = shared.references.inputs(uid, namespace, &needs(pod)).await;
    let mut refresh_at: Option<Timestamp> = None;
    for volume in pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()) {
        let Some(source) = &volume.projected else { continue };
        for wish in token_wishes(source) {
            let (token, renew_at) =
                shared.tokens.token(pod, &wish, Timestamp::now()).await.map_err(|message| {
                    format!("MountVolume.SetUp failed for volume \"{}\" : {message}", volume.name)
                })?;
            inputs.tokens.insert(wish.path, token.into_bytes());
            refresh_at = Some(refresh_at.map_or(renew_at, |at| at.min(renew_at)));
        }
    }
    Ok((inputs, refresh_at))
}

/// Makes all volumes of a pod, or brings those up to date that hold objects.
///
/// # Errors
/// The first volume that fails, in the words of upstream's FailedMount event.
pub(super) async fn prepare(shared: &Shared, pod: &Arc<Pod>, context: &FieldContext) -> Result<Made, String> {
    let uid = pod.metadata.uid.clone().unwrap_or_default();
    let (inputs, refresh_at) = gather(shared, pod, &uid).await?;
    let pod_directory = shared.paths.pod(&uid);
    let (pod, context) = (Arc::clone(pod), context.clone());
    let make = move || {
        std::fs::create_dir_all(&pod_directory).map_err(|error| format!("{}: {error}", pod_directory.display()))?;
        let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
        volumes.map(|volume| one(&pod, volume, &pod_directory, &context, &inputs)).collect::<Result<Vec<_>, _>>()
    };
    let made = shared.tasks.blocking(make).await??;
    Ok(Made { prepared: made, refresh_at })
}

fn one(
    pod: &Pod,
    volume: &Volume,
    pod_directory: &Path,
    context: &FieldContext,
    inputs: &Inputs,
) -> Result<Prepared, String> {
    let name = volume.name.clone();
    let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
    let security = pod.spec.as_ref().and_then(|spec| spec.security_context.as_ref());
    let id = |id: Option<i64>| id.and_then(|id| u32::try_from(id).ok());
    let group = id(security.and_then(|security| security.fs_group));
    let user = id(security.and_then(|security| security.run_as_user));
    let root_only = security.and_then(|security| security.fs_group_change_policy.as_deref()) == Some("OnRootMismatch");
    let fail = |why: String| format!("MountVolume.SetUp failed for volume \"{name}\" : {why}");
    let write = |plugin: &str, payload: Payload, user: Option<u32>| -> Result<Prepared, String> {
        let path = directory(pod_directory, plugin, &name);
        // As upstream: what only configures is on the disk, everything else might be secret.
        let memory = (plugin != CONFIG_MAP).then_some(FILES_BYTES_MAX);
        files_directory(&path, memory).map_err(|error| fail(error.to_string()))?;
        write_atomically(&path, &payload, Ownership { user, group }).map_err(|error| fail(error.to_string()))?;
        Ok(Prepared { name: name.clone(), path, read_only: true })
    };
    if let Some(source) = &volume.config_map {
        write(CONFIG_MAP, from_config_map(source, namespace, inputs).map_err(fail)?, None)
    } else if let Some(source) = &volume.secret {
        write("kubernetes.io~secret", from_secret(source, namespace, inputs).map_err(fail)?, None)
    } else if let Some(source) = &volume.downward_api {
        let items = source.items.as_deref().unwrap_or_default();
        write("kubernetes.io~downward-api", downward(items, source.default_mode, pod, context).map_err(fail)?, None)
    } else if let Some(source) = &volume.projected {
        write("kubernetes.io~projected", projected(source, pod, context, inputs).map_err(fail)?, user)
    } else if let Some(source) = &volume.host_path {
        Ok(Prepared { path: host_path(source).map_err(fail)?, name, read_only: false })
    } else if let Some(claim) = &volume.persistent_volume_claim {
        Err(format!(
            "Unable to attach or mount volumes: volume \"{name}\" is the PersistentVolumeClaim \"{}\", and persistent \
             volumes are not supported yet: use emptyDir or hostPath",
            claim.claim_name
        ))
    } else {
        let source = match &volume.empty_dir {
            Some(source) => source.clone(),
            // A volume without any source is an emptyDir, by the API's default.
            None if serde_json::to_value(volume).is_ok_and(|json| json.as_object().is_some_and(|map| map.len() == 1)) => {
                Default::default()
            }
            None => return Err(fail("this kind of volume is not supported yet: use emptyDir, hostPath, configMap, secret, downwardAPI or projected".into())),
        };
        let path = directory(pod_directory, "kubernetes.io~empty-dir", &name);
        let fresh = !path.exists();
        let node = u64::try_from(context.memory_bytes).ok().filter(|bytes| *bytes > 0);
        let most = node.into_iter().chain(pod.spec.as_ref().and_then(memory_limits)).min();
        memory_or_disk(&path, &source, most).map_err(|error| fail(error.to_string()))?;
        if let (true, Some(group)) = (fresh, group) {
            own_by_group(&path, group, GroupRights::ReadWrite, root_only).map_err(|error| fail(error.to_string()))?;
        }
        Ok(Prepared { name, path, read_only: false })
    }
}

/// Removes everything that a pod had on the disk but its logs; also what a shim left that died while nobody watched.
pub(super) async fn remove(shared: &Shared, uid: &str) {
    if let Err(error) = shared.containers.destroy(uid).await {
        tracing::warn!(uid, %error, "a pod's remains could not be removed; it is tried again at the next start");
    }
    let directory = shared.paths.pod(uid);
    let removed = shared.tasks.blocking(move || clean_up(&directory)).await;
    if let Ok(Err(error)) = removed {
        tracing::warn!(uid, %error, "a pod's directory could not be removed; it is tried again at the next start");
    }
    shared.references.release(uid);
    shared.tokens.release(uid);
}
