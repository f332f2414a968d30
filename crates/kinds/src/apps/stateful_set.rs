//! StatefulSet: pods with identities.

use crate::Hooks;
use crate::Resource;
use crate::cells;
use crate::edit::{default_to, items_mut};
use crate::template;
use crate::validation::{forbidden, one_of};
use object::table::Column;
use object::{Cause, Value};

/// The row of StatefulSet.
pub(super) fn row() -> Resource {
    Resource::new("apps", "v1", "StatefulSet", "statefulsets")
        .short(&["sts"])
        .in_all()
        .generation(&["spec"])
        .status()
        .scale(&["spec", "selector"])
        .with_columns(columns())
        .with_hooks(StatefulSet)
}

fn columns() -> Vec<Column> {
    let mut columns = vec![
        Column::name(),
        Column::new("Ready", |set, _| {
            let ready = set.i64_at(&["status", "readyReplicas"]).unwrap_or_default();
            format!("{ready}/{}", set.i64_at(&["spec", "replicas"]).unwrap_or_default()).into()
        }),
        Column::age(),
    ];
    columns.extend(cells::template_columns());
    columns
}

struct StatefulSet;

impl Hooks for StatefulSet {
    fn default(&self, set: &mut Value) {
        default_to(set, &["spec", "podManagementPolicy"], "OrderedReady");
        default_to(set, &["spec", "updateStrategy", "type"], "RollingUpdate");
        if set.str_at(&["spec", "updateStrategy", "type"]) == Some("RollingUpdate") {
            default_to(set, &["spec", "updateStrategy", "rollingUpdate", "partition"], 0_i64);
        }
        default_to(set, &["spec", "persistentVolumeClaimRetentionPolicy", "whenDeleted"], "Retain");
        default_to(set, &["spec", "persistentVolumeClaimRetentionPolicy", "whenScaled"], "Retain");
        default_to(set, &["spec", "replicas"], 1_i64);
        default_to(set, &["spec", "revisionHistoryLimit"], 10_i64);
        template::default_template(set, &["spec", "template"]);
        for claim in items_mut(set, &["spec", "volumeClaimTemplates"]) {
            default_to(claim, &["apiVersion"], "v1");
            default_to(claim, &["kind"], "PersistentVolumeClaim");
            default_to(claim, &["spec", "volumeMode"], "Filesystem");
            default_to(claim, &["status", "phase"], "Pending");
        }
    }

    fn prepare_create(&self, set: &mut Value) {
        set.set(&["status", "replicas"], Value::Int(0));
        set.set(&["status", "availableReplicas"], Value::Int(0));
    }

    fn validate(&self, set: &Value) -> Vec<Cause> {
        let mut causes = Vec::new();
        template::validate_replicas(set, &mut causes);
        template::validate_selector(set, &mut causes);
        template::validate_template(set, &["Always"], &mut causes);
        let policies = ["OrderedReady", "Parallel"];
        one_of(&mut causes, set, &["spec", "podManagementPolicy"], "spec.podManagementPolicy", &policies);
        let kinds = ["OnDelete", "RollingUpdate"];
        one_of(&mut causes, set, &["spec", "updateStrategy", "type"], "spec.updateStrategy.type", &kinds);
        causes
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Vec<Cause> {
        let fixed = |set: &Value| {
            let mut spec = set.get("spec").cloned().unwrap_or_default();
            for name in [
                "replicas",
                "ordinals",
                "template",
                "updateStrategy",
                "persistentVolumeClaimRetentionPolicy",
                "minReadySeconds",
                "revisionHistoryLimit",
            ] {
                spec.remove(&[name]);
            }
            spec
        };
        if fixed(new) == fixed(old) {
            return Vec::new();
        }
        let detail = "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', \
                      'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden";
        vec![forbidden("spec", detail)]
    }
}
