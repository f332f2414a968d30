//! Keeps one resource mirrored: list, watch from there, resume, and list again when the watch has expired.

use std::sync::Arc;
use std::time::Duration;

use client::{ClusterClient, EventKind, Object, Query, Target, WatchEvent};
use controllers::{Other, Resource, Typed};
use futures_util::{Stream, StreamExt};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use object::{GroupVersionResource, Status, Str};
use serde::Deserialize;
use tokio::sync::mpsc;

use crate::core::Message;

/// Objects asked for per page of a list.
const PAGE: u32 = 1_000;
/// Waits between tries after a failure double up to this.
const RETRY_MAX: Duration = Duration::from_secs(10);
const RETRY_MIN: Duration = Duration::from_millis(50);
/// Changes handed over in one message at most.
const CHANGES_MAX: usize = 256;

/// One change of a mirrored object.
#[derive(Debug)]
pub(crate) enum Update {
    /// Everything there is, at a revision.
    Listed {
        objects: Vec<Typed>,
        revision: u64,
    },
    Set(Typed),
    Removed(Typed),
    /// Everything up to this revision has been handed over.
    Reached(u64),
}

/// The target that all objects of a resource are.
pub(crate) fn collection(resource: &Resource) -> Target {
    Target {
        resource: GroupVersionResource::new(
            resource.group.as_str(),
            resource.version.as_str(),
            resource.plural.as_str(),
        ),
        namespace: Str::default(),
        name: Str::default(),
        subresource: Str::default(),
    }
}

/// Mirrors until the receiver is gone.
pub(crate) async fn run(
    client: Arc<dyn ClusterClient>,
    resource: Resource,
    index: usize,
    messages: mpsc::Sender<Message>,
) {
    let mut retry = RETRY_MIN;
    let mut revision: Option<u64> = None;
    loop {
        let result = match revision {
            None => match list(&*client, &resource).await {
                Ok((objects, at)) => {
                    revision = Some(at);
                    retry = RETRY_MIN;
                    let updates = vec![Update::Listed { objects, revision: at }];
                    if messages.send(Message::Mirror { index, updates }).await.is_err() {
                        return;
                    }
                    continue;
                }
                Err(status) => Err(status),
            },
            Some(from) => match follow(&*client, &resource, index, from, &messages).await {
                Followed::ReceiverGone => return,
                Followed::Ended { at, error } => {
                    if at != from {
                        retry = RETRY_MIN;
                    }
                    revision = Some(at);
                    error.map_or(Ok(()), Err)
                }
            },
        };
        if let Err(status) = result {
            if status.is_expired() || status.code == 410 {
                revision = None;
            } else if status.is_not_found() {
                // The resource is not served (any more): there is nothing, until it comes.
                let updates = vec![Update::Listed { objects: Vec::new(), revision: 0 }];
                if messages.send(Message::Mirror { index, updates }).await.is_err() {
                    return;
                }
                revision = None;
                retry = RETRY_MAX;
            } else {
                tracing::warn!(resource = %resource.plural, %status.message, "mirroring failed; trying again");
            }
        }
        if messages.is_closed() {
            return;
        }
        tokio::time::sleep(retry).await;
        retry = (retry * 2).min(RETRY_MAX);
    }
}

async fn list(client: &dyn ClusterClient, resource: &Resource) -> Result<(Vec<Typed>, u64), Status> {
    let mut objects = Vec::new();
    let mut query = Query { limit: PAGE, ..Query::default() };
    loop {
        let page = client.list(collection(resource), query.clone()).await?;
        objects.extend(page.objects.iter().filter_map(|object| decode(resource, object)));
        if page.continuation.is_empty() {
            return Ok((objects, page.revision));
        }
        query.continuation = page.continuation;
    }
}

enum Followed {
    ReceiverGone,
    Ended { at: u64, error: Option<Status> },
}

async fn follow(
    client: &dyn ClusterClient,
    resource: &Resource,
    index: usize,
    from: u64,
    messages: &mpsc::Sender<Message>,
) -> Followed {
    let stream = match client.watch(collection(resource), Query::default(), from).await {
        Ok(stream) => stream,
        Err(status) => return Followed::Ended { at: from, error: Some(status) },
    };
    let mut chunks = ready_chunks(stream);
    let mut at = from;
    loop {
        let chunk = tokio::select! {
            chunk = chunks.next() => chunk,
            () = messages.closed() => return Followed::ReceiverGone,
        };
        let Some(chunk) = chunk else { return Followed::Ended { at, error: None } };
        let mut updates = Vec::with_capacity(chunk.len() + 1);
        let mut error = None;
        for event in chunk {
            match event {
                Ok(event) => {
                    at = at.max(event.object.revision);
                    match event.kind {
                        EventKind::Added | EventKind::Modified => {
                            updates.extend(decode(resource, &event.object).map(Update::Set))
                        }
                        EventKind::Deleted => updates.extend(decode(resource, &event.object).map(Update::Removed)),
                        EventKind::Bookmark => {}
                    }
                }
                Err(status) => error = Some(status),
            }
        }
        updates.push(Update::Reached(at));
        if messages.send(Message::Mirror { index, updates }).await.is_err() {
            return Followed::ReceiverGone;
        }
        if error.is_some() {
            return Followed::Ended { at, error };
        }
    }
}

fn ready_chunks(
    stream: impl Stream<Item = Result<WatchEvent, Status>> + Send + Unpin,
) -> impl Stream<Item = Vec<Result<WatchEvent, Status>>> + Send + Unpin {
    stream.ready_chunks(CHANGES_MAX)
}

fn decode(resource: &Resource, object: &Object) -> Option<Typed> {
    #[derive(Deserialize)]
    struct MetadataOnly {
        metadata: ObjectMeta,
    }
    let decoded = Typed::decode(resource, &object.json).unwrap_or_else(|| {
        let decoded: Result<MetadataOnly, _> = serde_json::from_slice(&object.json);
        decoded.map(|decoded| Typed::Other(Arc::new(Other { resource: resource.clone(), metadata: decoded.metadata })))
    });
    match decoded {
        Ok(typed) => Some(typed),
        Err(error) => {
            tracing::error!(resource = %resource.plural, revision = object.revision, %error, "an object does not decode; it is left out");
            None
        }
    }
}
