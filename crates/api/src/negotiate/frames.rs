//! The frames of a watch: JSON lines, or protobuf messages with their length before them.

use super::accept::{Encoding, Shape};
use super::encode::{Codec, Payload, field};
use crate::core::Scope;
use crate::watch::{Change, Item};
use bytes::Bytes;
use object::{Map, Status, Value, json, proto};

/// Encodes the events of one watch.
pub(crate) struct Frames<'a> {
    codec: Codec<'a>,
    first: bool,
}

fn word(change: Change) -> &'static str {
    match change {
        Change::Added => "ADDED",
        Change::Modified => "MODIFIED",
        Change::Deleted => "DELETED",
    }
}

impl<'a> Frames<'a> {
    pub(crate) fn new(codec: Codec<'a>) -> Self {
        Frames { codec, first: true }
    }

    /// Goes on with a stream; `first` until an event has been sent.
    pub(crate) fn resume(codec: Codec<'a>, first: bool) -> Self {
        Frames { codec, first }
    }

    /// The Content-Type of the stream.
    pub(crate) fn media_type(&self) -> &'static str {
        match self.codec.accepted.encoding {
            Encoding::Protobuf => "application/vnd.kubernetes.protobuf;stream=watch",
            _ => "application/json",
        }
    }

    /// Whether no event has been sent yet.
    pub(crate) fn is_first(&self) -> bool {
        self.first
    }

    /// Appends an item's frame.
    pub(crate) fn append(&mut self, item: &Item, out: &mut Vec<u8>) {
        let encoded = match item {
            Item::Change(change, entry) => {
                (word(*change), self.codec.table_of(&Payload::Entry(entry), std::mem::replace(&mut self.first, false)))
            }
            Item::Left(value) => {
                ("DELETED", self.codec.table_of(&Payload::Hub(value), std::mem::replace(&mut self.first, false)))
            }
            Item::Bookmark { revision, initial_end } => {
                ("BOOKMARK", self.bookmark(&revision.to_string(), *initial_end))
            }
            Item::Error(status) => ("ERROR", self.status(status)),
        };
        match encoded {
            (word, Ok(bytes)) => self.frame(word, &bytes, out),
            (_, Err(status)) => {
                if let Ok(bytes) = self.status(&status) {
                    self.frame("ERROR", &bytes, out);
                }
            }
        }
    }

    fn frame(&self, word: &str, object: &[u8], out: &mut Vec<u8>) {
        if self.codec.accepted.encoding == Encoding::Protobuf {
            let mut extension = Vec::with_capacity(object.len() + 8);
            field(1, object, &mut extension);
            let mut event = Vec::with_capacity(extension.len() + 24);
            field(1, word.as_bytes(), &mut event);
            field(2, &extension, &mut event);
            out.extend_from_slice(&(event.len() as u32).to_be_bytes()); // far below 4 GiB: objects are at most 3 MiB
            out.extend_from_slice(&event);
            return;
        }
        out.extend_from_slice(b"{\"type\":\"");
        out.extend_from_slice(word.as_bytes());
        out.extend_from_slice(b"\",\"object\":");
        out.extend_from_slice(object.strip_suffix(b"\n").unwrap_or(object));
        out.extend_from_slice(b"}\n");
    }

    fn status(&self, status: &Status) -> Result<Bytes, Status> {
        let value = status.to_value();
        match self.codec.accepted.encoding {
            Encoding::Protobuf => self.codec.tree(&value),
            _ => Ok(json::encode(&value).into()),
        }
    }

    fn bookmark(&self, revision: &str, initial_end: bool) -> Result<Bytes, Status> {
        let scope: &Scope<'_> = self.codec.scope;
        let mut object = Value::default();
        object.set(&["kind"], scope.row.kind.clone().into());
        object.set(&["apiVersion"], scope.api_version().into());
        object.set(&["metadata", "resourceVersion"], revision.into());
        if initial_end {
            object.set(&["metadata", "annotations", "k8s.io/initial-events-end"], "true".into());
        }
        match (self.codec.accepted.shape, self.codec.accepted.encoding) {
            (Shape::Table(version), _) => {
                let mut table = Value::default();
                table.set(&["kind"], "Table".into());
                table.set(&["apiVersion"], format!("meta.k8s.io/{version}").into());
                let metadata: Map = [("resourceVersion", revision)].into_iter().collect();
                table.set(&["metadata"], metadata.into());
                table.set(&["columnDefinitions"], Value::Null);
                // The row carries the annotation that ends the initial events.
                object.set(&["kind"], "PartialObjectMetadata".into());
                object.set(&["apiVersion"], format!("meta.k8s.io/{version}").into());
                let mut row = Value::default();
                row.set(&["cells"], Vec::new().into());
                row.set(&["object"], object);
                table.set(&["rows"], vec![row].into());
                self.codec.tree(&table)
            }
            (Shape::Object | Shape::Discovery(_), Encoding::Protobuf) => {
                let version = scope.version();
                let raw = proto::encode(version.schemas(), version.type_id(), &object).map_err(Status::internal)?;
                Ok(proto::envelope::wrap(&scope.api_version(), &scope.row.kind, &raw).into())
            }
            _ => self.codec.object(&Payload::Plain(&object)),
        }
    }
}
