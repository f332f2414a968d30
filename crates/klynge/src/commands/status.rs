//! `klynge status`: the cluster in a few lines; what is not as wanted comes with the command that explains it.

use super::cluster::{Cluster, target};
use crate::cli::{Failure, Format, Global, Output};
use client::Query;
use object::{Map, Value, meta};

pub(crate) fn run(global: &Global, output: &Output) -> Result<(), Failure> {
    let cluster = Cluster::connect(global)?;
    let all = |group: &str, resource: &str| cluster.list(target(group, resource, "", ""), Query::default());
    let (nodes, pods) = (all("", "nodes")?, all("", "pods")?);
    let (deployments, services) = (all("apps", "deployments")?, all("", "services")?);
    let ready_nodes = nodes.iter().filter(|node| condition(node, "Ready")).count();
    let running = pods
        .iter()
        .filter(|pod| pod.str_at(&["status", "phase"]) == Some("Running") && condition(pod, "Ready"))
        .count();
    let finished = pods.iter().filter(|pod| pod.str_at(&["status", "phase"]) == Some("Succeeded")).count();
    let mut summary = Value::Null;
    for (key, number) in [
        ("nodes", nodes.len()),
        ("nodesReady", ready_nodes),
        ("pods", pods.len()),
        ("podsReady", running),
        ("podsSucceeded", finished),
        ("deployments", deployments.len()),
        ("services", services.len()),
    ] {
        summary.set(&[key], Value::Int(i64::try_from(number).unwrap_or(i64::MAX)));
    }
    let wrong = wrong(&nodes, &pods, &deployments);
    let listed = wrong.iter().map(|(kind, object)| {
        let members = [("kind", *kind), ("namespace", meta::namespace(object)), ("name", meta::name(object))];
        Value::Object(members.into_iter().collect::<Map>())
    });
    summary.set(&["notAsWanted"], Value::Array(listed.collect()));
    if output.format == Some(Format::Name) {
        // As `klynge explain` and kubectl take it.
        wrong.iter().for_each(|(kind, object)| output.line(&named(kind, object)));
        return Ok(());
    }
    if !matches!(output.format, None | Some(Format::Wide)) {
        output.object(&summary);
        return Ok(());
    }
    output.table(
        &["WHAT", "ALL", "READY"],
        &[
            vec!["nodes".to_owned(), nodes.len().to_string(), ready_nodes.to_string()],
            vec!["pods".to_owned(), pods.len().to_string(), format!("{running} ({finished} finished)")],
            vec![
                "deployments".to_owned(),
                deployments.len().to_string(),
                deployments.iter().filter(|one| available(one)).count().to_string(),
            ],
            vec!["services".to_owned(), services.len().to_string(), String::new()],
        ],
    );
    for (kind, object) in &wrong {
        output.line(&format!("{kind} {} is not as wanted: klynge explain {}", meta::name(object), named(kind, object)));
    }
    Ok(())
}

/// An object as a command line names it.
fn named(kind: &str, object: &Value) -> String {
    let flag = match meta::namespace(object) {
        "" => String::new(),
        namespace => format!(" -n {namespace}"),
    };
    format!("{kind}/{}{flag}", meta::name(object))
}

fn condition(object: &Value, name: &str) -> bool {
    let conditions = object.at(&["status", "conditions"]).and_then(Value::as_array).unwrap_or_default();
    conditions.iter().any(|one| one.str_at(&["type"]) == Some(name) && one.str_at(&["status"]) == Some("True"))
}

fn available(deployment: &Value) -> bool {
    let wanted = deployment.i64_at(&["spec", "replicas"]).unwrap_or(1);
    deployment.i64_at(&["status", "availableReplicas"]).unwrap_or_default() >= wanted
}

fn wrong<'a>(nodes: &'a [Value], pods: &'a [Value], deployments: &'a [Value]) -> Vec<(&'static str, &'a Value)> {
    let nodes = nodes.iter().filter(|node| !condition(node, "Ready")).map(|node| ("node", node));
    let pods = pods.iter().filter(|pod| {
        let phase = pod.str_at(&["status", "phase"]).unwrap_or_default();
        !meta::is_deleting(pod) && phase != "Succeeded" && !(phase == "Running" && condition(pod, "Ready"))
    });
    let deployments = deployments.iter().filter(|one| !available(one)).map(|one| ("deployment", one));
    nodes.chain(deployments).chain(pods.map(|pod| ("pod", pod))).collect()
}
