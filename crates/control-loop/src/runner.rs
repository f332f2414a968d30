//! Controllers of different types behind one face.

use std::collections::HashMap;

use controllers::{Change, Controller, Failure, Key, Plan, View};
use jiff::Timestamp;

/// A controller with its memory.
pub(crate) trait Runner: Send {
    fn name(&self) -> &'static str;
    fn component(&self) -> &'static str;
    fn keys(&self, view: &View, change: Change<'_>) -> Vec<Key>;
    fn seen(&self, view: &View, node: &str) -> Vec<Key>;
    fn plan(&mut self, view: &View, key: &Key, now: Timestamp) -> Plan;
    fn failed(&mut self, key: &Key, failure: &Failure);
}

struct Adapter<C: Controller> {
    memory: HashMap<Key, C::Memory>,
}

impl<C: Controller> Runner for Adapter<C> {
    fn name(&self) -> &'static str {
        C::NAME
    }

    fn component(&self) -> &'static str {
        C::COMPONENT
    }

    fn keys(&self, view: &View, change: Change<'_>) -> Vec<Key> {
        C::keys(view, change)
    }

    fn seen(&self, view: &View, node: &str) -> Vec<Key> {
        C::seen(view, node)
    }

    fn plan(&mut self, view: &View, key: &Key, now: Timestamp) -> Plan {
        let mut memory = self.memory.remove(key).unwrap_or_default();
        let plan = C::plan(view, key, &mut memory, now);
        // A key at rest needs no memory: what matters comes back from state, unless the controller says otherwise.
        if C::keeps(&memory) || !plan.actions.is_empty() || plan.requeue_at.is_some() {
            self.memory.insert(key.clone(), memory);
        }
        plan
    }

    fn failed(&mut self, key: &Key, failure: &Failure) {
        C::failed(self.memory.entry(key.clone()).or_default(), failure);
    }
}

fn runner<C: Controller>() -> Box<dyn Runner> {
    Box::new(Adapter::<C> { memory: HashMap::new() })
}

/// Every controller of the cluster.
pub(crate) fn all() -> Vec<Box<dyn Runner>> {
    vec![
        runner::<controllers::deployment::DeploymentController>(),
        runner::<controllers::replica_set::ReplicaSetController>(),
        runner::<controllers::replication_controller::ReplicationControllerController>(),
        runner::<controllers::certificates::NodeCertificateApprover>(),
        runner::<controllers::certificates::CertificateSigner>(),
        runner::<controllers::certificates::CertificateCleaner>(),
        runner::<controllers::certificates::TokenCleaner>(),
        runner::<controllers::cron_job::CronJobController>(),
        runner::<controllers::daemon_set::DaemonSetController>(),
        runner::<controllers::disruption::DisruptionController>(),
        runner::<controllers::job::JobController>(),
        runner::<controllers::job::TtlAfterFinishedController>(),
        runner::<controllers::endpoint_slice::EndpointSliceController>(),
        runner::<controllers::endpoint_slice_mirroring::EndpointSliceMirroringController>(),
        runner::<controllers::endpoints::EndpointsController>(),
        runner::<controllers::fast_failover::FastFailoverController>(),
        runner::<controllers::garbage::GarbageCollector>(),
        runner::<controllers::load_balancer::LoadBalancerController>(),
        runner::<controllers::namespace::NamespaceController>(),
        runner::<controllers::node_lifecycle::NodeLifecycleController>(),
        runner::<controllers::node_ranges::NodeRangeController>(),
        runner::<controllers::pod_garbage::PodGarbageCollector>(),
        runner::<controllers::root_ca::RootCaPublisher>(),
        runner::<controllers::service_account::ServiceAccountController>(),
        runner::<controllers::service_cidr::ServiceCidrController>(),
        runner::<controllers::stateful_set::StatefulSetController>(),
        runner::<controllers::taint_eviction::TaintEvictionController>(),
        runner::<controllers::token_secrets::TokenSecretController>(),
    ]
}
