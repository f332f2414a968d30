//! Conditional defaults of pod specs: for pods, and for the templates that other kinds make pods from.

use crate::edit::{default_number, default_to, empty, items, items_mut};
use object::{Map, Value};

/// The members of a spec that hold containers.
pub(crate) const CONTAINER_LISTS: [&str; 3] = ["containers", "initContainers", "ephemeralContainers"];

/// Sets the defaults of the pod spec at `path`, as a template has it too.
pub(crate) fn default_pod_spec(object: &mut Value, path: &[&str]) {
    let Some(spec) = object.at_mut(path) else { return };
    if spec.as_object().is_none() {
        return;
    }
    default_to(spec, &["dnsPolicy"], "ClusterFirst");
    default_to(spec, &["restartPolicy"], "Always");
    default_to(spec, &["securityContext"], Map::new());
    default_to(spec, &["terminationGracePeriodSeconds"], 30_i64);
    default_to(spec, &["schedulerName"], "default-scheduler");
    // The older name of the account follows the newer one.
    match spec.str_at(&["serviceAccountName"]).filter(|name| !name.is_empty()).map(str::to_owned) {
        Some(name) => spec.set(&["serviceAccount"], name.into()),
        None => {
            if let Some(name) = spec.str_at(&["serviceAccount"]).filter(|name| !name.is_empty()).map(str::to_owned) {
                spec.set(&["serviceAccountName"], name.into());
            }
        }
    }
    for list in CONTAINER_LISTS {
        for container in items_mut(spec, &[list]) {
            default_container(container);
        }
    }
    for volume in items_mut(spec, &["volumes"]) {
        default_volume(volume);
    }
}

fn default_container(container: &mut Value) {
    if container.as_object().is_none() {
        return;
    }
    if container.str_at(&["imagePullPolicy"]).is_none_or(|policy| policy.is_empty()) {
        let policy = pull_policy(container.str_at(&["image"]).unwrap_or_default());
        container.set(&["imagePullPolicy"], policy.into());
    }
    default_to(container, &["terminationMessagePath"], "/dev/termination-log");
    default_to(container, &["terminationMessagePolicy"], "File");
    default_to(container, &["resources"], Map::new());
    for port in items_mut(container, &["ports"]) {
        default_to(port, &["protocol"], "TCP");
    }
    for variable in items_mut(container, &["env"]) {
        if variable.at(&["valueFrom", "fieldRef"]).is_some() {
            default_to(variable, &["valueFrom", "fieldRef", "apiVersion"], "v1");
        }
    }
    for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(probe) = container.at_mut(&[probe]).filter(|probe| probe.as_object().is_some()) {
            default_number(probe, &["timeoutSeconds"], 1);
            default_number(probe, &["periodSeconds"], 10);
            default_number(probe, &["successThreshold"], 1);
            default_number(probe, &["failureThreshold"], 3);
            default_http_get(probe);
            if probe.get("grpc").is_some() && probe.at(&["grpc", "service"]).is_none() {
                probe.set(&["grpc", "service"], "".into());
            }
        }
    }
    for hook in ["postStart", "preStop"] {
        if let Some(hook) = container.at_mut(&["lifecycle", hook]) {
            default_http_get(hook);
        }
    }
}

fn default_http_get(handler: &mut Value) {
    if handler.get("httpGet").is_some_and(|get| get.as_object().is_some()) {
        default_to(handler, &["httpGet", "path"], "/");
        default_to(handler, &["httpGet", "scheme"], "HTTP");
    }
}

/// `Always` for `latest`, also where no tag is given; else `IfNotPresent`.
pub(crate) fn pull_policy(image: &str) -> &'static str {
    if image.contains('@') {
        return "IfNotPresent";
    }
    let last = image.rsplit('/').next().unwrap_or(image);
    match last.split_once(':') {
        Some((_, tag)) if tag != "latest" => "IfNotPresent",
        _ => "Always",
    }
}

fn default_volume(volume: &mut Value) {
    let Some(map) = volume.as_object_mut() else { return };
    if !map.iter().any(|(key, value)| key != "name" && !value.is_null()) {
        map.insert("emptyDir", empty());
    }
    for source in ["secret", "configMap", "downwardAPI", "projected"] {
        if let Some(source) = volume.at_mut(&[source]).filter(|source| source.as_object().is_some()) {
            default_to(source, &["defaultMode"], 0o644_i64);
        }
    }
    if let Some(path) = volume.at_mut(&["hostPath"]).filter(|path| path.as_object().is_some()) {
        default_to(path, &["type"], "");
    }
    if let Some(image) = volume.at_mut(&["image"]).filter(|image| image.as_object().is_some()) {
        let policy = pull_policy(image.str_at(&["reference"]).unwrap_or_default());
        default_to(image, &["pullPolicy"], policy);
    }
    if volume.at(&["ephemeral", "volumeClaimTemplate", "spec"]).is_some() {
        default_to(volume, &["ephemeral", "volumeClaimTemplate", "spec", "volumeMode"], "Filesystem");
    }
    if let Some(disk) = volume.at_mut(&["iscsi"]).filter(|disk| disk.as_object().is_some()) {
        default_to(disk, &["iscsiInterface"], "default");
    }
    field_references(volume, &["downwardAPI", "items"]);
    for source in items_mut(volume, &["projected", "sources"]) {
        if let Some(token) = source.at_mut(&["serviceAccountToken"]).filter(|token| token.as_object().is_some()) {
            default_to(token, &["expirationSeconds"], 3_600_i64);
        }
        field_references(source, &["downwardAPI", "items"]);
    }
}

fn field_references(object: &mut Value, path: &[&str]) {
    for item in items_mut(object, path) {
        if item.get("fieldRef").is_some_and(|field| field.as_object().is_some()) {
            default_to(item, &["fieldRef", "apiVersion"], "v1");
        }
    }
}

/// Sets what pods have beyond what templates have.
pub(crate) fn default_pod(pod: &mut Value) {
    default_pod_spec(pod, &["spec"]);
    let host_network = pod.at(&["spec", "hostNetwork"]).and_then(Value::as_bool) == Some(true);
    let Some(spec) = pod.at_mut(&["spec"]).filter(|spec| spec.as_object().is_some()) else { return };
    default_to(spec, &["enableServiceLinks"], true);
    for list in ["containers", "initContainers"] {
        for container in items_mut(spec, &[list]) {
            if let Some(limits) = container.at(&["resources", "limits"]).and_then(Value::as_object).cloned() {
                let requests =
                    container.at_mut(&["resources"]).and_then(Value::as_object_mut).map(|map| map.entry("requests"));
                let Some(requests) = requests else { continue };
                if requests.as_object().is_none() {
                    *requests = empty();
                }
                for (name, amount) in limits {
                    default_to(requests, &[&name], amount);
                }
            }
            if host_network {
                for port in items_mut(container, &["ports"]) {
                    let number = port.i64_at(&["containerPort"]).unwrap_or_default();
                    default_number(port, &["hostPort"], number);
                }
            }
        }
    }
}

/// The quality of service class of a pod, from what its containers request.
pub fn qos_class(pod: &Value) -> &'static str {
    let mut any = false;
    let mut guaranteed = true;
    for list in ["containers", "initContainers"] {
        for container in items(pod, &["spec", list]) {
            for name in ["cpu", "memory"] {
                let amount = |kind: &str| {
                    let amount = container.at(&["resources", kind, name])?;
                    object::quantity::Quantity::from_value(amount).ok().filter(|amount| !amount.is_zero())
                };
                let (request, limit) = (amount("requests"), amount("limits"));
                any |= request.is_some() || limit.is_some();
                guaranteed &= limit.is_some() && request.is_none_or(|request| Some(request) == limit);
            }
        }
    }
    match (any, guaranteed) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

/// What the admission step DefaultTolerationSeconds adds: pods leave a node that is not ready or unreachable after a time.
pub fn default_toleration_seconds(pod: &mut Value, not_ready_seconds: i64, unreachable_seconds: i64) {
    let wanted =
        [("node.kubernetes.io/not-ready", not_ready_seconds), ("node.kubernetes.io/unreachable", unreachable_seconds)];
    for (taint, seconds) in wanted {
        let tolerated = items(pod, &["spec", "tolerations"]).iter().any(|toleration| {
            let key = toleration.str_at(&["key"]).unwrap_or_default();
            let effect = toleration.str_at(&["effect"]).unwrap_or_default();
            (key == taint || key.is_empty()) && matches!(effect, "NoExecute" | "")
        });
        if tolerated {
            continue;
        }
        let mut toleration = Map::new();
        toleration.insert("key", taint);
        toleration.insert("operator", "Exists");
        toleration.insert("effect", "NoExecute");
        toleration.insert("tolerationSeconds", seconds);
        let mut tolerations = items(pod, &["spec", "tolerations"]).to_vec();
        tolerations.push(Value::Object(toleration));
        pod.set(&["spec", "tolerations"], Value::Array(tolerations));
    }
}
