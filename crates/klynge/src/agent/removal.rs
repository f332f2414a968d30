//! The agent's end when its node is taken out of the cluster.

use super::identity::Identity;
use crate::cli::Global;
use crate::server;
use client::Https;
use network::dns::process;
use network::wireguard;
use node::Node;
use node::lifecycle::Terminal;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

/// What ran here may take so long to end.
const STOP_TIMEOUT: Duration = Duration::from_secs(60);

/// Ends when the Node object is gone, or the server refuses the node's key because it was removed, and the node's pods have ended; the
/// message to end with.
pub(super) async fn removed(global: Global, node: Arc<OnceLock<Node>>, client: Arc<Https>, name: String) -> String {
    let Some(node) = node.get() else { return std::future::pending().await };
    let mut refusal = client.removed();
    let why = tokio::select! {
        () = node.removed() => "its Node is gone".to_owned(),
        // Its sender lives as long as the client does.
        Ok(refused) = refusal.wait_for(Option::is_some) => {
            refused.as_ref().map(|status| status.message.clone()).unwrap_or_default()
        }
    };
    tracing::warn!(node = name, why, "this node was taken out of the cluster; its pods end");
    // Nobody tells it so any more, one by one.
    let terminal = Terminal::new("NodeRemoved", "The node was removed from the cluster".into());
    let deadline = Instant::now() + STOP_TIMEOUT;
    while !node.pods().is_quiet() && Instant::now() < deadline {
        // Again for those that come up meanwhile.
        node.pods().fail_all(&terminal);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    forget(&global, &name)
}

/// Ends the processes beside the agent on a machine that is no node any more.
pub(super) async fn end_beside(global: &Global) {
    let directory = server::beside_directory(global);
    let ends = move || process::end(&directory).and(wireguard::end(&directory));
    let ended = tokio::task::spawn_blocking(ends).await;
    if let Err(error) = ended.map_err(std::io::Error::other).flatten() {
        tracing::error!(%error, "cluster DNS or the encryption does not end");
    }
}

/// Forgets the identity; the message to end with.
pub(super) fn forget(global: &Global, name: &str) -> String {
    server::forget_own_range(global);
    let forgotten = match Identity::remove(global) {
        Ok(()) => String::new(),
        Err(failure) => format!(" ({failure})"),
    };
    format!(
        "node {name} was taken out of the cluster{forgotten}; to join again run `klynge agent` with a new token from \
         `klynge token create`, or `klynge down --purge` to leave nothing here"
    )
}
