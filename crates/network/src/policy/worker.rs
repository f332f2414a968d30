//! A thread that programs policies, behind a cheap handle: changes that arrive together become one transaction.

use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::error::Error;
use super::program::{Change, Options, Programmer};
use super::state::LocalPod;

/// Messages that may wait; a caller past that waits itself, so that memory stays bounded.
const QUEUE_LENGTH_MAX: usize = 4096;
/// How long after a failure the next attempt follows, how often the tables are looked at, and the time between looks into conntrack.
const PERIOD: Duration = Duration::from_secs(1);
/// Every so many looks at the tables one is thorough.
const THOROUGH_EVERY: u32 = 10;
/// How long a new pod waits for its rules.
const ADMISSION_TIMEOUT: Duration = Duration::from_secs(30);

enum Message {
    Changes(Vec<Change>),
    /// Changes whose sender waits until they are in the kernel.
    Await(Vec<Change>, oneshot::Sender<Result<(), Error>>),
}

/// The policies of this node.
pub struct Policies;

/// Tells the thread about changes; cheap to clone. The thread ends when all handles are gone, and leaves the rules in place.
#[derive(Clone)]
pub struct Handle {
    sender: SyncSender<Message>,
}

impl Policies {
    /// Starts the thread. Nothing is changed before everything is known.
    pub fn start(options: Options) -> Result<Handle, Error> {
        let programmer = Programmer::new(options)?;
        let (sender, receiver) = sync_channel(QUEUE_LENGTH_MAX);
        let worker = Worker::new(programmer);
        std::thread::Builder::new().name("policy".to_owned()).spawn(move || worker.run(&receiver)).map_err(
            |source| crate::netlink::Error::System {
                operation: "start the thread that programs policies".to_owned(),
                source,
            },
        )?;
        Ok(Handle { sender })
    }
}

impl Handle {
    /// Tells of changes. Returns when they are queued; blocks only while thousands are waiting.
    pub fn update(&self, changes: Vec<Change>) -> Result<(), Error> {
        self.sender.send(Message::Changes(changes)).map_err(|_| Error::Ended)
    }

    /// Tells of a pod that was attached, and waits until its rules are in the kernel: before that it must not run.
    pub async fn admit(&self, pod: LocalPod) -> Result<(), Error> {
        self.update_and_wait(vec![Change::Attached(pod)]).await
    }

    /// Tells of changes and waits until they are in the kernel, for half a minute at most.
    pub async fn update_and_wait(&self, changes: Vec<Change>) -> Result<(), Error> {
        let (sender, receiver) = oneshot::channel();
        self.sender.send(Message::Await(changes, sender)).map_err(|_| Error::Ended)?;
        match tokio::time::timeout(ADMISSION_TIMEOUT, receiver).await {
            Ok(answer) => answer.map_err(|_| Error::Ended)?,
            // Only a thread that does not know the policies keeps its askers waiting.
            Err(_) => Err(Error::Unknown),
        }
    }
}

struct Worker {
    programmer: Programmer,
    waiters: Vec<oneshot::Sender<Result<(), Error>>>,
    /// A failure that the next period tries to mend.
    has_failed: bool,
    /// When the next look into conntrack is due, and how many more follow it.
    revoke_at: Option<Instant>,
    more_looks: u32,
    last_look: Option<Instant>,
    /// Looks at the tables so far.
    verifications: u32,
}

impl Worker {
    const fn new(programmer: Programmer) -> Self {
        Self {
            programmer,
            waiters: Vec::new(),
            has_failed: false,
            revoke_at: None,
            more_looks: 0,
            last_look: None,
            verifications: 0,
        }
    }

    fn run(mut self, receiver: &Receiver<Message>) {
        let mut verify_at = Instant::now() + PERIOD;
        loop {
            let next = self.revoke_at.map_or(verify_at, |at| at.min(verify_at));
            let first = match receiver.recv_timeout(next.saturating_duration_since(Instant::now())) {
                Ok(message) => Some(message),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            // Everything that waits already goes into the same transaction.
            let mut changes = Vec::new();
            for message in first.into_iter().chain(receiver.try_iter().take(QUEUE_LENGTH_MAX)) {
                match message {
                    Message::Changes(more) => changes.extend(more),
                    Message::Await(more, waiter) => {
                        changes.extend(more);
                        self.waiters.push(waiter);
                    }
                }
            }
            if !changes.is_empty() {
                self.apply(changes);
            }
            let now = Instant::now();
            if now >= verify_at {
                verify_at = now + PERIOD;
                self.verify();
            }
            if self.revoke_at.is_some_and(|at| at <= now) {
                self.look(now);
            }
        }
    }

    fn apply(&mut self, changes: Vec<Change>) {
        let outcome = self.programmer.apply(changes);
        if let Ok(report) = &outcome {
            if report.restricts {
                self.schedule_look();
            }
            if !self.programmer.is_ready() {
                // They wait on, but those that have given up need no place.
                self.waiters.retain(|waiter| !waiter.is_closed());
                return;
            }
        }
        self.has_failed = outcome.is_err();
        let failure = outcome.err().map(|error| error.to_string());
        if let Some(error) = &failure {
            tracing::error!(error, "network policies could not be programmed; tried again within a second");
        }
        for waiter in self.waiters.drain(..) {
            let answer = failure.clone().map_or(Ok(()), |error| Err(Error::Failed(error)));
            // One that has given up is not told.
            let _ = waiter.send(answer);
        }
    }

    fn verify(&mut self) {
        self.verifications = self.verifications.wrapping_add(1);
        match self.programmer.verify(self.verifications.is_multiple_of(THOROUGH_EVERY)) {
            Ok(true) => {}
            Ok(false) => {
                if !self.has_failed {
                    tracing::warn!("the rules of network policies had been removed by somebody; they are back");
                }
                self.has_failed = false;
                self.schedule_look();
            }
            Err(error) => {
                if !self.has_failed {
                    tracing::error!(%error, "network policies could not be programmed; tried again every second");
                }
                self.has_failed = true;
            }
        }
    }

    /// At once, unless the last look was less than a period ago; and once more, for connections that are just being made.
    fn schedule_look(&mut self) {
        let now = Instant::now();
        let at = self.last_look.map_or(now, |last| now.max(last + PERIOD));
        self.revoke_at = Some(self.revoke_at.map_or(at, |before| before.min(at)));
        self.more_looks = 1;
    }

    fn look(&mut self, now: Instant) {
        self.last_look = Some(now);
        self.revoke_at = (self.more_looks > 0).then(|| now + PERIOD);
        self.more_looks = self.more_looks.saturating_sub(1);
        match self.programmer.revoke() {
            Ok(0) => {}
            Ok(count) => tracing::info!(count, "connections ended that network policies no longer allow"),
            Err(error) => {
                tracing::warn!(%error, "connections that policies no longer allow could not be looked for; tried again");
                self.revoke_at = Some(now + PERIOD);
            }
        }
    }
}
