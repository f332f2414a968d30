//! CronJob: a Job at every time of a schedule.

mod schedule;

use std::sync::Arc;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::{CronJob, CronJobStatus, Job};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};

use self::schedule::Schedule;
use crate::action::{Action, Event, Plan};
use crate::controller::{Change, Controller};
use crate::meta;
use crate::view::{Key, Typed, View};

/// More missed times than this are an error of the clock or of the schedule, not work to catch up with.
const MISSED_MAX: usize = 100;
const SCHEDULED_AT: &str = "batch.kubernetes.io/cronjob-scheduled-timestamp";

/// The CronJob controller.
#[derive(Debug)]
pub struct CronJobController;

impl Controller for CronJobController {
    const NAME: &'static str = "cronjob-controller";
    type Memory = ();

    fn keys(_view: &View, change: Change<'_>) -> Vec<Key> {
        let keys = change.sides().filter_map(|side| match side {
            Typed::CronJob(cron) => Some(Key::of(&cron.metadata)),
            Typed::Job(job) => {
                let owner = meta::controller_of(&job.metadata).filter(|owner| owner.kind == "CronJob")?;
                Some(Key::new(meta::namespace(&job.metadata), &*owner.name))
            }
            _ => None,
        });
        keys.collect()
    }

    fn plan(view: &View, key: &Key, _memory: &mut (), now: Timestamp) -> Plan {
        let Some(cron) = view.cron_jobs.at(key).filter(|cron| !meta::is_deleting(&cron.metadata)) else {
            return Plan::nothing();
        };
        let jobs: Vec<Arc<Job>> = view.jobs.controlled_by(meta::uid(&cron.metadata)).cloned().collect();
        let mut plan = Plan::default();
        let mut status = cron.status.clone().unwrap_or_default();
        note_finished(cron, &jobs, &mut status, &mut plan);
        clean_up(cron, &jobs, &mut plan);
        if cron.spec.suspend != Some(true) {
            run_if_due(cron, &jobs, &mut status, &mut plan, now);
        }
        status.active = status.active.filter(|active| !active.is_empty());
        if cron.status.as_ref().is_none_or(|old| *old != status)
            && (cron.status.is_some() || status != CronJobStatus::default())
        {
            plan.actions.push(Action::update_status(&CronJob { status: Some(status), ..(**cron).clone() }));
        }
        plan
    }
}

fn outcome(job: &Job) -> Option<(&str, Timestamp)> {
    let conditions = job.status.as_ref()?.conditions.as_ref()?;
    let last = conditions
        .iter()
        .find(|condition| matches!(condition.type_.as_str(), "Complete" | "Failed") && condition.status == "True")?;
    Some((last.type_.as_str(), last.last_transition_time.as_ref()?.0))
}

/// Brings the list of active Jobs up to date, and tells which have ended.
fn note_finished(cron: &CronJob, jobs: &[Arc<Job>], status: &mut CronJobStatus, plan: &mut Plan) {
    let active = status.active.get_or_insert_default();
    active.retain(|reference| {
        let job = jobs.iter().find(|job| job.metadata.uid == reference.uid);
        let name = reference.name.as_deref().unwrap_or_default();
        match job.map(|job| outcome(job)) {
            Some(None) => return true,
            Some(Some((how, _))) => {
                plan.actions.push(Action::Event(Event::normal(
                    cron,
                    "SawCompletedJob",
                    format!("Saw completed job: {name}, condition: {how}"),
                )));
            }
            None => plan.actions.push(Action::Event(Event::normal(
                cron,
                "MissingJob",
                format!("Active job went missing: {name}"),
            ))),
        }
        false
    });
    for job in jobs.iter().filter(|job| outcome(job).is_none()) {
        if !active.iter().any(|reference| reference.uid == job.metadata.uid) {
            active.push(meta::object_reference(&**job));
        }
    }
    let succeeded =
        jobs.iter().filter_map(|job| outcome(job).filter(|(how, _)| *how == "Complete").map(|(_, at)| at)).max();
    if let Some(at) = succeeded
        && status.last_successful_time.as_ref().is_none_or(|known| known.0 < at)
    {
        status.last_successful_time = Some(Time(at));
    }
}

/// Deletes finished Jobs beyond the history limits, oldest first.
fn clean_up(cron: &CronJob, jobs: &[Arc<Job>], plan: &mut Plan) {
    let limits = [
        ("Complete", cron.spec.successful_jobs_history_limit.unwrap_or(3)),
        ("Failed", cron.spec.failed_jobs_history_limit.unwrap_or(1)),
    ];
    for (how, limit) in limits {
        let mut ended: Vec<&Arc<Job>> =
            jobs.iter().filter(|job| outcome(job).is_some_and(|(known, _)| known == how)).collect();
        ended.sort_by_key(|job| job.status.as_ref().and_then(|status| status.start_time.clone()));
        let surplus = ended.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
        for job in ended.into_iter().take(surplus).filter(|job| !meta::is_deleting(&job.metadata)) {
            plan.actions.push(delete(cron, job));
        }
    }
}

fn delete(cron: &CronJob, job: &Job) -> Action {
    let told = Event::normal(cron, "SuccessfulDelete", format!("Deleted job {}", meta::name(&job.metadata)));
    Action::delete_with_events(job, Some(told), Some(Event::warning(cron, "FailedDelete", "Deleted job: {error}")))
}

fn run_if_due(cron: &CronJob, jobs: &[Arc<Job>], status: &mut CronJobStatus, plan: &mut Plan, now: Timestamp) {
    let schedule = match Schedule::parse(&cron.spec.schedule) {
        Ok(schedule) => schedule,
        Err(error) => {
            let message = format!("unparseable schedule: {} : {error}", cron.spec.schedule);
            return plan.actions.push(Action::Event(Event::warning(cron, "UnparseableSchedule", message)));
        }
    };
    let zone = match cron.spec.time_zone.as_deref() {
        None | Some("UTC" | "Etc/UTC" | "") => TimeZone::UTC,
        // Reading the host's time zone data is input and output, which has no place here.
        Some(name) => {
            let message = format!("invalid timeZone: {name:?}: only UTC is supported so far");
            return plan.actions.push(Action::Event(Event::warning(cron, "UnknownTimeZone", message)));
        }
    };
    let created = cron.metadata.creation_timestamp.as_ref().map_or(now, |time| time.0);
    let mut from = status.last_schedule_time.as_ref().map_or(created, |time| time.0);
    if let Some(deadline) = cron.spec.starting_deadline_seconds {
        from = from.max(now.checked_sub(SignedDuration::from_secs(deadline)).unwrap_or(from));
    }
    let (mut due, mut missed, mut too_many) = (None, 0, false);
    let mut at = from;
    while let Some(next) = schedule.next_after(at, &zone).filter(|next| *next <= now) {
        (due, at) = (Some(next), next);
        missed += 1;
        if missed > MISSED_MAX {
            // The newest time is found from the other side, without walking through all that was missed.
            at = now.checked_sub(SignedDuration::from_hours(24)).unwrap_or(at).max(at);
            missed = 0;
            if !std::mem::replace(&mut too_many, true) {
                let message =
                    "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew";
                plan.actions.push(Action::Event(Event::warning(cron, "TooManyMissedTimes", message)));
            }
        }
    }
    if let Some(next) = schedule.next_after(now, &zone) {
        plan.requeue_at(next);
    }
    let Some(due) = due else { return };
    let active = status.active.get_or_insert_default();
    match cron.spec.concurrency_policy.as_deref() {
        Some("Forbid") if !active.is_empty() => {
            let message = "Not starting job because prior execution is running and concurrency policy is Forbid";
            return plan.actions.push(Action::Event(Event::normal(cron, "JobAlreadyActive", message)));
        }
        Some("Replace") => {
            for job in jobs.iter().filter(|job| outcome(job).is_none() && !meta::is_deleting(&job.metadata)) {
                plan.actions.push(delete(cron, job));
            }
        }
        _ => {}
    }
    let told = Event::normal(cron, "SuccessfulCreate", "Created job {name}");
    let failed = Event::warning(cron, "FailedCreate", "Error creating job: {error}");
    // The name follows from the time, so that the same time is never run twice, whoever was interrupted where.
    plan.actions
        .push(Action::create(&job_at(cron, due)).with_events(Some(told), Some(failed)).exists_is_success().action());
    status.last_schedule_time = Some(Time(due));
}

fn job_at(cron: &CronJob, due: Timestamp) -> Job {
    let template = &cron.spec.job_template;
    let metadata = template.metadata.clone().unwrap_or_default();
    let mut annotations = metadata.annotations.unwrap_or_default();
    annotations.insert(SCHEDULED_AT.into(), due.to_string());
    Job {
        metadata: ObjectMeta {
            name: Some(format!("{}-{}", meta::name(&cron.metadata), due.as_second() / 60)),
            namespace: cron.metadata.namespace.clone(),
            labels: metadata.labels,
            annotations: Some(annotations),
            owner_references: Some(vec![meta::controller_reference(cron)]),
            ..ObjectMeta::default()
        },
        spec: template.spec.clone(),
        status: None,
    }
}
