//! `klynge explain`: fetches what the sentence needs and prints it.

use super::cluster::{Cluster, target};
use crate::cli::{ExplainArguments, Failure, Format, Global, Output};
use crate::explain::{Subject, explain};
use client::{Query, Target};
use object::{GroupVersionResource, Map, Value};

pub(crate) fn run(global: &Global, arguments: &ExplainArguments, output: &Output) -> Result<(), Failure> {
    let resource = resolve(&arguments.kind)?;
    let cluster = Cluster::connect(global)?;
    let namespace = if resource.namespaced { arguments.namespace.as_str() } else { "" };
    let version = resource.versions.first().map(|version| version.name.to_string()).unwrap_or_default();
    let place = Target {
        resource: GroupVersionResource::new(resource.group.clone(), version, resource.plural.clone()),
        namespace: namespace.into(),
        name: arguments.name.as_str().into(),
        subresource: "".into(),
    };
    let Some(object) = cluster.get(place)? else {
        return Err(Failure::NotFound(format!(
            "{} \"{}\" not found{}",
            resource.plural,
            arguments.name,
            if namespace.is_empty() {
                String::new()
            } else {
                format!(" in namespace {namespace}; another one is given with -n")
            }
        )));
    };
    let subject = Subject {
        kind: resource.kind.to_string(),
        events: events(&cluster, namespace)?,
        pods: list(&cluster, "", "pods", namespace)?,
        replica_sets: list(&cluster, "apps", "replicasets", namespace)?,
        endpoint_slices: list(&cluster, "discovery.k8s.io", "endpointslices", namespace)?,
        object,
    };
    let sentence = explain(&subject);
    if matches!(output.format, Some(Format::Json | Format::Yaml)) {
        let members =
            [("kind", subject.kind.as_str()), ("name", arguments.name.as_str()), ("explanation", sentence.as_str())];
        output.object(&Value::Object(members.into_iter().collect::<Map>()));
    } else {
        output.line(&sentence);
    }
    Ok(())
}

fn resolve(word: &str) -> Result<&'static kinds::Resource, Failure> {
    let lower = word.to_lowercase();
    let mut matching = kinds::table().resources().iter().filter(|resource| {
        resource.plural == lower.as_str()
            || resource.singular == lower.as_str()
            || resource.short_names.iter().any(|short| *short == lower.as_str())
    });
    matching.next().map(AsRef::as_ref).ok_or_else(|| {
        Failure::Usage(format!(
            "no kind is called {word:?}; try pod, deployment, service, node, or a name from `kubectl api-resources`"
        ))
    })
}

fn list(cluster: &Cluster, group: &str, resource: &str, namespace: &str) -> Result<Vec<Value>, Failure> {
    if namespace.is_empty() {
        return Ok(Vec::new());
    }
    Ok(cluster.list(target(group, resource, namespace, ""), Query::default())?)
}

/// All events of a namespace: those about an owner's pods say as much as its own.
fn events(cluster: &Cluster, namespace: &str) -> Result<Vec<Value>, Failure> {
    let namespace = if namespace.is_empty() { "default" } else { namespace };
    Ok(cluster.list(target("", "events", namespace, ""), Query::default())?)
}
