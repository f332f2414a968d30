//! The agent's end when its node is taken out of the cluster.

use super::identity::Identity;
use crate::cli::Global;
use crate::server;
use network::dns::process;
use node::Node;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

/// What ran here may take so long to end.
const STOP_TIMEOUT: Duration = Duration::from_secs(60);

/// Ends when the Node object is gone and the node's pods have ended; the message to end with.
pub(super) async fn removed(global: Global, node: Arc<OnceLock<Node>>, name: String) -> String {
    let Some(node) = node.get() else { return std::future::pending().await };
    node.removed().await;
    tracing::warn!(node = name, "this node was taken out of the cluster; its pods end");
    let deadline = Instant::now() + STOP_TIMEOUT;
    while !node.pods().is_empty() && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    forget(&global, &name)
}

/// Ends cluster DNS on a machine that is no node any more.
pub(super) async fn end_names(global: &Global) {
    let directory = server::dns_directory(global);
    let ended = tokio::task::spawn_blocking(move || process::end(&directory)).await;
    if let Err(error) = ended.map_err(std::io::Error::other).flatten() {
        tracing::error!(%error, "cluster DNS does not end");
    }
}

/// Forgets the identity; the message to end with.
pub(super) fn forget(global: &Global, name: &str) -> String {
    let forgotten = match Identity::remove(global) {
        Ok(()) => String::new(),
        Err(failure) => format!(" ({failure})"),
    };
    format!(
        "node {name} was taken out of the cluster{forgotten}; to join again run `klynge agent` with a new token from \
         `klynge token create`, or `klynge down --purge` to leave nothing here"
    )
}
