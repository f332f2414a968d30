//! The value tree to protobuf.

use super::json_schema;
use super::wire::{push_bytes, push_nested, push_tag, push_varint};
use crate::schema::{Field, Schemas, Type, TypeId};
use crate::{Map, Value, json, time};
use base64::Engine as _;
use std::fmt;

/// Why a tree can't be written as a message of its type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncodeError {
    /// The path of the member, such as `spec.containers[0].ports`.
    pub path: String,
    /// What is wrong with it.
    pub message: String,
}

impl EncodeError {
    pub(super) fn new(message: impl Into<String>) -> Self {
        EncodeError { path: String::new(), message: message.into() }
    }

    fn below(mut self, segment: &str) -> Self {
        let dot = if self.path.is_empty() || self.path.starts_with('[') { "" } else { "." };
        self.path = format!("{segment}{dot}{}", self.path);
        self
    }
}

impl fmt::Display for EncodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot be written as protobuf: {}: {}", self.path, self.message)
    }
}

impl std::error::Error for EncodeError {}

/// Encodes one object without an envelope. apiVersion and kind are left to the envelope; members that the schema
/// does not know are left out, as are nulls.
pub fn encode(schemas: &Schemas, type_id: TypeId, value: &Value) -> Result<Vec<u8>, EncodeError> {
    let mut out = Vec::with_capacity(512);
    encode_into(schemas, type_id, value, &mut out)?;
    Ok(out)
}

/// Encodes at the end of `out`.
pub fn encode_into(schemas: &Schemas, type_id: TypeId, value: &Value, out: &mut Vec<u8>) -> Result<(), EncodeError> {
    Encoder { schemas, depth_left: 1000, found: Vec::with_capacity(64) }.message(type_id, value, out)
}

pub(super) struct Encoder<'a> {
    schemas: &'a Schemas,
    // A tree that was built in memory, not decoded, has no bound of its own.
    depth_left: usize,
    // The members of all open messages that go onto the wire.
    found: Vec<(&'a Field, &'a Value)>,
}

impl<'a> Encoder<'a> {
    pub(super) fn message(&mut self, id: TypeId, value: &'a Value, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let Value::Object(map) = value else { return Err(EncodeError::new("expected a map")) };
        self.depth_left = self.depth_left.checked_sub(1).ok_or_else(|| EncodeError::new("nested too deeply"))?;
        if let Some(field) =
            self.schemas.without_number(id).find(|field| map.get(&field.name).is_some_and(|v| !v.is_null()))
        {
            return Err(EncodeError::new("this member has no protobuf number; ask for JSON").below(&field.name));
        }
        self.members(id, map, out)?;
        self.depth_left += 1;
        Ok(())
    }

    fn members(&mut self, id: TypeId, map: &'a Map, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let schemas = self.schemas;
        let one = schemas.get(id);
        let start = self.found.len();
        let mut embedded = one.fields.first().filter(|field| field.is_embedded());
        for (name, value) in map.iter().filter(|(_, value)| !value.is_null()) {
            match one.field(name) {
                Some(field) if field.number > 0 => self.found.push((field, value)),
                // One member of the embedded message is reason enough to write it.
                Some(_) => {
                    if let Some(field) = embedded.take() {
                        self.found.push((field, value));
                    }
                }
                None => {}
            }
        }
        // Messages are written by rising number, as upstream does: equal objects have equal bytes.
        self.found[start..].sort_unstable_by_key(|(field, _)| field.number);
        let free_form = json_schema::applies(schemas, id);
        for at in start..self.found.len() {
            let (field, value) = self.found[at];
            if field.is_embedded() {
                let Type::Struct(inner) = field.kind else { continue };
                push_nested(field.number, out, |out| self.members(inner, map, out))?;
                continue;
            }
            let written = if free_form && json_schema::encode(self, id, field, value, out)? {
                Ok(())
            } else {
                self.field(field, value, out)
            };
            written.map_err(|error| error.below(&field.name))?;
        }
        self.found.truncate(start);
        Ok(())
    }

    fn field(&mut self, field: &Field, value: &'a Value, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        match (&field.kind, value) {
            (Type::List(item), Value::Array(items)) => {
                for (at, value) in items.iter().enumerate() {
                    self.single(field.number, item, value, out).map_err(|error| error.below(&format!("[{at}]")))?;
                }
                Ok(())
            }
            (Type::Map(item), Value::Object(map)) => {
                for (key, value) in map.iter() {
                    push_nested(field.number, out, |out| {
                        push_bytes(1, key.as_bytes(), out);
                        self.single(2, item, value, out)
                    })
                    .map_err(|error| error.below(key))?;
                }
                Ok(())
            }
            (kind, value) => self.single(field.number, kind, value, out),
        }
    }

    fn single(&mut self, number: u32, kind: &Type, value: &'a Value, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        match (kind, value) {
            (Type::Bool, Value::Bool(flag)) => varint(number, u64::from(*flag), out),
            (Type::Int32 | Type::Int64, Value::Int(value)) => varint(number, *value as u64, out),
            (Type::Int32 | Type::Int64, Value::Float(value)) if value.fract() == 0.0 && value.abs() < 9e18 => {
                varint(number, *value as i64 as u64, out);
            }
            (Type::Float, Value::Float(value)) => fixed(number, *value, out),
            (Type::Float, Value::Int(value)) => fixed(number, *value as f64, out),
            (Type::String, Value::String(text)) => push_bytes(number, text.as_bytes(), out),
            (Type::Bytes, Value::String(text)) => {
                let bytes = base64::engine::general_purpose::STANDARD
                    .decode(text.as_bytes())
                    .map_err(|error| EncodeError::new(format!("illegal base64 data: {error}")))?;
                push_bytes(number, &bytes, out);
            }
            (Type::IntOrString, Value::Int(value)) => int_or_string(number, 0, *value, "", out)?,
            (Type::IntOrString, Value::String(text)) => int_or_string(number, 1, 0, text, out)?,
            (Type::Quantity, Value::String(text)) => {
                push_nested(number, out, |out| {
                    push_bytes(1, text.as_bytes(), out);
                    Ok(())
                })?;
            }
            (Type::Quantity, Value::Int(_) | Value::Float(_)) => {
                push_nested(number, out, |out| {
                    push_bytes(1, &json::encode(value), out);
                    Ok(())
                })?;
            }
            (Type::Time | Type::MicroTime, Value::String(text)) => timestamp(number, kind, text, out)?,
            (Type::Duration, Value::String(text)) => {
                let duration = time::parse_go_duration(text).ok_or_else(|| EncodeError::new("not a duration"))?;
                push_nested(number, out, |out| {
                    varint(1, duration.as_nanos() as i64 as u64, out);
                    Ok(())
                })?;
            }
            (Type::Any, value) => {
                push_nested(number, out, |out| {
                    push_nested(1, out, |out| {
                        json::encode_into(value, out);
                        Ok(())
                    })
                })?;
            }
            (Type::Struct(id), value) => push_nested(number, out, |out| self.message(*id, value, out))?,
            // A list as a map's value is wrapped into a message with the list as field 1.
            (Type::List(item), Value::Array(items)) => {
                push_nested(number, out, |out| items.iter().try_for_each(|value| self.single(1, item, value, out)))?;
            }
            // Null as a list's item or a map's value is Go's zero value.
            (Type::String | Type::Bytes, Value::Null) => push_bytes(number, b"", out),
            (_, Value::Null) => push_bytes(number, b"", out),
            _ => return Err(EncodeError::new("the value is not of the field's type")),
        }
        Ok(())
    }
}

fn varint(number: u32, value: u64, out: &mut Vec<u8>) {
    push_tag(number, 0, out);
    push_varint(value, out);
}

fn fixed(number: u32, value: f64, out: &mut Vec<u8>) {
    push_tag(number, 1, out);
    out.extend_from_slice(&value.to_le_bytes());
}

fn int_or_string(number: u32, kind: u64, value: i64, text: &str, out: &mut Vec<u8>) -> Result<(), EncodeError> {
    push_nested(number, out, |out| {
        varint(1, kind, out);
        varint(2, value as u64, out);
        push_bytes(3, text.as_bytes(), out);
        Ok(())
    })
}

fn timestamp(number: u32, kind: &Type, text: &str, out: &mut Vec<u8>) -> Result<(), EncodeError> {
    let time = time::parse(text).ok_or_else(|| EncodeError::new("not an RFC 3339 time"))?;
    // Times before 1970 count their nanoseconds forward from the second before.
    let total = time.as_nanosecond();
    let seconds = i64::try_from(total.div_euclid(1_000_000_000)).unwrap_or_default();
    let nanoseconds = u64::try_from(total.rem_euclid(1_000_000_000)).unwrap_or_default();
    push_nested(number, out, |out| {
        varint(1, seconds as u64, out);
        varint(2, if *kind == Type::MicroTime { nanoseconds / 1000 * 1000 } else { 0 }, out);
        Ok(())
    })
}
