//! A thread that programs Services, behind a cheap handle: changes that arrive together become one transaction.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::error::Error;
use super::forgetter::Forgetter;
use super::program::{Options, Programmer};
use super::state::{ServiceKey, ServiceState};

/// Changes that may wait; a caller past that waits itself, so that memory stays bounded.
const QUEUE_LENGTH_MAX: usize = 4096;
/// How long after a failure the next attempt follows by itself.
const RETRY_DELAY_MS: u64 = 1000;
/// How often the kernel's tables are looked at.
const VERIFY_PERIOD_MS: u64 = 2000;

enum Message {
    Change(ServiceKey, Option<Arc<ServiceState>>),
    Replace(HashMap<ServiceKey, Arc<ServiceState>>),
    Options(Box<Options>),
    Flush(oneshot::Sender<Result<(), Error>>),
}

/// The Services of this node.
pub struct Services;

/// Tells the thread about changes; cheap to clone. The thread ends when all handles are gone, and leaves the rules in place.
#[derive(Clone)]
pub struct Handle {
    sender: SyncSender<Message>,
}

impl Services {
    /// Starts the thread with the Services known so far; the rules are rebuilt at once.
    pub fn start(options: Options, services: HashMap<ServiceKey, Arc<ServiceState>>) -> Result<Handle, Error> {
        let forgetter = Forgetter::start(&options.namespace)?;
        let programmer = Programmer::new(options)?;
        let (sender, receiver) = sync_channel(QUEUE_LENGTH_MAX);
        std::thread::Builder::new()
            .name("services".to_owned())
            .spawn(move || run(programmer, services, &receiver, &forgetter))
            .map_err(|source| crate::netlink::Error::System {
                operation: "start the thread that programs Services".to_owned(),
                source,
            })?;
        Ok(Handle { sender })
    }
}

impl Handle {
    /// Sets or removes one Service. Returns when the change is queued; blocks only while thousands are waiting.
    pub fn update(&self, key: ServiceKey, state: Option<Arc<ServiceState>>) -> Result<(), Error> {
        self.send(Message::Change(key, state))
    }

    /// Replaces all Services.
    pub fn replace(&self, services: HashMap<ServiceKey, Arc<ServiceState>>) -> Result<(), Error> {
        self.send(Message::Replace(services))
    }

    /// Changes ranges and addresses.
    pub fn set_options(&self, options: Options) -> Result<(), Error> {
        self.send(Message::Options(Box::new(options)))
    }

    /// Waits until everything told before is in the kernel.
    pub async fn flush(&self) -> Result<(), Error> {
        let (sender, receiver) = oneshot::channel();
        self.send(Message::Flush(sender))?;
        receiver.await.map_err(|_| Error::Ended)?
    }

    fn send(&self, message: Message) -> Result<(), Error> {
        self.sender.send(message).map_err(|_| Error::Ended)
    }
}

fn run(
    mut programmer: Programmer,
    services: HashMap<ServiceKey, Arc<ServiceState>>,
    receiver: &Receiver<Message>,
    forgetter: &Forgetter,
) {
    let mut failed = report(programmer.replace(services).map(|_| ()));
    let mut verified = Instant::now();
    loop {
        forgetter.add(programmer.take_leftovers(), programmer.families());
        let wait_ms = if failed { RETRY_DELAY_MS } else { VERIFY_PERIOD_MS };
        let first = match receiver.recv_timeout(Duration::from_millis(wait_ms)) {
            Ok(message) => Some(message),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => return,
        };
        let mut changes: Vec<(ServiceKey, Option<Arc<ServiceState>>)> = Vec::new();
        let mut waiters = Vec::new();
        let mut outcome = Ok(());
        let mut merge = |result: Result<(), Error>| {
            if result.is_err() {
                outcome = result;
            }
        };
        // Also while changes come without a pause: those may not touch what is missing.
        if first.is_none() || verified.elapsed() >= Duration::from_millis(VERIFY_PERIOD_MS) {
            merge(programmer.verify().map(drop));
            verified = Instant::now();
        }
        // Everything that waits already goes into the same transaction.
        for message in first.into_iter().chain(receiver.try_iter().take(QUEUE_LENGTH_MAX)) {
            match message {
                Message::Change(key, state) => changes.push((key, state)),
                Message::Replace(services) => {
                    changes.clear();
                    merge(programmer.replace(services).map(|_| ()));
                }
                Message::Options(options) => merge(programmer.set_options(*options).map(|_| ())),
                Message::Flush(waiter) => waiters.push(waiter),
            }
        }
        if failed || !changes.is_empty() {
            merge(programmer.apply(changes).map(|_| ()));
        }
        let mut answers = waiters.into_iter();
        if let Some(first) = answers.next() {
            let text = outcome.as_ref().err().map(ToString::to_string);
            failed = report_text(text.as_deref());
            // Only one waiter can own the error; the others are told that the change has not succeeded either.
            let failure = outcome.is_err();
            let _ = first.send(outcome);
            for waiter in answers {
                if !failure {
                    let _ = waiter.send(Ok(()));
                }
            }
        } else {
            failed = report(outcome);
        }
    }
}

fn report(outcome: Result<(), Error>) -> bool {
    report_text(outcome.err().map(|error| error.to_string()).as_deref())
}

fn report_text(error: Option<&str>) -> bool {
    if let Some(error) = error {
        tracing::error!(error, retry_after_ms = RETRY_DELAY_MS, "Services could not be programmed");
    }
    error.is_some()
}
