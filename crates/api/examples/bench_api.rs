//! API calls per CPU-second of the server: 8 clients, TLS, HTTP/1.1, JSON, ConfigMaps.
//!
//! `cargo run --release -p klynge-api --example bench_api [-- --quick]` starts the server as a process of its own, so that
//! the clients' work is not counted; the last line is one JSON object.
#![expect(clippy::print_stdout, reason = "a benchmark prints its figures")]
#![expect(clippy::unwrap_used, reason = "a benchmark that cannot run should say where")]

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use klynge_api::pki::{Issued, Names, Pki};
use klynge_api::{AddressRange, NoNodes, Options, Server};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use std::io::{BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

const CLIENTS: usize = 8;

fn open_pki(directory: &Path) -> Pki {
    let range = AddressRange::parse("10.96.0.0/16").unwrap();
    Pki::open(&directory.join("pki"), Names::inside("cluster.local", range.nth(1)), SystemTime::now()).unwrap()
}

async fn serve(directory: &Path) {
    let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let store = store::embedded::open(store::embedded::Options::new(directory.join("store"))).unwrap();
    let server = Server::start(Options {
        store,
        table: kinds::table().clone(),
        pki: Arc::new(open_pki(directory)),
        bind: SocketAddr::new(loopback, 0),
        advertise: loopback,
        service_range: AddressRange::parse("10.96.0.0/16").unwrap(),
        second_service_range: None,
        cluster_domain: "cluster.local".to_owned(),
        connector: Arc::new(NoNodes),
        own_node: None,
        kept_hosts: None,
    })
    .await
    .unwrap();
    println!("{}", server.address());
    std::future::pending::<()>().await;
}

/// User and system time of a process, in clock ticks of a hundredth of a second.
fn cpu_seconds(process: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks: f64 = fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap();
    ticks / 100.0
}

fn tls(pki: &Pki, admin: &Issued) -> TlsConnector {
    let mut roots = rustls::RootCertStore::empty();
    roots.add_parsable_certificates(pki.bundle_der());
    let chain = CertificateDer::pem_slice_iter(admin.certificate.as_bytes()).map(Result::unwrap).collect();
    let key = PrivateKeyDer::from_pem_slice(admin.key.as_bytes()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)
        .unwrap();
    TlsConnector::from(Arc::new(config))
}

/// One client's share of a phase.
async fn client(connector: TlsConnector, address: SocketAddr, phase: &'static str, client: usize, count: usize) {
    let stream = TcpStream::connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let stream = connector.connect(ServerName::try_from("localhost").unwrap(), stream).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let maps = "/api/v1/namespaces/default/configmaps";
    for at in 0..count {
        let name = format!("bench-{client}-{at}");
        let (method, path, kind, body) = match phase {
            "create" => {
                let body = format!(
                    r#"{{"kind":"ConfigMap","apiVersion":"v1","metadata":{{"name":"{name}","labels":{{"app":"bench"}}}},"data":{{"a":"{}"}}}}"#,
                    "x".repeat(512)
                );
                ("POST", maps.to_owned(), "application/json", body)
            }
            "get" => ("GET", format!("{maps}/{name}"), "application/json", String::new()),
            _ => (
                "PATCH",
                format!("{maps}/{name}"),
                "application/merge-patch+json",
                format!(r#"{{"data":{{"b":"{at}"}}}}"#),
            ),
        };
        let request = http::Request::builder()
            .method(method)
            .uri(path)
            .header("host", "localhost")
            .header("content-type", kind)
            .header("user-agent", "bench/1")
            .body(Full::new(Bytes::from(body)))
            .unwrap();
        let response = sender.send_request(request).await.unwrap();
        assert!(response.status().is_success(), "{phase} {}", response.status());
        response.into_body().collect().await.unwrap();
    }
}

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, word, directory] = arguments.as_slice()
        && word == "serve"
    {
        return serve(Path::new(directory)).await;
    }
    let count = if arguments.iter().any(|one| one == "--quick") { 500 } else { 4000 };
    let directory = tempfile::tempdir().unwrap();
    let pki = open_pki(directory.path());
    let admin = pki.issue_client("admin", "system:masters", Duration::from_secs(3600), SystemTime::now()).unwrap();
    let mut server =
        Command::new(&arguments[0]).arg("serve").arg(directory.path()).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(server.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let address: SocketAddr = line.trim().parse().unwrap();
    let connector = tls(&pki, &admin);
    let mut figures = Vec::new();
    println!("{:<8} {:>12} {:>16}", "call", "calls/s", "calls/CPU-s");
    for phase in ["create", "get", "patch"] {
        let (begun, before) = (Instant::now(), cpu_seconds(server.id()));
        let clients = (0..CLIENTS).map(|at| tokio::spawn(client(connector.clone(), address, phase, at, count)));
        for one in clients.collect::<Vec<_>>() {
            one.await.unwrap();
        }
        let calls = (CLIENTS * count) as f64;
        let (wall, cpu) = (begun.elapsed().as_secs_f64(), (cpu_seconds(server.id()) - before).max(0.01));
        println!("{phase:<8} {:>12.0} {:>16.0}", calls / wall, calls / cpu);
        figures.push(format!("\"{phase}_per_cpu_s\":{:.0},\"{phase}_per_s\":{:.0}", calls / cpu, calls / wall));
    }
    server.kill().unwrap();
    server.wait().unwrap();
    println!("{{\"bench\":\"api\",{}}}", figures.join(","));
}
