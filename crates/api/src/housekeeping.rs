//! What the server does by itself: old Events go, its own Service stays, certificates are renewed before they end.

use crate::core::{Core, decoded};
use crate::pki::Pki;
use jiff::{SignedDuration, Timestamp};
use object::{Value, meta, time};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use store::{Change, Expect, Operation, Store, Transaction};

/// Upstream's --event-ttl.
const EVENT_LIFETIME: SignedDuration = SignedDuration::from_hours(1);
const EVERY: Duration = Duration::from_secs(60);
/// Certificates are looked at once an hour.
const RENEWAL_ROUNDS: u64 = 60;
/// Objects deleted by one transaction, and looked at in one go.
pub(crate) const CHUNK: usize = 500;

/// Runs until the server stops.
pub(crate) async fn run(core: Arc<Core>, pki: Arc<Pki>) {
    let mut stopping = core.stopping.subscribe();
    let mut round: u64 = 0;
    loop {
        tokio::select! {
            () = tokio::time::sleep(EVERY) => {}
            _ = stopping.wait_for(|stopping| *stopping) => return,
        }
        round += 1;
        expire_events(&core, Timestamp::now()).await;
        core.documents.forget_unused();
        if let Err(status) = crate::bootstrap::keep_own(&core).await {
            tracing::warn!(%status, "the server's own Service cannot be kept up to date");
        }
        if round.is_multiple_of(RENEWAL_ROUNDS) {
            crate::auth::removed_nodes::expire(&core.store, Timestamp::now()).await;
            match pki.renew(SystemTime::now()) {
                Ok(true) => tracing::info!("certificates were renewed"),
                Ok(false) => {}
                Err(error) => tracing::error!(%error, "certificates cannot be renewed"),
            }
        }
    }
}

/// When an event was last told.
fn last_seen(event: &Value) -> Option<Timestamp> {
    let texts = [
        event.str_at(&["series", "lastObservedTime"]),
        event.str_at(&["lastTimestamp"]),
        event.str_at(&["eventTime"]),
        event.str_at(&["metadata", "creationTimestamp"]),
    ];
    texts.into_iter().flatten().filter_map(time::parse).max().or_else(|| meta::creation_time(event))
}

/// Deletes events that nobody has told for an hour.
pub(crate) async fn expire_events(core: &Core, now: Timestamp) {
    let is_old = |event: &Value| last_seen(event).is_some_and(|seen| now.duration_since(seen) > EVENT_LIFETIME);
    expire(&core.store, "events", "", is_old).await;
}

/// Deletes the objects of a bucket, below a prefix, that are old. They are read in chunks, so that a large number of them delays nobody.
pub(crate) async fn expire(store: &Arc<dyn Store>, bucket: &str, prefix: &str, is_old: impl Fn(&Value) -> bool) {
    let mut cursor: Option<String> = None;
    loop {
        let Ok(page) = store.list(bucket, prefix, cursor.as_deref(), Some(CHUNK), None) else { return };
        let operations: Vec<Operation> = page
            .entries
            .iter()
            .filter(|entry| is_old(&decoded(entry)))
            .map(|entry| Operation {
                key: entry.key.clone(),
                expect: Expect::Revision(entry.revision),
                change: Change::Delete(None),
            })
            .collect();
        if !operations.is_empty()
            && let Err(error) = store.commit(Transaction { operations, relaxed: true }).await
        {
            // One that changed meanwhile keeps its chunk for the next round.
            tracing::debug!(%error, bucket, prefix, "what is old stays until the next round");
        }
        if !page.more {
            return;
        }
        cursor = page.entries.last().map(|entry| entry.key.rest().to_owned());
        tokio::task::yield_now().await;
    }
}
