//! Where a proxied request goes: which node, pod or service address, and under which path.

use super::application::Application;
use super::log_options;
use crate::address::is_of_host;
use crate::core::{Scope, decoded};
use crate::serve::Context;
use kinds::Role;
use object::{GroupVersionResource, Status, Value, meta};
use std::net::IpAddr;
use std::sync::Arc;

/// Where to connect.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// The agent of a node.
    Node(String),
    /// An address that the server reaches itself.
    Address(IpAddr, u16),
}

/// A place and the path to ask for there.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) place: Place,
    pub(crate) path: String,
    /// None for a node's own endpoints about its pods.
    pub(crate) application: Option<Application>,
}

/// Resolves a request for a proxied subresource; None where there is nothing to pass on: the logs of a pod without a
/// node are empty.
pub(crate) fn resolve(context: &Context, scope: &Scope<'_>, role: &Role) -> Result<Option<Target>, Status> {
    if matches!(role, Role::Proxy) {
        return match scope.row.bucket.as_str() {
            "nodes" => node_proxy(context, scope),
            "pods" => pod_proxy(context, scope),
            _ => service_proxy(context, scope),
        }
        .map(Some);
    }
    let name = scope.name;
    if matches!(role, Role::Log) {
        log_options::check(&context.query, name)?;
    }
    let pod = lookup(context, scope, name)?;
    let container = match role {
        Role::PortForward => String::new(),
        _ => choose_container(&pod, name, context.query.text("container"))?,
    };
    let node = pod.str_at(&["spec", "nodeName"]).unwrap_or_default();
    if node.is_empty() {
        return match role {
            Role::Log => Ok(None),
            _ => Err(Status::bad_request(format!("pod {name} does not have a host assigned"))),
        };
    }
    if context.core.lookup("nodes", node).is_none() {
        return Err(Status::not_found(&GroupVersionResource::new("", "v1", "nodes"), node));
    }
    let namespace = scope.namespace;
    let query = &context.query;
    let mut parameters = Vec::new();
    let path = match role {
        Role::Log => {
            for (key, value) in query.pairs().filter(|pair| pair.0 != "container") {
                parameters.push((key.to_owned(), value.to_owned()));
            }
            format!("/containerLogs/{namespace}/{name}/{container}")
        }
        Role::PortForward => {
            let ports: Vec<&str> = query.pairs().filter(|pair| pair.0 == "ports").map(|pair| pair.1).collect();
            if !ports.is_empty() {
                parameters.push(("port".to_owned(), ports.join(",")));
            }
            format!("/portForward/{namespace}/{name}")
        }
        _ => {
            // The agent's words for the same options.
            for (ours, theirs) in [("stdin", "input"), ("stdout", "output"), ("stderr", "error"), ("tty", "tty")] {
                if query.flag(ours) {
                    parameters.push((theirs.to_owned(), "1".to_owned()));
                }
            }
            for (_, command) in query.pairs().filter(|pair| pair.0 == "command") {
                parameters.push(("command".to_owned(), command.to_owned()));
            }
            let verb = if matches!(role, Role::Exec) { "exec" } else { "attach" };
            format!("/{verb}/{namespace}/{name}/{container}")
        }
    };
    Ok(Some(Target { place: Place::Node(node.to_owned()), path: with_query(&path, &parameters), application: None }))
}

fn lookup(context: &Context, scope: &Scope<'_>, name: &str) -> Result<Arc<Value>, Status> {
    let entry = context.core.store.get(&scope.key(name));
    entry.map(|entry| decoded(&entry)).ok_or_else(|| Status::not_found(&scope.gvr(), name))
}

fn escape(text: &str) -> String {
    object::percent::encode(text)
}

fn with_query(path: &str, parameters: &[(String, String)]) -> String {
    let pairs: Vec<String> =
        parameters.iter().map(|(key, value)| format!("{}={}", escape(key), escape(value))).collect();
    if pairs.is_empty() { path.to_owned() } else { format!("{path}?{}", pairs.join("&")) }
}

fn names(pod: &Value, list: &str) -> Vec<String> {
    let containers = pod.at(&["spec", list]).and_then(Value::as_array).unwrap_or_default();
    containers.iter().filter_map(|one| one.str_at(&["name"])).map(str::to_owned).collect()
}

/// The container that is meant, with upstream's errors.
pub(crate) fn choose_container(pod: &Value, name: &str, wanted: &str) -> Result<String, Status> {
    let main = names(pod, "containers");
    let init = names(pod, "initContainers");
    let ephemeral = names(pod, "ephemeralContainers");
    if wanted.is_empty() {
        if let Some(default) = meta::annotation(pod, meta::annotations::DEFAULT_CONTAINER)
            && main.iter().any(|one| one == default)
        {
            return Ok(default.to_owned());
        }
        return match main.as_slice() {
            [] => Err(Status::bad_request(format!("a container name must be specified for pod {name}"))),
            [one] => Ok(one.clone()),
            _ => {
                let mut message =
                    format!("a container name must be specified for pod {name}, choose one of: [{}]", main.join(" "));
                if !init.is_empty() {
                    message.push_str(&format!(" or one of the init containers: [{}]", init.join(" ")));
                }
                if !ephemeral.is_empty() {
                    message.push_str(&format!(" or one of the ephemeral containers: [{}]", ephemeral.join(" ")));
                }
                Err(Status::bad_request(message))
            }
        };
    }
    if main.iter().chain(&init).chain(&ephemeral).any(|one| one == wanted) {
        return Ok(wanted.to_owned());
    }
    Err(Status::bad_request(format!("container {wanted} is not valid for pod {name}")))
}

/// `scheme:name:port`, `name:port` or `name` (upstream's SplitSchemeNamePort): whether the scheme is https, name, port.
fn split_name(text: &str) -> Result<(bool, &str, &str), Status> {
    let invalid = || Status::bad_request(format!("invalid request {text:?}"));
    match text.split(':').collect::<Vec<_>>().as_slice() {
        [name] if !name.is_empty() => Ok((false, name, "")),
        [name, port] if !name.is_empty() => Ok((false, name, port)),
        [scheme @ ("" | "http" | "https"), name, port] if !name.is_empty() => Ok((*scheme == "https", name, port)),
        _ => Err(invalid()),
    }
}

/// The path of the proxy, without what is asked for behind it.
fn application(context: &Context, is_tls: bool) -> Option<Application> {
    let path = context.info.path.trim_end_matches('/');
    let rest = &context.info.rest;
    let base = if rest.is_empty() { Some(path) } else { path.strip_suffix(rest.as_str()) };
    base.map(|base| Application { base: base.trim_end_matches('/').to_owned(), is_tls })
}

fn rest_path(context: &Context) -> String {
    let query: Vec<(String, String)> =
        context.query.pairs().map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
    let slash = if context.info.path.ends_with('/') && !context.info.rest.is_empty() { "/" } else { "" };
    with_query(&format!("/{}{slash}", context.info.rest), &query)
}

fn node_proxy(context: &Context, scope: &Scope<'_>) -> Result<Target, Status> {
    let (_, name, _) = split_name(scope.name)?;
    lookup(context, scope, name)?;
    let application = application(context, false);
    Ok(Target { place: Place::Node(name.to_owned()), path: rest_path(context), application })
}

fn pod_proxy(context: &Context, scope: &Scope<'_>) -> Result<Target, Status> {
    let (is_tls, name, port) = split_name(scope.name)?;
    let pod = lookup(context, scope, name)?;
    let address = pod.str_at(&["status", "podIP"]).and_then(|text| text.parse().ok());
    let address = allowed(address.ok_or_else(|| Status::bad_request(format!("pod {name} has no address yet")))?)?;
    let port = if port.is_empty() {
        let containers = pod.at(&["spec", "containers"]).and_then(Value::as_array).unwrap_or_default();
        let ports = containers.iter().flat_map(|one| one.get("ports").and_then(Value::as_array).unwrap_or_default());
        ports.filter_map(|port| port.i64_at(&["containerPort"])).next().unwrap_or(80)
    } else {
        port.parse().map_err(|_| Status::bad_request(format!("invalid port {port}")))?
    };
    let place = Place::Address(address, port_number(port)?);
    Ok(Target { place, path: rest_path(context), application: application(context, is_tls) })
}

fn port_number(port: i64) -> Result<u16, Status> {
    u16::try_from(port).map_err(|_| Status::bad_request(format!("invalid port {port}")))
}

/// Whoever may write a pod's status must not lead this server to itself or to its host's neighbours (upstream's IsProxyableIP).
fn allowed(address: IpAddr) -> Result<IpAddr, Status> {
    if is_of_host(address) { Err(Status::bad_request("address not allowed")) } else { Ok(address) }
}

/// A ready endpoint of a Service, taken from its EndpointSlices.
fn service_proxy(context: &Context, scope: &Scope<'_>) -> Result<Target, Status> {
    let (is_tls, name, wanted) = split_name(scope.name)?;
    let service = lookup(context, scope, name)?;
    let ports = service.at(&["spec", "ports"]).and_then(Value::as_array).unwrap_or_default();
    let port = match (wanted, ports) {
        ("", [one]) => Some(one),
        ("", _) => None,
        (wanted, ports) => ports.iter().find(|port| {
            port.str_at(&["name"]) == Some(wanted)
                || port.i64_at(&["port"]).is_some_and(|number| number.to_string() == wanted)
        }),
    };
    let unavailable = |why: &str| Err(Status::unavailable(format!("{why} \"{}\"", scope.name)));
    let Some(port) = port else { return unavailable("no service port found for service") };
    let port_name = port.str_at(&["name"]).unwrap_or_default();
    let prefix = format!("{}/", scope.namespace);
    let listed = context.core.store.list("endpointslices.discovery.k8s.io", &prefix, None, None, None);
    let mut found: Vec<(IpAddr, u16)> = Vec::new();
    for entry in listed.map(|list| list.entries).unwrap_or_default() {
        let slice = decoded(&entry);
        if meta::label(&slice, meta::labels::SERVICE_NAME) != Some(name) {
            continue;
        }
        let number = slice.get("ports").and_then(Value::as_array).unwrap_or_default().iter().find_map(|one| {
            let same = one.str_at(&["name"]).unwrap_or_default() == port_name;
            u16::try_from(one.i64_at(&["port"])?).ok().filter(|_| same)
        });
        let Some(number) = number else { continue };
        for endpoint in slice.get("endpoints").and_then(Value::as_array).unwrap_or_default() {
            let ready = endpoint.at(&["conditions", "ready"]).and_then(Value::as_bool).unwrap_or(true);
            let addresses = endpoint.get("addresses").and_then(Value::as_array).unwrap_or_default();
            let address = addresses.first().and_then(Value::as_str).and_then(|text| text.parse().ok());
            found.extend(address.filter(|_| ready).map(|address| (address, number)));
        }
    }
    let at = usize::try_from(crate::random::below(found.len() as u64)).unwrap_or(0);
    match found.get(at) {
        Some((address, number)) => {
            let place = Place::Address(allowed(*address)?, *number);
            Ok(Target { place, path: rest_path(context), application: application(context, is_tls) })
        }
        None => unavailable("no endpoints available for service"),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn chooses_containers_as_upstream() {
        let pod = |text: &str| object::json::decode(text.as_bytes(), &object::Limits::REQUEST).unwrap().value;
        let one = pod(r#"{"spec":{"containers":[{"name":"a"}]}}"#);
        let two = pod(r#"{"spec":{"containers":[{"name":"a"},{"name":"b"}],"initContainers":[{"name":"i"}]}}"#);
        assert_eq!(choose_container(&one, "p", "").unwrap(), "a");
        assert_eq!(choose_container(&two, "p", "i").unwrap(), "i");
        let message = choose_container(&two, "p", "").unwrap_err().message;
        assert_eq!(
            message,
            "a container name must be specified for pod p, choose one of: [a b] or one of the init containers: [i]"
        );
        assert_eq!(choose_container(&two, "p", "x").unwrap_err().message, "container x is not valid for pod p");
    }

    #[test]
    fn escapes_queries() {
        let pairs = [("command".to_owned(), "a b&c".to_owned())];
        assert_eq!(with_query("/exec", &pairs), "/exec?command=a%20b%26c");
        for (text, wanted) in [
            ("web", Some((false, "web", ""))),
            ("web:80", Some((false, "web", "80"))),
            ("http:web:80", Some((false, "web", "80"))),
            ("https:web:", Some((true, "web", ""))),
            (":web:80", Some((false, "web", "80"))),
            ("ftp:web:80", None),
            (":80", None),
            ("a:b:c:d", None),
        ] {
            assert_eq!(split_name(text).ok(), wanted, "{text}");
        }
    }
}
