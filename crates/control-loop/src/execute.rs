//! Carries a plan out through the one write door and says what came of it.

use std::sync::Arc;

use client::{
    ClusterClient, DeleteOptions, Deletion, Object, PatchKind, Request, Target as ClientTarget, Verb, WriteOptions,
};
use controllers::{Action, Create, Event, Failure, Plan, Precondition, Propagation, Resource, Target};
use futures_util::future::join_all;
use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestCondition};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use object::{GroupVersionResource, Status};
use serde_json::json;
use tokio::sync::Semaphore;

use crate::convert::to_object_value;
use crate::options::Signer;
use crate::recorder::Recorder;

/// Actions of one plan that run beside each other at most.
const BESIDE_MAX: usize = 32;

/// What carries plans out for one controller.
#[derive(Clone)]
pub(crate) struct Executor {
    pub(crate) client: Arc<dyn ClusterClient>,
    pub(crate) recorder: Recorder,
    pub(crate) component: &'static str,
    /// Bounds the requests under way over all controllers.
    pub(crate) requests: Arc<Semaphore>,
    /// The cluster's certificate authority.
    pub(crate) signer: Option<Arc<dyn Signer>>,
}

/// What came of a plan.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// Commits by resource and revision.
    pub(crate) commits: Vec<(Resource, u64)>,
    pub(crate) failures: Vec<Failure>,
}

impl Executor {
    /// Actions run in order; neighbours of the same sort run beside each other. Creates start slowly and stop at a failure,
    /// so that a quota or a broken webhook is not hit by a thousand requests.
    pub(crate) async fn carry_out(&self, plan: Plan) -> Outcome {
        let mut outcome = Outcome::default();
        let mut actions = plan.actions.into_iter().peekable();
        let mut creating = true;
        let mut create_batch = 1;
        while let Some(action) = actions.next() {
            match action {
                Action::Event(event) => self.recorder.record(self.component, event),
                Action::Create(create) => {
                    let mut batch = vec![create];
                    while batch.len() < create_batch
                        && let Some(Action::Create(next)) =
                            actions.next_if(|action| matches!(action, Action::Create(_)))
                    {
                        batch.push(next);
                    }
                    if !creating {
                        continue;
                    }
                    for result in join_all(batch.iter().map(|create| self.create(create))).await {
                        creating &= result.is_ok();
                        outcome.note(result);
                    }
                    create_batch = (create_batch * 2).min(BESIDE_MAX);
                }
                Action::Delete { .. } => {
                    let mut batch = vec![action];
                    while batch.len() < BESIDE_MAX
                        && let Some(next) = actions.next_if(|action| matches!(action, Action::Delete { .. }))
                    {
                        batch.push(next);
                    }
                    for result in join_all(batch.into_iter().map(|action| self.delete(action))).await {
                        outcome.note(result);
                    }
                }
                Action::Update { target, subresource, object, on_success } => {
                    let verb = Verb::Update(to_object_value(&object), self.write_options());
                    let result = self.call(&target, subresource, verb).await;
                    if result.is_ok() {
                        self.tell(on_success, "", "");
                    }
                    outcome.note(as_failure(result, &target.resource, false));
                }
                Action::Sign { request, lifetime_seconds } => {
                    if let Some(result) = self.sign(*request, lifetime_seconds).await {
                        outcome.note(result);
                    }
                }
                Action::Patch { .. } => {
                    let mut batch = vec![action];
                    while batch.len() < BESIDE_MAX
                        && let Some(next) = actions.next_if(|action| matches!(action, Action::Patch { .. }))
                    {
                        batch.push(next);
                    }
                    for result in join_all(batch.into_iter().map(|action| self.patch(action))).await {
                        result.into_iter().for_each(|result| outcome.note(result));
                    }
                }
            }
        }
        outcome
    }

    /// None where there was nothing to change any more.
    async fn patch(&self, action: Action) -> Option<Result<(Resource, u64), Failure>> {
        let Action::Patch { target, subresource, precondition, mut patch } = action else { return None };
        add_precondition(&mut patch, &precondition);
        let verb = Verb::Patch(PatchKind::Merge, to_object_value(&patch), self.write_options());
        let result = self.call(&target, subresource, verb).await;
        let gone = result.as_ref().is_err_and(Status::is_not_found);
        (!gone).then(|| as_failure(result, &target.resource, false))
    }

    async fn create(&self, create: &Create) -> Result<(Resource, u64), Failure> {
        let mut object = to_object_value(&create.object);
        object.set(&["apiVersion"], create.resource.api_version().into());
        object.set(&["kind"], create.resource.kind.as_str().into());
        let target =
            Target { resource: create.resource.clone(), namespace: create.namespace.clone(), name: String::new() };
        let result = self.call(&target, "", Verb::Create(object, self.write_options())).await;
        match &result {
            Ok(created) => self.tell(create.on_success.clone(), &metadata_of(created).name.unwrap_or_default(), ""),
            Err(status) if status.is_already_exists() && create.exists_is_success => {
                return Ok((create.resource.clone(), 0));
            }
            Err(status) => self.tell(create.on_failure.clone(), "", &status.message),
        }
        as_failure(result, &create.resource, true)
    }

    async fn delete(&self, action: Action) -> Result<(Resource, u64), Failure> {
        let Action::Delete {
            target,
            precondition,
            grace_period_seconds,
            propagation,
            unless_present,
            on_success,
            on_failure,
        } = action
        else {
            return Err(Failure {
                resource: Resource::of::<Pod>(),
                create: false,
                reason: String::new(),
                message: "not a delete".into(),
            });
        };
        for (owner, uid) in &unless_present {
            match self.call(owner, "", Verb::Get).await {
                Ok(object) if metadata_of(&object).uid.as_deref() == Some(uid) => return Ok((target.resource, 0)),
                Ok(_) => {}
                Err(status) if status.is_not_found() => {}
                Err(status) => return as_failure(Err(status), &target.resource, false),
            }
        }
        let options = DeleteOptions {
            grace_period_seconds,
            uid: precondition.uid.as_str().into(),
            resource_version: precondition.resource_version.as_str().into(),
            propagation: propagation.map(|propagation| match propagation {
                Propagation::Background => Deletion::Background,
                Propagation::Foreground => Deletion::Foreground,
                Propagation::Orphan => Deletion::Orphan,
            }),
            dry_run: false,
        };
        let result = self.call(&target, "", Verb::Delete(options)).await;
        match &result {
            Ok(_) => self.tell(on_success, &target.name, ""),
            Err(status) if status.is_not_found() => return Ok((target.resource, 0)),
            Err(status) => self.tell(on_failure, &target.name, &status.message),
        }
        as_failure(result, &target.resource, false)
    }

    /// Signs a request and writes what came of it; none where there is no authority here.
    async fn sign(
        &self,
        mut request: CertificateSigningRequest,
        lifetime_seconds: i64,
    ) -> Option<Result<(Resource, u64), Failure>> {
        let signer = self.signer.as_ref()?;
        let now = Time(jiff::Timestamp::now());
        let signed = signer.sign(&request, lifetime_seconds);
        let status = request.status.get_or_insert_default();
        match signed {
            Ok(pem) => status.certificate = Some(ByteString(pem.into_bytes())),
            Err(message) => status.conditions.get_or_insert_default().push(CertificateSigningRequestCondition {
                type_: "Failed".into(),
                status: "True".into(),
                reason: Some("SigningFailed".into()),
                message: Some(message),
                last_update_time: Some(now.clone()),
                last_transition_time: Some(now),
            }),
        }
        let Action::Update { target, subresource, object, .. } = Action::update_status(&request) else { return None };
        let verb = Verb::Update(to_object_value(&object), self.write_options());
        Some(as_failure(self.call(&target, subresource, verb).await, &target.resource, false))
    }

    fn write_options(&self) -> WriteOptions {
        WriteOptions { field_manager: self.component.into(), ..WriteOptions::default() }
    }

    fn tell(&self, event: Option<Event>, name: &str, error: &str) {
        if let Some(mut event) = event {
            event.message = event.message.replace("{name}", name).replace("{error}", error);
            self.recorder.record(self.component, event);
        }
    }

    /// One request, when there is room for it.
    pub(crate) async fn call(&self, target: &Target, subresource: &str, verb: Verb) -> Result<Object, Status> {
        let _permit = self.requests.acquire().await;
        let resource = &target.resource;
        let target = ClientTarget {
            resource: GroupVersionResource::new(
                resource.group.as_str(),
                resource.version.as_str(),
                resource.plural.as_str(),
            ),
            namespace: target.namespace.as_str().into(),
            name: target.name.as_str().into(),
            subresource: subresource.into(),
        };
        self.client.call(Request { target, verb }).await
    }
}

impl Outcome {
    fn note(&mut self, result: Result<(Resource, u64), Failure>) {
        match result {
            Ok(commit) => self.commits.push(commit),
            Err(failure) => self.failures.push(failure),
        }
    }
}

fn as_failure(result: Result<Object, Status>, resource: &Resource, create: bool) -> Result<(Resource, u64), Failure> {
    match result {
        Ok(object) => Ok((resource.clone(), object.revision)),
        Err(status) => Err(Failure {
            resource: resource.clone(),
            create,
            reason: status.reason.to_string(),
            message: status.message,
        }),
    }
}

fn add_precondition(patch: &mut serde_json::Value, precondition: &Precondition) {
    if !precondition.uid.is_empty() {
        patch["metadata"]["uid"] = json!(precondition.uid);
    }
    if !precondition.resource_version.is_empty() {
        patch["metadata"]["resourceVersion"] = json!(precondition.resource_version);
    }
}

fn metadata_of(object: &Object) -> ObjectMeta {
    #[derive(serde::Deserialize)]
    struct Named {
        metadata: ObjectMeta,
    }
    serde_json::from_slice::<Named>(&object.json).map(|named| named.metadata).unwrap_or_default()
}
