//! The pod range of this node: given by the cluster with the Node object, kept for starts without the API.

use crate::cli::{Failure, Global};
use client::{ClusterClient, Request, Target, Verb, WriteOptions};
use network::Prefix;
use object::{GroupVersionResource, Status, Value, json};
use std::io::Write as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// An API that does not answer in this time is done without, where the range is known from before.
const PATIENCE: Duration = Duration::from_secs(3);
const REMOVED: &str = "this node was taken out of the cluster";
const POLL_MIN: Duration = Duration::from_millis(1);
const POLL_MAX: Duration = Duration::from_millis(500);
/// After this time the wait is told of.
const TELL_AFTER: Duration = Duration::from_secs(5);

fn path(global: &Global) -> PathBuf {
    global.data_dir.join("agent").join("own-range")
}

/// The ranges that [`claim`] kept; none where nothing was.
pub(super) fn load(global: &Global) -> Vec<Prefix> {
    let text = std::fs::read_to_string(path(global)).unwrap_or_default();
    let mut lines = text.lines();
    // Another format, or a damaged file: the Node object says it again.
    if lines.next() != Some("1") {
        return Vec::new();
    }
    lines.filter_map(|line| line.parse().ok()).collect()
}

/// Forgets the ranges of a node that was removed: one that joins again is a new node.
pub(crate) fn forget(global: &Global) {
    // Without the file there is nothing to forget.
    let _ = std::fs::remove_file(path(global));
}

fn save(global: &Global, ranges: &[Prefix]) -> Result<(), Failure> {
    let path = path(global);
    let failed = |error: std::io::Error| Failure::Failed(format!("cannot write {}: {error}", path.display()));
    let directory = global.data_dir.join("agent");
    std::fs::create_dir_all(&directory).map_err(failed)?;
    let mut file = tempfile::NamedTempFile::new_in(&directory).map_err(failed)?;
    let lines: String = ranges.iter().map(|range| format!("{range}\n")).collect();
    write!(file, "1\n{lines}").map_err(failed)?;
    file.persist(&path).map_err(|error| failed(error.error))?;
    Ok(())
}

fn target(name: &str) -> Target {
    Target {
        resource: GroupVersionResource::new("", "v1", "nodes"),
        namespace: "".into(),
        name: name.into(),
        subresource: "".into(),
    }
}

/// The pod ranges of node `name`: registers it where it is not there, and waits until the cluster has given it some.
/// A machine that has been in the cluster is made a Node again only if `registers_again`.
pub(super) async fn claim(
    global: &Global,
    client: &dyn ClusterClient,
    name: &str,
    registers_again: bool,
) -> Result<Vec<Prefix>, Failure> {
    let known = load(global);
    let begun = Instant::now();
    let (mut wait, mut told) = (POLL_MIN, false);
    loop {
        let asked = tokio::time::timeout(PATIENCE, look(client, name, registers_again || known.is_empty())).await;
        let problem = match asked {
            Ok(Ok(ranges)) if !ranges.is_empty() => {
                if ranges != known {
                    save(global, &ranges)?;
                }
                return Ok(ranges);
            }
            Ok(Ok(_)) => "the cluster has given it no pod range yet".to_owned(),
            Ok(Err(status)) if status.code == 503 || status.code == 504 => status.message,
            Ok(Err(status)) if status.is_not_found() || status.reason == client::NODE_REMOVED => {
                return Err(Failure::NotFound(REMOVED.to_owned()));
            }
            Ok(Err(status)) => {
                return Err(Failure::Failed(format!("cannot register node {name}: {}", status.message)));
            }
            Err(_) => "the API server does not answer".to_owned(),
        };
        if !known.is_empty() {
            tracing::info!(problem, "starting with the pod range of before");
            return Ok(known);
        }
        if begun.elapsed() > TELL_AFTER && !told {
            told = true;
            tracing::warn!(
                node = name,
                problem,
                "this node waits for its pod range; see `kubectl describe node {name}`"
            );
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(POLL_MAX);
    }
}

/// The node's ranges as its object has them; creates the object where it is missing.
async fn look(client: &dyn ClusterClient, name: &str, may_create: bool) -> Result<Vec<Prefix>, Status> {
    let found = match client.call(Request { target: target(name), verb: Verb::Get }).await {
        Err(status) if status.is_not_found() && may_create => {
            let mut node = Value::default();
            node.set(&["apiVersion"], "v1".into());
            node.set(&["kind"], "Node".into());
            node.set(&["metadata", "name"], name.into());
            let verb = Verb::Create(node, WriteOptions::default());
            client.call(Request { target: target(""), verb }).await?
        }
        other => other?,
    };
    let node = json::decode(&found.json, &json::Limits::default()).map_err(Status::internal)?.value;
    let ranges = node.at(&["spec", "podCIDRs"]).and_then(Value::as_array).unwrap_or_default();
    Ok(ranges.iter().filter_map(Value::as_str).filter_map(|range| range.parse().ok()).collect())
}
