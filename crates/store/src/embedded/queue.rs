//! The bounded queue between the callers and the writer thread.

use crate::contract::StoreStopped;
use crate::types::{CommitError, Committed, Transaction};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};

/// One unit of the queue's semaphore stands for a transaction of up to this size.
const UNIT_BYTES: usize = 16 << 10;

/// A transaction on its way, and where its answer goes.
pub(crate) struct Request {
    pub(crate) transaction: Transaction,
    pub(crate) size_bytes: usize,
    pub(crate) reply: oneshot::Sender<Result<Committed, CommitError>>,
    _place: OwnedSemaphorePermit,
}

#[derive(Default)]
struct Inner {
    requests: Vec<Request>,
    writer_waits: bool,
    closing: bool,
}

pub(crate) struct Queue {
    inner: Mutex<Inner>,
    arrived: Condvar,
    places: Arc<Semaphore>,
    places_max: usize,
    stopped: watch::Sender<Option<StoreStopped>>,
}

/// What the writer finds.
pub(crate) struct Taken {
    pub(crate) requests: Vec<Request>,
    /// The store is to be closed once these are done.
    pub(crate) closing: bool,
}

impl Queue {
    pub(crate) fn new(places_max: usize) -> Arc<Self> {
        let places_max = places_max.clamp(1, Semaphore::MAX_PERMITS.min(u32::MAX as usize));
        Arc::new(Self {
            inner: Mutex::default(),
            arrived: Condvar::new(),
            places: Arc::new(Semaphore::new(places_max)),
            places_max,
            stopped: watch::Sender::new(None),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stopped_error(&self) -> CommitError {
        let reason = self.reason().map_or_else(|| String::from("it is closing"), |stopped| stopped.reason);
        CommitError::Stopped { reason }
    }

    /// Waits for a place, hands the transaction to the writer, and waits for its answer.
    pub(crate) async fn submit(&self, transaction: Transaction, size_bytes: usize) -> Result<Committed, CommitError> {
        let places = (1 + size_bytes / UNIT_BYTES).min(self.places_max) as u32;
        let place = Arc::clone(&self.places).acquire_many_owned(places).await.map_err(|_| self.stopped_error())?;
        let (reply, answer) = oneshot::channel();
        {
            let mut inner = self.lock();
            if inner.closing || self.places.is_closed() {
                return Err(self.stopped_error());
            }
            inner.requests.push(Request { transaction, size_bytes, reply, _place: place });
            if std::mem::take(&mut inner.writer_waits) {
                self.arrived.notify_one();
            }
        }
        answer.await.unwrap_or_else(|_| Err(self.stopped_error()))
    }

    /// Everything that has arrived; waits up to the timeout when that is nothing.
    pub(crate) fn take(&self, timeout: Option<Duration>) -> Taken {
        let mut inner = self.lock();
        while inner.requests.is_empty() && !inner.closing {
            inner.writer_waits = true;
            let Some(timeout) = timeout else {
                inner = self.arrived.wait(inner).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let waited = self.arrived.wait_timeout(inner, timeout);
            let (guard, timed_out) = waited.unwrap_or_else(PoisonError::into_inner);
            inner = guard;
            if timed_out.timed_out() {
                break;
            }
        }
        inner.writer_waits = false;
        Taken { requests: std::mem::take(&mut inner.requests), closing: inner.closing }
    }

    /// Asks the writer to finish what is queued and to end.
    pub(crate) fn close(&self) {
        self.lock().closing = true;
        self.arrived.notify_one();
    }

    /// Refuses everything from now on, and whatever still waits. The first reason stays.
    pub(crate) fn stop(&self, stopped: StoreStopped) {
        self.stopped.send_if_modified(|held| {
            let first = held.is_none();
            held.get_or_insert(stopped);
            first
        });
        self.places.close();
        let requests = std::mem::take(&mut self.lock().requests);
        for request in requests {
            // A caller that is gone needs no answer.
            let _ = request.reply.send(Err(self.stopped_error()));
        }
    }

    pub(crate) fn reason(&self) -> Option<StoreStopped> {
        self.stopped.borrow().clone()
    }

    pub(crate) async fn wait_stopped(&self) -> StoreStopped {
        let mut receiver = self.stopped.subscribe();
        match receiver.wait_for(Option::is_some).await.map(|held| held.clone()) {
            Ok(Some(stopped)) => stopped,
            // The sender lives in this very queue, so there is always a reason.
            _ => StoreStopped { reason: String::from("the store is gone"), closed: true },
        }
    }
}
