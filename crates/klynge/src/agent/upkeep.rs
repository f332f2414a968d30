//! What keeps a joined node reachable and trusted: its tunnel is opened again, its certificate renewed in time.

use super::identity::{Identity, is_due};
use super::join;
use crate::cli::Global;
use client::{Https, serve_heartbeat, serve_tunnel};
use node::{Contact, Node};
use object::Status;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};
use tokio::sync::Notify;

const RETRY_MIN: Duration = Duration::from_millis(200);
const RETRY_MAX: Duration = Duration::from_secs(10);
/// Renewal is looked at this often, so that a clock that jumps does no harm for long.
const RENEWAL_PERIOD: Duration = Duration::from_secs(600);

/// Keeps a tunnel open for ever.
pub(super) async fn tunnel(client: Arc<Https>, node: Arc<OnceLock<Node>>, cut: Arc<Notify>) {
    let mut wait = RETRY_MIN;
    loop {
        let connected = AtomicBool::new(false);
        let node = Arc::clone(&node);
        let connect = move || match node.get() {
            Some(node) => node.connection(),
            // Nobody is at the other end: the caller sees the connection close.
            None => tokio::io::duplex(1).0,
        };
        let outcome = tokio::select! {
            outcome = serve_tunnel(&client, || connected.store(true, Ordering::Relaxed), connect) => outcome,
            // What goes through it would hang for as long as the cut lasted.
            () = cut.notified() => Err(Status::unavailable("the way to the server was cut")),
        };
        if connected.load(Ordering::Relaxed) {
            wait = RETRY_MIN;
        }
        match outcome {
            Ok(()) => tracing::info!("the server closed the tunnel; opening another"),
            Err(status) => tracing::info!(problem = status.message, "the tunnel is away; opening another"),
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(RETRY_MAX);
    }
}

/// Silence of the server after which connections may be stuck in the kernel's retransmissions.
const CUT_OFF: Duration = Duration::from_secs(1);
/// The heartbeat is opened again sooner than the tunnel: others judge this node by it.
const BEAT_RETRY_MAX: Duration = Duration::from_secs(1);

/// Keeps a heartbeat for ever. After a cut the other connections begin anew, so that what was missed is learnt at once.
pub(super) async fn heartbeat(client: Arc<Https>, contact: Arc<Contact>, cut: Arc<Notify>) {
    let mut wait = RETRY_MIN;
    loop {
        let mut answered = false;
        let heard = || {
            answered = true;
            if contact.heard() > CUT_OFF {
                client.reconnect();
                cut.notify_waiters();
            }
        };
        let outcome = serve_heartbeat(&client, heard).await;
        if answered {
            wait = RETRY_MIN;
        }
        match outcome {
            Ok(()) => tracing::info!("the server closed the heartbeat; opening another"),
            Err(status) => tracing::info!(problem = status.message, "the heartbeat is away; opening another"),
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(BEAT_RETRY_MAX);
    }
}

/// Renews the certificate at two thirds of its life, for ever.
pub(super) async fn renewal(global: Global, client: Arc<Https>, mut identity: Identity) {
    loop {
        if is_due(&identity.certificate, SystemTime::now()) {
            match renew(&global, &client, &identity).await {
                Ok(renewed) => {
                    tracing::info!("the node's certificate was renewed");
                    identity = renewed;
                }
                Err(problem) => tracing::warn!(problem, "the node's certificate is renewed later"),
            }
        }
        tokio::time::sleep(RENEWAL_PERIOD).await;
    }
}

async fn renew(global: &Global, client: &Https, identity: &Identity) -> Result<Identity, String> {
    let (key, object) = join::request(&identity.node).map_err(|failure| failure.to_string())?;
    let certificate = join::obtain(client, object).await.map_err(|status| status.message)?;
    let renewed = Identity { certificate, key: key.serialize_pem(), ..identity.clone() };
    let (chain, private) = renewed.pair()?;
    // On disk first: a crash in between finds a certificate that holds.
    renewed.save(global).map_err(|failure| failure.to_string())?;
    client.renew_certificate(chain, private).await?;
    Ok(renewed)
}
