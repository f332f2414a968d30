//! A server on its own: `cargo run -p klynge-api --example serve -- DIRECTORY [PORT]` writes DIRECTORY/kubeconfig.
#![expect(clippy::print_stdout, reason = "an example talks to its user")]

use klynge_api::pki::{Kubeconfig, Names, Pki};
use klynge_api::{AddressRange, NoNodes, Options, Server};
use std::error::Error;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let directory = PathBuf::from(arguments.next().ok_or("usage: serve DIRECTORY [PORT]")?);
    let port = arguments.next().map(|text| text.parse()).transpose()?.unwrap_or(0);
    let range = AddressRange::parse("10.96.0.0/16")?;
    let store = store::embedded::open(store::embedded::Options::new(directory.join("store")))?;
    let names = Names::inside("cluster.local", range.nth(1));
    let pki = Arc::new(Pki::open(&directory.join("pki"), names, SystemTime::now())?);
    let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let begun = std::time::Instant::now();
    let server = Server::start(Options {
        store,
        table: kinds::table().clone(),
        pki: Arc::clone(&pki),
        bind: SocketAddr::new(loopback, port),
        advertise: loopback,
        service_range: range,
        second_service_range: None,
        cluster_domain: "cluster.local".to_owned(),
        connector: Arc::new(NoNodes),
        own_node: None,
        kept_hosts: None,
    })
    .await?;
    let admin =
        pki.issue_client("kubernetes-admin", "system:masters", Duration::from_secs(86_400), SystemTime::now())?;
    let address = format!("https://{}", server.address());
    let bundle = pki.bundle();
    let kubeconfig = Kubeconfig { name: "klynge", server: &address, authority: &bundle, user: &admin };
    std::fs::write(directory.join("kubeconfig"), object::json::encode(&kubeconfig.to_value()))?;
    println!("ready on {address} after {:?}", begun.elapsed());
    tokio::signal::ctrl_c().await?;
    server.stop().await;
    Ok(())
}
