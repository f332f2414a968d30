//! Follows a collection: lists it, watches it, lists again where the watch cannot go on. Waits between failures, never ends by one.

use client::{ClusterClient, EventKind, Query, Target};
use futures_util::StreamExt;
use object::Status;
use serde::de::DeserializeOwned;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// The longest wait between two attempts.
const WAIT_MAX: Duration = Duration::from_secs(10);
/// Objects of a page.
const PAGE_OBJECTS: u32 = 500;

/// What happened in a collection.
#[derive(Clone, Debug)]
pub enum Change<T> {
    /// All of it, after a list.
    All(Vec<Arc<T>>),
    /// One is new or changed.
    Put(Arc<T>),
    /// One is gone; its last state.
    Gone(Arc<T>),
}

/// Follows `target` into `changes` until nobody listens.
pub async fn follow<T: DeserializeOwned + Send + Sync + 'static>(
    client: Arc<dyn ClusterClient>,
    target: Target,
    query: Query,
    changes: mpsc::Sender<Change<T>>,
) {
    let mut wait = Duration::from_millis(50);
    while !changes.is_closed() {
        match list_and_watch(&client, &target, &query, &changes, &mut wait).await {
            Ok(()) => {}
            Err(status) if status.is_expired() => continue, // list again at once
            Err(status) => tracing::debug!(resource = %target.resource, error = %status, "a watch is tried again"),
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(WAIT_MAX);
    }
}

fn decode<T: DeserializeOwned>(json: &[u8], target: &Target) -> Option<Arc<T>> {
    match serde_json::from_slice(json) {
        Ok(object) => Some(Arc::new(object)),
        Err(error) => {
            tracing::warn!(resource = %target.resource, %error, "an object cannot be read and is passed over");
            None
        }
    }
}

async fn list_and_watch<T: DeserializeOwned + Send + Sync + 'static>(
    client: &Arc<dyn ClusterClient>,
    target: &Target,
    query: &Query,
    changes: &mpsc::Sender<Change<T>>,
    wait: &mut Duration,
) -> Result<(), Status> {
    let mut all = Vec::new();
    let mut continuation = String::new();
    let mut revision;
    loop {
        let page_query = Query { limit: PAGE_OBJECTS, continuation, ..query.clone() };
        let page = client.list(target.clone(), page_query).await?;
        revision = page.revision;
        all.extend(page.objects.iter().filter_map(|object| decode(&object.json, target)));
        continuation = page.continuation;
        if continuation.is_empty() {
            break;
        }
    }
    if changes.send(Change::All(all)).await.is_err() {
        return Ok(());
    }
    *wait = Duration::from_millis(50);
    // A watch that merely ends is taken up where it was; only an error goes back to the list.
    loop {
        let mut watch = client.watch(target.clone(), query.clone(), revision).await?;
        let begun = revision;
        while let Some(event) = watch.next().await {
            let event = event?;
            revision = event.object.revision;
            let change = match event.kind {
                EventKind::Bookmark => continue,
                EventKind::Added | EventKind::Modified => decode(&event.object.json, target).map(Change::Put),
                EventKind::Deleted => decode(&event.object.json, target).map(Change::Gone),
            };
            if let Some(change) = change
                && changes.send(change).await.is_err()
            {
                return Ok(());
            }
        }
        if revision == begun {
            tokio::time::sleep(Duration::from_millis(100)).await; // a server that ends watches at once is not asked in a loop
        }
    }
}
