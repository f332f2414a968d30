//! The agent's side of cluster DNS: what the process is to know, and what it was not told.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, watch};

use super::super::error::Error;
use super::super::name::{Name, NameError};
use super::super::server::{self, Outside, Sockets};
use super::super::state::DnsService;
use super::protocol::{Message, Setup};
use super::{Names, Options};
use crate::process::{Changes, Health, Source, Supervised, supervise, take_up};
use crate::services::ServiceKey;

/// Cluster DNS as a process of its own.
pub struct Process;

/// Tells the process about changes. Dropping it leaves the process as it is.
pub struct Handle {
    shared: Arc<Shared>,
    supervised: Supervised,
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
        let setup = options.setup.clone();
        let is_taken = |error: &Error| matches!(error, Error::Listen { source, .. } if source.kind() == std::io::ErrorKind::AddrInUse);
        let (sockets, attached) = take_up::<Names, Error>(&options, move || open_sockets(&setup), is_taken).await?;
        let shared = Arc::<Shared>::default();
        let supervised = supervise(options, Arc::new(sockets), Arc::clone(&shared), attached);
        Ok(Handle { shared, supervised })
    }
}

fn open_sockets(setup: &Setup) -> Result<Vec<Sockets>, Error> {
    setup.listen.iter().map(|address| server::open(*address, None)).collect()
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
        self.supervised.health.clone()
    }

    /// The process's number; none while there is none.
    #[must_use]
    pub fn process(&self) -> Option<u32> {
        *self.supervised.process.borrow()
    }
}

impl Source<Names> for Shared {
    fn is_complete(&self) -> bool {
        self.wanted().is_complete
    }

    fn changes(&self, is_new: bool) -> Changes {
        let mut wanted = self.wanted();
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
        Changes { frames, number: wanted.number, is_whole }
    }

    fn in_force(&self, number: u64) {
        self.in_force.send_replace(number);
    }

    fn wake(&self) -> &Notify {
        &self.wake
    }
}

/// A Service that is too large for a message is left out, so that the others are served.
fn append_set(key: &ServiceKey, service: &DnsService, frames: &mut Vec<u8>) {
    if !Message::Set(key.clone(), service.clone()).append_to(frames) {
        tracing::error!(namespace = key.namespace, service = key.name, "a Service is too large for cluster DNS");
        Message::Remove(key.clone()).append_to(frames);
    }
}
