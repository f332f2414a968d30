//! Trees and the typed structs of k8s-openapi are two views of the same object.
#![expect(clippy::unwrap_used, reason = "tests")]

use k8s_openapi::api::core::v1::{Pod, Secret};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use klynge_object::json::{Limits, decode, encode};
use klynge_object::serde::{from_typed, to_typed};

const POD: &str = r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a","creationTimestamp":"2026-11-23T00:20:00Z",
"managedFields":[{"fieldsV1":{"f:spec":{}},"manager":"m"}]},"spec":{"nodeName":null,"containers":[{"name":"c","image":"i",
"ports":[{"containerPort":80}],"livenessProbe":{"httpGet":{"port":"http","path":"/"},"periodSeconds":3},
"resources":{"limits":{"cpu":"100m","memory":"1Gi"}}}]},"status":{"phase":"Running"}}"#;

#[test]
fn a_pod_goes_there_and_back_as_through_text() {
    let tree = decode(POD.as_bytes(), &Limits::REQUEST).unwrap().value;
    let typed: Pod = to_typed(&tree).unwrap();
    let through_text: Pod = serde_json::from_str(POD).unwrap();
    assert_eq!(typed, through_text);
    let expected = decode(&serde_json::to_vec(&typed).unwrap(), &Limits::REQUEST).unwrap().value;
    assert_eq!(from_typed(&typed), expected);
    assert_eq!(serde_json::from_slice::<Pod>(&encode(&from_typed(&typed))).unwrap(), typed);
}

#[test]
fn bytes_and_free_form_parts_fit() {
    let text = br#"{"data":{"k":"AAH/"},"type":"Opaque"}"#;
    let tree = decode(text, &Limits::REQUEST).unwrap().value;
    let secret: Secret = to_typed(&tree).unwrap();
    assert_eq!(secret.data.as_ref().unwrap()["k"].0, [0, 1, 255]);
    assert_eq!(from_typed(&secret).str_at(&["data", "k"]), Some("AAH/"));

    let text = br#"{"metadata":{},"spec":{"group":"g","names":{"kind":"K","plural":"ks"},"scope":"Namespaced","versions":[{"name":"v1",
    "served":true,"storage":true,"schema":{"openAPIV3Schema":{"type":"object","properties":{"a":{"default":{"x":[1,2.5,null]},
    "items":{"type":"string"},"additionalProperties":true}}}}}]}}"#;
    let tree = decode(text, &Limits::REQUEST).unwrap().value;
    let definition: CustomResourceDefinition = to_typed(&tree).unwrap();
    let back = from_typed(&definition);
    let path = ["spec", "versions"];
    assert_eq!(back.at(&path), tree.at(&path));
}

#[test]
fn what_does_not_fit_is_an_error() {
    let tree = decode(br#"{"spec":{"containers":"none"}}"#, &Limits::REQUEST).unwrap().value;
    assert!(to_typed::<Pod>(&tree).is_err());
    let tree = decode(br#"{"spec":{"containers":[],"hostUsers":"yes"}}"#, &Limits::REQUEST).unwrap().value;
    assert!(to_typed::<Pod>(&tree).is_err());
}
