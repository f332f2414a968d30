//! Job: pods that run to completion, each counted exactly once.

mod accounting;
mod failure;
mod indexes;

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::{Job, JobCondition, JobSpec, JobStatus};
use k8s_openapi::api::core::v1::{EnvVar, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use self::indexes::IndexSet;
use crate::action::{Action, Event, Plan};
use crate::controller::{Change, Controller};
use crate::meta;
use crate::pods;
use crate::view::{Key, Typed, View};

/// Holds a pod until its end has been counted.
pub const TRACKING: &str = "batch.kubernetes.io/job-tracking";
const COMPLETION_INDEX: &str = "batch.kubernetes.io/job-completion-index";
/// At most so many pods are created or deleted in one plan.
const BURST_MAX: usize = 500;
const BACKOFF_SECONDS: i64 = 10;
const BACKOFF_SECONDS_MAX: i64 = 600;

/// The Job controller.
#[derive(Debug)]
pub struct JobController;

impl Controller for JobController {
    const NAME: &'static str = "job-controller";
    type Memory = ();

    fn keys(_view: &View, change: Change<'_>) -> Vec<Key> {
        let keys = change.sides().filter_map(|side| match side {
            Typed::Job(job) => Some(Key::of(&job.metadata)),
            Typed::Pod(pod) => {
                let owner = meta::controller_of(&pod.metadata).filter(|owner| owner.kind == "Job")?;
                Some(Key::new(meta::namespace(&pod.metadata), &*owner.name))
            }
            _ => None,
        });
        keys.collect()
    }

    fn plan(view: &View, key: &Key, _memory: &mut (), now: Timestamp) -> Plan {
        let job = view.jobs.at(key);
        let mut plan = Plan::of(release_strays(view, key, job.map(|job| meta::uid(&job.metadata))));
        let Some(job) = job else { return plan };
        let Some(spec) = &job.spec else { return plan };
        if spec.managed_by.as_deref().is_some_and(|manager| manager != "kubernetes.io/job-controller") {
            return plan;
        }
        let pods: Vec<Arc<Pod>> = view.pods.controlled_by(meta::uid(&job.metadata)).cloned().collect();
        if is_finished(job) || meta::is_deleting(&job.metadata) {
            let held = pods.iter().filter(|pod| ended(pod) && meta::has_finalizer(&pod.metadata, TRACKING));
            plan.actions.extend(held.map(|pod| release(pod)));
            if is_finished(job) {
                plan.actions.extend(pods.iter().filter(|pod| pods::is_active(pod)).map(|pod| Action::delete(&**pod)));
            }
            return plan;
        }
        let mut work = Work::new(job, spec, pods, now);
        work.account();
        work.proceed();
        plan.actions.append(&mut work.actions);
        if let Some(at) = work.requeue_at {
            plan.requeue_at(at);
        }
        if job.status.as_ref() != Some(&work.status) {
            plan.actions.push(Action::update_status(&Job { status: Some(work.status), ..(**job).clone() }));
            plan.actions.extend(work.told_with_status.into_iter().map(Action::Event));
        }
        plan
    }
}

/// Pods of a Job that is gone, or was replaced by another of the same name, are not counted by anyone.
fn release_strays(view: &View, key: &Key, uid: Option<&str>) -> Vec<Action> {
    let strays = view.pods.in_namespace(&key.namespace).filter(|pod| {
        meta::has_finalizer(&pod.metadata, TRACKING)
            && meta::controller_of(&pod.metadata)
                .is_some_and(|owner| owner.kind == "Job" && owner.name == key.name && Some(owner.uid.as_str()) != uid)
    });
    strays.map(|pod| release(pod)).collect()
}

fn release(pod: &Pod) -> Action {
    let mut rest = pod.metadata.finalizers.clone().unwrap_or_default();
    rest.retain(|finalizer| finalizer != TRACKING);
    Action::patch_unchanged(pod, "", serde_json::json!({"metadata": {"finalizers": rest}}))
}

fn ended(pod: &Pod) -> bool {
    scheduler::is_terminal(pod) || meta::is_deleting(&pod.metadata)
}

/// Whether the Job has its final condition.
pub(crate) fn is_finished(job: &Job) -> bool {
    finished_at(job).is_some()
}

/// When the Job received its final condition.
fn finished_at(job: &Job) -> Option<Timestamp> {
    let conditions = job.status.as_ref()?.conditions.as_ref()?;
    let last = conditions
        .iter()
        .find(|condition| matches!(condition.type_.as_str(), "Complete" | "Failed") && condition.status == "True")?;
    last.last_transition_time.as_ref().map(|time| time.0)
}

/// One Job while it is planned for.
struct Work<'a> {
    job: &'a Job,
    spec: &'a JobSpec,
    now: Timestamp,
    pods: Vec<Arc<Pod>>,
    status: JobStatus,
    completed: IndexSet,
    indexed: bool,
    actions: Vec<Action>,
    /// Events that are true once the status is written.
    told_with_status: Vec<Event>,
    requeue_at: Option<Timestamp>,
}

impl<'a> Work<'a> {
    fn new(job: &'a Job, spec: &'a JobSpec, pods: Vec<Arc<Pod>>, now: Timestamp) -> Self {
        let status = job.status.clone().unwrap_or_default();
        let completed = IndexSet::parse(status.completed_indexes.as_deref().unwrap_or_default());
        Self {
            job,
            spec,
            now,
            pods,
            status,
            completed,
            indexed: spec.completion_mode.as_deref() == Some("Indexed"),
            actions: Vec::new(),
            told_with_status: Vec::new(),
            requeue_at: None,
        }
    }

    fn condition(&self, condition_type: &str) -> Option<&JobCondition> {
        let conditions = self.status.conditions.as_ref()?;
        conditions.iter().find(|condition| condition.type_ == condition_type && condition.status == "True")
    }

    fn set_condition(&mut self, condition_type: &str, status: &str, reason: &str, message: &str) {
        let conditions = self.status.conditions.get_or_insert_default();
        if conditions.iter().any(|known| known.type_ == condition_type && known.status == status) {
            return;
        }
        conditions.retain(|known| known.type_ != condition_type);
        conditions.push(JobCondition {
            type_: condition_type.into(),
            status: status.into(),
            reason: Some(reason.into()),
            message: Some(message.into()),
            last_probe_time: Some(Time(self.now)),
            last_transition_time: Some(Time(self.now)),
        });
    }

    fn wake_at(&mut self, at: Timestamp) {
        self.requeue_at = Some(self.requeue_at.map_or(at, |known| known.min(at)));
    }

    fn active(&self) -> Vec<Arc<Pod>> {
        self.pods.iter().filter(|pod| pods::is_active(pod)).cloned().collect()
    }

    /// What the Job needs next: an end, a pause, fewer pods, or more of them.
    fn proceed(&mut self) {
        let active = self.active();
        let suspended = self.spec.suspend == Some(true);
        if !suspended && self.status.start_time.is_none() {
            self.status.start_time = Some(Time(self.now));
        }
        if self.condition("FailureTarget").is_none()
            && let Some((reason, message)) = self.failure(&active)
        {
            self.set_condition("FailureTarget", "True", reason, &message);
        }
        let mut running = 0;
        if let Some(target) = self.condition("FailureTarget").cloned() {
            self.delete(&active);
            let (reason, message) = (target.reason.unwrap_or_default(), target.message.unwrap_or_default());
            self.finish("Failed", &reason, &message, &active);
        } else if self.is_complete(&active) {
            let message = "Reached expected number of succeeded pods";
            self.set_condition("SuccessCriteriaMet", "True", "CompletionsReached", message);
            self.delete(&active);
            self.finish("Complete", "CompletionsReached", message, &active);
        } else if suspended {
            self.suspend(&active);
        } else {
            if self
                .status
                .conditions
                .iter()
                .flatten()
                .any(|condition| condition.type_ == "Suspended" && condition.status == "True")
            {
                self.set_condition("Suspended", "False", "JobResumed", "Job resumed");
                self.status.start_time = Some(Time(self.now));
                self.told_with_status.push(Event::normal(self.job, "Resumed", "Job resumed"));
            }
            running = self.balance(&active);
        }
        let ready = active.iter().filter(|pod| pods::is_ready(pod)).count();
        let terminating =
            self.pods.iter().filter(|pod| meta::is_deleting(&pod.metadata) && !scheduler::is_terminal(pod)).count();
        self.status.active = (running > 0).then_some(running);
        self.status.ready = Some(count(ready));
        self.status.terminating = Some(count(terminating));
    }

    fn is_complete(&self, active: &[Arc<Pod>]) -> bool {
        let succeeded = self.succeeded();
        match self.spec.completions {
            Some(completions) => succeeded >= completions,
            None => succeeded > 0 && active.is_empty(),
        }
    }

    fn suspend(&mut self, active: &[Arc<Pod>]) {
        self.delete(active);
        self.status.start_time = None;
        if !self
            .status
            .conditions
            .iter()
            .flatten()
            .any(|condition| condition.type_ == "Suspended" && condition.status == "True")
        {
            self.set_condition("Suspended", "True", "JobSuspended", "Job suspended");
            self.told_with_status.push(Event::normal(self.job, "Suspended", "Job suspended"));
        }
    }

    /// The final condition comes when no pod runs any more and every end is counted.
    fn finish(&mut self, condition_type: &str, reason: &str, message: &str, active: &[Arc<Pod>]) {
        let terminating = self.pods.iter().any(|pod| meta::is_deleting(&pod.metadata) && !scheduler::is_terminal(pod));
        if !active.is_empty() || terminating || self.has_uncounted() {
            return;
        }
        self.set_condition(condition_type, "True", reason, message);
        if condition_type == "Complete" {
            self.status.completion_time = Some(Time(self.now));
            self.told_with_status.push(Event::normal(self.job, "Completed", "Job completed"));
        } else {
            self.told_with_status.push(Event::warning(self.job, reason, message));
        }
    }

    fn delete(&mut self, victims: &[Arc<Pod>]) {
        let job = self.job;
        let deletion = |pod: &Arc<Pod>| {
            let told = Event::normal(job, "SuccessfulDelete", format!("Deleted pod: {}", meta::name(&pod.metadata)));
            let failed = Event::warning(job, "FailedDelete", "Error deleting: {error}");
            Action::delete_with_events(&**pod, Some(told), Some(failed))
        };
        self.actions.extend(victims.iter().take(BURST_MAX).map(deletion));
    }

    /// Brings the number of running pods to what is wanted, and gives it.
    fn balance(&mut self, active: &[Arc<Pod>]) -> i32 {
        let parallelism = self.spec.parallelism.unwrap_or(1);
        let wanted = match self.spec.completions {
            Some(completions) => parallelism.min((completions - self.succeeded()).max(0)),
            None if self.succeeded() > 0 => count(active.len()).min(parallelism),
            None => parallelism,
        };
        let running = count(active.len());
        if running > wanted {
            let mut ranked = active.to_vec();
            ranked.sort_by_key(|pod| {
                (
                    pods::phase(pod) == "Running",
                    pods::is_ready(pod),
                    pod.metadata.creation_timestamp.clone().map(std::cmp::Reverse),
                )
            });
            let surplus = usize::try_from(running - wanted).unwrap_or(0);
            ranked.truncate(surplus);
            self.delete(&ranked);
            return wanted;
        }
        let mut missing = usize::try_from(wanted - running).unwrap_or(0).min(BURST_MAX);
        if missing == 0 {
            return running;
        }
        if let Some(at) = self.backs_off_until() {
            self.wake_at(at);
            return running;
        }
        if self.spec.pod_replacement_policy.as_deref() == Some("Failed") {
            let terminating =
                self.pods.iter().filter(|pod| meta::is_deleting(&pod.metadata) && !scheduler::is_terminal(pod)).count();
            missing = missing.saturating_sub(terminating);
        }
        let indexes: Vec<Option<u32>> = if self.indexed {
            let taken: Vec<u32> = self
                .pods
                .iter()
                .filter(|pod| !ended(pod) || !self.is_counted(pod))
                .filter_map(|pod| index_of(pod))
                .collect();
            let completions = u32::try_from(self.spec.completions.unwrap_or(0)).unwrap_or(0);
            (0..completions)
                .filter(|index| !self.completed.contains(*index) && !taken.contains(index))
                .take(missing)
                .map(Some)
                .collect()
        } else {
            vec![None; missing]
        };
        let created = count(indexes.len());
        for index in indexes {
            let create = Action::create(&self.pod(index)).with_events(
                Some(Event::normal(self.job, "SuccessfulCreate", "Created pod: {name}")),
                Some(Event::warning(self.job, "FailedCreate", "Error creating: {error}")),
            );
            self.actions.push(create.action());
        }
        running + created
    }

    /// Pods that failed are replaced later and later.
    fn backs_off_until(&self) -> Option<Timestamp> {
        let failures = self.failed();
        if failures == 0 {
            return None;
        }
        let last = self
            .pods
            .iter()
            .filter(|pod| pods::phase(pod) == "Failed")
            .filter_map(|pod| accounting::ended_at(pod))
            .max()?;
        let exponent = u32::try_from(failures - 1).unwrap_or(0).min(10);
        let wait = BACKOFF_SECONDS.saturating_mul(1 << exponent).min(BACKOFF_SECONDS_MAX);
        let until = last.checked_add(SignedDuration::from_secs(wait)).ok()?;
        (until > self.now).then_some(until)
    }

    fn pod(&self, index: Option<u32>) -> Pod {
        let owner = meta::controller_reference(self.job);
        let mut pod = pods::from_template(&self.spec.template, meta::namespace(&self.job.metadata), owner);
        let (name, uid) = (meta::name(&self.job.metadata), meta::uid(&self.job.metadata));
        let labels = pod.metadata.labels.get_or_insert_default();
        for (key, value) in [
            ("batch.kubernetes.io/job-name", name),
            ("job-name", name),
            ("batch.kubernetes.io/controller-uid", uid),
            ("controller-uid", uid),
        ] {
            labels.entry(key.into()).or_insert_with(|| value.into());
        }
        pod.metadata.finalizers.get_or_insert_default().push(TRACKING.into());
        let Some(index) = index else { return pod };
        pod.metadata.generate_name = Some(format!("{name}-{index}-"));
        labels.insert(COMPLETION_INDEX.into(), index.to_string());
        pod.metadata.annotations.get_or_insert_with(BTreeMap::new).insert(COMPLETION_INDEX.into(), index.to_string());
        if let Some(spec) = &mut pod.spec {
            if spec.subdomain.is_some() || spec.hostname.is_none() {
                spec.hostname = Some(format!("{name}-{index}"));
            }
            for container in spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()) {
                let environment = container.env.get_or_insert_default();
                if !environment.iter().any(|variable| variable.name == "JOB_COMPLETION_INDEX") {
                    environment.push(EnvVar {
                        name: "JOB_COMPLETION_INDEX".into(),
                        value: Some(index.to_string()),
                        value_from: None,
                    });
                }
            }
        }
        pod
    }
}

fn index_of(pod: &Pod) -> Option<u32> {
    meta::annotation(&pod.metadata, COMPLETION_INDEX).and_then(|index| index.parse().ok())
}

fn count(number: usize) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

/// Deletes finished Jobs after their time.
#[derive(Debug)]
pub struct TtlAfterFinishedController;

impl Controller for TtlAfterFinishedController {
    const NAME: &'static str = "ttl-after-finished-controller";
    type Memory = ();

    fn keys(_view: &View, change: Change<'_>) -> Vec<Key> {
        match change.new {
            Some(Typed::Job(job)) => vec![Key::of(&job.metadata)],
            _ => Vec::new(),
        }
    }

    fn plan(view: &View, key: &Key, _memory: &mut (), now: Timestamp) -> Plan {
        let Some(job) = view.jobs.at(key).filter(|job| !meta::is_deleting(&job.metadata)) else {
            return Plan::nothing();
        };
        let ttl = job.spec.as_ref().and_then(|spec| spec.ttl_seconds_after_finished);
        let Some(at) = ttl
            .zip(finished_at(job))
            .and_then(|(ttl, at)| at.checked_add(SignedDuration::from_secs(i64::from(ttl))).ok())
        else {
            return Plan::nothing();
        };
        let mut plan = Plan::default();
        if at > now {
            plan.requeue_at(at);
        } else {
            let mut delete = Action::delete(&**job);
            if let Action::Delete { propagation, .. } = &mut delete {
                *propagation = Some(crate::action::Propagation::Foreground);
            }
            plan.actions.push(delete);
        }
        plan
    }
}
