//! Protobuf to the value tree.

use super::json_schema;
use super::wire::{Part, Reader};
use crate::codec::{DecodeError, Limits};
use crate::schema::{Field, Schemas, Type, TypeId};
use crate::{Map, Str, Value, json, time};
use base64::Engine as _;
use jiff::{SignedDuration, Timestamp};

/// Decodes one message without its envelope. apiVersion and kind are not part of it: the envelope has them.
/// Unknown fields are skipped; a zero value that JSON would leave out is left out.
pub fn decode(schemas: &Schemas, type_id: TypeId, bytes: &[u8], limits: &Limits) -> Result<Value, DecodeError> {
    if bytes.len() > limits.bytes {
        return Err(DecodeError::size(bytes.len(), limits.bytes));
    }
    let members = Vec::with_capacity(64);
    Decoder { schemas, depth_left: limits.depth, nodes_left: limits.nodes, limits, members, unordered: false }
        .message(type_id, bytes)
}

pub(super) struct Decoder<'a> {
    schemas: &'a Schemas,
    depth_left: usize,
    nodes_left: usize,
    limits: &'a Limits,
    // The members of all open messages: each moves into an exactly sized map when it closes.
    members: Vec<(Str, Value)>,
    // Whether some map's entries came out of order; maps are then sorted when their message closes, because inserting
    // each in its place would let a hostile sender spend quadratic time.
    unordered: bool,
}

impl Decoder<'_> {
    fn enter(&mut self) -> Result<(), DecodeError> {
        self.depth_left = self.depth_left.checked_sub(1).ok_or_else(|| DecodeError::limit("exceeded max depth", 0))?;
        Ok(())
    }

    fn count(&mut self) -> Result<(), DecodeError> {
        let left = self.nodes_left.checked_sub(1);
        self.nodes_left = left.ok_or_else(|| DecodeError::limit("the document holds too many values", 0))?;
        Ok(())
    }

    pub(super) fn message(&mut self, id: TypeId, bytes: &[u8]) -> Result<Value, DecodeError> {
        let start = self.members.len();
        self.fields(id, bytes, start)?;
        // An empty list can't be told from an absent one on the wire; lists of objects always show theirs.
        if let Some(items) = self.schemas.get(id).field("items")
            && items.required
            && matches!(items.kind, Type::List(_))
            && !self.members[start..].iter().any(|member| member.0 == "items")
        {
            self.members.push((items.name.clone(), Value::Array(Vec::new())));
        }
        if self.unordered {
            for (_, value) in &mut self.members[start..] {
                if let Value::Object(map) = value {
                    map.restore_order();
                }
            }
        }
        Ok(Value::Object(Map::from_members(self.members.drain(start..).collect()).0))
    }

    fn fields(&mut self, id: TypeId, bytes: &[u8], start: usize) -> Result<(), DecodeError> {
        self.enter()?;
        let schemas = self.schemas;
        let free_form = json_schema::applies(schemas, id);
        let mut reader = Reader::new(bytes);
        while let Some((number, part)) = reader.next()? {
            let Some(field) = schemas.by_number(id, number) else { continue };
            if field.is_embedded() {
                if let (Type::Struct(inner), Part::Bytes(bytes)) = (&field.kind, part) {
                    self.fields(*inner, bytes, start)?;
                }
                continue;
            }
            if free_form && json_schema::decode(self, id, field, part, start)? {
                continue;
            }
            self.field(field, part, start)?;
        }
        self.depth_left += 1;
        Ok(())
    }

    fn field(&mut self, field: &Field, part: Part<'_>, start: usize) -> Result<(), DecodeError> {
        match &field.kind {
            Type::List(item) => {
                // Packed numbers come in one part, everything else one item per part.
                let packed = matches!(**item, Type::Int32 | Type::Int64 | Type::Bool);
                if let (true, Part::Bytes(bytes)) = (packed, part) {
                    let mut reader = Reader::new(bytes);
                    while let Some(number) = reader.next_packed()? {
                        let value = self.single(field, item, Part::Varint(number))?;
                        self.list(start, &field.name).push(value);
                    }
                    return Ok(());
                }
                let value = self.single(field, item, part)?;
                self.list(start, &field.name).push(value);
            }
            Type::Map(item) => {
                let Part::Bytes(entry) = part else { return Err(mismatch(field)) };
                let (key, value) = self.entry(field, item, entry)?;
                self.insert(start, &field.name, key, value);
            }
            kind => {
                let value = self.single(field, kind, part)?;
                if is_zero(&value, kind) && !field.keep_empty {
                    return Ok(());
                }
                self.set(start, &field.name, value);
            }
        }
        Ok(())
    }

    /// The member `name` of the message whose members begin at `start`, made with `empty` first where it is missing.
    fn slot(&mut self, start: usize, name: &Str, empty: Value) -> &mut Value {
        // The parts of one list or map follow each other.
        let at = match self.members[start..].iter().rposition(|member| member.0 == *name) {
            Some(at) => start + at,
            None => {
                self.members.push((name.clone(), empty));
                self.members.len() - 1
            }
        };
        &mut self.members[at].1
    }

    pub(super) fn set(&mut self, start: usize, name: &Str, value: Value) {
        *self.slot(start, name, Value::Null) = value;
    }

    fn list(&mut self, start: usize, name: &Str) -> &mut Vec<Value> {
        let slot = self.slot(start, name, Value::Array(Vec::new()));
        if !matches!(slot, Value::Array(_)) {
            *slot = Value::Array(Vec::new());
        }
        match slot {
            Value::Array(items) => items,
            _ => unreachable!("just made a list"),
        }
    }

    /// Adds an entry to the map `name`.
    pub(super) fn insert(&mut self, start: usize, name: &Str, key: Str, value: Value) {
        let slot = self.slot(start, name, Value::Object(Map::new()));
        if !matches!(slot, Value::Object(_)) {
            *slot = Value::Object(Map::new());
        }
        let in_order = slot.as_object_mut().is_none_or(|map| map.push(key, value));
        self.unordered |= !in_order;
    }

    pub(super) fn entry(&mut self, field: &Field, item: &Type, bytes: &[u8]) -> Result<(Str, Value), DecodeError> {
        let mut key = Str::const_new("");
        let mut value = None;
        let mut reader = Reader::new(bytes);
        while let Some((number, part)) = reader.next()? {
            match (number, part) {
                (1, Part::Bytes(bytes)) => key = text(field, bytes)?,
                (2, part) => value = Some(self.single(field, item, part)?),
                _ => {}
            }
        }
        // An entry without a value holds its type's zero.
        let value = value.unwrap_or_else(|| match item {
            Type::Struct(_) | Type::Map(_) => Value::Object(Map::new()),
            Type::List(_) => Value::Array(Vec::new()),
            Type::Bool => Value::Bool(false),
            Type::Int32 | Type::Int64 => Value::Int(0),
            Type::Any => Value::Null,
            _ => Value::from(""),
        });
        Ok((key, value))
    }

    fn single(&mut self, field: &Field, kind: &Type, part: Part<'_>) -> Result<Value, DecodeError> {
        self.count()?;
        Ok(match (kind, part) {
            (Type::Bool, Part::Varint(number)) => Value::Bool(number != 0),
            (Type::Int32, Part::Varint(number)) => Value::Int(i64::from(number as i32)),
            (Type::Int64, Part::Varint(number)) => Value::Int(number as i64),
            (Type::Float, Part::Fixed64(bits)) => {
                let number = f64::from_bits(bits);
                if !number.is_finite() {
                    return Err(DecodeError::new(format!("proto: {} is no number that JSON knows", field.name), 0));
                }
                Value::Float(number)
            }
            (Type::Float, Part::Fixed32(bits)) => Value::Float(f64::from(f32::from_bits(bits))),
            (Type::String, Part::Bytes(bytes)) => Value::String(text(field, bytes)?),
            (Type::Bytes, Part::Bytes(bytes)) => Value::from(base64::engine::general_purpose::STANDARD.encode(bytes)),
            (Type::IntOrString, Part::Bytes(bytes)) => int_or_string(field, bytes)?,
            (Type::Quantity, Part::Bytes(bytes)) => Value::String(first_text(field, bytes)?),
            (Type::Time | Type::MicroTime, Part::Bytes(bytes)) => timestamp(field, kind, bytes)?,
            (Type::Duration, Part::Bytes(bytes)) => {
                let mut nanoseconds = 0;
                let mut reader = Reader::new(bytes);
                while let Some((number, part)) = reader.next()? {
                    if let (1, Part::Varint(value)) = (number, part) {
                        nanoseconds = value as i64;
                    }
                }
                Value::from(time::format_go_duration(SignedDuration::from_nanos(nanoseconds)))
            }
            (Type::Any, Part::Bytes(bytes)) => self.any(bytes)?,
            (Type::Struct(id), Part::Bytes(bytes)) => self.message(*id, bytes)?,
            // A list as a map's value is wrapped into a message with the list as field 1.
            (Type::List(item), Part::Bytes(bytes)) => {
                let mut items = Vec::new();
                let mut reader = Reader::new(bytes);
                while let Some((number, part)) = reader.next()? {
                    if number == 1 {
                        items.push(self.single(field, item, part)?);
                    }
                }
                Value::Array(items)
            }
            _ => return Err(mismatch(field)),
        })
    }

    /// Raw JSON in field 1.
    pub(super) fn any(&mut self, bytes: &[u8]) -> Result<Value, DecodeError> {
        let mut raw: &[u8] = &[];
        let mut reader = Reader::new(bytes);
        while let Some((number, part)) = reader.next()? {
            if let (1, Part::Bytes(bytes)) = (number, part) {
                raw = bytes;
            }
        }
        if raw.is_empty() {
            return Ok(Value::Null);
        }
        let limits = Limits { bytes: self.limits.bytes, depth: self.depth_left, nodes: self.nodes_left };
        let decoded = json::decode(raw, &limits)?;
        // Its values are counted roughly: one for every eight bytes, which compact JSON seldom exceeds.
        self.nodes_left = self.nodes_left.saturating_sub(raw.len() / 8);
        Ok(decoded.value)
    }
}

/// Whether a value is what Go's omitempty leaves out. Lists, maps and structs that are on the wire were set.
fn is_zero(value: &Value, kind: &Type) -> bool {
    match (value, kind) {
        (Value::Null, _) => true,
        (_, Type::IntOrString) => false,
        (Value::Bool(flag), _) => !flag,
        (Value::Int(number), _) => *number == 0,
        (Value::Float(number), _) => *number == 0.0,
        (Value::String(text), _) => text.is_empty(),
        _ => false,
    }
}

fn mismatch(field: &Field) -> DecodeError {
    DecodeError::new(format!("proto: wrong wireType for field {}", field.name), 0)
}

fn text(field: &Field, bytes: &[u8]) -> Result<Str, DecodeError> {
    Str::from_utf8(bytes)
        .map_err(|_| DecodeError::new(format!("proto: field {} contains invalid UTF-8", field.name), 0))
}

fn first_text(field: &Field, bytes: &[u8]) -> Result<Str, DecodeError> {
    let mut found = Str::const_new("");
    let mut reader = Reader::new(bytes);
    while let Some((number, part)) = reader.next()? {
        if let (1, Part::Bytes(bytes)) = (number, part) {
            found = text(field, bytes)?;
        }
    }
    Ok(found)
}

fn int_or_string(field: &Field, bytes: &[u8]) -> Result<Value, DecodeError> {
    let (mut is_text, mut number_value, mut text_value) = (false, 0, Str::const_new(""));
    let mut reader = Reader::new(bytes);
    while let Some((number, part)) = reader.next()? {
        match (number, part) {
            (1, Part::Varint(kind)) => is_text = kind == 1,
            (2, Part::Varint(value)) => number_value = value as i32,
            (3, Part::Bytes(bytes)) => text_value = text(field, bytes)?,
            _ => {}
        }
    }
    Ok(if is_text { Value::String(text_value) } else { Value::Int(number_value.into()) })
}

/// An empty message is Go's zero time, which JSON writes as null.
fn timestamp(field: &Field, kind: &Type, bytes: &[u8]) -> Result<Value, DecodeError> {
    if bytes.is_empty() {
        return Ok(Value::Null);
    }
    let (mut seconds, mut nanoseconds) = (0, 0);
    let mut reader = Reader::new(bytes);
    while let Some((number, part)) = reader.next()? {
        match (number, part) {
            (1, Part::Varint(value)) => seconds = value as i64,
            (2, Part::Varint(value)) => nanoseconds = value as i32,
            _ => {}
        }
    }
    // Whole seconds are all that upstream keeps of a Time.
    let nanoseconds = if *kind == Type::MicroTime { nanoseconds } else { 0 };
    let time = Timestamp::new(seconds, nanoseconds)
        .map_err(|_| DecodeError::new(format!("proto: field {} is no time", field.name), 0))?;
    Ok(Value::from(if *kind == Type::MicroTime { time::format_micro(time) } else { time::format_rfc3339(time) }))
}
