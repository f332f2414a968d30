//! Approves what nodes ask for about themselves, and what a join token admits.

use super::request::{Requested, usages_are};
use super::tokens::{self, Admission};
use super::{NODE_CLIENT, NODE_PREFIX, NODE_SERVING, NODES, has_condition, is_decided, joining_node, with_condition};
use crate::action::{Action, Plan};
use crate::controller::{Change, Controller};
use crate::meta;
use crate::view::{Key, REMOVED_NODE_LABEL, Typed, View};
use jiff::Timestamp;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::core::v1::Node;

const BOOTSTRAPPERS: &str = "system:bootstrappers";
/// How long after a machine was admitted under a name another one is refused that has it too: its Node may not be there yet.
const ARRIVAL_SECONDS: i64 = 60;
/// Records of nodes that were taken out of the cluster, as the API server reads them (docs/decisions/0011-joining.md).
const RECORDS: &str = "kube-system";
const RECORD_NODE: &str = "node";

/// The approver of nodes' certificates.
#[derive(Debug)]
pub struct NodeCertificateApprover;

/// What is to become of a request.
enum Verdict {
    /// Somebody else decides.
    Leave,
    Approve(&'static str),
    Deny(&'static str, String),
    /// First this, then the request is looked at again.
    First(Box<Action>),
}

impl Controller for NodeCertificateApprover {
    const NAME: &'static str = "certificate-controller";
    const COMPONENT: &'static str = "csrapproving";
    type Memory = ();

    fn keys(view: &View, change: Change<'_>) -> Vec<Key> {
        match change.new.or(change.old) {
            // What becomes of it may be what a later request for the same name waits for.
            Some(Typed::CertificateSigningRequest(request)) => {
                let node = joining_node(request);
                let rivals = node.iter().flat_map(|node| view.certificate_signing_requests.indexed(node));
                let mut keys: Vec<Key> =
                    rivals.filter(|rival| !is_decided(rival)).map(|rival| Key::of(&rival.metadata)).collect();
                if node.is_none() {
                    keys.push(Key::of(&request.metadata));
                }
                keys
            }
            // A token's record has changed: its requests may go on.
            Some(Typed::Secret(secret)) if tokens::is_token(secret) => {
                let requests = view.certificate_signing_requests.all().filter(|request| !is_decided(request));
                requests.map(|request| Key::of(&request.metadata)).collect()
            }
            // What a node asks for names its addresses, which its object may show a moment later.
            Some(Typed::Node(node)) => {
                let asker = format!("{NODE_PREFIX}{}", meta::name(&node.metadata));
                let requests = view.certificate_signing_requests.all();
                let waiting =
                    requests.filter(|one| !is_decided(one) && one.spec.username.as_deref() == Some(asker.as_str()));
                waiting.map(|request| Key::of(&request.metadata)).collect()
            }
            _ => Vec::new(),
        }
    }

    fn plan(view: &View, key: &Key, _memory: &mut (), now: Timestamp) -> Plan {
        let Some(request) = view.certificate_signing_requests.at(key) else { return Plan::nothing() };
        if is_decided(request) || has_condition(request, "Failed") {
            return Plan::nothing();
        }
        match judge(view, request, now) {
            Verdict::Leave => Plan::nothing(),
            Verdict::First(action) => Plan::of(vec![*action]),
            Verdict::Approve(message) => {
                Plan::of(vec![approval(&with_condition(request, "Approved", "AutoApproved", message, now))])
            }
            Verdict::Deny(reason, message) => {
                Plan::of(vec![approval(&with_condition(request, "Denied", reason, &message, now))])
            }
        }
    }
}

fn approval(request: &CertificateSigningRequest) -> Action {
    let Action::Update { target, object, on_success, .. } = Action::update(request) else {
        return Action::update(request);
    };
    Action::Update { target, subresource: "approval", object, on_success }
}

fn judge(view: &View, request: &CertificateSigningRequest, now: Timestamp) -> Verdict {
    let Ok(requested) = Requested::read(request) else { return Verdict::Leave };
    let Some(node) = requested.common_name.strip_prefix(NODE_PREFIX).filter(|node| !node.is_empty()) else {
        return Verdict::Leave;
    };
    if requested.organizations != [NODES] {
        return Verdict::Leave;
    }
    let username = request.spec.username.as_deref().unwrap_or_default();
    let in_group = |wanted: &str| request.spec.groups.iter().flatten().any(|group| group == wanted);
    let itself = username == requested.common_name && in_group(NODES);
    match request.spec.signer_name.as_str() {
        NODE_CLIENT if requested.has_no_names() && usages_are(request, &["digital signature", "client auth"]) => {
            if itself {
                return Verdict::Approve("Auto approving self kubelet client certificate after SubjectAccessReview.");
            }
            match tokens::token_of(username) {
                Some(token) if in_group(BOOTSTRAPPERS) => admit(view, request, node, token, now),
                _ => Verdict::Leave,
            }
        }
        NODE_SERVING if itself && usages_are(request, &["digital signature", "server auth"]) => {
            match view.nodes.get("", node) {
                Some(object) if names_are_its_own(object, &requested) => {
                    Verdict::Approve("Auto approving kubelet serving certificate: its names are the node's own.")
                }
                _ => Verdict::Leave,
            }
        }
        _ => Verdict::Leave,
    }
}

/// A machine with a join token wants to become `node`.
fn admit(view: &View, request: &CertificateSigningRequest, node: &str, token: &str, now: Timestamp) -> Verdict {
    // Also where its agent is away: the old machine's containers run on, its agent may come back, and two machines would be one node.
    if let Some(object) = view.nodes.get("", node).filter(|object| is_ready(object) || has_had_an_agent(object)) {
        let state = if is_ready(object) { "healthy" } else { "not ready" };
        return Verdict::Deny(
            "NodeNameTaken",
            format!(
                "node {node} is in the cluster and {state} (since {}); give the new machine another name with \
                 --node-name, or remove the old node with `klynge node remove {node}`",
                object.metadata.creation_timestamp.as_ref().map(|time| time.0.to_string()).unwrap_or_default()
            ),
        );
    }
    for rival in rivals(view, request, node) {
        if !is_decided(rival) && order(rival) < order(request) {
            return Verdict::Leave; // until that one is decided
        }
        let is_arriving = |since: &Timestamp| {
            now.as_second() - since.as_second() < ARRIVAL_SECONDS
                && removed_at(view, node).is_none_or(|at| at < *since)
                && !has_arrived(view, node, *since)
        };
        if let Some(since) = approved_at(rival).filter(is_arriving) {
            return Verdict::Deny(
                "NodeNameTaken",
                format!(
                    "another machine was admitted as node {node} at {since}; give this one another name with --node-name, or, if that was this \
                     machine's own attempt, try again in a minute"
                ),
            );
        }
    }
    match tokens::admission(view, token, meta::name(&request.metadata), now) {
        Admission::Admitted => Verdict::Approve("Auto approving kubelet client certificate after SubjectAccessReview."),
        Admission::Record(action) => Verdict::First(action),
        Admission::Refused(why) => Verdict::Deny("TokenRefused", why),
    }
}

/// What other machines with a token, or other attempts of this one, ask for under the same name.
fn rivals<'a>(
    view: &'a View,
    request: &'a CertificateSigningRequest,
    node: &'a str,
) -> impl Iterator<Item = &'a CertificateSigningRequest> {
    let others = view.certificate_signing_requests.indexed(node).map(|other| &**other);
    others.filter(|other| other.spec.request != request.spec.request && !has_condition(other, "Failed"))
}

/// When a node of this name was taken out of the cluster: who was admitted before is gone.
fn removed_at(view: &View, node: &str) -> Option<Timestamp> {
    let records = view.config_maps.in_namespace(RECORDS).filter(|record| {
        meta::label(&record.metadata, REMOVED_NODE_LABEL).is_some()
            && record.data.as_ref().and_then(|data| data.get(RECORD_NODE)).is_some_and(|named| named == node)
    });
    records.filter_map(|record| record.metadata.creation_timestamp.as_ref()).map(|time| time.0).max()
}

/// Whether a node of this name has asked for something itself since: it was here, and where its Node is gone by now it was taken out.
fn has_arrived(view: &View, node: &str, since: Timestamp) -> bool {
    let created = |request: &CertificateSigningRequest| request.metadata.creation_timestamp.as_ref().map(|time| time.0);
    view.certificate_signing_requests.all().any(|request| {
        let asker = request.spec.username.as_deref().and_then(|username| username.strip_prefix(NODE_PREFIX));
        asker == Some(node) && created(request).is_some_and(|at| at >= since)
    })
}

/// Who comes first.
fn order(request: &CertificateSigningRequest) -> (Option<Timestamp>, &str) {
    (request.metadata.creation_timestamp.as_ref().map(|time| time.0), meta::name(&request.metadata))
}

fn approved_at(request: &CertificateSigningRequest) -> Option<Timestamp> {
    let conditions = request.status.as_ref()?.conditions.as_ref()?;
    let approved = conditions.iter().find(|condition| condition.type_ == "Approved")?;
    approved.last_update_time.as_ref().map(|time| time.0)
}

/// A Node that somebody made beforehand waits for its machine.
fn has_had_an_agent(node: &Node) -> bool {
    let info = node.status.as_ref().and_then(|status| status.node_info.as_ref());
    info.is_some_and(|info| !info.kubelet_version.is_empty())
}

fn is_ready(node: &Node) -> bool {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

fn names_are_its_own(node: &Node, requested: &Requested) -> bool {
    let addresses = node.status.as_ref().and_then(|status| status.addresses.as_deref()).unwrap_or_default();
    let is_own = |name: &str| addresses.iter().any(|address| address.address == name);
    let any = !requested.dns_names.is_empty() || !requested.addresses.is_empty();
    any && requested.other_names == 0
        && requested.dns_names.iter().all(|name| is_own(name))
        && requested.addresses.iter().all(|address| is_own(&address.to_string()))
}
