//! Nodes' certificates from a join token to removal.
#![expect(clippy::unwrap_used, reason = "tests")]

use super::*;
use crate::action::{Action, Plan};
use crate::controller::{Change, Controller};
use crate::view::{Key, Typed, View};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{Node, Secret};
use rcgen::{CertificateParams, DnType, KeyPair, SanType};
use serde_json::json;
use std::sync::Arc;

fn now() -> Timestamp {
    "2026-11-01T00:00:00Z".parse().unwrap()
}

fn pem(common_name: &str, organization: &str, addresses: &[&str]) -> Vec<u8> {
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name = rcgen::DistinguishedName::new();
    parameters.distinguished_name.push(DnType::OrganizationName, organization);
    parameters.distinguished_name.push(DnType::CommonName, common_name);
    parameters.subject_alt_names = addresses.iter().map(|one| SanType::IpAddress(one.parse().unwrap())).collect();
    let key = KeyPair::generate().unwrap();
    parameters.serialize_request(&key).unwrap().pem().unwrap().into_bytes()
}

struct Wish<'a> {
    signer: &'a str,
    username: &'a str,
    groups: &'a [&'a str],
    usages: &'a [&'a str],
    request: Vec<u8>,
}

fn request(name: &str, wish: Wish<'_>) -> CertificateSigningRequest {
    let object = json!({
        "metadata": {"name": name, "uid": name, "resourceVersion": "7", "creationTimestamp": now().to_string()},
        "spec": {"signerName": wish.signer, "username": wish.username, "groups": wish.groups, "usages": wish.usages, "request": ""},
    });
    let mut request: CertificateSigningRequest = serde_json::from_value(object).unwrap();
    request.spec.request = ByteString(wish.request);
    request
}

const CLIENT_USAGES: &[&str] = &["digital signature", "client auth"];

fn join(name: &str, token: &str, node: &str) -> CertificateSigningRequest {
    request(
        name,
        Wish {
            signer: NODE_CLIENT,
            username: &format!("system:bootstrap:{token}"),
            groups: &["system:bootstrappers", "system:authenticated"],
            usages: CLIENT_USAGES,
            request: pem(&format!("system:node:{node}"), "system:nodes", &[]),
        },
    )
}

fn token(id: &str, uses: Option<&str>, used_by: &[&str], expiration: &str) -> Secret {
    let mut secret: Secret = serde_json::from_value(json!({
        "metadata": {"namespace": "kube-system", "name": format!("bootstrap-token-{id}"), "uid": id, "resourceVersion": "3"},
        "type": "bootstrap.kubernetes.io/token",
    }))
    .unwrap();
    let data = secret.data.get_or_insert_default();
    let mut put = |key: &str, text: String| data.insert(key.into(), ByteString(text.into_bytes()));
    put("expiration", expiration.into());
    if let Some(uses) = uses {
        put("klynge-uses", uses.into());
    }
    put("klynge-used-by", used_by.join("\n"));
    secret
}

fn node(name: &str, ready: &str) -> Node {
    serde_json::from_value(json!({
        "metadata": {"name": name, "creationTimestamp": now().to_string()},
        "status": {"conditions": [{"type": "Ready", "status": ready}],
            "addresses": [{"type": "InternalIP", "address": "192.0.2.7"}, {"type": "Hostname", "address": name}]},
    }))
    .unwrap()
}

fn had_agent(name: &str, ready: &str) -> Node {
    let mut node = node(name, ready);
    let info = json!({"kubeletVersion": "v1.37.0", "architecture": "", "bootID": "", "containerRuntimeVersion": "", "kernelVersion": "",
        "kubeProxyVersion": "", "machineID": "", "operatingSystem": "", "osImage": "", "systemUUID": ""});
    node.status.as_mut().unwrap().node_info = Some(serde_json::from_value(info).unwrap());
    node
}

fn view(requests: &[&CertificateSigningRequest], secrets: &[Secret], nodes: &[Node]) -> View {
    let mut view = View::default();
    for request in requests {
        view.certificate_signing_requests.set(Arc::new((*request).clone()));
    }
    for secret in secrets {
        view.secrets.set(Arc::new(secret.clone()));
    }
    for node in nodes {
        view.nodes.set(Arc::new(node.clone()));
    }
    view
}

fn key(name: &str) -> Key {
    Key::new("", name)
}

/// The plan in words: `Approved AutoApproved`, `record a b`, `sign 600`, `delete x`.
fn words(plan: &Plan) -> Vec<String> {
    let words = plan.actions.iter().map(|action| match action {
        Action::Update { target, subresource, object, .. } if target.resource.kind == "Secret" => {
            let data: Secret = serde_json::from_value(object.clone()).unwrap();
            assert_eq!((*subresource, object["metadata"]["resourceVersion"].as_str()), ("", Some("3")));
            let used = String::from_utf8(data.data.unwrap()["klynge-used-by"].0.clone()).unwrap();
            format!("record {}", used.replace('\n', " "))
        }
        Action::Update { subresource, object, .. } => {
            let conditions = object["status"]["conditions"].as_array().unwrap();
            let last = conditions.last().unwrap();
            format!("{subresource} {} {}", last["type"].as_str().unwrap(), last["reason"].as_str().unwrap())
        }
        Action::Sign { lifetime_seconds, .. } => format!("sign {lifetime_seconds}"),
        Action::Delete { target, .. } => format!("delete {}", target.name),
        other => format!("unexpected {other:?}"),
    });
    words.collect()
}

fn approve(view: &View, name: &str) -> Vec<String> {
    words(&NodeCertificateApprover::plan(view, &key(name), &mut (), now()))
}

#[test]
fn a_single_use_token_admits_one_machine() {
    let (first, second) = (join("csr-1", "abcdef", "a"), join("csr-2", "abcdef", "b"));
    let later = "2026-11-02T00:00:00Z";
    // First the use is written down, under the token's resourceVersion; then the request is approved.
    let fresh = view(&[&first, &second], &[token("abcdef", Some("1"), &[], later)], &[]);
    assert_eq!(approve(&fresh, "csr-1"), ["record csr-1"]);
    assert_eq!(approve(&fresh, "csr-2"), ["record csr-2"]);
    let used = view(&[&first, &second], &[token("abcdef", Some("1"), &["csr-1"], later)], &[]);
    assert_eq!(approve(&used, "csr-1"), ["approval Approved AutoApproved"]);
    assert_eq!(approve(&used, "csr-2"), ["approval Denied TokenRefused"]);
    // Two uses: the second is written beside the first.
    let two = view(&[&first, &second], &[token("abcdef", Some("2"), &["csr-1"], later)], &[]);
    assert_eq!(approve(&two, "csr-2"), ["record csr-1 csr-2"]);
    // Upstream's tokens count nothing.
    let unlimited = view(&[&first], &[token("abcdef", None, &[], later)], &[]);
    assert_eq!(approve(&unlimited, "csr-1"), ["approval Approved AutoApproved"]);
}

#[test]
fn a_join_is_refused_for_its_reason() {
    let request = join("csr-1", "abcdef", "a");
    let later = "2026-11-02T00:00:00Z";
    let cases: &[(&[Secret], &[Node], &[&str])] = &[
        (&[], &[], &["approval Denied TokenRefused"]),
        (&[token("abcdef", None, &[], "2026-10-31T00:00:00Z")], &[], &["approval Denied TokenRefused"]),
        (&[token("abcdef", None, &[], "tomorrow")], &[], &["approval Denied TokenRefused"]),
        (&[token("abcdef", Some("many"), &[], later)], &[], &["approval Denied TokenRefused"]),
        (&[token("abcdef", None, &[], later)], &[node("a", "True")], &["approval Denied NodeNameTaken"]),
        // Its agent is away and may come back; a Node made beforehand was never anybody's.
        (&[token("abcdef", None, &[], later)], &[had_agent("a", "Unknown")], &["approval Denied NodeNameTaken"]),
        (&[token("abcdef", None, &[], later)], &[node("a", "Unknown")], &["approval Approved AutoApproved"]),
    ];
    for (secrets, nodes, wanted) in cases {
        assert_eq!(approve(&view(&[&request], secrets, nodes), "csr-1"), *wanted);
    }
}

#[test]
fn of_two_machines_with_one_name_the_first_is_admitted() {
    let (first, second, third) =
        (join("csr-1", "abcdef", "a"), join("csr-2", "fedcba", "a"), join("csr-3", "abcdef", "b"));
    let tokens = ["abcdef", "fedcba"].map(|id| token(id, None, &[], "2026-11-02T00:00:00Z"));
    let at_once = view(&[&first, &second, &third], &tokens, &[]);
    assert_eq!(approve(&at_once, "csr-1"), ["approval Approved AutoApproved"]);
    assert!(approve(&at_once, "csr-2").is_empty(), "the first is to be decided first");
    assert_eq!(approve(&at_once, "csr-3"), ["approval Approved AutoApproved"], "another name");
    let decided = |kind: &str, seconds: i64| {
        let at = Timestamp::from_second(now().as_second() - seconds).unwrap();
        let decided = with_condition(&first, kind, "x", "", at);
        approve(&view(&[&decided, &second], &tokens, &[]), "csr-2")
    };
    assert_eq!(decided("Approved", 5), ["approval Denied NodeNameTaken"]);
    assert_eq!(decided("Approved", 60), ["approval Approved AutoApproved"], "it never came");
    assert_eq!(decided("Denied", 5), ["approval Approved AutoApproved"]);
    // It came, and was removed since.
    let approved = with_condition(&first, "Approved", "x", "", now());
    let mut removed = view(&[&approved, &second], &tokens, &[]);
    let record = json!({"metadata": {"namespace": "kube-system", "name": "removed-node-x", "creationTimestamp": now().to_string(),
        "labels": {"klynge.io/removed-node": "true"}}, "data": {"node": "a"}});
    removed.config_maps.set(Arc::new(serde_json::from_value(record).unwrap()));
    assert_eq!(approve(&removed, "csr-2"), ["approval Approved AutoApproved"]);
    // It came, as its own request says, and its Node was deleted since.
    let own = Wish {
        signer: NODE_SERVING,
        username: "system:node:a",
        groups: &["system:nodes"],
        usages: &["digital signature", "server auth"],
        request: pem("system:node:a", "system:nodes", &["192.0.2.7"]),
    };
    let arrived = view(&[&approved, &second, &request("csr-9", own)], &tokens, &[]);
    assert_eq!(approve(&arrived, "csr-2"), ["approval Approved AutoApproved"]);
    // The same key again is the same machine.
    let mut again = first.clone();
    again.metadata.name = Some("csr-0".into());
    let again = with_condition(&again, "Approved", "x", "", now());
    assert_eq!(approve(&view(&[&first, &again], &tokens, &[]), "csr-1"), ["approval Approved AutoApproved"]);
    // The decision wakes the one that waits.
    let denied = Arc::new(with_condition(&first, "Denied", "x", "", now()));
    let typed = Typed::CertificateSigningRequest(Arc::clone(&denied));
    let change = Change { old: None, new: Some(&typed) };
    let keys = NodeCertificateApprover::keys(&view(&[&denied, &second, &third], &tokens, &[]), change);
    assert_eq!(keys, [key("csr-2")]);
    // So does its removal.
    let change = Change { old: Some(&typed), new: None };
    assert_eq!(NodeCertificateApprover::keys(&view(&[&second, &third], &tokens, &[]), change), [key("csr-2")]);
}

#[test]
fn nothing_but_a_nodes_own_is_approved() {
    let nodes_groups: &[&str] = &["system:nodes", "system:authenticated"];
    let serving: &[&str] = &["digital signature", "server auth"];
    let subject = |addresses: &[&str]| pem("system:node:a", "system:nodes", addresses);
    let cases: Vec<(Wish<'_>, bool)> = vec![
        (
            Wish {
                signer: NODE_CLIENT,
                username: "system:node:a",
                groups: nodes_groups,
                usages: CLIENT_USAGES,
                request: subject(&[]),
            },
            true,
        ),
        (
            Wish {
                signer: NODE_CLIENT,
                username: "system:node:b",
                groups: nodes_groups,
                usages: CLIENT_USAGES,
                request: subject(&[]),
            },
            false,
        ),
        (
            Wish {
                signer: NODE_CLIENT,
                username: "alice",
                groups: nodes_groups,
                usages: CLIENT_USAGES,
                request: subject(&[]),
            },
            false,
        ),
        (
            Wish {
                signer: NODE_CLIENT,
                username: "system:node:a",
                groups: nodes_groups,
                usages: serving,
                request: subject(&[]),
            },
            false,
        ),
        (
            Wish {
                signer: NODE_CLIENT,
                username: "system:node:a",
                groups: nodes_groups,
                usages: CLIENT_USAGES,
                request: subject(&["192.0.2.7"]),
            },
            false,
        ),
        (
            Wish {
                signer: NODE_CLIENT,
                username: "system:node:a",
                groups: nodes_groups,
                usages: CLIENT_USAGES,
                request: pem("system:node:a", "system:masters", &[]),
            },
            false,
        ),
        (
            Wish {
                signer: NODE_SERVING,
                username: "system:node:a",
                groups: nodes_groups,
                usages: serving,
                request: subject(&["192.0.2.7"]),
            },
            true,
        ),
        (
            Wish {
                signer: NODE_SERVING,
                username: "system:node:a",
                groups: nodes_groups,
                usages: serving,
                request: subject(&["192.0.2.8"]),
            },
            false,
        ),
        (
            Wish {
                signer: NODE_SERVING,
                username: "system:node:a",
                groups: nodes_groups,
                usages: serving,
                request: subject(&[]),
            },
            false,
        ),
        (
            Wish {
                signer: CLIENT,
                username: "alice",
                groups: nodes_groups,
                usages: CLIENT_USAGES,
                request: subject(&[]),
            },
            false,
        ),
        (
            Wish {
                signer: NODE_CLIENT,
                username: "system:node:a",
                groups: nodes_groups,
                usages: CLIENT_USAGES,
                request: b"-----BEGIN CERTIFICATE REQUEST-----".to_vec(),
            },
            false,
        ),
    ];
    for (index, (wish, approved)) in cases.into_iter().enumerate() {
        let request = request("csr-1", wish);
        let plan = approve(&view(&[&request], &[], &[node("a", "True")]), "csr-1");
        assert_eq!(!plan.is_empty(), approved, "case {index}: {plan:?}");
    }
}

#[test]
fn what_is_approved_is_signed_by_its_signers_rules() {
    let signed = |mut request: CertificateSigningRequest, seconds: Option<i32>| {
        request.spec.expiration_seconds = seconds;
        let request = with_condition(&request, "Approved", "Because", "", now());
        words(&CertificateSigner::plan(&view(&[&request], &[], &[]), &key("csr-1"), &mut (), now()))
    };
    assert_eq!(signed(join("csr-1", "abcdef", "a"), None), ["sign 2592000"]);
    assert_eq!(signed(join("csr-1", "abcdef", "a"), Some(600)), ["sign 600"]);
    assert_eq!(signed(join("csr-1", "abcdef", "a"), Some(i32::MAX)), ["sign 31536000"]);
    let human =
        |usages| Wish { signer: CLIENT, username: "alice", groups: &[], usages, request: pem("alice", "team", &[]) };
    assert_eq!(signed(request("csr-1", human(CLIENT_USAGES)), None), ["sign 31536000"]);
    assert_eq!(signed(request("csr-1", human(&["server auth"])), None), ["status Failed SignerValidationFailure"]);
    let wrong = Wish {
        signer: NODE_CLIENT,
        username: "alice",
        groups: &[],
        usages: CLIENT_USAGES,
        request: pem("alice", "team", &[]),
    };
    assert_eq!(signed(request("csr-1", wrong), None), ["status Failed SignerValidationFailure"]);
    // Not approved, or another signer's.
    let pending = join("csr-1", "abcdef", "a");
    assert!(words(&CertificateSigner::plan(&view(&[&pending], &[], &[]), &key("csr-1"), &mut (), now())).is_empty());
    let foreign = Wish {
        signer: "example.com/own",
        username: "alice",
        groups: &[],
        usages: CLIENT_USAGES,
        request: pem("alice", "team", &[]),
    };
    assert!(signed(request("csr-1", foreign), None).is_empty());
}

#[test]
fn old_requests_and_tokens_go() {
    let clean = |request: &CertificateSigningRequest, hours: i64| {
        let at = now().checked_add(jiff::SignedDuration::from_hours(hours)).unwrap();
        let plan = CertificateCleaner::plan(&view(&[request], &[], &[]), &key("csr-1"), &mut (), at);
        (words(&plan), plan.requeue_at.map(|at| at.to_string()))
    };
    let pending = join("csr-1", "abcdef", "a");
    assert_eq!(clean(&pending, 0), (vec![], Some("2026-11-02T00:00:00Z".into())));
    assert_eq!(clean(&pending, 24).0, ["delete csr-1"]);
    let denied = with_condition(&pending, "Denied", "No", "", now());
    assert_eq!(clean(&denied, 0), (vec![], Some("2026-11-01T01:00:00Z".into())));
    assert_eq!(clean(&denied, 1).0, ["delete csr-1"]);

    let tokens = |secret: Secret, requests: &[&CertificateSigningRequest], at: Timestamp| {
        let key = Key::new("kube-system", "bootstrap-token-abcdef");
        words(&TokenCleaner::plan(&view(requests, &[secret], &[]), &key, &mut (), at))
    };
    let expiration = "2026-11-02T00:00:00Z";
    assert!(tokens(token("abcdef", Some("1"), &[], expiration), &[], now()).is_empty());
    assert_eq!(
        tokens(token("abcdef", Some("1"), &[], expiration), &[], expiration.parse().unwrap()),
        ["delete bootstrap-token-abcdef"]
    );
    // Used up: the machine may still want to fetch its certificate.
    assert!(tokens(token("abcdef", Some("1"), &["csr-1"], expiration), &[&pending], now()).is_empty());
    assert_eq!(
        tokens(token("abcdef", Some("1"), &["csr-1"], expiration), &[], now()),
        ["delete bootstrap-token-abcdef"]
    );
}
