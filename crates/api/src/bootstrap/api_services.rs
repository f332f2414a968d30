//! An APIService for each group and version that this server serves itself, as upstream registers them by itself.

use kinds::Table;
use object::Value;

/// Marks what the server keeps by itself.
pub(super) const AUTOMANAGED: &str = "kube-aggregator.kubernetes.io/automanaged";

/// Upstream's priorities: group, version, the group's minimum, the version's.
const PRIORITIES: [(&str, &str, i64, i64); 23] = [
    ("", "v1", 18_000, 1),
    ("apps", "v1", 17_800, 15),
    ("events.k8s.io", "v1", 17_750, 15),
    ("authentication.k8s.io", "v1", 17_700, 15),
    ("authorization.k8s.io", "v1", 17_600, 15),
    ("autoscaling", "v1", 17_500, 15),
    ("autoscaling", "v2", 17_500, 30),
    ("batch", "v1", 17_400, 15),
    ("certificates.k8s.io", "v1", 17_300, 15),
    ("certificates.k8s.io", "v1beta1", 17_300, 9),
    ("networking.k8s.io", "v1", 17_200, 15),
    ("policy", "v1", 17_100, 15),
    ("rbac.authorization.k8s.io", "v1", 17_000, 15),
    ("storage.k8s.io", "v1", 16_800, 15),
    ("storagemigration.k8s.io", "v1", 16_800, 15),
    ("apiextensions.k8s.io", "v1", 16_700, 15),
    ("admissionregistration.k8s.io", "v1", 16_700, 15),
    ("scheduling.k8s.io", "v1", 16_600, 15),
    ("coordination.k8s.io", "v1", 16_500, 15),
    ("node.k8s.io", "v1", 16_300, 15),
    ("discovery.k8s.io", "v1", 16_200, 15),
    ("flowcontrol.apiserver.k8s.io", "v1", 16_100, 21),
    ("resource.k8s.io", "v1", 15_900, 15),
];

/// One for each group and version of the table that upstream has a priority for; its own group has none.
pub(super) fn all(table: &Table) -> Vec<Value> {
    let served = |group: &str, version: &str| {
        table.groups().iter().any(|one| one.name == group && one.versions.iter().any(|other| other == version))
    };
    let one = |(group, version, group_priority, version_priority): &(&str, &str, i64, i64)| {
        let mut service = Value::default();
        service.set(&["apiVersion"], "apiregistration.k8s.io/v1".into());
        service.set(&["kind"], "APIService".into());
        service.set(&["metadata", "name"], format!("{version}.{group}").into());
        service.set(&["metadata", "labels", AUTOMANAGED], "onstart".into());
        if !group.is_empty() {
            service.set(&["spec", "group"], (*group).into());
        }
        service.set(&["spec", "version"], (*version).into());
        service.set(&["spec", "groupPriorityMinimum"], (*group_priority).into());
        service.set(&["spec", "versionPriority"], (*version_priority).into());
        service
    };
    PRIORITIES.iter().filter(|(group, version, ..)| served(group, version)).map(one).collect()
}
