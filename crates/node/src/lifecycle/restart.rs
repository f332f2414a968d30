//! Whether an ended container is started again: the pod's policy, the container's own, and its exit code rules.

use super::model::{PodState, Role};
use k8s_openapi::api::core::v1::{Container as Spec, EphemeralContainer};
use std::borrow::Cow;

/// The spec of a container of any role; an ephemeral one is seen as a container.
pub(crate) fn spec_of<'a>(state: &'a PodState, name: &str) -> Option<Cow<'a, Spec>> {
    let spec = state.pod.spec.as_ref()?;
    let init = spec.init_containers.as_deref().unwrap_or_default();
    if let Some(found) = init.iter().chain(&spec.containers).find(|container| container.name == name) {
        return Some(Cow::Borrowed(found));
    }
    let ephemeral = spec.ephemeral_containers.as_deref().unwrap_or_default();
    ephemeral.iter().find(|container| container.name == name).map(|container| Cow::Owned(as_container(container)))
}

/// An ephemeral container's fields as those of an ordinary one.
#[must_use]
pub(crate) fn as_container(ephemeral: &EphemeralContainer) -> Spec {
    let from = ephemeral.clone();
    Spec {
        name: from.name,
        args: from.args,
        command: from.command,
        env: from.env,
        env_from: from.env_from,
        image: from.image,
        image_pull_policy: from.image_pull_policy,
        resources: from.resources,
        security_context: from.security_context,
        stdin: from.stdin,
        stdin_once: from.stdin_once,
        termination_message_path: from.termination_message_path,
        termination_message_policy: from.termination_message_policy,
        tty: from.tty,
        volume_mounts: from.volume_mounts,
        working_dir: from.working_dir,
        ..Spec::default()
    }
}

/// True where a container that ended with `code` is to run again.
pub(crate) fn restarts(state: &PodState, name: &str, role: Role, code: i32) -> bool {
    let Some(spec) = spec_of(state, name) else { return false };
    match role {
        Role::Ephemeral => return false,
        Role::Sidecar => return true,
        Role::Init | Role::App => {}
    }
    for rule in spec.restart_policy_rules.as_deref().unwrap_or_default() {
        let Some(codes) = &rule.exit_codes else { continue };
        let listed = codes.values.as_deref().unwrap_or_default().contains(&code);
        let matches = match codes.operator.as_str() {
            "In" => listed,
            "NotIn" => !listed,
            _ => false,
        };
        if matches {
            return rule.action == "Restart";
        }
    }
    let policy = match spec.restart_policy.as_deref() {
        Some(own) => own,
        None => state.restart_policy(),
    };
    match (policy, role) {
        ("Never", _) => false,
        ("OnFailure", _) | (_, Role::Init) => code != 0,
        _ => true,
    }
}
