//! `klynge run`: an image as a Deployment, with a NodePort Service when a port is to be published.

use super::cluster::{Cluster, target};
use crate::cli::{Failure, Global, Output, RunArguments};
use crate::explain::{Subject, explain};
use client::Query;
use object::{Map, Value, meta};
use std::time::Duration;

pub(crate) fn run(global: &Global, arguments: &RunArguments, output: &Output) -> Result<(), Failure> {
    let deployment = deployment(arguments)?;
    let cluster = Cluster::connect(global)?;
    let (namespace, name) = (arguments.namespace.as_str(), arguments.name.as_str());
    let created = cluster.create(target("apps", "deployments", namespace, ""), deployment)?;
    output.progress(&format!("deployment {name} created"));
    let mut service = None;
    if let Some(port) = arguments.publish {
        service = Some(cluster.create(target("", "services", namespace, ""), service_for(arguments, port))?);
    }
    if arguments.timeout > 0 && arguments.replicas > 0 {
        wait(&cluster, arguments, output)?;
    }
    if output.object(&created) {
        return Ok(());
    }
    let Some(service) = service else {
        output.line(&format!("deployment/{name}"));
        return Ok(());
    };
    let ports = service.at(&["spec", "ports"]).and_then(Value::as_array).unwrap_or_default();
    let node_port = ports.first().and_then(|port| port.i64_at(&["nodePort"])).unwrap_or_default();
    output.progress(&format!(
        "inside the cluster: {name}.{namespace}.svc.cluster.local:{} at {}",
        arguments.publish.unwrap_or_default(),
        service.str_at(&["spec", "clusterIP"]).unwrap_or_default()
    ));
    output.line(&format!("http://{}:{node_port}", node_address(&cluster)?));
    Ok(())
}

/// The address of a node: node ports answer on those, not on loopback.
fn node_address(cluster: &Cluster) -> Result<String, Failure> {
    let nodes = cluster.list(target("", "nodes", "", ""), Query::default())?;
    let addresses = nodes.iter().filter_map(|node| node.at(&["status", "addresses"])?.as_array()).flatten();
    let internal = addresses.filter(|address| address.str_at(&["type"]) == Some("InternalIP"));
    let found = internal.filter_map(|address| address.str_at(&["address"])).next();
    Ok(found.unwrap_or("127.0.0.1").to_owned())
}

fn labels(arguments: &RunArguments) -> Value {
    Value::Object([("app", arguments.name.as_str())].into_iter().collect())
}

fn deployment(arguments: &RunArguments) -> Result<Value, Failure> {
    let mut container = Map::new();
    container.insert("name", arguments.name.as_str());
    container.insert("image", arguments.image.as_str());
    if !arguments.command.is_empty() {
        container.insert("args", arguments.command.iter().map(|word| word.as_str().into()).collect::<Vec<Value>>());
    }
    if let Some(port) = arguments.publish {
        let port: Map = [("containerPort", Value::Int(port.into()))].into_iter().collect();
        container.insert("ports", vec![Value::Object(port)]);
    }
    let mut variables = Vec::new();
    for variable in &arguments.env {
        let (name, value) =
            variable.split_once('=').ok_or_else(|| Failure::Usage(format!("--env {variable}: expected NAME=VALUE")))?;
        variables.push(Value::Object([("name", name), ("value", value)].into_iter().collect()));
    }
    if !variables.is_empty() {
        container.insert("env", variables);
    }
    let mut deployment = Value::Null;
    deployment.set(&["apiVersion"], "apps/v1".into());
    deployment.set(&["kind"], "Deployment".into());
    deployment.set(&["metadata", "name"], arguments.name.as_str().into());
    deployment.set(&["metadata", "labels"], labels(arguments));
    deployment.set(&["spec", "replicas"], Value::Int(arguments.replicas.into()));
    deployment.set(&["spec", "selector", "matchLabels"], labels(arguments));
    deployment.set(&["spec", "template", "metadata", "labels"], labels(arguments));
    deployment.set(&["spec", "template", "spec", "containers"], vec![Value::Object(container)].into());
    Ok(deployment)
}

fn service_for(arguments: &RunArguments, port: u16) -> Value {
    let mut service = Value::Null;
    service.set(&["apiVersion"], "v1".into());
    service.set(&["kind"], "Service".into());
    service.set(&["metadata", "name"], arguments.name.as_str().into());
    service.set(&["metadata", "labels"], labels(arguments));
    service.set(&["spec", "type"], "NodePort".into());
    service.set(&["spec", "selector"], labels(arguments));
    let port: Map = [("port", Value::Int(port.into())), ("targetPort", Value::Int(port.into()))].into_iter().collect();
    service.set(&["spec", "ports"], vec![Value::Object(port)].into());
    service
}

/// What ended the wait.
enum Seen {
    Running,
    /// The sentence about a pod that cannot run before someone changes something.
    Hopeless(String),
}

fn wait(cluster: &Cluster, arguments: &RunArguments, output: &Output) -> Result<(), Failure> {
    let (namespace, name) = (arguments.namespace.as_str(), arguments.name.as_str());
    let deployments = Query { fields: format!("metadata.name={name}"), ..Query::default() };
    let pods = Query { labels: format!("app={name}"), ..Query::default() };
    let collections =
        [(target("apps", "deployments", namespace, ""), deployments), (target("", "pods", namespace, ""), pods)];
    let mut said = String::new();
    let seen = cluster.wait(&collections, Duration::from_secs(arguments.timeout), |index, object| {
        if index == 1 {
            return hopeless(object, name).map(Seen::Hopeless);
        }
        let available = object.i64_at(&["status", "availableReplicas"]).unwrap_or_default();
        let line = format!("{available} of {} running", arguments.replicas);
        if line != said {
            output.progress(&line);
            said = line;
        }
        (meta::name(object) == name && available >= i64::from(arguments.replicas)).then_some(Seen::Running)
    })?;
    match seen {
        Some(Seen::Running) => Ok(()),
        Some(Seen::Hopeless(sentence)) => Err(Failure::Failed(format!(
            "{sentence} The deployment {name} stays and goes on trying; `kubectl delete deployment {name} -n {namespace}` \
             takes it away."
        ))),
        None => Err(Failure::TimedOut(format!(
            "{name} does not run after {} s; `klynge explain deployment {name} -n {namespace}` says why",
            arguments.timeout
        ))),
    }
}

/// Why a pod of this deployment will not run, where waiting for it makes no sense. One failed pull is no such reason, nor is a
/// program that ended: both may go better the next time.
fn hopeless(pod: &Value, deployment: &str) -> Option<String> {
    let ours = meta::controller(pod).is_some_and(|owner| owner.name.starts_with(&format!("{deployment}-")));
    if !ours || meta::is_deleting(pod) {
        return None;
    }
    let statuses = pod.at(&["status", "containerStatuses"]).and_then(Value::as_array).unwrap_or_default();
    let stuck = statuses.iter().any(|status| match status.str_at(&["state", "waiting", "reason"]) {
        Some("ImagePullBackOff" | "InvalidImageName" | "ErrImageNeverPull" | "CreateContainerConfigError") => true,
        Some("CrashLoopBackOff") => status.str_at(&["lastState", "terminated", "reason"]) == Some("StartError"),
        _ => false,
    });
    stuck.then(|| explain(&Subject::of_pod(pod.clone())))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use object::{Limits, yaml};

    #[test]
    fn only_what_cannot_heal_by_itself_ends_the_wait() {
        let pod = |owner: &str, status: &str| {
            let text = format!(
                "{{metadata: {{name: web-1-x, ownerReferences: [{{kind: ReplicaSet, name: {owner}, controller: true, uid: u}}]}}, \
                 spec: {{nodeName: node1, containers: [{{name: c}}]}}, status: {{phase: Pending, containerStatuses: [{{name: c, image: x/y, {status}}}]}}}}"
            );
            hopeless(&yaml::decode(text.as_bytes(), &Limits::default()).unwrap().value, "web")
        };
        let waiting = |reason: &str| format!("state: {{waiting: {{reason: {reason}, message: no such host}}}}");
        for (status, words) in [
            (waiting("ImagePullBackOff"), "cannot be pulled: no such host"),
            (waiting("InvalidImageName"), "is no name of an image"),
            (waiting("CreateContainerConfigError"), "cannot be started"),
            (
                format!(
                    "{}, lastState: {{terminated: {{reason: StartError, exitCode: 128, message: 'exec: x'}}}}",
                    waiting("CrashLoopBackOff")
                ),
                "cannot be started: exec: x",
            ),
        ] {
            let sentence = pod("web-1", &status).unwrap();
            assert!(sentence.contains(words), "{sentence}");
            assert_eq!(pod("other-1", &status), None, "another's pod with the same label");
        }
        for status in [
            waiting("ErrImagePull"),
            waiting("ContainerCreating"),
            format!("{}, lastState: {{terminated: {{reason: Error, exitCode: 1}}}}", waiting("CrashLoopBackOff")),
            "state: {running: {}}".to_owned(),
        ] {
            assert_eq!(pod("web-1", &status), None, "{status}");
        }
    }
}
