//! Stories of appliers and other writers over one object.

#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

use super::{Apply, Error, Set, Writer, apply, track_update};
use crate::testing::{WORKLOAD, schemas, value};
use crate::{Status, Value};
use jiff::Timestamp;
use proptest::prelude::*;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + second).unwrap()
}

fn try_apply(
    live: Option<&Value>,
    manager: &str,
    configuration: &str,
    force: bool,
    second: i64,
) -> Result<Value, Error> {
    apply(Apply {
        schemas: &schemas(),
        type_id: WORKLOAD,
        live,
        configuration: &value(configuration),
        manager,
        api_version: "apps/v1",
        subresource: "",
        force,
        now: at(second),
    })
}

fn applied(live: Option<&Value>, manager: &str, configuration: &str, second: i64) -> Value {
    try_apply(live, manager, configuration, false, second).unwrap()
}

fn updated(old: Option<&Value>, new: &str, manager: &str, subresource: &str, second: i64) -> Value {
    let mut new = value(new);
    let writer = Writer { manager, api_version: "apps/v1", subresource, now: at(second) };
    track_update(&schemas(), WORKLOAD, old, &mut new, &writer);
    new
}

/// What a manager holds, as paths.
fn held(object: &Value, manager: &str) -> Vec<String> {
    let entries = object.at(&["metadata", "managedFields"]).and_then(Value::as_array).unwrap_or_default();
    let mut all = Vec::new();
    for entry in entries.iter().filter(|entry| entry.str_at(&["manager"]) == Some(manager)) {
        all.extend(Set::from_fields(entry.get("fieldsV1").unwrap()).paths());
    }
    all
}

fn without_managers(object: &Value) -> Value {
    let mut object = object.clone();
    object.remove(&["metadata", "managedFields"]);
    object
}

#[test]
fn an_apply_creates_and_owns_what_it_names() {
    let object = applied(
        None,
        "kubectl",
        r#"{"apiVersion":"apps/v1","kind":"Workload","metadata":{"name":"web","labels":{"a":"1"}},
            "spec":{"replicas":2,"containers":[{"name":"c","image":"i","ports":[{"containerPort":80}]}],"selector":{"x":"y"}}}"#,
        0,
    );
    assert_eq!(
        held(&object, "kubectl"),
        [
            ".metadata.labels.a",
            ".spec.containers[name=\"c\"]",
            ".spec.containers[name=\"c\"].image",
            ".spec.containers[name=\"c\"].name",
            ".spec.containers[name=\"c\"].ports[containerPort=80,protocol=\"TCP\"]",
            ".spec.containers[name=\"c\"].ports[containerPort=80,protocol=\"TCP\"].containerPort",
            ".spec.replicas",
            ".spec.selector",
        ]
    );
    let entry = &object.at(&["metadata", "managedFields"]).and_then(Value::as_array).unwrap()[0];
    assert_eq!(entry.str_at(&["operation"]), Some("Apply"));
    assert_eq!(entry.str_at(&["apiVersion"]), Some("apps/v1"));
    assert_eq!(entry.str_at(&["time"]), Some("2023-11-14T22:13:20Z"));
    assert_eq!(entry.str_at(&["fieldsType"]), Some("FieldsV1"));
    let ports = "k:{\"containerPort\":80,\"protocol\":\"TCP\"}";
    assert!(entry.at(&["fieldsV1", "f:spec", "f:containers", "k:{\"name\":\"c\"}", "f:ports", ports, "."]).is_some());
    let again = applied(
        Some(&object),
        "kubectl",
        r#"{"metadata":{"labels":{"a":"1"}},
        "spec":{"replicas":2,"containers":[{"name":"c","image":"i","ports":[{"containerPort":80}]}],"selector":{"x":"y"}}}"#,
        60,
    );
    assert_eq!(again, object, "an apply that changes nothing keeps the time stamps");
}

#[test]
fn client_side_apply_is_upgraded_without_a_conflict() {
    let last = r#"{\"apiVersion\":\"apps/v1\",\"spec\":{\"replicas\":2}}"#;
    let object = |replicas: u8, paused: bool| {
        format!(
            r#"{{"metadata":{{"annotations":{{"kubectl.kubernetes.io/last-applied-configuration":"{last}"}}}},
            "spec":{{"replicas":{replicas},"paused":{paused}}}}}"#
        )
    };
    let live = updated(None, &object(2, true), "kubectl-client-side-apply", "", 0);
    let wanted = r#"{"spec":{"replicas":3}}"#;
    let upgraded = applied(Some(&live), "kubectl", wanted, 1);
    assert_eq!(held(&upgraded, "kubectl"), [".spec.replicas"]);
    assert!(!held(&upgraded, "kubectl-client-side-apply").contains(&".spec.replicas".to_owned()));
    // Another applier, a field that was not applied, and one that somebody else has changed since.
    assert!(try_apply(Some(&live), "other", wanted, false, 1).is_err());
    assert!(try_apply(Some(&live), "kubectl", r#"{"spec":{"replicas":3,"paused":false}}"#, false, 1).is_err());
    let edited = updated(Some(&live), &object(5, true), "kubectl-edit", "", 1);
    assert!(try_apply(Some(&edited), "kubectl", wanted, false, 2).is_err());
}

#[test]
fn what_is_no_longer_applied_goes_unless_another_holds_it() {
    let first = applied(
        None,
        "one",
        r#"{"spec":{"replicas":2,"paused":true,"containers":[{"name":"a","image":"i"},{"name":"b"}]}}"#,
        0,
    );
    let second = applied(Some(&first), "two", r#"{"spec":{"paused":true}}"#, 1);
    assert_eq!(held(&second, "two"), [".spec.paused"]);
    let third = applied(Some(&second), "one", r#"{"spec":{"containers":[{"name":"b"}]}}"#, 2);
    assert_eq!(without_managers(&third).get("spec"), Some(&value(r#"{"paused":true,"containers":[{"name":"b"}]}"#)));
    let fourth = applied(Some(&third), "two", r#"{"metadata":{}}"#, 3);
    assert_eq!(without_managers(&fourth).get("spec"), Some(&value(r#"{"containers":[{"name":"b"}]}"#)));
    assert_eq!(held(&fourth, "two"), Vec::<String>::new());
}

#[test]
fn two_managers_that_disagree_conflict_until_one_forces() {
    let first = updated(
        None,
        r#"{"metadata":{"name":"w"},"spec":{"replicas":1,"paused":false}}"#,
        "kubectl-client-side-apply",
        "",
        0,
    );
    let same = applied(Some(&first), "two", r#"{"spec":{"replicas":1}}"#, 1);
    assert_eq!(held(&same, "two"), [".spec.replicas"], "the same value is shared");
    let error = try_apply(Some(&first), "two", r#"{"spec":{"replicas":3}}"#, false, 1).unwrap_err();
    assert_eq!(
        error.to_string(),
        "Apply failed with 1 conflict: conflict with \"kubectl-client-side-apply\" using apps/v1: .spec.replicas"
    );
    let status = Status::from(error);
    assert_eq!((status.code, status.reason.as_str()), (409, "Conflict"));
    assert_eq!(status.causes[0].reason, "FieldManagerConflict");
    assert_eq!(status.causes[0].field, ".spec.replicas");
    assert_eq!(status.causes[0].message, "conflict with \"kubectl-client-side-apply\" using apps/v1");
    let error = try_apply(Some(&first), "two", r#"{"spec":{"replicas":3,"paused":true}}"#, false, 1).unwrap_err();
    assert_eq!(
        error.to_string(),
        "Apply failed with 2 conflicts: conflicts with \"kubectl-client-side-apply\" using apps/v1:\n- .spec.paused\n- .spec.replicas"
    );
    let forced = try_apply(Some(&first), "two", r#"{"spec":{"replicas":3}}"#, true, 1).unwrap();
    assert_eq!(forced.i64_at(&["spec", "replicas"]), Some(3));
    assert_eq!(held(&forced, "two"), [".spec.replicas"]);
    assert_eq!(held(&forced, "kubectl-client-side-apply"), [".spec.paused"]);
}

#[test]
fn updates_take_what_they_change_and_lose_what_is_gone() {
    let object = applied(None, "one", r#"{"spec":{"replicas":2,"paused":true}}"#, 0);
    let scaled = updated(Some(&object), r#"{"spec":{"replicas":5,"paused":true}}"#, "scaler", "scale", 1);
    assert_eq!(held(&scaled, "scaler"), [".spec.replicas"]);
    assert_eq!(held(&scaled, "one"), [".spec.paused"]);
    let error = try_apply(Some(&scaled), "one", r#"{"spec":{"replicas":2}}"#, false, 2).unwrap_err();
    assert!(
        error.to_string().contains("\"scaler\" with subresource \"scale\" using apps/v1: .spec.replicas"),
        "{error}"
    );
    let same = updated(Some(&scaled), r#"{"spec":{"replicas":5,"paused":true}}"#, "other", "", 3);
    assert_eq!(same, scaled, "an update that changes nothing touches nothing");
    let less = updated(Some(&scaled), r#"{"spec":{"replicas":5}}"#, "other", "", 4);
    assert_eq!(held(&less, "one"), Vec::<String>::new());
    assert_eq!(held(&less, "other"), Vec::<String>::new());
    let status = updated(Some(&less), r#"{"spec":{"replicas":5},"status":{"ready":1}}"#, "controller", "status", 5);
    assert_eq!(held(&status, "controller"), [".status.ready"]);
}

#[test]
fn lists_merge_by_what_the_schema_says() {
    let object = applied(
        None,
        "one",
        r#"{"metadata":{"finalizers":["a"]},"spec":{"containers":[{"name":"a"},{"name":"c"}],"arguments":["x"]}}"#,
        0,
    );
    let object = applied(
        Some(&object),
        "two",
        r#"{"metadata":{"finalizers":["b"]},"spec":{"containers":[{"name":"b"},{"name":"c","image":"i"}]}}"#,
        1,
    );
    assert_eq!(without_managers(&object).at(&["metadata", "finalizers"]), Some(&value(r#"["a","b"]"#)));
    assert_eq!(
        object.at(&["spec", "containers"]),
        Some(&value(r#"[{"name":"a"},{"name":"b"},{"name":"c","image":"i"}]"#))
    );
    assert!(matches!(
        try_apply(Some(&object), "two", r#"{"spec":{"arguments":["y"]}}"#, false, 2),
        Err(Error::Conflicts { .. })
    ));
    let error = try_apply(Some(&object), "two", r#"{"spec":{"containers":[{"name":"b"},{"name":"b"}]}}"#, false, 2)
        .unwrap_err();
    assert_eq!(error, Error::Unfit(".spec.containers: duplicate entries for key [name=\"b\"]".to_owned()));
    let object = applied(Some(&object), "one", r#"{"spec":{"containers":[{"name":"a"}]}}"#, 3);
    assert_eq!(
        without_managers(&object),
        value(
            r#"{"metadata":{"finalizers":["b"]},"spec":{"containers":[{"name":"a"},{"name":"b"},{"name":"c","image":"i"}]}}"#
        )
    );
}

#[test]
fn what_does_not_fit_is_said_with_its_path() {
    let cases = [
        (
            r#"{"spec":{"containers":[{"name":"a","image":5},{"name":"b","imagee":"x"}]}}"#,
            "errors:\n  .spec.containers[name=\"a\"].image: expected string, got &value.valueUnstructured{Value:5}\n  \
             .spec.containers[name=\"b\"].imagee: field not declared in schema",
        ),
        (r#"{"spec":{"replicas":"2"}}"#, ".spec.replicas: expected numeric (int or float), got string"),
        (r#"{"spec":{"containers":{"name":"a"}}}"#, ".spec.containers: expected list, got &{map[name:a]}"),
        (r#"{"spec":"x"}"#, ".spec: expected map, got &{x}"),
        (
            r#"{"spec":{"containers":[{"image":"a"}]}}"#,
            ".spec.containers: element 0: associative list with keys has an element that omits all key fields [\"name\"] (and doesn't have default values for any key fields)",
        ),
        (r#"{"metadata":{"finalizers":["a","a"]}}"#, ".metadata.finalizers: duplicate entries for key [=\"a\"]"),
    ];
    for (configuration, expected) in cases {
        assert_eq!(
            try_apply(None, "m", configuration, false, 0),
            Err(Error::Unfit(expected.to_owned())),
            "{configuration}"
        );
    }
}

#[test]
fn histories_are_stripped_and_bounded() {
    let mut object = updated(None, r#"{"spec":{"replicas":1}}"#, "m", "", 0);
    for second in 1..30 {
        let labels: Vec<String> = (0..=second).map(|one| format!("\"l{one}\":\"v\"")).collect();
        let text = format!("{{\"metadata\":{{\"labels\":{{{}}}}},\"spec\":{{\"replicas\":1}}}}", labels.join(","));
        object = updated(Some(&object), &text, &format!("m{second}"), "", second);
    }
    let entries = object.at(&["metadata", "managedFields"]).and_then(Value::as_array).unwrap();
    assert_eq!(entries.len(), 10);
    assert!(entries.iter().any(|entry| entry.str_at(&["manager"]) == Some("ancient-changes")));
    let all: usize = entries.iter().map(|entry| Set::from_fields(entry.get("fieldsV1").unwrap()).paths().len()).sum();
    assert_eq!(all, 31, "every field still has one owner");
    let stripped = updated(Some(&object), r#"{"metadata":{"managedFields":[{}]},"spec":{"replicas":1}}"#, "m", "", 99);
    assert!(stripped.at(&["metadata", "managedFields"]).is_none());
    let kept = updated(Some(&object), r#"{"metadata":{"managedFields":[]},"spec":{"replicas":1}}"#, "m", "", 99);
    assert_eq!(held(&kept, "m"), Vec::<String>::new());
    assert_eq!(held(&kept, "ancient-changes"), [".spec.replicas"]);
    let error = try_apply(Some(&stripped), "two", r#"{"spec":{"replicas":2}}"#, false, 100).unwrap_err();
    assert!(error.to_string().contains("\"before-first-apply\" using apps/v1"), "{error}");
}

/// Specs made of a few names, so that they meet.
fn spec() -> impl Strategy<Value = Value> {
    let container = ("[ab]", "[xy]").prop_map(|(name, image)| {
        let mut container = Value::default();
        container.set(&["name"], name.into());
        container.set(&["image"], image.into());
        container
    });
    let containers = prop::collection::vec(container, 0..3);
    (0..3_i64, any::<bool>(), containers, prop::collection::btree_map("[a-c]", "[xy]", 0..3)).prop_map(
        |(replicas, paused, mut containers, labels)| {
            containers.dedup_by(|a, b| a.get("name") == b.get("name"));
            let mut object = Value::default();
            if replicas > 0 {
                object.set(&["spec", "replicas"], Value::Int(replicas));
            }
            if paused {
                object.set(&["spec", "paused"], Value::Bool(true));
            }
            object.set(&["spec", "containers"], Value::Array(containers));
            object.set(&["metadata", "labels"], Value::Object(labels.into_iter().collect()));
            object
        },
    )
}

proptest! {
    #[test]
    fn a_forced_apply_holds_and_shows_what_it_names(first in spec(), second in spec(), third in spec()) {
        let schemas = schemas();
        let forced = |live: Option<&Value>, manager: &str, configuration: &Value| {
            apply(Apply { schemas: &schemas, type_id: WORKLOAD, live, configuration, manager,
                api_version: "apps/v1", subresource: "", force: true, now: at(0) })
        };
        let result = forced(None, "one", &first)
            .and_then(|live| forced(Some(&live), "two", &second))
            .and_then(|live| forced(Some(&live), "one", &third));
        match result {
            Err(Error::Unfit(why)) => prop_assert!(why.contains(": duplicate entries for key ["), "{}", why),
            Err(Error::Invalid(why)) => panic!("{why}"),
            Err(Error::Conflicts { message, .. }) => panic!("{message}"),
            Ok(object) => {
                prop_assert_eq!(object.at(&["spec", "replicas"]).is_some(),
                    third.at(&["spec", "replicas"]).is_some() || second.at(&["spec", "replicas"]).is_some());
                if let Some(replicas) = third.at(&["spec", "replicas"]) {
                    prop_assert_eq!(object.at(&["spec", "replicas"]), Some(replicas));
                }
                let again = forced(Some(&object), "one", &third).unwrap();
                prop_assert_eq!(again, object);
            }
        }
    }
}
