//! Answers: stored bytes sent as they are where they can be, everything else encoded once for the shape asked for.

use super::accept::{Accepted, Encoding, Shape};
use super::decode::definition;
use crate::core::{Scope, decoded};
use crate::read::Listed;
use crate::serve::Answer;
use crate::write::to_version;
use bytes::Bytes;
use jiff::Timestamp;
use object::table::{IncludeObject, render};
use object::{Map, Status, Value, json, proto, yaml};
use std::sync::Arc;
use store::Entry;

/// Pieces of a list are gathered into frames of about this size.
const FRAME_BYTES: usize = 64 * 1024;

/// An object on its way out.
pub(crate) enum Payload<'a> {
    /// A stored object in the hub version.
    Entry(&'a Entry),
    /// A hub object that is not stored.
    Hub(&'a Value),
    /// Sent as it is.
    Plain(&'a Value),
}

/// Encodes for one request.
pub(crate) struct Codec<'a> {
    pub(crate) scope: &'a Scope<'a>,
    pub(crate) accepted: Accepted,
    pub(crate) include: IncludeObject,
    pub(crate) now: Timestamp,
}

/// Writes a varint.
pub(crate) fn varint(mut number: u64, out: &mut Vec<u8>) {
    while number >= 0x80 {
        out.push((number as u8) | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// Writes a length-delimited field.
pub(crate) fn field(number: u8, bytes: &[u8], out: &mut Vec<u8>) {
    out.push(number << 3 | 2);
    varint(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

impl Codec<'_> {
    /// The Content-Type of answers.
    pub(crate) fn media_type(&self) -> &'static str {
        self.accepted.encoding.media_type()
    }

    /// One object, encoded in the shape asked for.
    pub(crate) fn object(&self, payload: &Payload<'_>) -> Result<Bytes, Status> {
        match self.accepted.shape {
            Shape::Object | Shape::Discovery(_) => {}
            Shape::Table(version) => {
                let value = self.value(payload);
                if value.str_at(&["kind"]) == Some("Status") {
                    return self.tree(&value);
                }
                let metadata = list_metadata(object::meta::resource_version(&value), "", None);
                let items = [self.hub(payload)];
                return self.tree(&self.table(version, metadata, items.iter().map(AsRef::as_ref), true));
            }
            Shape::Metadata(version) => {
                let value = self.value(payload);
                if value.str_at(&["kind"]) == Some("Status") {
                    return self.tree(&value);
                }
                return self.metadata(&value, version);
            }
        }
        match (self.accepted.encoding, payload) {
            (Encoding::Json, Payload::Entry(entry)) if self.scope.is_hub() && !self.accepted.pretty => {
                Ok(entry.value.clone())
            }
            (Encoding::Protobuf, Payload::Entry(entry)) => {
                let raw = self.raw(entry)?;
                Ok(proto::envelope::wrap(&self.scope.api_version(), &self.scope.row.kind, &raw).into())
            }
            _ => self.tree(&self.value(payload)),
        }
    }

    /// The object in the caller's version.
    pub(crate) fn value(&self, payload: &Payload<'_>) -> Arc<Value> {
        let hub = match payload {
            Payload::Plain(value) => return Arc::new((*value).clone()),
            Payload::Entry(entry) => decoded(entry),
            Payload::Hub(value) => Arc::new((*value).clone()),
        };
        if self.scope.is_hub() {
            return hub;
        }
        let mut value = hub.as_ref().clone();
        to_version(self.scope, &mut value);
        Arc::new(value)
    }

    fn hub(&self, payload: &Payload<'_>) -> Arc<Value> {
        match payload {
            Payload::Entry(entry) => decoded(entry),
            Payload::Hub(value) | Payload::Plain(value) => Arc::new((*value).clone()),
        }
    }

    /// Protobuf without its envelope; of the stored version it is kept with the entry.
    fn raw(&self, entry: &Entry) -> Result<Bytes, Status> {
        let encode = |value: &Value| {
            let version = self.scope.version();
            proto::encode(version.schemas(), version.type_id(), value).map(Bytes::from).map_err(Status::internal)
        };
        if !self.scope.is_hub() {
            return encode(&self.value(&Payload::Entry(entry)));
        }
        if let Some(held) = entry.encoding("protobuf") {
            return Ok(held);
        }
        let fresh = encode(&decoded(entry))?;
        Ok(entry.encoding_with("protobuf", || fresh))
    }

    /// Any tree in the encoding asked for. What has no protobuf definition is an internal error: negotiation offers
    /// protobuf only for kinds that have one.
    pub(crate) fn tree(&self, value: &Value) -> Result<Bytes, Status> {
        match self.accepted.encoding {
            Encoding::Json if self.accepted.pretty => Ok(pretty(value).into()),
            Encoding::Json => {
                let mut out = json::encode(value);
                out.push(b'\n');
                Ok(out.into())
            }
            Encoding::Yaml => Ok(yaml::encode(value).into()),
            Encoding::Protobuf => {
                let text = |member: &str| value.str_at(&[member]).unwrap_or_default().to_owned();
                let (api_version, kind) = (text("apiVersion"), text("kind"));
                let (schemas, type_id) = definition(&api_version, &kind)
                    .ok_or_else(|| Status::internal(format!("{kind} has no protobuf form")))?;
                let raw = proto::encode(schemas, type_id, value).map_err(Status::internal)?;
                Ok(proto::envelope::wrap(&api_version, &kind, &raw).into())
            }
        }
    }

    fn table<'v>(
        &self,
        version: &str,
        metadata: Map,
        items: impl IntoIterator<Item = &'v Value>,
        columns: bool,
    ) -> Value {
        let other;
        let all = if self.scope.subresource == "scale" {
            other = kinds::scale_columns();
            &other
        } else if self.scope.row.columns.is_empty() {
            other = object::table::default_columns();
            &other
        } else {
            &self.scope.row.columns
        };
        let mut table = render(all, metadata, items, self.include, self.now);
        if version != "v1" {
            table.set(&["apiVersion"], format!("meta.k8s.io/{version}").into());
        }
        if !columns {
            table.set(&["columnDefinitions"], Value::Null);
        }
        table
    }

    /// A table of one row for a watch; only the first carries the columns.
    pub(crate) fn table_of(&self, payload: &Payload<'_>, first: bool) -> Result<Bytes, Status> {
        let Shape::Table(version) = self.accepted.shape else { return self.object(payload) };
        let item = self.hub(payload);
        let metadata = list_metadata(object::meta::resource_version(&item), "", None);
        self.tree(&self.table(version, metadata, [item.as_ref()], first))
    }

    /// PartialObjectMetadata of an object.
    fn metadata(&self, value: &Value, version: &str) -> Result<Bytes, Status> {
        let partial = partial(value, version);
        if self.accepted.encoding != Encoding::Protobuf {
            return self.tree(&partial);
        }
        let mut raw = Vec::new();
        field(1, &encode_metadata(&partial)?, &mut raw);
        Ok(proto::envelope::wrap(&format!("meta.k8s.io/{version}"), "PartialObjectMetadata", &raw).into())
    }

    /// A page of a collection.
    pub(crate) fn list(&self, listed: &Listed) -> Result<Answer, Status> {
        let revision = listed.revision.to_string();
        let metadata = list_metadata(&revision, &listed.continuation, listed.remaining);
        let row = &self.scope.row;
        match (self.accepted.shape, self.accepted.encoding) {
            (Shape::Table(version), _) => {
                let items: Vec<Arc<Value>> = listed.entries.iter().map(|entry| decoded(entry)).collect();
                let table = self.table(version, metadata, items.iter().map(AsRef::as_ref), true);
                Ok(Answer::bytes(self.tree(&table)?))
            }
            (Shape::Metadata(version), Encoding::Protobuf) => {
                let mut raw = Vec::new();
                field(1, &encode_list_metadata(metadata)?, &mut raw);
                for entry in &listed.entries {
                    let mut item = Vec::new();
                    field(1, &encode_metadata(&partial(&decoded(entry), version))?, &mut item);
                    field(2, &item, &mut raw);
                }
                let kind = "PartialObjectMetadataList";
                Ok(Answer::bytes(proto::envelope::wrap(&format!("meta.k8s.io/{version}"), kind, &raw)))
            }
            (Shape::Metadata(version), _) => {
                let items: Vec<Value> = listed.entries.iter().map(|entry| partial(&decoded(entry), version)).collect();
                let mut list = Value::default();
                list.set(&["kind"], "PartialObjectMetadataList".into());
                list.set(&["apiVersion"], format!("meta.k8s.io/{version}").into());
                list.set(&["metadata"], metadata.into());
                list.set(&["items"], items.into());
                Ok(Answer::bytes(self.tree(&list)?))
            }
            (_, Encoding::Protobuf) => {
                let mut raw = Vec::new();
                field(1, &encode_list_metadata(metadata)?, &mut raw);
                for entry in &listed.entries {
                    field(2, &self.raw(entry)?, &mut raw);
                }
                Ok(Answer::bytes(proto::envelope::wrap(&self.scope.api_version(), &row.list_kind, &raw)))
            }
            (_, Encoding::Json) if !self.accepted.pretty => Ok(Answer::pieces(self.json_list(listed, metadata)?)),
            _ => {
                let items: Vec<Value> =
                    listed.entries.iter().map(|entry| self.value(&Payload::Entry(entry)).as_ref().clone()).collect();
                let mut list = Value::default();
                list.set(&["kind"], row.list_kind.clone().into());
                list.set(&["apiVersion"], self.scope.api_version().into());
                list.set(&["metadata"], metadata.into());
                list.set(&["items"], items.into());
                Ok(Answer::bytes(self.tree(&list)?))
            }
        }
    }

    /// The list put together from the entries' own bytes.
    fn json_list(&self, listed: &Listed, metadata: Map) -> Result<Vec<Bytes>, Status> {
        let mut pieces = Vec::new();
        let mut out = Vec::with_capacity(FRAME_BYTES);
        out.extend_from_slice(b"{\"kind\":\"");
        out.extend_from_slice(self.scope.row.list_kind.as_bytes());
        out.extend_from_slice(b"\",\"apiVersion\":\"");
        out.extend_from_slice(self.scope.api_version().as_bytes());
        out.extend_from_slice(b"\",\"metadata\":");
        json::encode_into(&Value::Object(metadata), &mut out);
        out.extend_from_slice(b",\"items\":[");
        for (at, entry) in listed.entries.iter().enumerate() {
            if at > 0 {
                out.push(b',');
            }
            if self.scope.is_hub() {
                out.extend_from_slice(&entry.value);
            } else {
                json::encode_into(&self.value(&Payload::Entry(entry)), &mut out);
            }
            if out.len() >= FRAME_BYTES {
                pieces.push(Bytes::from(std::mem::replace(&mut out, Vec::with_capacity(FRAME_BYTES))));
            }
        }
        out.extend_from_slice(b"]}\n");
        pieces.push(out.into());
        Ok(pieces)
    }
}

/// ListMeta.
pub(crate) fn list_metadata(revision: &str, continuation: &str, remaining: Option<usize>) -> Map {
    let mut metadata = Map::new();
    metadata.insert("resourceVersion", revision);
    if !continuation.is_empty() {
        metadata.insert("continue", continuation);
    }
    if let Some(remaining) = remaining {
        metadata.insert("remainingItemCount", i64::try_from(remaining).unwrap_or(i64::MAX));
    }
    metadata
}

fn partial(value: &Value, version: &str) -> Value {
    let mut partial = Value::default();
    partial.set(&["kind"], "PartialObjectMetadata".into());
    partial.set(&["apiVersion"], format!("meta.k8s.io/{version}").into());
    partial.set(&["metadata"], value.get("metadata").cloned().unwrap_or_default());
    partial
}

fn encode_metadata(object: &Value) -> Result<Vec<u8>, Status> {
    encode_meta("ObjectMeta", object.get("metadata").unwrap_or(&Value::Null))
}

fn encode_list_metadata(metadata: Map) -> Result<Vec<u8>, Status> {
    encode_meta("ListMeta", &Value::Object(metadata))
}

fn encode_meta(kind: &str, value: &Value) -> Result<Vec<u8>, Status> {
    let (schemas, type_id) =
        definition("v1", kind).ok_or_else(|| Status::internal(format!("{kind} has no protobuf form")))?;
    proto::encode(schemas, type_id, value).map_err(Status::internal)
}

/// Indented as Go's encoder does it: two spaces, empty maps and lists on one line.
fn pretty(value: &Value) -> Vec<u8> {
    fn write(value: &Value, depth: usize, out: &mut Vec<u8>) {
        let line = |depth: usize, out: &mut Vec<u8>| {
            out.push(b'\n');
            out.extend(std::iter::repeat_n(b' ', depth * 2));
        };
        match value {
            Value::Array(items) if !items.is_empty() => {
                out.push(b'[');
                for (at, item) in items.iter().enumerate() {
                    if at > 0 {
                        out.push(b',');
                    }
                    line(depth + 1, out);
                    write(item, depth + 1, out);
                }
                line(depth, out);
                out.push(b']');
            }
            Value::Object(map) if !map.is_empty() => {
                out.push(b'{');
                for (at, (key, member)) in map.iter().enumerate() {
                    if at > 0 {
                        out.push(b',');
                    }
                    line(depth + 1, out);
                    json::encode_into(&Value::String(key.into()), out);
                    out.extend_from_slice(b": ");
                    write(member, depth + 1, out);
                }
                line(depth, out);
                out.push(b'}');
            }
            other => json::encode_into(other, out),
        }
    }
    let mut out = Vec::with_capacity(2048);
    write(value, 0, &mut out);
    out.push(b'\n');
    out
}
