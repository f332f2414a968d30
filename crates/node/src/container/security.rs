//! Security contexts: the container's own wins over the pod's, and runAsNonRoot is checked before anything starts.

use super::launch::{ImageConfig, LaunchError, Seccomp};
use k8s_openapi::api::core::v1::{Container, Pod, SeccompProfile};
use std::path::Path;

/// Identities and rights of a container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Security {
    /// The user; None for the image's.
    pub user: Option<u32>,
    /// The primary group; None for the user's.
    pub group: Option<u32>,
    /// More groups, fsGroup among them.
    pub supplemental_groups: Vec<u32>,
    /// Only these groups, not the image's.
    pub strict_groups: bool,
    /// Capabilities to add to the default ones.
    pub add_capabilities: Vec<String>,
    /// Capabilities to take away.
    pub drop_capabilities: Vec<String>,
    /// All rights.
    pub privileged: bool,
    /// A root file system that cannot be written to.
    pub read_only_root: bool,
    /// No new privileges by executing files.
    pub no_new_privileges: bool,
    /// System calls.
    pub seccomp: Seccomp,
    /// /proc without masks.
    pub unmasked_proc: bool,
}

/// The security of `container`, with the profiles of type Localhost read below `seccomp_root`.
///
/// # Errors
/// A runAsNonRoot that the image or spec breaks, in upstream's words, or a profile that is not there.
pub fn security(
    pod: &Pod,
    container: &Container,
    image: &ImageConfig,
    seccomp_root: &Path,
) -> Result<Security, LaunchError> {
    let spec = pod.spec.as_ref();
    let of_pod = spec.and_then(|spec| spec.security_context.clone()).unwrap_or_default();
    let own = container.security_context.clone().unwrap_or_default();
    let id = |id: Option<i64>| id.and_then(|id| u32::try_from(id).ok());
    let user = id(own.run_as_user.or(of_pod.run_as_user));
    let group = id(own.run_as_group.or(of_pod.run_as_group));
    if own.run_as_non_root.or(of_pod.run_as_non_root).unwrap_or(false) {
        check_non_root(pod, container, user, image)?;
    }
    let mut supplemental_groups: Vec<u32> =
        of_pod.supplemental_groups.iter().flatten().filter_map(|group| id(Some(*group))).collect();
    supplemental_groups.extend(id(of_pod.fs_group));
    let privileged = own.privileged.unwrap_or(false);
    let capabilities = own.capabilities.unwrap_or_default();
    let add = capabilities.add.unwrap_or_default();
    let escalation = own.allow_privilege_escalation.unwrap_or(true);
    let seccomp = match own.seccomp_profile.as_ref().or(of_pod.seccomp_profile.as_ref()) {
        _ if privileged => Seccomp::Unconfined,
        // Upstream leaves containers unconfined unless its SeccompDefault is on; here the default list is the default.
        None => Seccomp::RuntimeDefault,
        Some(profile) => profile_of(profile, seccomp_root)?,
    };
    Ok(Security {
        user,
        group,
        supplemental_groups,
        strict_groups: of_pod.supplemental_groups_policy.as_deref() == Some("Strict"),
        no_new_privileges: !escalation && !privileged && !add.iter().any(|name| name.ends_with("SYS_ADMIN")),
        add_capabilities: add,
        drop_capabilities: capabilities.drop.unwrap_or_default(),
        privileged,
        read_only_root: own.read_only_root_filesystem.unwrap_or(false),
        seccomp,
        unmasked_proc: own.proc_mount.as_deref() == Some("Unmasked"),
    })
}

fn profile_of(profile: &SeccompProfile, root: &Path) -> Result<Seccomp, LaunchError> {
    match profile.type_.as_str() {
        "RuntimeDefault" => Ok(Seccomp::RuntimeDefault),
        "Unconfined" => Ok(Seccomp::Unconfined),
        "Localhost" => {
            let name = profile.localhost_profile.as_deref().unwrap_or_default();
            let relative = Path::new(name);
            let inside =
                !name.is_empty() && relative.components().all(|part| matches!(part, std::path::Component::Normal(_)));
            if !inside {
                return Err(LaunchError::config(format!(
                    "localhostProfile {name:?} has to be a path below {}",
                    root.display()
                )));
            }
            let path = root.join(relative);
            let text = std::fs::read_to_string(&path);
            text.map(Seccomp::Profile).map_err(|error| {
                LaunchError::config(format!("failed to load seccomp profile {}: {error}", path.display()))
            })
        }
        other => Err(LaunchError::config(format!("seccompProfile type {other:?} is unknown"))),
    }
}

fn check_non_root(pod: &Pod, container: &Container, user: Option<u32>, image: &ImageConfig) -> Result<(), LaunchError> {
    let meta = &pod.metadata;
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    let whom = format!(
        "(pod: \"{}_{}({})\", container: {})",
        text(&meta.name),
        text(&meta.namespace),
        text(&meta.uid),
        container.name
    );
    match (user, image.user_id) {
        (Some(0), _) => Err(LaunchError::config(format!("container's runAsUser breaks non-root policy {whom}"))),
        (Some(_), _) => Ok(()),
        (None, Some(0)) => {
            Err(LaunchError::config(format!("container has runAsNonRoot and image will run as root {whom}")))
        }
        // Upstream takes only numbers here: a name could be root inside the image.
        (None, _)
            if !image.user.is_empty()
                && image.user.split(':').next().is_some_and(|user| user.parse::<u32>().is_err()) =>
        {
            let name = image.user.split(':').next().unwrap_or_default();
            Err(LaunchError::config(format!(
                "container has runAsNonRoot and image has non-numeric user ({name}), cannot verify user is non-root {whom}"
            )))
        }
        (None, Some(_)) => Ok(()),
        (None, None) => {
            Err(LaunchError::config(format!("container has runAsNonRoot and image will run as root {whom}")))
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::lifecycle::StartFailure;
    use serde_json::json;

    fn run(of_pod: serde_json::Value, own: serde_json::Value, image: &ImageConfig) -> Result<Security, LaunchError> {
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "d", "uid": "u"},
            "spec": {"securityContext": of_pod, "containers": [{"name": "c", "securityContext": own}]}}))
        .unwrap();
        let container = pod.spec.as_ref().unwrap().containers[0].clone();
        security(&pod, &container, image, Path::new("/nowhere"))
    }

    #[test]
    fn the_container_wins_and_non_root_is_checked() {
        let root = ImageConfig { user_id: Some(0), ..ImageConfig::default() };
        let named = ImageConfig { user: "web".into(), user_id: Some(33), ..ImageConfig::default() };
        let security =
            run(json!({"runAsUser": 5, "fsGroup": 7, "supplementalGroups": [9]}), json!({"runAsUser": 6}), &root)
                .unwrap();
        assert_eq!((security.user, security.supplemental_groups), (Some(6), vec![9, 7]));
        let privileged = run(json!({}), json!({"privileged": true, "allowPrivilegeEscalation": true}), &root).unwrap();
        assert_eq!((privileged.seccomp, privileged.no_new_privileges), (Seccomp::Unconfined, false));
        let closed = run(json!({}), json!({"allowPrivilegeEscalation": false}), &root).unwrap();
        assert_eq!((closed.seccomp, closed.no_new_privileges), (Seccomp::RuntimeDefault, true));
        let whom = "(pod: \"p_d(u)\", container: c)";
        let cases = [
            (json!({"runAsNonRoot": true}), &root, "container has runAsNonRoot and image will run as root "),
            (
                json!({"runAsNonRoot": true}),
                &named,
                "container has runAsNonRoot and image has non-numeric user (web), cannot verify user is non-root ",
            ),
            (json!({"runAsNonRoot": true, "runAsUser": 0}), &named, "container's runAsUser breaks non-root policy "),
        ];
        for (own, image, message) in cases {
            let error = run(json!({}), own, image).unwrap_err();
            assert_eq!((error.failure, error.message), (StartFailure::Configuration, format!("{message}{whom}")));
        }
        assert!(run(json!({"runAsNonRoot": true}), json!({"runAsUser": 1000}), &root).is_ok());
        let away = json!({"seccompProfile": {"type": "Localhost", "localhostProfile": "../x"}});
        assert!(run(json!({}), away, &root).is_err());
    }
}
