//! Has a container's image by its pull policy: what is there where the pod may use it, else from the registry with the pod's secrets.

use super::actions::Facts;
use super::pull_records::PullSecret;
use super::seams::{ImageFailure, ImageFound, ImageWish, RegistryLogin};
use super::shared::Shared;
use super::worker::Input;
use crate::environment::needs;
use crate::lifecycle::{Event, Report, Severity};
use base64::Engine;
use k8s_openapi::api::core::v1::{Container, Secret};
use runtime::Reference;
use sha2::{Digest, Sha256};
use std::fmt::Write;
use std::sync::Arc;

/// The logins that a pod's pull secrets hold.
fn logins(secrets: impl Iterator<Item = Arc<Secret>>) -> Vec<RegistryLogin> {
    let mut found = Vec::new();
    for secret in secrets {
        let data = secret.data.as_ref();
        let parse =
            |key: &str| data.and_then(|data| serde_json::from_slice::<serde_json::Value>(&data.get(key)?.0).ok());
        let auths =
            parse(".dockerconfigjson").and_then(|config| config.get("auths").cloned()).or_else(|| parse(".dockercfg"));
        for (registry, entry) in auths.as_ref().and_then(serde_json::Value::as_object).into_iter().flatten() {
            let text = |name: &str| entry.get(name).and_then(serde_json::Value::as_str).unwrap_or_default().to_owned();
            let (mut user, mut password) = (text("username"), text("password"));
            if user.is_empty() {
                let decoded = base64::engine::general_purpose::STANDARD.decode(text("auth")).unwrap_or_default();
                let decoded = String::from_utf8_lossy(&decoded).into_owned();
                if let Some((left, right)) = decoded.split_once(':') {
                    (user, password) = (left.to_owned(), right.to_owned());
                }
            }
            if !user.is_empty() {
                let meta = &secret.metadata;
                let text = |value: &Option<String>| value.clone().unwrap_or_default();
                let (uid, namespace, name) = (text(&meta.uid), text(&meta.namespace), text(&meta.name));
                let secret = PullSecret { uid, namespace, name, hash: hash(&user, &password) };
                found.push(RegistryLogin { registry: registry.clone(), user, password, secret });
            }
        }
    }
    found
}

fn hash(user: &str, password: &str) -> String {
    let digest = Sha256::new().chain_update(user).chain_update([0]).chain_update(password).finalize();
    digest.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Whether what a secret calls a registry is this host.
fn is_for(registry: &str, host: &str) -> bool {
    let registry = registry.trim_start_matches("https://").trim_start_matches("http://");
    let registry = registry.split('/').next().unwrap_or_default();
    let docker = |host: &str| matches!(host, "docker.io" | "index.docker.io" | "registry-1.docker.io");
    registry == host || (docker(registry) && docker(host))
}

/// Only the logins for the image's own registry are shown to it.
async fn wish(shared: &Shared, facts: &Facts, container: &Container) -> ImageWish {
    let reference = container.image.clone().unwrap_or_default();
    let spec = facts.pod.spec.as_ref();
    let named = spec.and_then(|spec| spec.image_pull_secrets.as_deref()).unwrap_or_default();
    let host = Reference::parse(&reference).map(|reference| reference.host).unwrap_or_default();
    let mut found = Vec::new();
    if !named.is_empty() {
        let namespace = facts.pod.metadata.namespace.as_deref().unwrap_or("default");
        let inputs = shared.references.inputs(&facts.uid, namespace, &needs(&facts.pod)).await;
        found = logins(named.iter().filter_map(|name| inputs.secrets.get(&name.name).cloned()));
        found.retain(|login| is_for(&login.registry, &host));
    }
    ImageWish { reference, logins: found }
}

fn policy(container: &Container) -> &str {
    let reference = container.image.as_deref().unwrap_or_default();
    let latest = !reference.contains('@') && {
        let last = reference.rsplit('/').next().unwrap_or_default();
        last.ends_with(":latest") || !last.contains(':')
    };
    let default = if latest { "Always" } else { "IfNotPresent" };
    container.image_pull_policy.as_deref().filter(|policy| !policy.is_empty()).unwrap_or(default)
}

pub(super) async fn ensure_image(shared: &Shared, facts: &Facts, container: String) -> Input {
    let Some(spec) = facts.container(&container) else {
        let message = format!("container {container} is not in the pod's spec");
        return Input::Lifecycle(Event::ImageFailed { container, reason: "ErrImagePull".into(), message });
    };
    match ensure(shared, facts, &spec).await {
        Ok(found) => Input::Image { container, id: found.image_id, config: found.config, pulled: found.pulled },
        Err(failure) => {
            Input::Lifecycle(Event::ImageFailed { container, reason: failure.reason, message: failure.message })
        }
    }
}

async fn ensure(shared: &Shared, facts: &Facts, container: &Container) -> Result<ImageFound, ImageFailure> {
    let wish = wish(shared, facts, container).await;
    let present = shared.containers.present(&wish.reference).await?;
    let policy = policy(container);
    if let Some(found) = present.filter(|_| policy != "Always")
        && is_allowed(shared, &wish, &found)
    {
        return Ok(found);
    }
    if policy == "Never" {
        // Also where it is there, but not for this pod: upstream tells the two apart to nobody.
        let message = format!("Container image \"{}\" is not present with pull policy of Never", wish.reference);
        return Err(ImageFailure { reason: "ErrImageNeverPull".into(), message });
    }
    let message = format!("Pulling image \"{}\"", wish.reference);
    let (severity, reason) = (Severity::Normal, "Pulling".to_owned());
    shared.recorder.pod(&facts.pod, Report { severity, reason, message, container: container.name.clone() });
    pull(shared, wish).await
}

/// The image of a container that is started again after the agent was: its pod was let to it before.
pub(super) async fn again(shared: &Shared, facts: &Facts, container: &Container) -> Result<ImageFound, ImageFailure> {
    let reference = container.image.as_deref().unwrap_or_default();
    match shared.containers.present(reference).await? {
        Some(found) => Ok(found),
        None => pull(shared, wish(shared, facts, container).await).await,
    }
}

/// The reference in full, and its name without tag and digest.
fn names(reference: &str) -> (String, String) {
    let parsed = Reference::parse(reference);
    parsed.map_or_else(|_| (reference.to_owned(), reference.to_owned()), |it| (it.to_string(), it.name()))
}

fn is_allowed(shared: &Shared, wish: &ImageWish, found: &ImageFound) -> bool {
    let (full, repository) = names(&wish.reference);
    let secrets: Vec<PullSecret> = wish.logins.iter().map(|login| login.secret.clone()).collect();
    shared.pull_records.allows(&found.config.id, &full, &repository, &secrets)
}

async fn pull(shared: &Shared, wish: ImageWish) -> Result<ImageFound, ImageFailure> {
    let _permit = shared.pulls.acquire().await.ok();
    let (full, repository) = names(&wish.reference);
    shared.pull_records.begin(&full);
    let outcome = shared.containers.pull(wish).await;
    match &outcome {
        Ok(found) => shared.pull_records.pulled(&found.config.id, &full, &repository, found.secret.clone()),
        Err(_) => shared.pull_records.failed(&full),
    }
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_is_for_its_registry_alone() {
        let cases = [
            ("r.example", "r.example", true),
            ("https://r.example/v2/", "r.example", true),
            ("r.example:5000", "r.example", false),
            ("https://index.docker.io/v1/", "docker.io", true),
            ("docker.io", "r.example", false),
            ("example", "r.example", false),
        ];
        for (registry, host, expected) in cases {
            assert_eq!(is_for(registry, host), expected, "{registry} {host}");
        }
        assert_ne!(hash("a", "bc"), hash("ab", "c"));
    }
}
