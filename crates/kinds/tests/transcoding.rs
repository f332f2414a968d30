//! The interpreters over the built-in kinds' schemas, on objects written by hand: these always run.
#![expect(clippy::unwrap_used, reason = "tests")]

use klynge_kinds::{schemas, type_id};
use object::json::{Limits, decode as decode_json, encode as encode_json};
use object::schema::{TypeId, apply_defaults, check, check_types, normalise, normalise_with, prune};
use object::{GroupVersionKind, Value, proto};

fn id(api_version: &str, kind: &str) -> TypeId {
    type_id(&GroupVersionKind::parse(api_version, kind)).unwrap()
}

fn tree(text: &str) -> Value {
    decode_json(text.as_bytes(), &Limits::REQUEST).unwrap().value
}

fn text(value: &Value) -> String {
    String::from_utf8(encode_json(value)).unwrap()
}

fn there_and_back(id: TypeId, value: &Value) -> Value {
    let message = proto::encode(schemas(), id, value).unwrap();
    proto::decode(schemas(), id, &message, &Limits::REQUEST).unwrap()
}

#[test]
fn bytes_on_the_wire_are_upstreams() {
    let pod = id("v1", "Pod");
    for (json, expected) in [
        (r#"{"metadata":{"name":"a"}}"#, &b"\x0a\x03\x0a\x01a"[..]),
        // Volume { 1 name, 2 volumeSource { 2 emptyDir {} } }
        (r#"{"spec":{"volumes":[{"name":"v","emptyDir":{}}]}}"#, b"\x12\x09\x0a\x07\x0a\x01v\x12\x02\x12\x00"),
        // Probe { 1 handler { 2 httpGet { 2 port { type 1, int 0, text } } } }
        (
            r#"{"spec":{"containers":[{"livenessProbe":{"httpGet":{"port":"web"}}}]}}"#,
            b"\x12\x13\x12\x11\x52\x0f\x0a\x0d\x12\x0b\x12\x09\x08\x01\x10\x00\x1a\x03web",
        ),
    ] {
        let value = tree(json);
        assert_eq!(proto::encode(schemas(), pod, &value).unwrap(), expected, "{json}");
        assert_eq!(text(&proto::decode(schemas(), pod, expected, &Limits::REQUEST).unwrap()), text(&value));
    }
}

#[test]
fn special_types_survive() {
    for (api_version, kind, json) in [
        ("v1", "Secret", r#"{"data":{"a":"AAH/","b":""},"type":"Opaque"}"#),
        (
            "v1",
            "Pod",
            r#"{"metadata":{"creationTimestamp":"1969-12-31T23:59:58Z","managedFields":[{"fieldsV1":{"f:a":{}}}]},"spec":{"overhead":{"cpu":"1"}}}"#,
        ),
        (
            "coordination.k8s.io/v1",
            "Lease",
            r#"{"spec":{"renewTime":"2026-11-23T00:20:05.123456Z","leaseDurationSeconds":-1}}"#,
        ),
        (
            "apps/v1",
            "Deployment",
            r#"{"spec":{"replicas":0,"strategy":{"rollingUpdate":{"maxSurge":0,"maxUnavailable":"25%"}}}}"#,
        ),
        ("v1", "Service", r#"{"spec":{"ports":[{"port":80,"targetPort":0}],"selector":{"a":"b"}}}"#),
        ("v1", "PodList", r#"{"items":[],"metadata":{"resourceVersion":"1"}}"#),
        (
            "authentication.k8s.io/v1",
            "TokenReview",
            r#"{"status":{"user":{"extra":{"k":["a","b"]},"uid":"","username":"u"}}}"#,
        ),
        (
            "apiextensions.k8s.io/v1",
            "CustomResourceDefinition",
            r#"{"spec":{"versions":[{"schema":{"openAPIV3Schema":{"additionalProperties":false,"default":{"x":[1,null]},"dependencies":{"a":["b"],"c":{"type":"object"}},"enum":["a",1,null],"items":{"type":"string"},"maximum":1.5,"not":{"items":[{"type":"a"},{"type":"b"}]},"properties":{"p":{"$ref":"r","additionalProperties":{"type":"integer"},"x-kubernetes-int-or-string":true}}}}}]}}"#,
        ),
    ] {
        let mut value = tree(json);
        let id = id(api_version, kind);
        assert_eq!(check_types(schemas(), id, &value), [], "{kind}");
        let back = there_and_back(id, &value);
        // Members whose zero value upstream always writes need no mention in the example.
        prune(schemas(), id, &mut value);
        let expected = text(&value).replace(r#","uid":"""#, "");
        assert_eq!(text(&back), expected, "{kind}");
    }
}

#[test]
fn zero_values_are_kept_where_they_mean_something() {
    let pod = id("v1", "Pod");
    // spec { 11 hostNetwork: false, 37 hostUsers: false, 10 nodeName: "" }
    let message = b"\x12\x07\x58\x00\xa8\x02\x00\x52\x00";
    let value = proto::decode(schemas(), pod, message, &Limits::REQUEST).unwrap();
    assert_eq!(text(&value), r#"{"spec":{"hostUsers":false}}"#);
}

#[test]
fn what_is_unknown_or_broken_on_the_wire() {
    let pod = id("v1", "Pod");
    let decode = |bytes: &[u8]| proto::decode(schemas(), pod, bytes, &Limits::REQUEST);
    // Fields 99 of all wire types are skipped.
    assert_eq!(
        text(&decode(b"\x98\x06\x01\x99\x06........\x9a\x06\x01x\x9d\x06....\x0a\x03\x0a\x01a").unwrap()),
        r#"{"metadata":{"name":"a"}}"#
    );
    for broken in [&b"\x0a\x03\x0a\x05a"[..], b"\x0a\x03\x0a\x01\xff", b"\x08\x01", b"\x0b", b"\x0a"] {
        assert!(decode(broken).is_err(), "{broken:?}");
    }
    let nodes = Limits { nodes: 100, ..Limits::REQUEST };
    let bomb = [&b"\x12\xd0\x0f"[..], &b"\x0a\x00".repeat(1000)].concat();
    assert!(proto::decode(schemas(), pod, &bomb, &nodes).unwrap_err().too_large);
    // JSONSchemaProps.not (23) in itself, deeper than any limit.
    let definition =
        schemas().find("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps").unwrap();
    let not = schemas().get(definition).field("not").unwrap().number;
    let mut nested = Vec::new();
    for _ in 0..5000 {
        let mut outer = Vec::new();
        proto::push_bytes(not, &nested, &mut outer);
        nested = outer;
    }
    assert!(proto::decode(schemas(), definition, &nested, &Limits::REQUEST).unwrap_err().too_large);
    let job = id("batch/v1", "Job");
    let error = proto::encode(schemas(), job, &tree(r#"{"spec":{"scheduling":{}}}"#)).unwrap_err();
    assert_eq!(error.path, "spec.scheduling");
}

#[test]
fn entries_may_come_in_any_order_and_twice() {
    let labels = |keys: &[&str]| {
        let mut metadata = Vec::new();
        for (at, key) in keys.iter().enumerate() {
            let mut entry = Vec::new();
            proto::push_bytes(1, key.as_bytes(), &mut entry);
            proto::push_bytes(2, at.to_string().as_bytes(), &mut entry);
            proto::push_bytes(11, &entry, &mut metadata);
        }
        let mut pod = Vec::new();
        proto::push_bytes(1, &metadata, &mut pod);
        text(&proto::decode(schemas(), id("v1", "Pod"), &pod, &Limits::REQUEST).unwrap())
    };
    assert_eq!(labels(&["b", "a", "c", "a"]), r#"{"metadata":{"labels":{"a":"3","b":"0","c":"2"}}}"#);
    assert_eq!(labels(&["a", "a"]), r#"{"metadata":{"labels":{"a":"1"}}}"#);
}

#[test]
fn unknown_members_are_pruned_and_reported() {
    let mut value = tree(
        r#"{"kind":"Pod","x":1,"metadata":{"labels":{"any":"thing"}},"spec":{"containers":[{"name":"a"},{"imagee":"i","env":[{"valu":1}]}],
            "volumes":[{"configMap":{"foo":1}}]}}"#,
    );
    let paths = prune(schemas(), id("v1", "Pod"), &mut value);
    assert_eq!(
        paths,
        ["spec.containers[1].env[0].valu", "spec.containers[1].imagee", "spec.volumes[0].configMap.foo", "x"]
    );
    assert_eq!(
        text(&value),
        r#"{"kind":"Pod","metadata":{"labels":{"any":"thing"}},"spec":{"containers":[{"name":"a"},{"env":[{}]}],"volumes":[{"configMap":{}}]}}"#
    );
}

#[test]
fn defaults_fill_what_upstream_takes_for_unset() {
    let mut value = tree(
        r#"{"spec":{"replicas":0,"template":{"spec":{"restartPolicy":"","terminationGracePeriodSeconds":0,
            "containers":[{"ports":[{"containerPort":1}],"livenessProbe":{"timeoutSeconds":0}}]}}}}"#,
    );
    apply_defaults(schemas(), id("apps/v1", "Deployment"), &mut value);
    assert_eq!(value.i64_at(&["spec", "replicas"]), Some(0));
    assert_eq!(value.i64_at(&["spec", "revisionHistoryLimit"]), Some(10));
    assert_eq!(value.str_at(&["spec", "strategy", "type"]), Some("RollingUpdate"));
    let pod = value.at(&["spec", "template", "spec"]).unwrap();
    assert_eq!(pod.str_at(&["restartPolicy"]), Some("Always"));
    assert_eq!(pod.i64_at(&["terminationGracePeriodSeconds"]), Some(0));
    let container = &pod.get("containers").unwrap().as_array().unwrap()[0];
    assert_eq!(container.i64_at(&["livenessProbe", "timeoutSeconds"]), Some(1));
    assert_eq!(text(container.get("ports").unwrap()), r#"[{"containerPort":1,"protocol":"TCP"}]"#);
}

#[test]
fn wrong_types_are_told_as_the_decoder_would() {
    let found = |json: &str| {
        let causes = check_types(schemas(), id("apps/v1", "Deployment"), &tree(json));
        causes.into_iter().map(|cause| format!("{}: {}", cause.field, cause.message)).collect::<Vec<_>>()
    };
    assert_eq!(
        found(r#"{"spec":{"replicas":"x"}}"#),
        [
            "spec.replicas: json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32"
        ]
    );
    assert_eq!(
        found(r#"{"spec":{"template":{"spec":{"containers":[{"env":[{"value":1}]}]}}}}"#),
        [
            "spec.template.spec.containers[0].env[0].value: json: cannot unmarshal number into Go struct field EnvVar.spec.template.spec.containers.env.value of type string"
        ]
    );
    assert_eq!(
        found(r#"{"spec":{"replicas":1.5,"template":{"spec":{"containers":{}}}}}"#),
        [
            "spec.replicas: json: cannot unmarshal number 1.5 into Go struct field DeploymentSpec.spec.replicas of type int32",
            "spec.template.spec.containers: json: cannot unmarshal object into Go struct field PodSpec.spec.template.spec.containers of type []v1.Container"
        ]
    );
    assert_eq!(found(r#"{"metadata":{"creationTimestamp":null,"labels":null}}"#), [""; 0]);
    let missing = check(schemas(), id("apps/v1", "Deployment"), &tree(r#"{"spec":{"template":{}}}"#));
    assert_eq!(missing.iter().map(|cause| cause.field.as_str()).collect::<Vec<_>>(), ["spec.selector"]);
}

#[test]
fn normal_form() {
    let mut value = tree(
        r#"{"metadata":{"creationTimestamp":null,"labels":{"a":null},"annotations":{}},"spec":{"nodeName":"","hostNetwork":false,
            "hostUsers":false,"volumes":[{"name":"v","emptyDir":{}}],"tolerations":[],"overhead":{"cpu":1,"memory":"1024Ki"}},
            "status":{"startTime":"2026-11-23T02:20:00+02:00"}}"#,
    );
    let canonical = |text: &str| (text == "1024Ki").then(|| "1Mi".to_owned());
    normalise_with(schemas(), id("v1", "Pod"), &mut value, &canonical);
    assert_eq!(
        text(&value),
        r#"{"metadata":{"labels":{"a":""}},"spec":{"hostUsers":false,"overhead":{"cpu":"1","memory":"1Mi"},"volumes":[{"emptyDir":{},"name":"v"}]},"status":{"startTime":"2026-11-23T00:20:00Z"}}"#
    );
    let before = value.clone();
    normalise(schemas(), id("v1", "Pod"), &mut value);
    assert_eq!(value, before);
}
