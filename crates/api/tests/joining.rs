//! A machine joins: token and pin, certificate request, signing, tunnel. The agent's side is the real client.
#![expect(clippy::unwrap_used, reason = "tests")]

mod support;

use client::{ClusterClient, Endpoint, Https, Pin, Request, Verb, WriteOptions, serve_tunnel};
use object::Value;
use rcgen::{CertificateParams, DnType, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::time_provider::TimeProvider;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};
use support::{Cluster, parse, start, target};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

fn endpoint(cluster: &Cluster) -> Endpoint {
    Endpoint {
        host: "127.0.0.1".to_owned(),
        port: cluster.server.address().port(),
        authorities: Vec::new(),
        certificate: None,
        token: None,
        pin: None,
    }
}

fn with_token(cluster: &Cluster, pin: [u8; 32], token: &str) -> (Https, Pin) {
    let pin = Pin::new(pin);
    let endpoint = Endpoint { token: Some(token.to_owned()), pin: Some(pin.clone()), ..endpoint(cluster) };
    (Https::new(endpoint).unwrap(), pin)
}

fn create(resource: &str, group: &str, namespace: &str, text: &str) -> Request {
    Request {
        target: target(group, "v1", resource, namespace, ""),
        verb: Verb::Create(parse(text), WriteOptions::default()),
    }
}

const TOKEN: &str = "
metadata: {name: bootstrap-token-abcdef}
type: bootstrap.kubernetes.io/token
stringData:
  token-id: abcdef
  token-secret: 0123456789abcdef
  usage-bootstrap-authentication: 'true'
  expiration: '2100-01-01T00:00:00Z'
";

fn request_pem(node: &str, key: &KeyPair) -> String {
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name = rcgen::DistinguishedName::new();
    parameters.distinguished_name.push(DnType::OrganizationName, "system:nodes");
    parameters.distinguished_name.push(DnType::CommonName, format!("system:node:{node}"));
    parameters.serialize_request(key).unwrap().pem().unwrap()
}

fn signing_request(pem: &str) -> String {
    use base64::Engine as _;
    let request = base64::engine::general_purpose::STANDARD.encode(pem);
    format!(
        "{{metadata: {{generateName: node-csr-}}, spec: {{request: {request}, username: root, groups: ['system:masters'], \
         signerName: kubernetes.io/kube-apiserver-client-kubelet, usages: [digital signature, client auth]}}}}"
    )
}

/// Answers every request with its path.
async fn answer(mut stream: DuplexStream) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let Ok(byte) = stream.read_u8().await else { return };
        head.push(byte);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let body = format!("{} through the tunnel\n", head.split(' ').nth(1).unwrap());
    let text = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\ncontent-type: text/plain\r\n\r\n{body}", body.len());
    let _ = stream.write_all(text.as_bytes()).await;
}

/// The system's clock, but for so many seconds.
#[derive(Debug)]
struct Skewed(i64);

impl TimeProvider for Skewed {
    fn current_time(&self) -> Option<UnixTime> {
        let now = UnixTime::now().as_secs().checked_add_signed(self.0)?;
        Some(UnixTime::since_unix_epoch(Duration::from_secs(now)))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_whose_clock_is_wrong_is_told_by_how_much() {
    const DAY: i64 = 24 * 3600;
    let cluster = start().await;
    let said = async |skew: i64, by_pin: bool| {
        let (authorities, pin) = if by_pin {
            (Vec::new(), Some(Pin::new(cluster.pki.pin().unwrap())))
        } else {
            (cluster.pki.bundle_der(), None)
        };
        let https = Https::with_clock(Endpoint { authorities, pin, ..endpoint(&cluster) }, Arc::new(Skewed(skew)));
        https.unwrap().get_path("/livez").await
    };
    for by_pin in [true, false] {
        for (skew, words) in [(-DAY, "1 d behind the server's"), (100 * 365 * DAY, "36500 d ahead of the server's")] {
            let status = said(skew, by_pin).await.unwrap_err();
            assert_eq!(status.reason, client::CLOCK_DIFFERS, "{}", status.message);
            // The two clocks are read a moment after each other, and the amount is in whole seconds.
            let near =
                [words.to_owned(), words.replace("1 d", "23 h 59 min"), words.replace("36500 d", "36499 d 23 h")];
            assert!(near.iter().any(|near| status.message.contains(near)), "{}", status.message);
            assert!(status.message.contains("set the clock that is wrong"), "{}", status.message);
        }
        // Within what certificates are dated back nothing is wrong.
        said(-1800, by_pin).await.unwrap();
    }
    // A server that another authority signed tells no time.
    let strange = Endpoint { pin: Some(Pin::new([7; 32])), ..endpoint(&cluster) };
    let status = Https::with_clock(strange, Arc::new(Skewed(-DAY))).unwrap().get_path("/livez").await.unwrap_err();
    assert!(status.message.contains("UnknownIssuer"), "{}", status.message);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_joins_with_a_token_and_is_reached_by_its_tunnel() {
    let cluster = start().await;
    let admin = cluster.admin();
    admin.call(create("namespaces", "", "", "{metadata: {name: kube-system}}")).await.ok(); // it may be there
    admin.call(create("secrets", "", "kube-system", TOKEN)).await.unwrap();

    // Another pin: nothing is sent.
    let (stranger, _) = with_token(&cluster, [7; 32], "abcdef.0123456789abcdef");
    let refused = stranger.get_path("/version").await.unwrap_err();
    assert!(refused.message.contains("UnknownIssuer"), "{}", refused.message);
    // The right one: the authority is learnt from the handshake.
    let pin = cluster.pki.pin().unwrap();
    let (joining, learned) = with_token(&cluster, pin, "abcdef.0123456789abcdef");
    joining.get_path("/version").await.unwrap();
    let authority = learned.authority().unwrap();
    assert_eq!(vec![authority.clone()], cluster.pki.bundle_der());
    let (wrong, _) = with_token(&cluster, pin, "abcdef.0123456789abcdeX");
    assert_eq!(wrong.get_path("/version").await.unwrap_err().code, 401);
    let (wrong, _) = with_token(&cluster, pin, "abcdef.0123456789abcdee");
    assert_eq!(wrong.get_path("/version").await.unwrap_err().code, 401);

    // It may ask for a certificate and nothing else, and says not who it is.
    let key = KeyPair::generate().unwrap();
    let request = request_pem("n7", &key);
    let created = create("certificatesigningrequests", "certificates.k8s.io", "", &signing_request(&request));
    let created = joining.call(created).await.map(|object| parse(std::str::from_utf8(&object.json).unwrap())).unwrap();
    assert_eq!(created.str_at(&["spec", "username"]), Some("system:bootstrap:abcdef"));
    let groups = created.at(&["spec", "groups"]).and_then(Value::as_array).unwrap();
    let groups: Vec<_> = groups.iter().filter_map(Value::as_str).collect();
    assert_eq!(groups, ["system:bootstrappers", "system:authenticated"]);
    let secrets = target("", "v1", "secrets", "kube-system", "bootstrap-token-abcdef");
    let denied = joining.call(Request { target: secrets, verb: Verb::Get }).await.map(drop).unwrap_err();
    assert_eq!(denied.code, 403);

    // And it reads what the cluster is, so that an impossible range is refused before the token is used up.
    let config_map = "{metadata: {name: klynge-cluster}, data: {podCIDR: 10.42.0.0/16}}";
    admin.call(create("configmaps", "", "kube-system", config_map)).await.unwrap();
    admin.call(create("configmaps", "", "kube-system", "{metadata: {name: another}}")).await.unwrap();
    let read = async |name| {
        let target = target("", "v1", "configmaps", "kube-system", name);
        joining.call(Request { target, verb: Verb::Get }).await.map_or_else(|status| status.code, |_| 200)
    };
    assert_eq!((read("klynge-cluster").await, read("another").await), (200, 403));

    // What the control loop's signer does with an approved one.
    let usages = ["digital signature".to_owned(), "client auth".to_owned()];
    let day = Duration::from_secs(24 * 3600);
    let certificate = cluster.pki.sign_request(&request, &usages, day, SystemTime::now()).unwrap();
    let broken = request.replacen("M", "N", 3);
    assert!(cluster.pki.sign_request(&broken, &usages, day, SystemTime::now()).is_err());

    // As the node: its own Node, and the tunnel.
    let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()];
    let private = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).unwrap();
    let identity = Endpoint { authorities: vec![authority], certificate: Some((chain, private)), ..endpoint(&cluster) };
    let node = Arc::new(Https::new(identity).unwrap());
    node.call(create("nodes", "", "", "{metadata: {name: n7}}")).await.unwrap();
    let through = "/api/v1/nodes/n7/proxy/healthz";
    let away = cluster.send("GET", through, &[], "").await;
    assert_eq!(away.code, 503, "{}", away.text());
    assert!(away.text().contains("node n7 is not connected to this server"), "{}", away.text());
    let open = Arc::new(AtomicBool::new(false));
    let tunnel = {
        let (node, open) = (Arc::clone(&node), Arc::clone(&open));
        tokio::spawn(async move {
            let connect = || {
                let (ours, theirs) = tokio::io::duplex(4096);
                tokio::spawn(answer(theirs));
                ours
            };
            serve_tunnel(&node, || open.store(true, Ordering::Release), connect).await
        })
    };
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let answer = cluster.send("GET", through, &[], "").await;
        if answer.code == 200 {
            assert_eq!(answer.text(), "/healthz through the tunnel\n");
            break;
        }
        assert!(Instant::now() < deadline, "{}", answer.text());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(open.load(Ordering::Acquire));
    let many = (0..50).map(|_| cluster.send("GET", through, &[], ""));
    for answer in futures_util::future::join_all(many).await {
        assert_eq!(answer.text(), "/healthz through the tunnel\n");
    }
    // Nobody else opens one, not even an administrator.
    let admin_identity = cluster.issue("admin", "system:masters");
    let headers = [("connection", "Upgrade"), ("upgrade", "klynge-tunnel/1")];
    let response = cluster.open_as(&admin_identity, "GET", "/klynge/v1/tunnel", &headers, bytes::Bytes::new()).await;
    assert_eq!(response.status(), 403);
    tunnel.abort();
    let deadline = Instant::now() + Duration::from_secs(10);
    while cluster.send("GET", through, &[], "").await.code != 503 {
        assert!(Instant::now() < deadline, "a closed tunnel is forgotten");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    cluster.server.stop().await;
}
