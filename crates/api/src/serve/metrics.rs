//! Counts and latencies of requests, and the store's figures, in Prometheus' text form.

use std::fmt::Write;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;
use store::Store;

/// Verbs that are told apart; everything else is `other`.
const VERBS: [&str; 10] =
    ["get", "list", "watch", "create", "update", "patch", "delete", "deletecollection", "connect", "other"];
/// Classes of answers: 1xx to 5xx.
const CLASSES: usize = 5;
/// Upper bounds of the latency histogram, in seconds.
const BOUNDS: [f64; 9] = [0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 10.0];

#[derive(Default)]
struct OfVerb {
    answers: [AtomicU64; CLASSES],
    buckets: [AtomicU64; BOUNDS.len() + 1],
    nanoseconds: AtomicU64,
}

/// Fixed counters: no label comes from a client, so their number is bounded.
#[derive(Default)]
pub(crate) struct Metrics {
    verbs: [OfVerb; VERBS.len()],
    /// Requests that are being answered, watches not among them.
    pub(crate) in_flight: AtomicI64,
    /// Open connections.
    pub(crate) connections: AtomicI64,
    /// Requests refused because too many were in flight.
    pub(crate) rejected: AtomicU64,
}

impl Metrics {
    /// Counts an answer.
    pub(crate) fn observe(&self, verb: &str, code: u16, elapsed: Duration) {
        let at = VERBS.iter().position(|known| *known == verb).unwrap_or(VERBS.len() - 1);
        let one = &self.verbs[at];
        one.answers[usize::from(code / 100).clamp(1, CLASSES) - 1].fetch_add(1, Ordering::Relaxed);
        let seconds = elapsed.as_secs_f64();
        let bucket = BOUNDS.iter().position(|bound| seconds <= *bound).unwrap_or(BOUNDS.len());
        one.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        let nanoseconds = u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX);
        one.nanoseconds.fetch_add(nanoseconds, Ordering::Relaxed);
    }

    /// The exposition.
    pub(crate) fn render(&self, store: &dyn Store) -> String {
        let mut out = String::with_capacity(8192);
        // Writing to a String cannot fail.
        let _ = self.render_requests(&mut out);
        let status = store.status();
        let figures: [(&str, &str, u64); 10] = [
            ("klynge_store_revision", "gauge", status.revision.0),
            ("klynge_store_oldest_revision", "gauge", status.oldest.0),
            ("klynge_store_entries", "gauge", status.entries as u64),
            ("klynge_store_value_bytes", "gauge", status.value_bytes as u64),
            ("klynge_store_window_events", "gauge", status.window_events as u64),
            ("klynge_store_window_bytes", "gauge", status.window_bytes as u64),
            ("klynge_store_decoded_bytes", "gauge", status.decoded_bytes as u64),
            ("klynge_store_watchers", "gauge", status.watchers as u64),
            ("klynge_store_commits_total", "counter", status.commits),
            ("klynge_store_syncs_total", "counter", status.syncs),
        ];
        for (name, kind, value) in figures {
            let _ = writeln!(out, "# TYPE {name} {kind}\n{name} {value}");
        }
        out
    }

    fn render_requests(&self, out: &mut String) -> std::fmt::Result {
        writeln!(out, "# TYPE apiserver_request_total counter")?;
        for (verb, one) in VERBS.iter().zip(&self.verbs) {
            for (at, count) in one.answers.iter().enumerate() {
                let count = count.load(Ordering::Relaxed);
                if count > 0 {
                    writeln!(out, "apiserver_request_total{{verb=\"{verb}\",code=\"{}xx\"}} {count}", at + 1)?;
                }
            }
        }
        let name = "apiserver_request_duration_seconds";
        writeln!(out, "# TYPE {name} histogram")?;
        for (verb, one) in VERBS.iter().zip(&self.verbs) {
            let counts = one.buckets.each_ref().map(|bucket| bucket.load(Ordering::Relaxed));
            let total: u64 = counts.iter().sum();
            if total == 0 {
                continue;
            }
            let mut sum = 0;
            for (bound, count) in BOUNDS.iter().zip(counts) {
                sum += count;
                writeln!(out, "{name}_bucket{{verb=\"{verb}\",le=\"{bound}\"}} {sum}")?;
            }
            writeln!(out, "{name}_bucket{{verb=\"{verb}\",le=\"+Inf\"}} {total}")?;
            let seconds = one.nanoseconds.load(Ordering::Relaxed) as f64 / 1e9;
            writeln!(out, "{name}_sum{{verb=\"{verb}\"}} {seconds}\n{name}_count{{verb=\"{verb}\"}} {total}")?;
        }
        for (name, value) in [
            ("apiserver_current_inflight_requests", self.in_flight.load(Ordering::Relaxed)),
            ("klynge_api_connections", self.connections.load(Ordering::Relaxed)),
        ] {
            writeln!(out, "# TYPE {name} gauge\n{name} {value}")?;
        }
        let rejected = self.rejected.load(Ordering::Relaxed);
        writeln!(out, "# TYPE apiserver_rejected_requests_total counter\napiserver_rejected_requests_total {rejected}")
    }
}
