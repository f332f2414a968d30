//! Keys of removed nodes: a record for each node that was taken out of the cluster, and the refusal of certificates that are older.
//!
//! A record is a ConfigMap of kube-system with a name that follows from the node's; its time is the server's own (creationTimestamp).

use super::Objects;
use crate::core::Core;
use crate::pki::BACKDATED;
use jiff::Timestamp;
use object::{Map, Status, Value, meta};
use rustls::pki_types::CertificateDer;
use sha2::{Digest as _, Sha256};
use std::sync::Arc;
use std::time::Duration;
use store::Store;

/// The bucket and the namespace of records, and how their names begin.
pub(crate) const BUCKET: &str = "configmaps";
const NAMESPACE: &str = "kube-system";
const NAME_PREFIX: &str = "removed-node-";
const LABEL: &str = "klynge.io/removed-node";
/// Where a record has the node's name.
const NODE: &str = "node";
/// The reason of the refusal: an agent never takes another 401 for its removal.
const REASON: &str = client::NODE_REMOVED;
/// Records go when every certificate of before has ended: these live 30 days.
const KEPT: jiff::SignedDuration = jiff::SignedDuration::from_hours(31 * 24);

/// The record that a node was removed; its name follows from the node's, since that may be too long for another name's part.
#[must_use]
pub fn removal_record(node: &str) -> Value {
    let mut record = Value::default();
    record.set(&["apiVersion"], "v1".into());
    record.set(&["kind"], "ConfigMap".into());
    record.set(&["metadata", "name"], record_name(node).into());
    record.set(&["metadata", "namespace"], NAMESPACE.into());
    record.set(&["metadata", "labels"], Value::Object([(LABEL, "true")].into_iter().collect::<Map>()));
    record.set(&["data", NODE], node.into());
    record
}

fn record_name(node: &str) -> String {
    let digest = Sha256::digest(node);
    let hash: String = digest.iter().take(10).map(|byte| format!("{byte:02x}")).collect();
    format!("{NAME_PREFIX}{hash}")
}

/// When a node of this name was removed last, by the server's clock; none where it was not.
pub(crate) fn removed_at(objects: &dyn Objects, node: &str) -> Option<Timestamp> {
    let record = objects.get(BUCKET, &format!("{NAMESPACE}/{}", record_name(node)))?;
    if record.str_at(&["data", NODE]) != Some(node) {
        return None;
    }
    meta::creation_time(&record)
}

/// When a certificate was issued, in whole seconds; its own beginning lies before, for clocks that are late.
pub(super) fn issued_at(leaf: &CertificateDer<'_>) -> Option<Timestamp> {
    let (_, certificate) = x509_parser::parse_x509_certificate(leaf).ok()?;
    let seconds = i64::try_from(BACKDATED.as_secs()).ok()?;
    Timestamp::from_second(certificate.validity().not_before.timestamp().checked_add(seconds)?).ok()
}

/// Refuses a certificate of a node that was removed after it was issued. One of the same second is refused, too: the signer gives
/// those that are to hold a later time.
pub(super) fn check(objects: &dyn Objects, node: &str, issued: Timestamp) -> Result<(), Status> {
    match removed_at(objects, node) {
        Some(removed) if issued.as_second() <= removed.as_second() => {
            let message = format!(
                "node {node} was removed from the cluster at {removed}; to join again, run `klynge agent` with a new token from \
                 `klynge token create`"
            );
            Err(Status::new(401, REASON, message))
        }
        _ => Ok(()),
    }
}

/// Tells connections of nodes, at each change of the records, to look whether theirs are meant. Runs until the server stops.
pub(crate) async fn run(core: Arc<Core>) {
    let mut stopping = core.stopping.subscribe();
    let prefix = format!("{NAMESPACE}/{NAME_PREFIX}");
    loop {
        let watcher = core.store.watch(BUCKET, &prefix, core.store.revision());
        // What came in between is seen now.
        core.removals.send_modify(|round| *round += 1);
        let Ok(mut watcher) = watcher else {
            tokio::select! {
                () = tokio::time::sleep(Duration::from_secs(1)) => continue,
                _ = stopping.wait_for(|stopping| *stopping) => return,
            }
        };
        loop {
            let batch = tokio::select! {
                batch = watcher.next() => batch,
                _ = stopping.wait_for(|stopping| *stopping) => return,
            };
            match batch {
                Ok(batch) if batch.events.is_empty() => {}
                Ok(_) => core.removals.send_modify(|round| *round += 1),
                Err(_) => break,
            }
        }
    }
}

impl Core {
    /// Returns when the node whose certificates these are is removed; never for anybody else.
    pub(crate) async fn until_removed(&self, certificates: &[CertificateDer<'_>]) {
        let mut removals = self.removals.subscribe();
        loop {
            match self.authenticator.removed(certificates) {
                None => return std::future::pending().await,
                Some(true) => return,
                Some(false) => {}
            }
            if removals.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }
}

/// Deletes the records that no certificate is old enough for.
pub(crate) async fn expire(store: &Arc<dyn Store>, now: Timestamp) {
    let is_old = |record: &Value| meta::creation_time(record).is_some_and(|created| now.duration_since(created) > KEPT);
    crate::housekeeping::expire(store, BUCKET, &format!("{NAMESPACE}/{NAME_PREFIX}"), is_old).await;
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::housekeeping::CHUNK;
    use store::{Change, Expect, Operation, Transaction};

    struct One(Value);
    impl Objects for One {
        fn get(&self, bucket: &str, rest: &str) -> Option<Arc<Value>> {
            let name = self.0.str_at(&["metadata", "name"])?;
            (bucket == BUCKET && rest == format!("kube-system/{name}")).then(|| Arc::new(self.0.clone()))
        }
        fn list(&self, _: &str) -> Vec<Arc<Value>> {
            Vec::new()
        }
    }

    #[test]
    fn certificates_of_before_a_removal_are_refused() {
        let long = "n".repeat(253);
        for node in ["a", &long] {
            let mut record = removal_record(node);
            record.set(&["metadata", "creationTimestamp"], "2026-11-28T12:00:00Z".into());
            assert!(record.str_at(&["metadata", "name"]).unwrap().len() <= 63);
            let objects = One(record);
            for (issued, holds) in [
                ("2026-11-28T11:59:59Z", false),
                // Both are told in whole seconds: nothing says which was first.
                ("2026-11-28T12:00:00.9Z", false),
                ("2026-11-28T12:00:01Z", true),
            ] {
                let verdict = check(&objects, node, issued.parse().unwrap());
                assert_eq!(verdict.is_ok(), holds, "{issued}");
                if let Err(status) = verdict {
                    assert_eq!((status.code, status.reason.as_str()), (401, "NodeRemoved"));
                    assert!(status.message.contains("at 2026-11-28T12:00:00Z"), "{}", status.message);
                }
            }
            assert!(check(&objects, "another", "2020-01-01T00:00:00Z".parse().unwrap()).is_ok());
        }
    }

    #[tokio::test]
    async fn records_go_when_no_certificate_is_so_old() {
        let directory = tempfile::tempdir().unwrap();
        let options = store::embedded::Options::new(directory.path());
        let store: Arc<dyn Store> = store::embedded::open(options).unwrap();
        let mut operations = Vec::new();
        // More than fit a page, so that the last one is on another.
        for number in 0..=CHUNK {
            let mut record = removal_record(&number.to_string());
            let created = if number % 2 == 0 { "2026-10-01T12:00:00Z" } else { "2026-11-01T12:00:00Z" };
            record.set(&["metadata", "creationTimestamp"], created.into());
            let key = store::Key::new(BUCKET, &format!("{NAMESPACE}/{}", meta::name(&record)));
            let change = Change::Put(crate::write::commit::template(&record));
            operations.push(Operation { key, expect: Expect::Absent, change });
        }
        store.commit(Transaction { operations, relaxed: true }).await.unwrap();
        expire(&store, "2026-11-05T00:00:00Z".parse().unwrap()).await;
        let left = store.list(BUCKET, "", None, None, None).unwrap().entries;
        assert_eq!(left.len(), CHUNK / 2);
        for entry in left {
            let record = crate::core::decoded(&entry);
            assert_eq!(record.str_at(&["metadata", "creationTimestamp"]), Some("2026-11-01T12:00:00Z"));
        }
    }
}
