//! Tables of patches and what they make of an object.

#![expect(clippy::unwrap_used, reason = "tests")]

use super::{OPERATIONS_MAX, PatchError, json, merge, strategic};
use crate::Value;
use crate::testing::{WORKLOAD, schemas, value};
use proptest::prelude::*;

#[test]
fn json_patches() {
    for (target, patch, expected) in [
        (r#"{"a":1}"#, r#"[{"op":"add","path":"/b","value":[1]}]"#, r#"{"a":1,"b":[1]}"#),
        (r#"{"a":[1,3]}"#, r#"[{"op":"add","path":"/a/1","value":2}]"#, r#"{"a":[1,2,3]}"#),
        (r#"{"a":[1]}"#, r#"[{"op":"add","path":"/a/-","value":2}]"#, r#"{"a":[1,2]}"#),
        (r#"{"a":[1]}"#, r#"[{"op":"add","path":"/a/1","value":2}]"#, r#"{"a":[1,2]}"#),
        (r#"{"a":1,"b":2}"#, r#"[{"op":"remove","path":"/b"}]"#, r#"{"a":1}"#),
        (r#"{"a":[1,2]}"#, r#"[{"op":"remove","path":"/a/0"}]"#, r#"{"a":[2]}"#),
        (r#"{"a":[1,2]}"#, r#"[{"op":"replace","path":"/a/-1","value":3}]"#, r#"{"a":[1,3]}"#),
        (r#"{"a/b":{"c~d":1}}"#, r#"[{"op":"replace","path":"/a~1b/c~0d","value":2}]"#, r#"{"a/b":{"c~d":2}}"#),
        (r#"{"a":{"x":1}}"#, r#"[{"op":"move","from":"/a/x","path":"/y"}]"#, r#"{"a":{},"y":1}"#),
        (r#"{"a":{"x":1}}"#, r#"[{"op":"copy","from":"/a","path":"/b"}]"#, r#"{"a":{"x":1},"b":{"x":1}}"#),
        (r#"{"a":null}"#, r#"[{"op":"test","path":"/a","value":null},{"op":"test","path":"/b"}]"#, r#"{"a":null}"#),
        (r#"{"a":1}"#, r#"[{"op":"add","path":"","value":{"z":1}}]"#, r#"{"z":1}"#),
    ] {
        let mut object = value(target);
        json(&mut object, &value(patch)).unwrap();
        assert_eq!(object, value(expected), "{patch}");
    }
}

#[test]
fn json_patches_that_do_not_fit() {
    for (patch, expected) in [
        (r#"[{"op":"test","path":"/a","value":2}]"#, "testing value /a failed: test failed"),
        (
            r#"[{"op":"replace","path":"/x","value":2}]"#,
            "replace operation does not apply: doc is missing key: /x: missing value",
        ),
        (
            r#"[{"op":"remove","path":"/x/y"}]"#,
            "remove operation does not apply: doc is missing path: \"/x/y\": missing value",
        ),
        (
            r#"[{"op":"add","path":"/x/y","value":1}]"#,
            "add operation does not apply: doc is missing path: \"/x/y\": missing value",
        ),
        (r#"[{"op":"odd","path":"/x"}]"#, "Unexpected kind: odd"),
    ] {
        let mut object = value(r#"{"a":1}"#);
        let all = format!(r#"[{{"op":"add","path":"/b","value":1}},{}"#, &patch[1..]);
        assert_eq!(json(&mut object, &value(&all)), Err(PatchError::Unprocessable(expected.to_owned())));
        assert_eq!(object, value(r#"{"a":1}"#), "a refused patch changes nothing");
    }
    for path in ["/a/01", "/a/+1", "/a/9", "/a/-9", "/a/x"] {
        let mut object = value(r#"{"a":[1,2]}"#);
        let patch = value(&format!(r#"[{{"op":"add","path":"{path}","value":1}}]"#));
        assert!(matches!(json(&mut object, &patch), Err(PatchError::Unprocessable(_))), "{path}");
    }
    let mut object = value(r#"{"a":1}"#);
    let operation = value(r#"{"op":"test","path":"/a","value":1}"#);
    let many = Value::Array(vec![operation; OPERATIONS_MAX + 1]);
    assert!(matches!(json(&mut object, &many), Err(PatchError::TooLarge(_))));
    let mut object = value(r#"{"a":[]}"#);
    object.set(&["a"], Value::Array(vec!["x".repeat(1000).into(); 100]));
    let double = value(r#"{"op":"copy","from":"/a","path":"/a/-"}"#);
    assert!(matches!(json(&mut object, &Value::Array(vec![double; 64])), Err(PatchError::TooLarge(_))));
}

#[test]
fn merge_patches() {
    for (target, patch, expected) in [
        (r#"{"a":{"b":1,"c":2}}"#, r#"{"a":{"b":null,"d":3}}"#, r#"{"a":{"c":2,"d":3}}"#),
        (r#"{"a":[1,2]}"#, r#"{"a":[3]}"#, r#"{"a":[3]}"#),
        (r#"{"a":1}"#, r#"{"a":{"b":{"c":null}}}"#, r#"{"a":{"b":{}}}"#),
        (r#"{"a":1}"#, r#""x""#, r#""x""#),
    ] {
        let mut object = value(target);
        merge(&mut object, &value(patch));
        assert_eq!(object, value(expected), "{patch}");
    }
}

/// Patches of a spec, and the spec afterwards.
#[test]
fn strategic_patches() {
    for (target, patch, expected) in [
        // members merge, null removes
        (r#"{"replicas":1,"paused":true}"#, r#"{"replicas":2,"paused":null}"#, r#"{"replicas":2}"#),
        // lists of maps merge by their key
        (
            r#"{"containers":[{"name":"a","image":"1"},{"name":"b","image":"1"}]}"#,
            r#"{"containers":[{"name":"b","image":"2"},{"name":"c","image":"3"}]}"#,
            r#"{"containers":[{"name":"a","image":"1"},{"name":"b","image":"2"},{"name":"c","image":"3"}]}"#,
        ),
        (
            r#"{"containers":[{"name":"a","ports":[{"containerPort":80,"name":"x"}]}]}"#,
            r#"{"containers":[{"name":"a","ports":[{"containerPort":80,"name":"y"},{"containerPort":81}]}]}"#,
            r#"{"containers":[{"name":"a","ports":[{"containerPort":80,"name":"y"},{"containerPort":81}]}]}"#,
        ),
        (
            r#"{"containers":[{"name":"a"},{"name":"b"}]}"#,
            r#"{"containers":[{"name":"a","$patch":"delete"}]}"#,
            r#"{"containers":[{"name":"b"}]}"#,
        ),
        (
            r#"{"containers":[{"name":"a"},{"name":"b"}]}"#,
            r#"{"containers":[{"$patch":"replace"},{"name":"c"}]}"#,
            r#"{"containers":[{"name":"c"}]}"#,
        ),
        (
            r#"{"containers":[{"name":"a","image":"1","command":["x"]}]}"#,
            r#"{"containers":[{"name":"a","$patch":"merge","image":"2","command":["y"]}]}"#,
            r#"{"containers":[{"name":"a","image":"2","command":["y"]}]}"#,
        ),
        // what was not there is made without directives
        (
            r#"{}"#,
            r#"{"containers":[{"name":"a","$patch":"delete"},{"name":"b"}]}"#,
            r#"{"containers":[{"name":"b"}]}"#,
        ),
        // atomic lists are replaced
        (r#"{"arguments":["a","b"]}"#, r#"{"arguments":["c"]}"#, r#"{"arguments":["c"]}"#),
        // order
        (
            r#"{"containers":[{"name":"a"},{"name":"b"},{"name":"c"}]}"#,
            r#"{"$setElementOrder/containers":[{"name":"c"},{"name":"a"}],"containers":[{"name":"a","image":"1"}]}"#,
            r#"{"containers":[{"name":"b"},{"name":"c"},{"name":"a","image":"1"}]}"#,
        ),
        (
            r#"{"containers":[{"name":"a"},{"name":"b"}]}"#,
            r#"{"$setElementOrder/containers":[{"name":"b"},{"name":"a"}]}"#,
            r#"{"containers":[{"name":"b"},{"name":"a"}]}"#,
        ),
        // maps replaced or emptied as a whole
        (r#"{"selector":{"a":"1"}}"#, r#"{"selector":{"$patch":"replace","b":"2"}}"#, r#"{"selector":{"b":"2"}}"#),
        (r#"{"selector":{"a":"1"}}"#, r#"{"selector":{"$patch":"delete"}}"#, r#"{"selector":{}}"#),
        // keys to retain
        (
            r#"{"strategy":{"type":"RollingUpdate","rollingUpdate":{"maxSurge":1}}}"#,
            r#"{"strategy":{"$retainKeys":["type"],"type":"Recreate"}}"#,
            r#"{"strategy":{"type":"Recreate"}}"#,
        ),
    ] {
        let mut object = Value::default();
        object.set(&["spec"], value(target));
        let mut whole = Value::default();
        whole.set(&["spec"], value(patch));
        strategic(&schemas(), WORKLOAD, &mut object, &whole).unwrap();
        assert_eq!(object.get("spec"), Some(&value(expected)), "{patch}");
    }
}

#[test]
fn sets_of_scalars_merge_and_lose_members() {
    let mut object = value(r#"{"metadata":{"finalizers":["a","b"]}}"#);
    let patch = r#"{"metadata":{"$deleteFromPrimitiveList/finalizers":["a"],"$setElementOrder/finalizers":["c","b"],"finalizers":["c","b"]}}"#;
    strategic(&schemas(), WORKLOAD, &mut object, &value(patch)).unwrap();
    assert_eq!(object, value(r#"{"metadata":{"finalizers":["c","b"]}}"#));
}

#[test]
fn strategic_patches_that_make_no_sense() {
    for patch in [
        r#"{"spec":{"$patch":"odd"}}"#,
        r#"{"spec":{"$patch":1}}"#,
        r#"{"spec":{"containers":[{"image":"x"}]}}"#,
        r#"{"spec":{"containers":["x"]}}"#,
        r#"{"spec":{"containers":[{"name":"x","$patch":"odd"}]}}"#,
        r#"{"spec":{"strategy":{"$retainKeys":[],"type":"x"}}}"#,
        r#"{"spec":{"$setElementOrder/containers":1}}"#,
        r#"[]"#,
    ] {
        let before = value(r#"{"spec":{"containers":[{"name":"x"}]}}"#);
        let mut object = before.clone();
        let result = strategic(&schemas(), WORKLOAD, &mut object, &value(patch));
        assert!(matches!(result, Err(PatchError::Malformed(_))), "{patch}");
        assert_eq!(object, before);
    }
}

/// Trees of the names that the schemas and the patches know.
fn tree() -> impl Strategy<Value = Value> {
    let names = [
        "spec",
        "metadata",
        "containers",
        "name",
        "ports",
        "containerPort",
        "finalizers",
        "strategy",
        "$patch",
        "replace",
        "delete",
        "merge",
        "$retainKeys",
        "$setElementOrder/containers",
        "$deleteFromPrimitiveList/finalizers",
        "op",
        "path",
        "value",
        "from",
        "add",
        "/spec",
        "/spec/containers/0",
        "type",
    ];
    let name = prop::sample::select(names.to_vec());
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::Bool),
        (0..3_i64).prop_map(Value::Int),
        name.clone().prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 48, 5, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::Array),
            prop::collection::vec((name.clone(), inner), 0..5)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn no_patch_panics_and_a_refused_one_changes_nothing(target in tree(), patch in tree()) {
        let mut object = target.clone();
        if strategic(&schemas(), WORKLOAD, &mut object, &patch).is_err() {
            prop_assert_eq!(&object, &target);
        }
        let mut object = target.clone();
        if json(&mut object, &patch).is_err() {
            prop_assert_eq!(&object, &target);
        }
        let mut once = target;
        merge(&mut once, &patch);
        let mut twice = once.clone();
        merge(&mut twice, &patch);
        prop_assert_eq!(once, twice);
    }
}
