//! A real server in a temporary directory, and a small HTTPS client for it.
#![expect(clippy::unwrap_used, reason = "tests")]
#![expect(dead_code, unreachable_pub, reason = "each test file uses a part of it")]

pub mod steps;

use bytes::Bytes;
use client::{ClusterClient, Target};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use klynge_api::pki::{Issued, Names, Pki};
use klynge_api::{AddressRange, NoNodes, NodeConnector, Options, Server};
use object::{GroupVersionResource, Limits, Value, json, yaml};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

pub struct Cluster {
    pub server: Server,
    pub pki: Arc<Pki>,
    pub directory: tempfile::TempDir,
}

pub struct Answer {
    pub code: u16,
    pub headers: http::HeaderMap,
    pub body: Bytes,
}

impl Answer {
    pub fn json(&self) -> Value {
        json::decode(&self.body, &Limits::REQUEST).map(|decoded| decoded.value).unwrap_or_default()
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

pub async fn start() -> Cluster {
    let directory = tempfile::tempdir().unwrap();
    start_in(directory).await
}

pub async fn start_in(directory: tempfile::TempDir) -> Cluster {
    start_with(directory, Arc::new(NoNodes)).await
}

/// With Services of both families, IPv4 first.
pub async fn start_dual(second: &str) -> Cluster {
    let second = AddressRange::parse(second).unwrap();
    start_from(tempfile::tempdir().unwrap(), Arc::new(NoNodes), Some(second)).await
}

pub async fn start_with(directory: tempfile::TempDir, connector: Arc<dyn NodeConnector>) -> Cluster {
    start_from(directory, connector, None).await
}

async fn start_from(
    directory: tempfile::TempDir,
    connector: Arc<dyn NodeConnector>,
    second_service_range: Option<AddressRange>,
) -> Cluster {
    let range = AddressRange::parse("10.96.0.0/16").unwrap();
    let store = store::embedded::open(store::embedded::Options::new(directory.path().join("store"))).unwrap();
    let names = Names::inside("cluster.local", range.nth(1));
    let pki = Arc::new(Pki::open(&directory.path().join("pki"), names, SystemTime::now()).unwrap());
    let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let server = Server::start(Options {
        store,
        table: kinds::table().clone(),
        pki: Arc::clone(&pki),
        bind: SocketAddr::new(loopback, 0),
        advertise: loopback,
        service_range: range,
        second_service_range,
        cluster_domain: "cluster.local".to_owned(),
        connector,
        own_node: None,
        kept_hosts: None,
    })
    .await
    .unwrap();
    Cluster { server, pki, directory }
}

pub fn parse(text: &str) -> Value {
    yaml::decode(text.as_bytes(), &Limits::REQUEST).unwrap().value
}

pub fn target(group: &str, version: &str, resource: &str, namespace: &str, name: &str) -> Target {
    let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
    Target {
        resource: GroupVersionResource::new(group, version, resource),
        namespace: namespace.into(),
        name: name.into(),
        subresource: subresource.into(),
    }
}

impl Cluster {
    pub fn admin(&self) -> Arc<dyn ClusterClient> {
        self.server.client("admin", &["system:masters"])
    }

    pub fn issue(&self, user: &str, group: &str) -> Issued {
        self.pki.issue_client(user, group, Duration::from_secs(600), SystemTime::now()).unwrap()
    }

    /// Opens a connection that offers the protocols `alpn`.
    pub async fn connect(&self, identity: &Issued, alpn: &[&str]) -> tokio_rustls::client::TlsStream<TcpStream> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add_parsable_certificates(self.pki.bundle_der());
        let chain = CertificateDer::pem_slice_iter(identity.certificate.as_bytes()).map(Result::unwrap).collect();
        let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)
            .unwrap();
        config.alpn_protocols = alpn.iter().map(|one| one.as_bytes().to_vec()).collect();
        let stream = TcpStream::connect(self.server.address()).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap()
    }

    /// Sends a request and gives the answer's head with its body still to be read.
    pub async fn open(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Bytes,
    ) -> http::Response<Incoming> {
        self.open_as(&self.issue("admin", "system:masters"), method, path, headers, body).await
    }

    pub async fn open_as(
        &self,
        identity: &Issued,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Bytes,
    ) -> http::Response<Incoming> {
        let stream = self.connect(identity, &[]).await;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection.with_upgrades());
        let mut request = http::Request::builder().method(method).uri(path).header("host", "localhost");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = sender.send_request(request.body(Full::new(body)).unwrap()).await.unwrap();
        // The sender must live as long as the body is read.
        tokio::spawn(async move {
            let _sender = sender;
            tokio::time::sleep(Duration::from_secs(30)).await;
        });
        response
    }

    pub async fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Answer {
        let response = self.open(method, path, headers, body.into()).await;
        let (parts, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        Answer { code: parts.status.as_u16(), headers: parts.headers, body }
    }

    pub async fn json(&self, method: &str, path: &str, body: &str) -> (u16, Value) {
        let answer = self.send(method, path, &[("content-type", "application/json")], body.to_owned()).await;
        (answer.code, answer.json())
    }
}
