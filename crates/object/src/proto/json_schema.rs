//! The unions inside a CustomResourceDefinition's JSONSchemaProps: "a schema or a list", "a schema or a boolean",
//! "a schema or names". JSON writes one or the other; protobuf has a message with both. The schema model holds them as
//! `Any`, so their two members are spelt out here.

use super::decode::Decoder;
use super::encode::{EncodeError, Encoder};
use super::wire::{Part, Reader, push_bytes, push_nested, push_tag, push_varint};
use crate::codec::DecodeError;
use crate::schema::{Field, Schemas, TypeId};
use crate::{Map, Str, Value};

/// True for the struct whose unions are handled here.
pub(super) fn applies(schemas: &Schemas, id: TypeId) -> bool {
    schemas.get(id).name.ends_with("apiextensions.v1.JSONSchemaProps")
}

#[derive(Clone, Copy, PartialEq)]
enum Union {
    /// 1 schema, 2 schemas.
    List,
    /// 1 boolean, 2 schema.
    Bool,
    /// A map whose values are 1 schema, 2 names.
    Names,
}

fn union_of(field: &Field) -> Option<Union> {
    match field.name.as_str() {
        "items" => Some(Union::List),
        "additionalItems" | "additionalProperties" => Some(Union::Bool),
        "dependencies" => Some(Union::Names),
        _ => None,
    }
}

/// Decodes a union's part; false where the field is none.
pub(super) fn decode(
    decoder: &mut Decoder<'_>,
    id: TypeId,
    field: &Field,
    part: Part<'_>,
    start: usize,
) -> Result<bool, DecodeError> {
    let (Some(union), Part::Bytes(bytes)) = (union_of(field), part) else { return Ok(false) };
    if union != Union::Names {
        let value = decode_union(decoder, id, union, bytes)?;
        decoder.set(start, &field.name, value);
        return Ok(true);
    }
    let (mut key, mut value) = (Str::const_new(""), Value::Null);
    let mut reader = Reader::new(bytes);
    while let Some((number, part)) = reader.next()? {
        match (number, part) {
            (1, Part::Bytes(bytes)) => key = text(bytes)?,
            (2, Part::Bytes(bytes)) => value = decode_union(decoder, id, union, bytes)?,
            _ => {}
        }
    }
    decoder.insert(start, &field.name, key, value);
    Ok(true)
}

fn text(bytes: &[u8]) -> Result<Str, DecodeError> {
    Str::from_utf8(bytes).map_err(|_| DecodeError::new("proto: invalid UTF-8 in a schema", 0))
}

fn decode_union(decoder: &mut Decoder<'_>, id: TypeId, union: Union, bytes: &[u8]) -> Result<Value, DecodeError> {
    let (mut one, mut many, mut allows) = (None, Vec::new(), false);
    let mut reader = Reader::new(bytes);
    while let Some((number, part)) = reader.next()? {
        match (union, number, part) {
            (Union::Bool, 1, Part::Varint(flag)) => allows = flag != 0,
            (Union::List | Union::Names, 1, Part::Bytes(bytes)) | (Union::Bool, 2, Part::Bytes(bytes)) => {
                one = Some(decoder.message(id, bytes)?);
            }
            (Union::List, 2, Part::Bytes(bytes)) => many.push(decoder.message(id, bytes)?),
            (Union::Names, 2, Part::Bytes(bytes)) => many.push(Value::String(text(bytes)?)),
            _ => {}
        }
    }
    Ok(match (one, union) {
        (Some(_), Union::List | Union::Names) if !many.is_empty() => Value::Array(many),
        (Some(schema), _) => schema,
        (None, Union::Bool) => Value::Bool(allows),
        (None, _) if many.is_empty() => Value::Null,
        (None, _) => Value::Array(many),
    })
}

/// Encodes a union; false where the field is none.
pub(super) fn encode<'a>(
    encoder: &mut Encoder<'a>,
    id: TypeId,
    field: &Field,
    value: &'a Value,
    out: &mut Vec<u8>,
) -> Result<bool, EncodeError> {
    let Some(union) = union_of(field) else { return Ok(false) };
    if union != Union::Names {
        push_nested(field.number, out, |out| encode_union(encoder, id, union, value, out))?;
        return Ok(true);
    }
    for (key, value) in value.as_object().into_iter().flat_map(Map::iter) {
        push_nested(field.number, out, |out| {
            push_bytes(1, key.as_bytes(), out);
            push_nested(2, out, |out| encode_union(encoder, id, union, value, out))
        })?;
    }
    Ok(true)
}

fn encode_union<'a>(
    encoder: &mut Encoder<'a>,
    id: TypeId,
    union: Union,
    value: &'a Value,
    out: &mut Vec<u8>,
) -> Result<(), EncodeError> {
    match (value, union) {
        (Value::Bool(flag), Union::Bool) => {
            push_tag(1, 0, out);
            push_varint(u64::from(*flag), out);
        }
        (Value::Object(_), Union::Bool) => {
            // Go sets the flag beside a schema.
            push_tag(1, 0, out);
            push_varint(1, out);
            push_nested(2, out, |out| encoder.message(id, value, out))?;
        }
        (Value::Object(_), _) => push_nested(1, out, |out| encoder.message(id, value, out))?,
        (Value::Array(items), Union::List) => {
            for item in items {
                push_nested(2, out, |out| encoder.message(id, item, out))?;
            }
        }
        (Value::Array(items), Union::Names) => {
            for item in items {
                push_bytes(2, item.as_str().unwrap_or_default().as_bytes(), out);
            }
        }
        _ => return Err(EncodeError::new("neither a schema nor its alternative")),
    }
    Ok(())
}
