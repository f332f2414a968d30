//! OpenAPI documents: made by the kinds room when a client asks, encoded once, kept while they are asked for.

use super::body::Answer;
use super::dispatch::Context;
use super::paths::VERSION;
use super::respond;
use bytes::Bytes;
use http::header::{ETAG, HeaderValue, IF_NONE_MATCH, VARY};
use http::{Response, StatusCode};
use kinds::Table;
use kinds::openapi::{Served, ServedSubresource};
use object::{Status, json};
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A document that nobody has asked for in this time is forgotten: an idle server does not hold megabytes of text.
const KEPT: Duration = Duration::from_secs(600);

/// An encoded document and its hash.
#[derive(Clone)]
struct Document {
    bytes: Bytes,
    hash: String,
    used: Instant,
}

impl Document {
    fn of(bytes: Vec<u8>) -> Self {
        let hash = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02X}")).collect();
        Document { bytes: bytes.into(), hash, used: Instant::now() }
    }
}

/// The documents of one server: one per group version, so their number is bounded by the table.
#[derive(Default)]
pub(crate) struct Documents(Mutex<HashMap<String, Document>>);

impl Documents {
    fn held(&self, name: &str) -> Option<Document> {
        let mut documents = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let document = documents.get_mut(name)?;
        document.used = Instant::now();
        Some(document.clone())
    }

    fn keep(&self, name: &str, document: &Document) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), document.clone());
    }

    /// Forgets what nobody asks for.
    pub(crate) fn forget_unused(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|_, document| document.used.elapsed() < KEPT);
    }
}

/// What is served, as the documents need to know it.
fn served(table: &Table) -> Vec<Served> {
    let of_row = |row: &std::sync::Arc<kinds::Resource>| -> Vec<Served> {
        let subresources = row.subresources.iter().map(|part| ServedSubresource {
            name: part.name.clone(),
            kind: part.kind.clone(),
            verbs: part.verbs.clone(),
        });
        let subresources: Vec<ServedSubresource> = subresources.collect();
        let of_version = |version: &kinds::Version| Served {
            group: row.group.clone(),
            version: version.name.clone(),
            kind: row.kind.clone(),
            list_kind: row.list_kind.clone(),
            definition: version.definition.clone(),
            plural: row.plural.clone(),
            namespaced: row.namespaced,
            verbs: row.verbs.clone(),
            subresources: subresources.clone(),
        };
        row.versions.iter().map(of_version).collect()
    };
    table.resources().iter().flat_map(of_row).collect()
}

/// The document `name`, made by `make` on a thread that may take its time.
async fn document(
    context: &Context,
    name: &str,
    make: impl FnOnce(&[Served]) -> Option<Vec<u8>> + Send + 'static,
) -> Result<Document, Status> {
    let core = &context.core;
    if let Some(held) = core.documents.held(name) {
        return Ok(held);
    }
    let table = core.table();
    let made = tokio::task::spawn_blocking(move || make(&served(&table)).map(Document::of)).await;
    let fresh = made.map_err(Status::internal)?.ok_or_else(Status::no_such_path)?;
    core.documents.keep(name, &fresh);
    Ok(fresh)
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
pub(crate) async fn v2(context: &Context) -> Result<Response<Answer>, Status> {
    if context.accept().contains("com.github.proto-openapi.spec.v2") {
        let made = document(context, "v2-protobuf", |served| {
            Some(kinds::openapi::v2_protobuf(&kinds::openapi::v2(served, VERSION)))
        });
        let content_type = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
        return Ok(send(context, &made.await?, content_type));
    }
    let made = document(context, "v2", |served| Some(json::encode(&kinds::openapi::v2(served, VERSION))));
    Ok(send(context, &made.await?, "application/json"))
}

/// /openapi/v3 and the documents below it.
pub(crate) async fn v3(context: &Context, path: &str) -> Result<Response<Answer>, Status> {
    let rest = path.trim_start_matches("/openapi/v3").trim_matches('/');
    if rest.is_empty() {
        let made = document(context, "v3", |served| Some(json::encode(&kinds::openapi::v3_index(served, VERSION))));
        return Ok(send(context, &made.await?, "application/json"));
    }
    let (group, version) = match rest.split('/').collect::<Vec<_>>().as_slice() {
        ["api", version] => (String::new(), (*version).to_owned()),
        ["apis", group, version] => ((*group).to_owned(), (*version).to_owned()),
        _ => return Err(Status::no_such_path()),
    };
    let accept = context.accept();
    if accept.starts_with("application/com.github.proto-openapi.spec.v3") && !accept.contains("json") {
        return Err(Status::new(406, "NotAcceptable", "only the following media types are accepted: application/json"));
    }
    let name = format!("v3/{group}/{version}");
    let made = document(context, &name, move |served| {
        kinds::openapi::v3(served, &group, &version, VERSION).map(|value| json::encode(&value))
    });
    Ok(send(context, &made.await?, "application/json"))
}
