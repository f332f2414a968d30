//! The loop: messages in, view and queues kept, plans out. Nothing else writes to any of them.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use client::ClusterClient;
use controllers::{Change, Key, Picture, Resource, Typed, View};
use jiff::Timestamp;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;

use crate::execute::{Executor, Outcome};
use crate::mirror::{self, Update};
use crate::options::{Clock, Options, settings};
use crate::queue::Queue;
use crate::recorder::Recorder;
use crate::runner::{self, Runner};
use crate::scheduling::{self, Scheduling, Settled};

/// Messages that wait for the loop; senders wait beyond it.
const MESSAGES_MAX: usize = 1_024;
/// Messages taken in before planning goes on.
const MESSAGES_PER_ROUND_MAX: usize = 256;
/// Requests under way at a time, over all controllers and the scheduler.
const REQUESTS_MAX: usize = 64;
/// Plans of one controller that are carried out at a time.
const PLANS_PER_CONTROLLER_MAX: usize = 32;
/// Sleeping no longer than this keeps a clock that was set from mattering for long.
const SLEEP_MAX: Duration = Duration::from_secs(30);

/// What the loop is told.
#[derive(Debug)]
pub(crate) enum Message {
    Mirror { index: usize, updates: Vec<Update> },
    Carried { controller: usize, key: Key, outcome: Outcome },
    Scheduled(Settled),
}

struct Seat {
    runner: Box<dyn Runner>,
    queue: Queue,
    executor: Executor,
    running: usize,
}

struct Core {
    view: View,
    seats: Vec<Seat>,
    scheduling: Scheduling,
    scheduling_executor: Executor,
    mirrors: Vec<Resource>,
    mirror_of: HashMap<Resource, usize>,
    /// The revision that each mirror has reached.
    seen: Vec<u64>,
    listed: Vec<bool>,
    /// The first so many mirrors hold whole objects, the others metadata.
    looked_into: usize,
    messages: mpsc::Sender<Message>,
    tasks: JoinSet<()>,
    clock: Clock,
    leadership: Option<watch::Receiver<bool>>,
    heartbeats: Option<watch::Receiver<Arc<Picture>>>,
}

/// Runs until told to stop.
pub(crate) async fn run(options: Options, mut stopped: watch::Receiver<bool>) {
    let (sender, mut receiver) = mpsc::channel(MESSAGES_MAX);
    let mut core = Core::new(&options, sender.clone());
    let mut reflectors = JoinSet::new();
    for (index, resource) in core.mirrors.iter().enumerate() {
        reflectors.spawn(mirror::run(options.client.clone(), resource.clone(), index, sender.clone()));
    }
    drop(sender);
    loop {
        let leads_again = core.leadership.as_mut().map(|leadership| {
            // What has been looked at counts as seen, or every wait would end at once after the first change.
            leadership.borrow_and_update();
            leadership.clone()
        });
        let seen_again = core.heartbeats.clone();
        let busy = core.advance();
        let wait = if busy { Duration::ZERO } else { core.next_wait() };
        tokio::select! {
            biased;
            _ = stopped.changed() => break,
            message = receiver.recv() => {
                let Some(message) = message else { break };
                core.take_in(message);
                for _ in 1..MESSAGES_PER_ROUND_MAX {
                    let Ok(message) = receiver.try_recv() else { break };
                    core.take_in(message);
                }
            }
            () = changed(leads_again) => {}
            () = changed(seen_again) => core.look_at_heartbeats(),
            () = tokio::time::sleep(wait) => {}
        }
    }
    reflectors.abort_all();
    drop(receiver);
    while core.tasks.join_next().await.is_some() {}
}

/// Ends when what is watched changes; never, where nothing is.
async fn changed<T>(watched: Option<watch::Receiver<T>>) {
    match watched {
        Some(mut receiver) => {
            if receiver.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
        None => std::future::pending().await,
    }
}

/// The client under an identity of its own, so that RBAC, audit and managedFields say who did what.
fn acting_as(client: &Arc<dyn ClusterClient>, user: &str, groups: &[&str]) -> Arc<dyn ClusterClient> {
    client.acting_as(user, groups).unwrap_or_else(|| client.clone())
}

impl Core {
    fn new(options: &Options, messages: mpsc::Sender<Message>) -> Self {
        let mut mirrors = View::resources();
        let looked_into = mirrors.len();
        for resource in &options.other_resources {
            if !mirrors.iter().any(|known| known.group == resource.group && known.kind == resource.kind) {
                mirrors.push(resource.clone());
            }
        }
        let requests = Arc::new(Semaphore::new(REQUESTS_MAX));
        let executor = |client: Arc<dyn ClusterClient>, component: &'static str| Executor {
            recorder: Recorder::start(client.clone(), options.clock.clone()),
            client,
            component,
            requests: requests.clone(),
            signer: options.signer.clone(),
        };
        let groups = ["system:serviceaccounts", "system:serviceaccounts:kube-system", "system:authenticated"];
        let seat = |runner: Box<dyn Runner>| {
            let user = format!("system:serviceaccount:kube-system:{}", runner.name());
            let executor = executor(acting_as(&options.client, &user, &groups), runner.component());
            Seat { runner, queue: Queue::default(), executor, running: 0 }
        };
        let scheduler_client = acting_as(&options.client, scheduling::USER, &["system:authenticated"]);
        Self {
            view: View { settings: settings(options, &mirrors), ..View::default() },
            seats: runner::all().into_iter().map(seat).collect(),
            scheduling: Scheduling::new(options.seed),
            scheduling_executor: executor(scheduler_client, scheduling::COMPONENT),
            mirror_of: mirrors.iter().cloned().zip(0..).collect(),
            seen: vec![0; mirrors.len()],
            listed: vec![false; mirrors.len()],
            looked_into,
            mirrors,
            messages,
            tasks: JoinSet::new(),
            clock: options.clock.clone(),
            leadership: options.leadership.clone(),
            heartbeats: options.heartbeats.clone(),
        }
    }

    /// Nodes that are seen otherwise than before concern some controllers.
    fn look_at_heartbeats(&mut self) {
        let Some(heartbeats) = &mut self.heartbeats else { return };
        let now = Arc::clone(&heartbeats.borrow_and_update());
        let before = std::mem::replace(&mut self.view.settings.seen, Arc::clone(&now));
        let names: std::collections::BTreeSet<&String> = now.keys().chain(before.keys()).collect();
        for node in names.into_iter().filter(|node| now.get(*node) != before.get(*node)) {
            for seat in &mut self.seats {
                for key in seat.runner.seen(&self.view, node) {
                    seat.queue.add(key);
                }
            }
        }
    }

    fn take_in(&mut self, message: Message) {
        let now = (self.clock)();
        match message {
            Message::Mirror { index, updates } => {
                for update in updates {
                    self.update(index, update, now);
                }
            }
            Message::Carried { controller, key, outcome } => {
                let Some(seat) = self.seats.get_mut(controller) else { return };
                seat.running -= 1;
                for failure in &outcome.failures {
                    tracing::debug!(controller = seat.runner.name(), ?key, reason = %failure.reason, message = %failure.message, "an action failed");
                    seat.runner.failed(&key, failure);
                }
                let commits = outcome
                    .commits
                    .into_iter()
                    .filter_map(|(resource, revision)| Some((*self.mirror_of.get(&resource)?, revision)));
                seat.queue.done(&key, commits.collect(), !outcome.failures.is_empty(), &self.seen, now);
            }
            Message::Scheduled(settled) => self.scheduling.settled(settled, now),
        }
    }

    fn update(&mut self, index: usize, update: Update, now: Timestamp) {
        match update {
            Update::Set(object) => self.set(&object, now),
            Update::Removed(object) => self.remove(&object, now),
            Update::Reached(revision) => self.reached(index, revision),
            Update::Listed { objects, revision } => {
                self.remove_absent(index, &objects, now);
                for object in &objects {
                    self.set(object, now);
                }
                self.listed[index] = true;
                self.view.settings.incomplete = !self.listed.iter().all(|listed| *listed);
                self.reached(index, revision);
            }
        }
    }

    fn reached(&mut self, index: usize, revision: u64) {
        self.seen[index] = self.seen[index].max(revision);
        for seat in &mut self.seats {
            seat.queue.seen(index, revision);
        }
    }

    fn set(&mut self, object: &Typed, now: Timestamp) {
        let old = self.view.set(object);
        self.offer(old.as_ref(), Some(object), now);
    }

    fn remove(&mut self, object: &Typed, now: Timestamp) {
        if let Some(old) = self.view.remove_object(object) {
            self.offer(Some(&old), None, now);
        }
    }

    /// After a new list: what it does not contain is gone.
    fn remove_absent(&mut self, index: usize, objects: &[Typed], now: Timestamp) {
        if !self.listed[index] {
            return;
        }
        let resource = self.mirrors[index].clone();
        let present: std::collections::HashSet<Key> = objects.iter().map(|object| Key::of(object.metadata())).collect();
        let known: Vec<(String, Key)> =
            self.view.metadata.of_resource(&resource).map(|(uid, entry)| (uid.to_owned(), entry.key.clone())).collect();
        for (uid, key) in known.into_iter().filter(|(_, key)| !present.contains(key)) {
            match self.view.remove(&resource.kind, &key) {
                Some(old) => self.offer(Some(&old), None, now),
                None => {
                    self.view.metadata.remove(&uid);
                }
            }
        }
    }

    fn offer(&mut self, old: Option<&Typed>, new: Option<&Typed>, now: Timestamp) {
        self.scheduling.observe(old, new, now);
        let change = Change { old, new };
        for seat in &mut self.seats {
            for key in seat.runner.keys(&self.view, change) {
                seat.queue.add(key);
            }
        }
    }

    /// Nothing is planned before all that controllers look into is known, and nothing by a server that does not lead. A
    /// resource known by metadata alone holds up only what depends on it, so that one broken resource does not stop all.
    fn may_plan(&self) -> bool {
        let looked_into = &self.listed[..self.looked_into];
        looked_into.iter().all(|listed| *listed) && self.leadership.as_ref().is_none_or(|leads| *leads.borrow())
    }

    /// Plans what is ready. True if there is more to do at once.
    fn advance(&mut self) -> bool {
        while self.tasks.try_join_next().is_some() {}
        if !self.may_plan() {
            return false;
        }
        let now = (self.clock)();
        for controller in 0..self.seats.len() {
            self.plan_for(controller, now);
        }
        self.scheduling.tick(now);
        if self.scheduling.has_work() {
            for decision in self.scheduling.decide(now) {
                let (executor, messages) = (self.scheduling_executor.clone(), self.messages.clone());
                self.tasks.spawn(async move {
                    let settled = scheduling::carry_out(executor, decision, now).await;
                    // The loop is gone only when the process stops.
                    let _ = messages.send(Message::Scheduled(settled)).await;
                });
            }
        }
        self.scheduling.has_work()
    }

    fn plan_for(&mut self, controller: usize, now: Timestamp) {
        let seat = &mut self.seats[controller];
        seat.queue.tick(now);
        while seat.running < PLANS_PER_CONTROLLER_MAX {
            let Some(key) = seat.queue.take() else { return };
            let plan = seat.runner.plan(&self.view, &key, now);
            if let Some(at) = plan.requeue_at {
                // A time that has passed already must not turn the loop into a spin.
                let soonest = now.checked_add(jiff::SignedDuration::from_millis(10)).unwrap_or(now);
                seat.queue.wake_at(&key, at.max(soonest));
            }
            if plan.actions.is_empty() {
                seat.queue.done(&key, Vec::new(), false, &self.seen, now);
                continue;
            }
            seat.running += 1;
            let (executor, messages) = (seat.executor.clone(), self.messages.clone());
            self.tasks.spawn(async move {
                let outcome = executor.carry_out(plan).await;
                let _ = messages.send(Message::Carried { controller, key, outcome }).await;
            });
        }
    }

    fn next_wait(&self) -> Duration {
        let now = (self.clock)();
        let ticks = self.seats.iter().filter_map(|seat| seat.queue.next_tick()).chain(self.scheduling.next_tick());
        let Some(next) = ticks.min().filter(|_| self.may_plan()) else { return SLEEP_MAX };
        Duration::try_from(next.duration_since(now)).unwrap_or(Duration::ZERO).min(SLEEP_MAX)
    }
}
