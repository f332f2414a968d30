//! The agent's side: adopts the process or starts it, tells it what has changed, and puts another in its place when it ends, hangs, or is
//! of another release.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::Pid;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::find::{self, Found, Look};
use super::kind::{Kind, Message as _};
use super::link::Link;
use super::start::{self, start};

/// How often a process that has nothing to do is asked whether it lives.
const ASK_EVERY: Duration = Duration::from_secs(2);
/// How long it may take to answer; after its whole state was sent, longer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);
const ANSWER_TIMEOUT_AT_FIRST: Duration = Duration::from_secs(30);
/// Between two starts: none after the first failure, then so long, doubled up to the second.
const BACK_OFF: Duration = Duration::from_millis(100);
const BACK_OFF_MAX: Duration = Duration::from_secs(10);
/// A process that lived so long begins anew with its failures.
const PROVEN_AFTER: Duration = Duration::from_secs(60);
/// From so many failures in a row on it is told that cluster DNS cannot be kept alive.
const FAILURES_TOLD: u32 = 3;
/// One that lives so long is told to serve again.
const RECOVERED_AFTER: Duration = Duration::from_secs(10);
/// When a process that could not be replaced is tried to be again.
const REPLACE_AGAIN_AFTER: Duration = Duration::from_secs(60);

/// How a process is run.
#[derive(Clone, Debug)]
pub struct Options<S> {
    /// Where its socket and its log lie; only root may enter.
    pub directory: PathBuf,
    /// The binary; `/proc/self/exe` is the agent's own whatever lies at its path by now.
    pub program: PathBuf,
    /// How it serves.
    pub setup: S,
}

/// How the process is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// It serves.
    Serving,
    /// It cannot be kept alive; why.
    Failing(String),
}

/// What a process is to know.
pub(crate) trait Source<K: Kind>: Send + Sync + 'static {
    /// Whether everything has been told once: before, a process may know more than its agent.
    fn is_complete(&self) -> bool;
    /// What is to be told now: to a new process everything, to another what it was not told.
    fn changes(&self, is_new: bool) -> Changes;
    /// All changes up to this number are in force.
    fn in_force(&self, number: u64);
    /// Rings when there are changes.
    fn wake(&self) -> &Notify;
    /// Messages that make a process leave its work to the one that replaces it, and take it up again.
    fn hand_over(&self) -> Option<[K::Message; 2]> {
        None
    }
}

/// What a process is told.
pub(crate) struct Changes {
    /// Frames; the last one asks for an acknowledgement.
    pub(crate) frames: Vec<u8>,
    /// The number of the newest change in it.
    pub(crate) number: u64,
    /// Whether that is everything.
    pub(crate) is_whole: bool,
}

/// A process that is looked after. Dropping it leaves the process as it is.
pub(crate) struct Supervised {
    pub(crate) health: watch::Receiver<Health>,
    pub(crate) process: watch::Receiver<Option<u32>>,
    task: JoinHandle<()>,
}

impl Drop for Supervised {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A process that an agent follows.
pub(crate) struct Attached<K> {
    pub(crate) link: Link<K>,
    pid: Pid,
    /// Whether it speaks this version.
    pub(crate) is_understood: bool,
    /// Whether it is to be replaced: another release, or another setup.
    is_other: bool,
    /// Whether it was there before.
    pub(crate) is_adopted: bool,
    since: Instant,
}

impl<K> Attached<K> {
    /// It does not say what it knows: it is told nothing more, and replaced.
    pub(crate) fn distrust(&mut self) {
        self.is_understood = false;
        self.is_other = true;
    }

    fn number(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }
}

/// Takes up the process that is there, or starts one on what `open` opens.
pub(crate) async fn take_up<K: Kind, E: From<io::Error> + Send + 'static>(
    options: &Options<K::Setup>,
    open: impl Fn() -> Result<K::Held, E> + Send + 'static,
    is_taken: impl Fn(&E) -> bool + Send + 'static,
) -> Result<(K::Held, Attached<K>), E> {
    let directory = options.directory.clone();
    let look = tokio::task::spawn_blocking(move || find::look::<K>(&directory)).await.unwrap_or(Look::Nothing);
    match look {
        Look::Found(found) => return Ok(adopt(options, found)?),
        Look::Hangs(pid) => {
            let directory = options.directory.clone();
            let killed = tokio::task::spawn_blocking(move || match pid {
                Some(pid) => find::kill::<K>(pid),
                None => find::all::<K>(Some(&directory)).into_iter().try_for_each(find::kill::<K>),
            });
            killed.await.map_err(io::Error::other).flatten()?;
        }
        Look::Nothing => {}
    }
    let opened = tokio::task::spawn_blocking(move || start::open::<K, E>(open, is_taken)).await;
    let held = opened.map_err(io::Error::other)??;
    let attached = start_attached(options, &held).await?;
    Ok((held, attached))
}

fn adopt<K: Kind>(options: &Options<K::Setup>, found: Found<K>) -> io::Result<(K::Held, Attached<K>)> {
    let is_understood = found.setup.is_some();
    let is_other = found.setup.as_ref() != Some(&options.setup) || !find::runs(found.pid, &options.program);
    tracing::info!(pid = found.pid.as_raw_nonzero(), is_other, "{} is answering", K::CALLED);
    let link = Link::new(found.stream)?;
    let since = Instant::now();
    Ok((found.held, Attached { link, pid: found.pid, is_understood, is_other, is_adopted: true, since }))
}

async fn start_attached<K: Kind>(options: &Options<K::Setup>, held: &K::Held) -> io::Result<Attached<K>> {
    let (stream, pid) = start::<K>(options, held).await?;
    tracing::info!(pid = pid.as_raw_nonzero(), "{} answers", K::CALLED);
    let (link, since) = (Link::new(stream)?, Instant::now());
    Ok(Attached { link, pid, is_understood: true, is_other: false, is_adopted: false, since })
}

/// Looks after a process from now on. What is held here as well waits where no process is there.
pub(crate) fn supervise<K: Kind, S: Source<K>>(
    options: Options<K::Setup>,
    held: Arc<K::Held>,
    source: Arc<S>,
    first: Attached<K>,
) -> Supervised {
    let (tell_health, health) = watch::channel(Health::Serving);
    let (tell_process, process) = watch::channel(Some(first.number()));
    let supervisor = Supervisor { options, held, source, health: tell_health, process: tell_process };
    let task = tokio::spawn(supervisor.run(first));
    Supervised { health, process, task }
}

/// Why a process is attended no longer.
enum Left<K> {
    Ended,
    Hangs,
    Replaced(Attached<K>),
}

struct Supervisor<K: Kind, S> {
    options: Options<K::Setup>,
    held: Arc<K::Held>,
    source: Arc<S>,
    health: watch::Sender<Health>,
    process: watch::Sender<Option<u32>>,
}

impl<K: Kind, S: Source<K>> Supervisor<K, S> {
    async fn run(self, first: Attached<K>) {
        let mut attached = first;
        let mut failures = 0_u32;
        loop {
            self.process.send_replace(Some(attached.number()));
            let (pid, since) = (attached.pid, attached.since);
            attached = match self.attend(attached).await {
                Left::Replaced(next) => next,
                left => {
                    self.process.send_replace(None);
                    let problem = match left {
                        Left::Hangs => "it does not answer",
                        _ => "it ended",
                    };
                    tracing::error!(pid = pid.as_raw_nonzero(), problem, "{} is started anew", K::CALLED);
                    // Both: one that closed its connection may be there still.
                    let killed = tokio::task::spawn_blocking(move || find::kill::<K>(pid)).await;
                    if let Err(error) = killed.map_err(io::Error::other).flatten() {
                        tracing::error!(%error, "the process of {} cannot be ended", K::CALLED);
                    }
                    if since.elapsed() >= PROVEN_AFTER {
                        failures = 0;
                    }
                    self.start_anew(&mut failures, problem.to_owned()).await
                }
            };
        }
    }

    /// Starts a process as often as it takes.
    async fn start_anew(&self, failures: &mut u32, mut problem: String) -> Attached<K> {
        loop {
            *failures = failures.saturating_add(1);
            if *failures >= FAILURES_TOLD {
                self.health.send_replace(Health::Failing(problem));
            }
            if *failures > 1 {
                tokio::time::sleep(BACK_OFF.saturating_mul(1 << (*failures - 2).min(16)).min(BACK_OFF_MAX)).await;
            }
            match start_attached::<K>(&self.options, &self.held).await {
                Ok(attached) => return attached,
                Err(error) => {
                    tracing::error!(%error, "{} cannot be started", K::CALLED);
                    problem = error.to_string();
                }
            }
        }
    }

    /// Keeps a process informed for as long as it is the right one.
    async fn attend(&self, mut attached: Attached<K>) -> Left<K> {
        let mut is_new = true;
        let mut replace_at = Instant::now();
        loop {
            let is_complete = self.source.is_complete();
            if attached.is_other && is_complete && Instant::now() >= replace_at {
                match self.replace(&mut attached).await {
                    Ok(next) => return Left::Replaced(next),
                    Err(error) => {
                        tracing::error!(%error, "the process of {} of another release stays for now", K::CALLED);
                        replace_at = Instant::now() + REPLACE_AGAIN_AFTER;
                    }
                }
            }
            if attached.is_understood
                && let Err(left) = self.tell(&mut attached.link, is_new).await
            {
                return left;
            }
            is_new = false;
            if attached.since.elapsed() >= RECOVERED_AFTER {
                self.health.send_if_modified(|health| std::mem::replace(health, Health::Serving) != Health::Serving);
            }
            tokio::select! {
                () = self.source.wake().notified() => {}
                () = tokio::time::sleep(ASK_EVERY) => {}
                // Nothing comes unasked but the end.
                _ = attached.link.receive() => return Left::Ended,
            }
        }
    }

    /// Tells a process what it does not know, and waits until that is in force.
    async fn tell(&self, link: &mut Link<K>, is_new: bool) -> Result<(), Left<K>> {
        let Changes { frames, number, is_whole } = self.source.changes(is_new);
        let patience = if is_whole { ANSWER_TIMEOUT_AT_FIRST } else { ANSWER_TIMEOUT };
        if let Err(error) = link.send(&frames).await {
            return Err(if error.kind() == io::ErrorKind::TimedOut { Left::Hangs } else { Left::Ended });
        }
        drop(frames);
        match timeout(patience, link.receive()).await {
            Ok(Ok(Some(message))) if message.synced() == Some(number) => {
                self.source.in_force(number);
                Ok(())
            }
            Ok(Ok(Some(_))) | Err(_) => Err(Left::Hangs),
            Ok(Ok(None) | Err(_)) => Err(Left::Ended),
        }
    }

    /// Puts a process of this release in the place of another, on what both hold: it knows everything before the other is told to end.
    async fn replace(&self, former: &mut Attached<K>) -> io::Result<Attached<K>> {
        let mut next = start_attached::<K>(&self.options, &self.held).await?;
        let hand_over = self.source.hand_over().filter(|_| former.is_understood);
        if let Some([leave, _]) = &hand_over {
            // One that does not hear it has ended, which is seen next.
            let _ = former.link.send_messages([leave]).await;
        }
        if self.tell(&mut next.link, true).await.is_err() {
            let pid = next.pid;
            let _ = tokio::task::spawn_blocking(move || find::kill::<K>(pid)).await;
            if let Some([_, take_back]) = &hand_over {
                let _ = former.link.send_messages([take_back]).await;
            }
            return Err(io::Error::other("the new process does not answer"));
        }
        let pid = former.pid;
        tracing::info!(former = pid.as_raw_nonzero(), "{} is another process now", K::CALLED);
        tokio::task::spawn_blocking(move || {
            if let Err(error) = find::end_gently::<K>(pid, K::END_TIMEOUT) {
                tracing::error!(pid = pid.as_raw_nonzero(), %error, "the former process of {} stays", K::CALLED);
            }
        });
        Ok(next)
    }
}
