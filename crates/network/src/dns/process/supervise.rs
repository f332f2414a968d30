//! The agent's side: adopts the process of cluster DNS or starts it, tells it what has changed, and puts another in its place when
//! it ends, hangs, or is of another release.

use std::collections::{HashMap, HashSet};
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::Pid;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::super::error::Error;
use super::super::name::{Name, NameError};
use super::super::server::{Outside, Sockets};
use super::super::state::DnsService;
use super::find::{self, END_TIMEOUT, Found, Look};
use super::link::Link;
use super::protocol::{Message, Setup};
use super::start::{open_sockets, start};
use crate::services::ServiceKey;

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

/// How the process is run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where its socket and its log lie; only root may enter.
    pub directory: PathBuf,
    /// The binary; `/proc/self/exe` is the agent's own whatever lies at its path by now.
    pub program: PathBuf,
    /// How it serves.
    pub setup: Setup,
}

/// How the process is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// It serves.
    Serving,
    /// It cannot be kept alive; why.
    Failing(String),
}

/// Cluster DNS as a process of its own.
pub struct Process;

/// Tells the process about changes. Dropping it leaves the process as it is.
pub struct Handle {
    shared: Arc<Shared>,
    health: watch::Receiver<Health>,
    process: watch::Receiver<Option<u32>>,
    task: JoinHandle<()>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[derive(Default)]
struct Shared {
    wanted: Mutex<Wanted>,
    wake: Notify,
    /// The number of the newest change that the process has acknowledged.
    in_force: watch::Sender<u64>,
}

impl Shared {
    fn wanted(&self) -> MutexGuard<'_, Wanted> {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the process is to know.
#[derive(Default)]
struct Wanted {
    services: HashMap<ServiceKey, DnsService>,
    /// Whether all Services have been told once: before, a process knows more than its agent.
    is_complete: bool,
    outside: Option<Outside>,
    /// What the process has not been told.
    changed: HashSet<ServiceKey>,
    is_replaced: bool,
    is_outside_changed: bool,
    /// The number of the newest change.
    number: u64,
}

impl Process {
    /// Takes up the process that is there, or starts one; when this returns, the addresses answer.
    ///
    /// # Errors
    /// An address cannot be listened on, or no process can be started.
    pub async fn run(options: Options) -> Result<Handle, Error> {
        let directory = options.directory.clone();
        let look = tokio::task::spawn_blocking(move || find::look(&directory)).await.unwrap_or(Look::Nothing);
        let (sockets, link) = match look {
            Look::Found(found) => adopt(&options, found).map_err(Error::Process)?,
            Look::Hangs(pid) => {
                let directory = options.directory.clone();
                let killed = tokio::task::spawn_blocking(move || match pid {
                    Some(pid) => find::kill(pid),
                    None => find::all(Some(&directory)).into_iter().try_for_each(find::kill),
                });
                killed.await.map_err(io::Error::other).flatten().map_err(Error::Process)?;
                fresh(&options).await?
            }
            Look::Nothing => fresh(&options).await?,
        };
        let shared = Arc::<Shared>::default();
        let (tell_health, health) = watch::channel(Health::Serving);
        let (tell_process, process) = watch::channel(Some(link.number()));
        let supervisor =
            Supervisor { options, sockets, shared: Arc::clone(&shared), health: tell_health, process: tell_process };
        let task = tokio::spawn(supervisor.run(link));
        Ok(Handle { shared, health, process, task })
    }
}

/// A process that an agent follows.
struct Attached {
    link: Link,
    pid: Pid,
    /// Whether it speaks this version.
    is_understood: bool,
    /// Whether it is to be replaced: another release, or another setup.
    is_other: bool,
    since: Instant,
}

impl Attached {
    fn number(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }
}

fn adopt(options: &Options, found: Found) -> io::Result<(Vec<Sockets>, Attached)> {
    let is_understood = found.setup.is_some();
    let is_other = found.setup.as_ref() != Some(&options.setup) || !find::runs(found.pid, &options.program);
    tracing::info!(pid = found.pid.as_raw_nonzero(), is_other, "cluster DNS is answering");
    let link = Link::new(found.stream)?;
    Ok((found.sockets, Attached { link, pid: found.pid, is_understood, is_other, since: Instant::now() }))
}

async fn fresh(options: &Options) -> Result<(Vec<Sockets>, Attached), Error> {
    let setup = options.setup.clone();
    let opened = tokio::task::spawn_blocking(move || open_sockets(&setup)).await;
    let sockets = opened.map_err(|error| Error::Process(io::Error::other(error)))??;
    let attached = start_attached(options, &sockets).await.map_err(Error::Process)?;
    Ok((sockets, attached))
}

async fn start_attached(options: &Options, sockets: &[Sockets]) -> io::Result<Attached> {
    let (stream, pid) = start(options, sockets).await?;
    tracing::info!(pid = pid.as_raw_nonzero(), "cluster DNS answers");
    Ok(Attached { link: Link::new(stream)?, pid, is_understood: true, is_other: false, since: Instant::now() })
}

impl Handle {
    /// Sets or removes a Service.
    pub fn update(&self, key: &ServiceKey, service: Option<DnsService>) {
        let mut wanted = self.shared.wanted();
        if wanted.services.get(key) == service.as_ref() && wanted.is_complete {
            return;
        }
        match service {
            Some(service) => drop(wanted.services.insert(key.clone(), service)),
            None => drop(wanted.services.remove(key)),
        }
        wanted.changed.insert(key.clone());
        wanted.number += 1;
        self.shared.wake.notify_one();
    }

    /// Replaces all Services.
    pub fn replace(&self, services: impl IntoIterator<Item = (ServiceKey, DnsService)>) {
        let mut wanted = self.shared.wanted();
        wanted.services = services.into_iter().collect();
        wanted.changed.clear();
        (wanted.is_replaced, wanted.is_complete) = (true, true);
        wanted.number += 1;
        self.shared.wake.notify_one();
    }

    /// Changes who is asked about names outside the cluster.
    ///
    /// # Errors
    /// A stub domain that is no domain name; then nothing is changed.
    pub fn set_outside(&self, outside: &Outside) -> Result<(), NameError> {
        for (domain, _) in &outside.stub_domains {
            Name::parse(domain)?;
        }
        let mut wanted = self.shared.wanted();
        if wanted.outside.as_ref() == Some(outside) {
            return Ok(());
        }
        wanted.outside = Some(outside.clone());
        wanted.is_outside_changed = true;
        wanted.number += 1;
        self.shared.wake.notify_one();
        Ok(())
    }

    /// Waits until all changes so far are in force.
    pub async fn in_force(&self) {
        let number = self.shared.wanted().number;
        // Its sender lives as long as this.
        let _ = self.shared.in_force.subscribe().wait_for(|told| *told >= number).await;
    }

    /// How the process is.
    #[must_use]
    pub fn health(&self) -> watch::Receiver<Health> {
        self.health.clone()
    }

    /// The process's number; none while there is none.
    #[must_use]
    pub fn process(&self) -> Option<u32> {
        *self.process.borrow()
    }
}

/// Why a process is attended no longer.
enum Left {
    Ended,
    Hangs,
    Replaced(Attached),
}

struct Supervisor {
    options: Options,
    /// Held here as well: what is asked while no process is there waits in them.
    sockets: Vec<Sockets>,
    shared: Arc<Shared>,
    health: watch::Sender<Health>,
    process: watch::Sender<Option<u32>>,
}

impl Supervisor {
    async fn run(self, first: Attached) {
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
                    tracing::error!(pid = pid.as_raw_nonzero(), problem, "cluster DNS is started anew");
                    // Both: one that closed its connection may be there still.
                    let killed = tokio::task::spawn_blocking(move || find::kill(pid)).await;
                    if let Err(error) = killed.map_err(io::Error::other).flatten() {
                        tracing::error!(%error, "the process of cluster DNS cannot be ended");
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
    async fn start_anew(&self, failures: &mut u32, mut problem: String) -> Attached {
        loop {
            *failures = failures.saturating_add(1);
            if *failures >= FAILURES_TOLD {
                self.health.send_replace(Health::Failing(problem));
            }
            if *failures > 1 {
                tokio::time::sleep(BACK_OFF.saturating_mul(1 << (*failures - 2).min(16)).min(BACK_OFF_MAX)).await;
            }
            match start_attached(&self.options, &self.sockets).await {
                Ok(attached) => return attached,
                Err(error) => {
                    tracing::error!(%error, "cluster DNS cannot be started");
                    problem = error.to_string();
                }
            }
        }
    }

    /// Keeps a process informed for as long as it is the right one.
    async fn attend(&self, mut attached: Attached) -> Left {
        let mut is_new = true;
        let mut replace_at = Instant::now();
        loop {
            let is_complete = self.shared.wanted().is_complete;
            if attached.is_other && is_complete && Instant::now() >= replace_at {
                match self.replace(&attached).await {
                    Ok(next) => return Left::Replaced(next),
                    Err(error) => {
                        tracing::error!(%error, "the process of cluster DNS of another release stays for now");
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
                () = self.shared.wake.notified() => {}
                () = tokio::time::sleep(ASK_EVERY) => {}
                // Nothing comes unasked but the end.
                _ = attached.link.receive() => return Left::Ended,
            }
        }
    }

    /// Tells a process what it does not know, and waits until that is in force.
    async fn tell(&self, link: &mut Link, is_new: bool) -> Result<(), Left> {
        let (frames, number, is_whole) = self.frames(is_new);
        let patience = if is_whole { ANSWER_TIMEOUT_AT_FIRST } else { ANSWER_TIMEOUT };
        if let Err(error) = link.send(&frames).await {
            return Err(if error.kind() == io::ErrorKind::TimedOut { Left::Hangs } else { Left::Ended });
        }
        drop(frames);
        match timeout(patience, link.receive()).await {
            Ok(Ok(Some(Message::Synced(told)))) if told == number => {
                self.shared.in_force.send_replace(number);
                Ok(())
            }
            Ok(Ok(Some(_))) | Err(_) => Err(Left::Hangs),
            Ok(Ok(None) | Err(_)) => Err(Left::Ended),
        }
    }

    /// What a process is to be told, the number of the newest change in it, and whether that is everything.
    fn frames(&self, is_new: bool) -> (Vec<u8>, u64, bool) {
        let mut wanted = self.shared.wanted();
        let mut frames = Vec::new();
        let is_whole = wanted.is_complete && (is_new || wanted.is_replaced);
        let changed = std::mem::take(&mut wanted.changed);
        if is_whole {
            Message::Begin.append_to(&mut frames);
            for (key, service) in &wanted.services {
                append_set(key, service, &mut frames);
            }
            Message::Commit.append_to(&mut frames);
        } else if is_new {
            // What is not known to be gone stays as the process has it.
            for (key, service) in &wanted.services {
                append_set(key, service, &mut frames);
            }
        }
        if !is_whole {
            for key in changed {
                match wanted.services.get(&key) {
                    Some(service) => append_set(&key, service, &mut frames),
                    None => drop(Message::Remove(key).append_to(&mut frames)),
                }
            }
        }
        wanted.is_replaced = false;
        if let Some(outside) = &wanted.outside
            && (is_new || wanted.is_outside_changed)
        {
            Message::Outside(outside.clone()).append_to(&mut frames);
        }
        wanted.is_outside_changed = false;
        Message::Sync(wanted.number).append_to(&mut frames);
        (frames, wanted.number, is_whole)
    }

    /// Puts a process of this release in the place of another, on the same sockets: it knows everything before the other is told to end.
    async fn replace(&self, former: &Attached) -> io::Result<Attached> {
        let mut next = start_attached(&self.options, &self.sockets).await?;
        if self.tell(&mut next.link, true).await.is_err() {
            let pid = next.pid;
            let _ = tokio::task::spawn_blocking(move || find::kill(pid)).await;
            return Err(io::Error::other("the new process does not answer"));
        }
        let pid = former.pid;
        tracing::info!(former = pid.as_raw_nonzero(), "cluster DNS is another process now");
        tokio::task::spawn_blocking(move || {
            if let Err(error) = find::end_gently(pid, END_TIMEOUT) {
                tracing::error!(pid = pid.as_raw_nonzero(), %error, "the former process of cluster DNS stays");
            }
        });
        Ok(next)
    }
}

/// A Service that is too large for a message is left out, so that the others are served.
fn append_set(key: &ServiceKey, service: &DnsService, frames: &mut Vec<u8>) {
    if !Message::Set(key.clone(), service.clone()).append_to(frames) {
        tracing::error!(namespace = key.namespace, service = key.name, "a Service is too large for cluster DNS");
        Message::Remove(key.clone()).append_to(frames);
    }
}
