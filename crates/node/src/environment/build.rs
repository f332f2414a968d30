//! The environment of one container, and its command line against the image's.

use super::expand::expand;
use super::fields::{FieldContext, pod_field, resource_field};
use super::service_links::{LinkedService, service_variables};
use crate::volumes::Inputs;
use k8s_openapi::api::core::v1::{Container, Pod};
use std::collections::{BTreeMap, BTreeSet};

/// The names of objects that a pod refers to, in its own namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// ConfigMaps.
    pub config_maps: BTreeSet<String>,
    /// Secrets, those for pulling included.
    pub secrets: BTreeSet<String>,
}

/// Everything that a pod's containers and volumes refer to.
#[must_use]
pub fn needs(pod: &Pod) -> Needs {
    let mut needs = Needs::default();
    let Some(spec) = &pod.spec else { return needs };
    let ephemeral: Vec<Container> =
        spec.ephemeral_containers.iter().flatten().map(crate::lifecycle::as_container).collect();
    for container in spec.init_containers.iter().flatten().chain(&spec.containers).chain(&ephemeral) {
        for from in container.env_from.iter().flatten() {
            needs.config_maps.extend(from.config_map_ref.as_ref().map(|map| map.name.clone()));
            needs.secrets.extend(from.secret_ref.as_ref().map(|secret| secret.name.clone()));
        }
        for source in container.env.iter().flatten().filter_map(|variable| variable.value_from.as_ref()) {
            needs.config_maps.extend(source.config_map_key_ref.as_ref().map(|map| map.name.clone()));
            needs.secrets.extend(source.secret_key_ref.as_ref().map(|secret| secret.name.clone()));
        }
    }
    for volume in spec.volumes.iter().flatten() {
        needs.config_maps.extend(volume.config_map.as_ref().map(|map| map.name.clone()));
        needs.secrets.extend(volume.secret.as_ref().and_then(|secret| secret.secret_name.clone()));
        for source in volume.projected.iter().flat_map(|projected| projected.sources.iter().flatten()) {
            needs.config_maps.extend(source.config_map.as_ref().map(|map| map.name.clone()));
            needs.secrets.extend(source.secret.as_ref().map(|secret| secret.name.clone()));
        }
    }
    needs.secrets.extend(spec.image_pull_secrets.iter().flatten().map(|secret| secret.name.clone()));
    needs
}

/// A container's variables in the order of upstream: services, envFrom, env; later ones win.
///
/// # Errors
/// What is missing, in upstream's words: the reason is then CreateContainerConfigError.
pub fn environment(
    pod: &Pod,
    container: &Container,
    services: &[LinkedService],
    inputs: &Inputs,
    context: &FieldContext,
) -> Result<Vec<(String, String)>, String> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
    let mut linked = BTreeMap::new();
    for service in services {
        service_variables(service, &mut linked);
    }
    let mut order: Vec<String> = Vec::new();
    let mut values: BTreeMap<String, String> = BTreeMap::new();
    let mut set = |values: &mut BTreeMap<String, String>, name: String, value: String| {
        if values.insert(name.clone(), value).is_none() {
            order.push(name);
        }
    };
    for from in container.env_from.iter().flatten() {
        let prefix = from.prefix.as_deref().unwrap_or_default();
        let data: Option<BTreeMap<String, String>> = if let Some(source) = &from.config_map_ref {
            match inputs.config_maps.get(&source.name) {
                Some(map) => map.data.clone(),
                None if source.optional.unwrap_or(false) => None,
                None => return Err(format!("configmap \"{}\" not found", source.name)),
            }
        } else if let Some(source) = &from.secret_ref {
            match inputs.secrets.get(&source.name) {
                Some(secret) => {
                    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                    secret
                        .data
                        .as_ref()
                        .map(|data| data.iter().map(|(key, value)| (key.clone(), text(&value.0))).collect())
                }
                None if source.optional.unwrap_or(false) => None,
                None => return Err(format!("secret \"{}\" not found", source.name)),
            }
        } else {
            None
        };
        for (key, value) in data.unwrap_or_default() {
            let name = format!("{prefix}{key}");
            if !name.is_empty() && !name.contains(['=', '\0']) {
                set(&mut values, name, value);
            }
        }
    }
    for variable in container.env.iter().flatten() {
        let value = match (&variable.value, &variable.value_from) {
            (Some(text), _) if !text.is_empty() => {
                expand(text, |name| values.get(name).or_else(|| linked.get(name)).cloned())
            }
            (_, Some(source)) => {
                let found = if let Some(field) = &source.field_ref {
                    Some(pod_field(pod, &field.field_path, context)?)
                } else if let Some(resource) = &source.resource_field_ref {
                    Some(resource_field(pod, Some(container), resource, context)?)
                } else if let Some(key) = &source.config_map_key_ref {
                    let map = inputs.config_maps.get(&key.name);
                    let value = map.and_then(|map| map.data.as_ref()?.get(&key.key).cloned());
                    required(
                        value,
                        map.is_some(),
                        key.optional,
                        "configmap",
                        "ConfigMap",
                        namespace,
                        &key.name,
                        &key.key,
                    )?
                } else if let Some(key) = &source.secret_key_ref {
                    let secret = inputs.secrets.get(&key.name);
                    let value = secret.and_then(|secret| secret.data.as_ref()?.get(&key.key));
                    let value = value.map(|bytes| String::from_utf8_lossy(&bytes.0).into_owned());
                    required(value, secret.is_some(), key.optional, "secret", "Secret", namespace, &key.name, &key.key)?
                } else if source.file_key_ref.is_some() {
                    return Err(format!(
                        "env {}: fileKeyRef is not supported yet: use a configMap or secret key",
                        variable.name
                    ));
                } else {
                    None
                };
                match found {
                    Some(value) => value,
                    None => continue, // optional and not there
                }
            }
            _ => String::new(),
        };
        set(&mut values, variable.name.clone(), value);
    }
    let own: BTreeSet<&String> = values.keys().collect();
    let mut all: Vec<(String, String)> = linked
        .iter()
        .filter(|(name, _)| !own.contains(name))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    all.extend(order.iter().filter_map(|name| values.get(name).map(|value| (name.clone(), value.clone()))));
    Ok(all)
}

fn required(
    value: Option<String>,
    exists: bool,
    optional: Option<bool>,
    what: &str,
    kind: &str,
    namespace: &str,
    name: &str,
    key: &str,
) -> Result<Option<String>, String> {
    match value {
        Some(value) => Ok(Some(value)),
        None if optional.unwrap_or(false) => Ok(None),
        None if exists => Err(format!("couldn't find key {key} in {kind} {namespace}/{name}")),
        None => Err(format!("{what} \"{name}\" not found")),
    }
}

/// The command line: `command` replaces the image's entrypoint and drops its arguments, `args` replace its arguments.
#[must_use]
pub fn command_line(
    container: &Container,
    variables: &[(String, String)],
    image_entrypoint: &[String],
    image_arguments: &[String],
) -> Vec<String> {
    let lookup = |name: &str| variables.iter().rev().find(|(have, _)| have == name).map(|(_, value)| value.clone());
    let own = |list: &Option<Vec<String>>| -> Option<Vec<String>> {
        let list = list.as_ref().filter(|list| !list.is_empty())?;
        Some(list.iter().map(|text| expand(text, lookup)).collect())
    };
    match (own(&container.command), own(&container.args)) {
        (Some(command), Some(arguments)) => [command, arguments].concat(),
        (Some(command), None) => command,
        (None, Some(arguments)) => [image_entrypoint.to_vec(), arguments].concat(),
        (None, None) => [image_entrypoint, image_arguments].concat(),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use k8s_openapi::api::core::v1::ConfigMap;
    use serde_json::json;
    use std::sync::Arc;

    fn build(container: serde_json::Value, inputs: &Inputs) -> Result<BTreeMap<String, String>, String> {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "d", "uid": "u", "labels": {"app": "x"}, "annotations": {"k": "v"}},
            "spec": {"nodeName": "n", "containers": [container]}}))
        .unwrap();
        let services = [LinkedService {
            name: "my-db".into(),
            cluster_ip: "10.0.0.9".into(),
            ports: vec![("sql".into(), "TCP".into(), 5432)],
        }];
        let context = FieldContext {
            pod_addresses: vec!["10.1.0.2".parse().unwrap()],
            cpu_milli: 2000,
            ..FieldContext::default()
        };
        let container = pod.spec.as_ref().unwrap().containers[0].clone();
        Ok(environment(&pod, &container, &services, inputs, &context)?.into_iter().collect())
    }

    #[test]
    fn every_source_of_a_variable() {
        let map: ConfigMap = serde_json::from_value(json!({"data": {"A": "from-map", "B": "b"}})).unwrap();
        let inputs = Inputs { config_maps: BTreeMap::from([("cm".into(), Arc::new(map))]), ..Inputs::default() };
        let container = json!({"name": "c", "resources": {"requests": {"cpu": "250m"}},
            "envFrom": [{"prefix": "P_", "configMapRef": {"name": "cm"}}, {"configMapRef": {"name": "none", "optional": true}}],
            "env": [
                {"name": "A", "value": "own $(P_A) $(MY_DB_SERVICE_HOST) $(LATER)"},
                {"name": "LATER", "value": "x"},
                {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
                {"name": "APP", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['app']"}}},
                {"name": "CPU", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}},
                {"name": "REQ", "valueFrom": {"resourceFieldRef": {"resource": "requests.cpu", "divisor": "1m"}}},
                {"name": "KEY", "valueFrom": {"configMapKeyRef": {"name": "cm", "key": "B"}}},
                {"name": "OPT", "valueFrom": {"secretKeyRef": {"name": "none", "key": "B", "optional": true}}}]});
        let variables = build(container, &inputs).unwrap();
        let expected = [
            ("A", "own from-map 10.0.0.9 $(LATER)"),
            ("P_B", "b"),
            ("IP", "10.1.0.2"),
            ("APP", "x"),
            ("CPU", "2"),
            ("REQ", "250"),
            ("KEY", "b"),
            ("MY_DB_SERVICE_PORT", "5432"),
            ("MY_DB_SERVICE_PORT_SQL", "5432"),
            ("MY_DB_PORT", "tcp://10.0.0.9:5432"),
            ("MY_DB_PORT_5432_TCP_ADDR", "10.0.0.9"),
        ];
        for (name, value) in expected {
            assert_eq!(variables.get(name).map(String::as_str), Some(value), "{name}");
        }
        assert!(!variables.contains_key("OPT"));
    }

    #[test]
    fn what_is_missing_is_named() {
        let refer = |source: serde_json::Value| json!({"name": "c", "env": [{"name": "X", "valueFrom": source}]});
        let map: ConfigMap = serde_json::from_value(json!({"data": {}})).unwrap();
        let inputs = Inputs { config_maps: BTreeMap::from([("cm".into(), Arc::new(map))]), ..Inputs::default() };
        let cases = [
            (json!({"configMapKeyRef": {"name": "no", "key": "k"}}), "configmap \"no\" not found"),
            (json!({"configMapKeyRef": {"name": "cm", "key": "k"}}), "couldn't find key k in ConfigMap d/cm"),
            (json!({"secretKeyRef": {"name": "no", "key": "k"}}), "secret \"no\" not found"),
        ];
        for (source, message) in cases {
            assert_eq!(build(refer(source), &inputs).unwrap_err(), message);
        }
    }

    #[test]
    fn commands_against_the_image() {
        let list = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        let (entrypoint, arguments) = (list(&["e"]), list(&["d"]));
        let cases = [
            (json!({"name": "c"}), list(&["e", "d"])),
            (json!({"name": "c", "command": ["x"]}), list(&["x"])),
            (json!({"name": "c", "args": ["y", "$(V)"]}), list(&["e", "y", "1"])),
            (json!({"name": "c", "command": ["x"], "args": ["y"]}), list(&["x", "y"])),
        ];
        for (container, expected) in cases {
            let container: Container = serde_json::from_value(container).unwrap();
            let variables = [("V".to_owned(), "1".to_owned())];
            assert_eq!(command_line(&container, &variables, &entrypoint, &arguments), expected);
        }
    }
}
