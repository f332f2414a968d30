//! The key of a node that was removed: refused with a reason of its own, its connections closed, and a new certificate is let in.
#![expect(clippy::unwrap_used, reason = "tests")]

mod support;

use client::{
    ClusterClient, DeleteOptions, Endpoint, Https, Query, Request, Verb, WriteOptions, serve_heartbeat, serve_tunnel,
};
use futures_util::StreamExt as _;
use klynge_api::auth::removal_record;
use object::{meta, time};
use rcgen::{CertificateParams, DnType, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use support::{Cluster, parse, start, target};

const DAY: Duration = Duration::from_secs(24 * 3600);
/// What takes longer never happens.
const PATIENCE: Duration = Duration::from_secs(20);

/// A node's client, with a certificate that was issued at this moment.
fn node(cluster: &Cluster, name: &str, issued: SystemTime) -> Arc<Https> {
    let key = KeyPair::generate().unwrap();
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name = rcgen::DistinguishedName::new();
    parameters.distinguished_name.push(DnType::OrganizationName, "system:nodes");
    parameters.distinguished_name.push(DnType::CommonName, format!("system:node:{name}"));
    let request = parameters.serialize_request(&key).unwrap().pem().unwrap();
    assert_eq!(klynge_api::pki::requested_name(&request), Some(format!("system:node:{name}")));
    let usages = ["digital signature".to_owned(), "client auth".to_owned()];
    let certificate = cluster.pki.sign_request(&request, &usages, DAY, issued).unwrap();
    let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()];
    let private = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).unwrap();
    let endpoint = Endpoint {
        host: "127.0.0.1".to_owned(),
        port: cluster.server.address().port(),
        authorities: cluster.pki.bundle_der(),
        certificate: Some((chain, private)),
        token: None,
        pin: None,
    };
    Arc::new(Https::new(endpoint).unwrap())
}

async fn own(client: &Https, name: &str) -> Result<(), object::Status> {
    client.call(Request { target: target("", "v1", "nodes", "", name), verb: Verb::Get }).await.map(drop)
}

/// The refusal; a request may meet the connection as it is being closed.
async fn refusal(client: &Https, name: &str) -> object::Status {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match own(client, name).await {
            Err(status) if status.code == 503 && Instant::now() < deadline => {}
            answer => return answer.unwrap_err(),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_key_of_a_removed_node_is_refused() {
    let cluster = start().await;
    let admin = cluster.admin();
    let create = |resource: &str, namespace: &str, object| Request {
        target: target("", "v1", resource, namespace, ""),
        verb: Verb::Create(object, WriteOptions::default()),
    };
    admin.call(create("namespaces", "", parse("{metadata: {name: kube-system}}"))).await.ok(); // it may be there
    let (old, other) = (node(&cluster, "n1", SystemTime::now()), node(&cluster, "n2", SystemTime::now()));
    for (client, name) in [(&old, "n1"), (&other, "n2")] {
        let object = parse(&format!("{{metadata: {{name: {name}}}}}"));
        client.call(create("nodes", "", object)).await.unwrap();
    }
    // All that an agent keeps open.
    let query = Query { fields: "metadata.name=n1".to_owned(), ..Query::default() };
    let mut watch = old.watch(target("", "v1", "nodes", "", ""), query, 0).await.unwrap();
    let spawn_tunnel = |client: &Arc<Https>| {
        let client = Arc::clone(client);
        let (tell, opened) = tokio::sync::oneshot::channel();
        let tunnel = tokio::spawn(async move {
            let mut tell = Some(tell);
            let opened = || {
                let _ = tell.take().map(|tell| tell.send(()));
            };
            serve_tunnel(&client, opened, || tokio::io::duplex(1).0).await.map_err(|status| status.code)
        });
        (tunnel, opened)
    };
    let (tunnel, opened) = spawn_tunnel(&old);
    let (other_tunnel, other_opened) = spawn_tunnel(&other);
    opened.await.unwrap();
    other_opened.await.unwrap();
    let (tell, beaten) = tokio::sync::oneshot::channel();
    let heartbeat = {
        let client = Arc::clone(&old);
        let mut tell = Some(tell);
        let heard = move || {
            let _ = tell.take().map(|tell| tell.send(()));
        };
        tokio::spawn(async move { serve_heartbeat(&client, heard).await })
    };
    beaten.await.unwrap();
    own(&old, "n1").await.unwrap();
    assert!(old.removed().borrow().is_none());

    // Nodes write no records.
    let status = old.call(create("configmaps", "kube-system", removal_record("n2"))).await.map(drop).unwrap_err();
    assert_eq!(status.code, 403, "{status}");
    let record = removal_record("n1");
    let created = admin.call(create("configmaps", "kube-system", record.clone())).await.unwrap();
    let created = meta::creation_time(&parse(std::str::from_utf8(&created.json).unwrap())).unwrap();

    let status = refusal(&old, "n1").await;
    assert_eq!((status.code, status.reason.as_str()), (401, "NodeRemoved"), "{status}");
    let when = time::format_rfc3339(created);
    assert!(status.message.contains("node n1 was removed") && status.message.contains(&when), "{status} {when}");
    assert!(old.removed().borrow().is_some(), "the client knows");
    // Connections that were open end at once.
    let ended = async { while watch.next().await.is_some_and(|event| event.is_ok()) {} };
    tokio::time::timeout(PATIENCE, ended).await.unwrap();
    tokio::time::timeout(PATIENCE, tunnel).await.unwrap().unwrap().ok();
    let _ = tokio::time::timeout(PATIENCE, heartbeat).await.unwrap().unwrap();
    let status = old.upgrade("/klynge/v1/tunnel", "klynge-tunnel/1").await.map(drop).unwrap_err();
    assert_eq!(status.reason, "NodeRemoved");

    // Others are not meant, and a certificate of afterwards holds; it does not lose its connections to further removals.
    own(&other, "n2").await.unwrap();
    assert!(!other_tunnel.is_finished());
    let removed_at = cluster.server.removals().at("n1").unwrap();
    assert_eq!((removed_at.as_second(), cluster.server.removals().at("n2")), (created.as_second(), None));
    let new = node(&cluster, "n1", SystemTime::from(removed_at) + Duration::from_secs(1));
    own(&new, "n1").await.unwrap();
    let (new_tunnel, opened) = spawn_tunnel(&new);
    opened.await.unwrap();
    admin.call(create("configmaps", "kube-system", removal_record("n3"))).await.unwrap();
    let status = refusal(&old, "n1").await;
    assert_eq!(status.reason, "NodeRemoved");
    own(&new, "n1").await.unwrap();
    assert!(!new_tunnel.is_finished());

    // Whoever deletes the record pardons the key.
    let place = target("", "v1", "configmaps", "kube-system", meta::name(&record));
    admin.call(Request { target: place, verb: Verb::Delete(DeleteOptions::default()) }).await.unwrap();
    own(&old, "n1").await.unwrap();
    other_tunnel.abort();
    new_tunnel.abort();
    cluster.server.stop().await;
}
