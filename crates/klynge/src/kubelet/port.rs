//! The listener: TLS, who is at the other end, and the hand-over to the node's endpoints.

use super::certificate::{Held, Subject};
use super::gate::{Caller, ConnectionGate, Reviews};
use crate::cli::Failure;
use client::ClusterClient;
use node::Node;
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

/// Connections at the same time; further ones wait to be accepted.
const CONNECTIONS_MAX: usize = 500;
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(10);
/// A pause after an accept that failed, which it does when descriptors run out.
const PAUSE: Duration = Duration::from_millis(100);

/// What the port needs to know.
pub(crate) struct Settings {
    /// The cluster, as system:node:NAME.
    pub(crate) client: Arc<dyn ClusterClient>,
    /// The node's name and addresses, which the certificate is for.
    pub(crate) node_name: String,
    pub(crate) addresses: Vec<IpAddr>,
    /// PEM: whose client certificates are believed.
    pub(crate) authority: String,
    /// Where key and certificate are kept.
    pub(crate) directory: PathBuf,
}

/// A bound port; nobody is served before [`KubeletPort::serve`].
pub(crate) struct KubeletPort {
    listener: TcpListener,
}

impl KubeletPort {
    /// Takes the port on all addresses.
    pub(crate) async fn bind(port: u16) -> Result<Self, Failure> {
        let any = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port);
        let listener = api::listen(any).await.map_err(|error| match error.kind() {
            io::ErrorKind::AddrInUse => Failure::Failed(format!(
                "port {port} is taken, by a kubelet or another program; choose another with --kubelet-port, or 0 for none"
            )),
            _ => Failure::Failed(format!("cannot listen on port {port}: {error}")),
        })?;
        Ok(KubeletPort { listener })
    }

    /// Serves the node's endpoints until it is stopped. The node must be registered: its certificate is for its addresses.
    pub(crate) fn serve(self, node: Arc<OnceLock<Node>>, settings: Settings) -> Result<Serving, Failure> {
        let held = Arc::new(Held::default());
        let config = configuration(&settings.authority, Arc::clone(&held))
            .map_err(|why| Failure::Failed(format!("cannot set up TLS for the kubelet's port: {why}")))?;
        let config = Arc::new(config);
        let subject = Subject {
            node: settings.node_name.clone(),
            addresses: settings.addresses,
            path: settings.directory.join("kubelet-serving.pem"),
        };
        let certificate = tokio::spawn(held.keep(Arc::clone(&config), Arc::clone(&settings.client), subject));
        let reviews = Arc::new(Reviews::new(settings.client, &settings.node_name));
        let listener = tokio::spawn(accept(self.listener, TlsAcceptor::from(config), node, reviews));
        Ok(Serving { tasks: [certificate, listener] })
    }
}

/// A port that is served.
pub(crate) struct Serving {
    tasks: [JoinHandle<()>; 2],
}

impl Serving {
    /// Accepts nobody any more.
    pub(crate) fn stop(&self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

fn configuration(authority: &str, held: Arc<Held>) -> Result<ServerConfig, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(CertificateDer::pem_slice_iter(authority.as_bytes()).filter_map(Result::ok));
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
        .allow_unauthenticated()
        .build()
        .map_err(|error| error.to_string())?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(held);
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

async fn accept(listener: TcpListener, acceptor: TlsAcceptor, node: Arc<OnceLock<Node>>, reviews: Arc<Reviews>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::debug!(%error, "the kubelet's port accepts later");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let (acceptor, node, reviews) = (acceptor.clone(), Arc::clone(&node), Arc::clone(&reviews));
        tokio::spawn(async move {
            connection(stream, acceptor, node, reviews).await;
            drop(place);
        });
    }
}

async fn connection(stream: TcpStream, acceptor: TlsAcceptor, node: Arc<OnceLock<Node>>, reviews: Arc<Reviews>) {
    let _ = stream.set_nodelay(true); // latency only
    let stream = match tokio::time::timeout(HANDSHAKE_WITHIN, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::debug!(%error, "a handshake at the kubelet's port failed"),
        Err(_) => return,
    };
    let leaf = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
    let caller = leaf.and_then(caller);
    let Some(node) = node.get() else { return };
    node.serve_gated(stream, Arc::new(ConnectionGate { reviews, caller })).await;
}

/// Common name and organisations of a certificate that was verified.
fn caller(leaf: &CertificateDer<'_>) -> Option<Caller> {
    let (_, certificate) = x509_parser::parse_x509_certificate(leaf).ok()?;
    let subject = certificate.subject();
    let name = subject.iter_common_name().next()?.as_str().ok()?.to_owned();
    let organisations = subject.iter_organization().filter_map(|part| part.as_str().ok()).map(str::to_owned);
    let groups = organisations.chain(["system:authenticated".to_owned()]).collect();
    Some(Caller { name, groups, ..Caller::default() })
}
