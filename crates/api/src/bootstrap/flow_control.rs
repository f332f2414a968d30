//! Upstream's FlowSchemas and PriorityLevelConfigurations. They are objects for those who read them: this server's own
//! limits stand in `serve`, and no request is queued by them yet.

use object::{Map, Value};

const GROUP_VERSION: &str = "flowcontrol.apiserver.k8s.io/v1";
/// Upstream keeps the spec of what carries this up to date.
pub(super) const AUTOUPDATE: &str = "apf.kubernetes.io/autoupdate-spec";

/// name, nominal shares, lendable percent, and queues, hand size and length limit where requests are queued.
type Level = (&'static str, i64, i64, Option<(i64, i64, i64)>);

const LEVELS: [Level; 7] = [
    ("catch-all", 5, 0, None),
    ("global-default", 20, 50, Some((128, 6, 50))),
    ("leader-election", 10, 0, Some((16, 4, 50))),
    ("node-high", 40, 25, Some((64, 6, 50))),
    ("system", 30, 33, Some((64, 6, 50))),
    ("workload-high", 40, 50, Some((128, 6, 50))),
    ("workload-low", 100, 90, Some((128, 6, 50))),
];

/// What requests a schema is about: `*` for all, or lines of `verbs groups resources scope`, or `paths VERB PATHS`.
struct Schema {
    name: &'static str,
    level: &'static str,
    precedence: i64,
    distinguisher: &'static str,
    /// `group:x`, `user:x`, `account:x` (in kube-system).
    subjects: &'static [&'static str],
    rules: &'static [&'static str],
}

const fn schema(
    name: &'static str,
    level: &'static str,
    precedence: i64,
    distinguisher: &'static str,
    subjects: &'static [&'static str],
    rules: &'static [&'static str],
) -> Schema {
    Schema { name, level, precedence, distinguisher, subjects, rules }
}

const EVERYBODY: &[&str] = &["group:system:unauthenticated", "group:system:authenticated"];
const CONTROLLER_MANAGER: &str = "user:system:kube-controller-manager";
const SCHEDULER: &str = "user:system:kube-scheduler";
const ALL: &[&str] = &["*"];
const LEASES: &str = "get,create,update coordination.k8s.io leases namespaced";

const SCHEMAS: [Schema; 13] = [
    schema("exempt", "exempt", 1, "", &["group:system:masters"], ALL),
    schema("probes", "exempt", 2, "", EVERYBODY, &["paths get /healthz,/readyz,/livez"]),
    schema(
        "system-leader-election",
        "leader-election",
        100,
        "ByUser",
        &[CONTROLLER_MANAGER, SCHEDULER, "account:*"],
        &[LEASES],
    ),
    schema(
        "endpoint-controller",
        "workload-high",
        150,
        "ByUser",
        &[CONTROLLER_MANAGER, "account:endpoint-controller", "account:endpointslicemirroring-controller"],
        &["get,create,update core endpoints namespaced"],
    ),
    schema("workload-leader-election", "leader-election", 200, "ByUser", &["account:*"], &[LEASES]),
    schema(
        "system-node-high",
        "node-high",
        400,
        "ByUser",
        &["group:system:nodes"],
        &["* core nodes,nodes/status cluster", "* coordination.k8s.io leases namespaced"],
    ),
    schema("system-nodes", "system", 500, "ByUser", &["group:system:nodes"], ALL),
    schema("kube-controller-manager", "workload-high", 800, "ByNamespace", &[CONTROLLER_MANAGER], ALL),
    schema("kube-scheduler", "workload-high", 800, "ByNamespace", &[SCHEDULER], ALL),
    schema("kube-system-service-accounts", "workload-high", 900, "ByNamespace", &["account:*"], ALL),
    schema("service-accounts", "workload-low", 9_000, "ByUser", &["group:system:serviceaccounts"], ALL),
    schema("global-default", "global-default", 9_900, "ByUser", EVERYBODY, ALL),
    schema("catch-all", "catch-all", 10_000, "ByUser", EVERYBODY, ALL),
];

fn head(kind: &str, name: &str) -> Value {
    let mut object = Value::default();
    object.set(&["apiVersion"], GROUP_VERSION.into());
    object.set(&["kind"], kind.into());
    object.set(&["metadata", "name"], name.into());
    object.set(&["metadata", "annotations", AUTOUPDATE], "true".into());
    object
}

/// The PriorityLevelConfigurations.
pub(super) fn levels() -> Vec<Value> {
    let mut exempt = head("PriorityLevelConfiguration", "exempt");
    exempt.set(&["spec", "type"], "Exempt".into());
    exempt.set(&["spec", "exempt", "nominalConcurrencyShares"], 0_i64.into());
    exempt.set(&["spec", "exempt", "lendablePercent"], 0_i64.into());
    let limited = LEVELS.iter().map(|(name, shares, lendable, queues)| {
        let mut level = head("PriorityLevelConfiguration", name);
        level.set(&["spec", "type"], "Limited".into());
        level.set(&["spec", "limited", "nominalConcurrencyShares"], (*shares).into());
        level.set(&["spec", "limited", "lendablePercent"], (*lendable).into());
        let response = ["spec", "limited", "limitResponse", "type"];
        level.set(&response, if queues.is_some() { "Queue" } else { "Reject" }.into());
        if let Some((queues, hand, length)) = queues {
            for (member, number) in [("queues", queues), ("handSize", hand), ("queueLengthLimit", length)] {
                level.set(&["spec", "limited", "limitResponse", "queuing", member], (*number).into());
            }
        }
        level
    });
    std::iter::once(exempt).chain(limited).collect()
}

/// The FlowSchemas.
pub(super) fn schemas() -> Vec<Value> {
    SCHEMAS.iter().map(to_object).collect()
}

fn to_object(schema: &Schema) -> Value {
    let mut object = head("FlowSchema", schema.name);
    object.set(&["spec", "priorityLevelConfiguration", "name"], schema.level.into());
    object.set(&["spec", "matchingPrecedence"], schema.precedence.into());
    if !schema.distinguisher.is_empty() {
        object.set(&["spec", "distinguisherMethod", "type"], schema.distinguisher.into());
    }
    let mut rule = Value::default();
    rule.set(&["subjects"], schema.subjects.iter().map(|text| subject(text)).collect::<Vec<_>>().into());
    let (mut resources, mut paths) = (Vec::new(), Vec::new());
    for text in schema.rules {
        match text.split(' ').collect::<Vec<_>>().as_slice() {
            ["paths", verbs, urls] => paths.push(path_rule(verbs, urls)),
            [verbs, groups, names, scope] => resources.push(resource_rule(verbs, groups, names, *scope == "cluster")),
            _ => {
                resources.push(resource_rule("*", "*", "*", true));
                paths.push(path_rule("*", "*"));
            }
        }
    }
    for (member, rules) in [("resourceRules", resources), ("nonResourceRules", paths)] {
        if !rules.is_empty() {
            rule.set(&[member], rules.into());
        }
    }
    object.set(&["spec", "rules"], vec![rule].into());
    object
}

fn subject(text: &str) -> Value {
    let (kind, name) = text.split_once(':').unwrap_or(("user", text));
    let mut subject = Value::default();
    let member = match kind {
        "group" => "group",
        "account" => "serviceAccount",
        _ => "user",
    };
    let kind = match member {
        "group" => "Group",
        "serviceAccount" => "ServiceAccount",
        _ => "User",
    };
    subject.set(&["kind"], kind.into());
    subject.set(&[member, "name"], name.into());
    if kind == "ServiceAccount" {
        subject.set(&[member, "namespace"], "kube-system".into());
    }
    subject
}

fn texts(list: &str) -> Value {
    let item = |text: &str| Value::from(if text == "core" { "" } else { text });
    list.split(',').map(item).collect::<Vec<_>>().into()
}

fn path_rule(verbs: &str, urls: &str) -> Value {
    let mut rule = Map::new();
    rule.insert("verbs", texts(verbs));
    rule.insert("nonResourceURLs", texts(urls));
    rule.into()
}

fn resource_rule(verbs: &str, groups: &str, resources: &str, cluster: bool) -> Value {
    let mut rule = Map::new();
    rule.insert("verbs", texts(verbs));
    rule.insert("apiGroups", texts(groups));
    rule.insert("resources", texts(resources));
    rule.insert("namespaces", texts("*"));
    if cluster {
        rule.insert("clusterScope", true);
    }
    rule.into()
}

/// The status that says that a schema's level is there.
pub(super) fn found(schema: &Value, now: &str) -> Value {
    let level = schema.str_at(&["spec", "priorityLevelConfiguration", "name"]).unwrap_or_default();
    let message =
        format!("This FlowSchema references the PriorityLevelConfiguration object named {level:?} and it exists");
    let condition: Map = [
        ("type", "Dangling"),
        ("status", "False"),
        ("reason", "Found"),
        ("message", message.as_str()),
        ("lastTransitionTime", now),
    ]
    .into_iter()
    .collect();
    let mut status = Value::default();
    status.set(&["conditions"], vec![Value::from(condition)].into());
    status
}
