//! OpenAPI documents, made by the kinds room, encoded once and kept.

use super::body::Answer;
use super::dispatch::Context;
use super::respond;
use bytes::Bytes;
use http::header::{ETAG, HeaderValue, IF_NONE_MATCH, VARY};
use http::{Response, StatusCode};
use object::{Status, Value, json};
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::sync::{LazyLock, Mutex, PoisonError};

/// An encoded document and its hash.
#[derive(Clone)]
struct Document {
    bytes: Bytes,
    hash: String,
}

impl Document {
    fn of(bytes: Vec<u8>) -> Self {
        let hash = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02X}")).collect();
        Document { bytes: bytes.into(), hash }
    }
}

/// The built-in documents: one per group version, so their number is fixed.
static DOCUMENTS: LazyLock<Mutex<HashMap<String, Document>>> = LazyLock::new(Mutex::default);

fn document(name: &str, make: impl FnOnce() -> Option<Vec<u8>>) -> Option<Document> {
    let mut documents = DOCUMENTS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(held) = documents.get(name) {
        return Some(held.clone());
    }
    let fresh = Document::of(make()?);
    documents.insert(name.to_owned(), fresh.clone());
    Some(fresh)
}

fn send(context: &Context, document: &Document, content_type: &'static str) -> Response<Answer> {
    let tag = format!("\"{}\"", document.hash);
    let unchanged = context.header(IF_NONE_MATCH) == tag;
    let body = if unchanged { Answer::empty() } else { Answer::bytes(document.bytes.clone()) };
    let mut response = respond::answer(200, content_type, body);
    if unchanged {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
    }
    if let Ok(tag) = HeaderValue::from_str(&tag) {
        response.headers_mut().insert(ETAG, tag);
    }
    response.headers_mut().insert(VARY, HeaderValue::from_static("Accept"));
    response
}

/// /openapi/v2 in JSON, or in gnostic's protobuf, which kubectl asks for.
pub(crate) fn v2(context: &Context) -> Result<Response<Answer>, Status> {
    let accept = context.accept();
    let protobuf = accept.contains("com.github.proto-openapi.spec.v2");
    let (name, content_type): (_, &'static str) = if protobuf {
        ("v2-protobuf", "application/com.github.proto-openapi.spec.v2.v1.0+protobuf")
    } else {
        ("v2", "application/json")
    };
    let made = document(name, || Some(if protobuf { crate::pending::openapi::v2_protobuf() } else { json::encode(&crate::pending::openapi::v2()) }));
    Ok(send(context, &made.ok_or_else(Status::no_such_path)?, content_type))
}

/// /openapi/v3 and the documents below it.
pub(crate) fn v3(context: &Context, path: &str) -> Result<Response<Answer>, Status> {
    let rest = path.trim_start_matches("/openapi/v3").trim_matches('/');
    if rest.is_empty() {
        return Ok(send(context, &index(context), "application/json"));
    }
    let (group, version) = match rest.split('/').collect::<Vec<_>>().as_slice() {
        ["api", version] => (String::new(), (*version).to_owned()),
        ["apis", group, version] => ((*group).to_owned(), (*version).to_owned()),
        _ => return Err(Status::no_such_path()),
    };
    let document = of_group(&group, &version).ok_or_else(Status::no_such_path)?;
    let wants_protobuf =
        context.accept().starts_with("application/com.github.proto-openapi.spec.v3") && !context.accept().contains("json");
    if wants_protobuf {
        return Err(Status::new(406, "NotAcceptable", "only the following media types are accepted: application/json"));
    }
    Ok(send(context, &document, "application/json"))
}

fn of_group(group: &str, version: &str) -> Option<Document> {
    document(&format!("v3/{group}/{version}"), || crate::pending::openapi::v3(group, version).map(|value| json::encode(&value)))
}

/// The index: where each group version's document is, with its hash in the address so that clients may keep it.
fn index(context: &Context) -> Document {
    let mut paths = Value::default();
    for group in context.core.table().groups() {
        for version in &group.versions {
            let Some(document) = of_group(&group.name, version) else { continue };
            let name = match group.name.as_str() {
                "" => format!("api/{version}"),
                group => format!("apis/{group}/{version}"),
            };
            let address = format!("/openapi/v3/{name}?hash={}", document.hash);
            paths.set(&["paths", &name, "serverRelativeURL"], address.into());
        }
    }
    Document::of(json::encode(&paths))
}
