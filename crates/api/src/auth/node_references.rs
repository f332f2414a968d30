//! Which objects a pod refers to, and which Secrets a PersistentVolume does: what a node needs to run a pod. Pure.
//!
//! Source: the edges of upstream's node authorizer (KEP-279), and the fields that its visitors of Secrets and ConfigMaps walk.

use object::Value;
use std::collections::BTreeSet;

/// What is referred to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Referred {
    Secret,
    ConfigMap,
    Claim,
    ResourceClaim,
    ServiceAccount,
}

/// One object of the pod's namespace: its kind and `namespace/name`.
pub(super) type Reference = (Referred, Box<str>);

/// The annotation of pods that an agent made from its own files: whoever may make them must not widen what the node reads.
const MIRROR: &str = "kubernetes.io/config.mirror";

fn items<'a>(value: &'a Value, path: &[&str]) -> impl Iterator<Item = &'a Value> {
    value.at(path).and_then(Value::as_array).unwrap_or_default().iter()
}

/// Everything that `pod` refers to, each once; nothing for mirror pods.
pub(super) fn of_pod(pod: &Value) -> BTreeSet<Reference> {
    let mut found = BTreeSet::new();
    if pod.at(&["metadata", "annotations", MIRROR]).is_some() {
        return found;
    }
    let namespace = pod.str_at(&["metadata", "namespace"]).unwrap_or_default();
    let mut add = |kind: Referred, name: Option<&str>| {
        if let Some(name) = name.filter(|name| !name.is_empty()) {
            found.insert((kind, format!("{namespace}/{name}").into_boxed_str()));
        }
    };
    add(Referred::ServiceAccount, pod.str_at(&["spec", "serviceAccountName"]));
    for secret in items(pod, &["spec", "imagePullSecrets"]) {
        add(Referred::Secret, secret.str_at(&["name"]));
    }
    for list in ["initContainers", "containers", "ephemeralContainers"] {
        for container in items(pod, &["spec", list]) {
            for from in items(container, &["envFrom"]) {
                add(Referred::Secret, from.str_at(&["secretRef", "name"]));
                add(Referred::ConfigMap, from.str_at(&["configMapRef", "name"]));
            }
            for variable in items(container, &["env"]) {
                add(Referred::Secret, variable.str_at(&["valueFrom", "secretKeyRef", "name"]));
                add(Referred::ConfigMap, variable.str_at(&["valueFrom", "configMapKeyRef", "name"]));
            }
        }
    }
    let pod_name = pod.str_at(&["metadata", "name"]).unwrap_or_default();
    for volume in items(pod, &["spec", "volumes"]) {
        add(Referred::ConfigMap, volume.str_at(&["configMap", "name"]));
        add(Referred::Secret, volume.str_at(&["secret", "secretName"]));
        add(Referred::Secret, volume.str_at(&["azureFile", "secretName"]));
        add(Referred::Secret, volume.str_at(&["csi", "nodePublishSecretRef", "name"]));
        for source in ["cephfs", "cinder", "flexVolume", "rbd", "scaleIO", "iscsi", "storageos"] {
            add(Referred::Secret, volume.str_at(&[source, "secretRef", "name"]));
        }
        for source in items(volume, &["projected", "sources"]) {
            add(Referred::Secret, source.str_at(&["secret", "name"]));
            add(Referred::ConfigMap, source.str_at(&["configMap", "name"]));
        }
        add(Referred::Claim, volume.str_at(&["persistentVolumeClaim", "claimName"]));
        if let (Some(_), Some(name)) = (volume.get("ephemeral"), volume.str_at(&["name"])) {
            add(Referred::Claim, Some(&format!("{pod_name}-{name}")));
        }
    }
    for claim in items(pod, &["spec", "resourceClaims"]) {
        add(Referred::ResourceClaim, claim.str_at(&["resourceClaimName"]));
    }
    for claim in items(pod, &["status", "resourceClaimStatuses"]) {
        add(Referred::ResourceClaim, claim.str_at(&["resourceClaimName"]));
    }
    add(Referred::ResourceClaim, pod.str_at(&["status", "extendedResourceClaimStatus", "resourceClaimName"]));
    found
}

/// Whether a PersistentVolume names the Secret `namespace/name`.
pub(super) fn volume_names_secret(volume: &Value, secret: &str) -> bool {
    let Some((namespace, name)) = secret.split_once('/') else { return false };
    let claim_namespace = volume.str_at(&["spec", "claimRef", "namespace"]).unwrap_or_default();
    let is_it = |path: &[&str], own_namespace: &str| {
        let Some(reference) = volume.at(&["spec"]).and_then(|spec| spec.at(path)) else { return false };
        let of = |member: &str| reference.str_at(&[member]).filter(|text| !text.is_empty());
        of(if own_namespace == "secretNamespace" { "secretName" } else { "name" }) == Some(name)
            && of(own_namespace).unwrap_or(claim_namespace) == namespace
    };
    const IN_TREE: [&str; 7] = ["cephfs", "cinder", "flexVolume", "rbd", "scaleIO", "iscsi", "storageos"];
    const CSI: [&str; 5] = [
        "controllerPublishSecretRef",
        "nodePublishSecretRef",
        "nodeStageSecretRef",
        "controllerExpandSecretRef",
        "nodeExpandSecretRef",
    ];
    is_it(&["azureFile"], "secretNamespace")
        || IN_TREE.iter().any(|source| is_it(&[source, "secretRef"], "namespace"))
        || CSI.iter().any(|reference| is_it(&["csi", reference], "namespace"))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn value(text: &str) -> Value {
        object::yaml::decode(text.as_bytes(), &object::Limits::REQUEST).unwrap().value
    }

    #[test]
    fn pods_refer_to_what_their_fields_name() {
        let cases = [
            ("spec: {serviceAccountName: s}", "ServiceAccount s"),
            ("spec: {imagePullSecrets: [{name: a}, {name: a}]}", "Secret a"),
            (
                "spec: {containers: [{envFrom: [{secretRef: {name: a}}, {configMapRef: {name: b}}]}]}",
                "Secret a, ConfigMap b",
            ),
            ("spec: {initContainers: [{env: [{name: x, valueFrom: {secretKeyRef: {name: a, key: k}}}]}]}", "Secret a"),
            (
                "spec: {ephemeralContainers: [{env: [{name: x, valueFrom: {configMapKeyRef: {name: a, key: k}}}]}]}",
                "ConfigMap a",
            ),
            (
                "spec: {volumes: [{name: v, secret: {secretName: a}}, {name: w, configMap: {name: b}}]}",
                "Secret a, ConfigMap b",
            ),
            (
                "spec: {volumes: [{name: v, projected: {sources: [{secret: {name: a}}, {configMap: {name: b}}]}}]}",
                "Secret a, ConfigMap b",
            ),
            ("spec: {volumes: [{name: v, iscsi: {secretRef: {name: a}}}]}", "Secret a"),
            ("spec: {volumes: [{name: v, csi: {nodePublishSecretRef: {name: a}}}]}", "Secret a"),
            (
                "spec: {volumes: [{name: v, persistentVolumeClaim: {claimName: c}}, {name: e, ephemeral: {}}]}",
                "Claim c, Claim p-e",
            ),
            (
                "spec: {resourceClaims: [{name: x, resourceClaimName: c}]}\nstatus: {resourceClaimStatuses: [{name: y, resourceClaimName: d}]}",
                "ResourceClaim c, ResourceClaim d",
            ),
            ("spec: {volumes: [{name: v, hostPath: {path: /x}}], nodeSelector: {secret: a}}", ""),
        ];
        for (text, wanted) in cases {
            let mut pod = value(text);
            pod.set(&["metadata", "name"], "p".into());
            pod.set(&["metadata", "namespace"], "n".into());
            let found: Vec<String> = of_pod(&pod)
                .iter()
                .map(|(kind, rest)| format!("{kind:?} {}", rest.strip_prefix("n/").unwrap()))
                .collect();
            assert_eq!(found.join(", "), wanted, "{text}");
            pod.set(&["metadata", "annotations", MIRROR], "hash".into());
            assert!(of_pod(&pod).is_empty(), "a mirror pod: {text}");
        }
    }

    #[test]
    fn volumes_name_secrets_of_their_own_or_their_claims_namespace() {
        for (text, secret, wanted) in [
            ("spec: {csi: {nodeStageSecretRef: {namespace: own, name: a}}}", "own/a", true),
            ("spec: {csi: {nodeStageSecretRef: {namespace: own, name: a}}}", "m/a", false),
            ("spec: {rbd: {secretRef: {name: a}}, claimRef: {namespace: c}}", "c/a", true),
            ("spec: {rbd: {secretRef: {name: a}}, claimRef: {namespace: c}}", "d/a", false),
            ("spec: {azureFile: {secretName: a, secretNamespace: own}, claimRef: {namespace: c}}", "own/a", true),
            ("spec: {azureFile: {secretName: a}, claimRef: {namespace: c}}", "c/a", true),
            ("spec: {hostPath: {path: /x}}", "c/a", false),
        ] {
            assert_eq!(volume_names_secret(&value(text), secret), wanted, "{text} {secret}");
        }
    }
}
