//! `klynge explain`: fetches what the sentence needs and prints it.

use super::cluster::{Cluster, target};
use crate::cli::{ExplainArguments, Failure, Format, Global, Output};
use crate::explain::{Subject, explain};
use client::{Query, Target};
use jiff::Timestamp;
use object::{GroupVersionResource, Map, Value};

pub(crate) fn run(global: &Global, arguments: &ExplainArguments, output: &Output) -> Result<(), Failure> {
    let (kind, name) = split(arguments)?;
    let resource = resolve(kind)?;
    for word in [name, arguments.namespace.as_str()] {
        check(word)?;
    }
    let cluster = Cluster::connect(global)?;
    let namespace = if resource.namespaced { arguments.namespace.as_str() } else { "" };
    let version = resource.versions.first().map(|version| version.name.to_string()).unwrap_or_default();
    let place = Target {
        resource: GroupVersionResource::new(resource.group.clone(), version, resource.plural.clone()),
        namespace: namespace.into(),
        name: name.into(),
        subresource: "".into(),
    };
    let Some(object) = cluster.get(place)? else {
        return Err(Failure::NotFound(format!(
            "{} \"{}\" not found{}",
            resource.plural,
            name,
            if namespace.is_empty() {
                String::new()
            } else {
                format!(" in namespace {namespace}; another one is given with -n")
            }
        )));
    };
    let ingress_classes = || cluster.list(target("networking.k8s.io", "ingressclasses", "", ""), Query::default()).ok();
    let subject = Subject {
        kind: resource.kind.to_string(),
        now: Timestamp::now(),
        ingress_classes: if resource.kind == "Ingress" { ingress_classes() } else { None },
        events: events(&cluster, namespace)?,
        pods: list(&cluster, "", "pods", namespace)?,
        replica_sets: list(&cluster, "apps", "replicasets", namespace)?,
        // Not everybody may see nodes; the rest is worth a sentence all the same.
        nodes: cluster.list(target("", "nodes", "", ""), Query::default()).unwrap_or_default(),
        endpoint_slices: list(&cluster, "discovery.k8s.io", "endpointslices", namespace)?,
        object,
    };
    let sentence = explain(&subject);
    if matches!(output.format, Some(Format::Json | Format::Yaml)) {
        let mut members = vec![("kind", subject.kind.as_str())];
        if !namespace.is_empty() {
            members.push(("namespace", namespace));
        }
        members.extend([("name", name), ("explanation", sentence.as_str())]);
        output.object(&Value::Object(members.into_iter().collect::<Map>()));
    } else {
        output.line(&sentence);
    }
    Ok(())
}

/// Kind and name, given as two words or as KIND/NAME.
fn split(arguments: &ExplainArguments) -> Result<(&str, &str), Failure> {
    match (arguments.kind.split_once('/'), arguments.name.as_deref()) {
        (None, Some(name)) => Ok((&arguments.kind, name)),
        (Some((kind, name)), None) => Ok((kind, name)),
        (None, None) => Err(Failure::Usage(format!(
            "which {}? Give its name: klynge explain {} NAME",
            arguments.kind, arguments.kind
        ))),
        (Some(_), Some(_)) => {
            Err(Failure::Usage(format!("{} names an object already; give KIND NAME or KIND/NAME", arguments.kind)))
        }
    }
}

/// Refuses what no object can be called, and what would mean something else in a path.
fn check(word: &str) -> Result<(), Failure> {
    let odd = |character: char| !character.is_ascii_graphic() || "/%?#\\\"".contains(character);
    if word.is_empty() || word == "." || word == ".." || word.contains(odd) {
        return Err(Failure::Usage(format!("{word:?} cannot be the name of an object or a namespace")));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_are_named_in_two_ways_and_odd_names_are_refused() {
        let of = |kind: &str, name: Option<&str>| {
            let arguments = ExplainArguments {
                kind: kind.to_owned(),
                name: name.map(str::to_owned),
                namespace: "default".to_owned(),
            };
            split(&arguments).ok().map(|(kind, name)| format!("{kind} {name}"))
        };
        assert_eq!(of("pod", Some("web")).as_deref(), Some("pod web"));
        assert_eq!(of("pod/web", None).as_deref(), Some("pod web"));
        assert_eq!((of("pod", None), of("pod/web", Some("web"))), (None, None));
        for good in ["web-1", "system:node", "a.b"] {
            assert!(check(good).is_ok(), "{good}");
        }
        for bad in ["", "a b", "..", "a/b", "a?b", "a%20b", "a\nb", "\u{e9}"] {
            assert!(matches!(check(bad), Err(Failure::Usage(_))), "{bad}");
        }
    }
}
