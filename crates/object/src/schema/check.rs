//! Structural validation: does every value have the type that the schema says, and is what is required there?

use super::{Schemas, Type, TypeId};
use crate::{Cause, Map, Str, Value, time};
use base64::Engine as _;

/// How many findings are reported.
const CAUSES_MAX: usize = 100;

/// The reason of findings about types: upstream's decoder refuses such a body (400), before validation (422).
const TYPE_INVALID: &str = "FieldValueTypeInvalid";

/// Types and required members. For custom resources; for built-in kinds upstream's decoder takes an absent member for
/// its zero value, and each kind's validation says what it misses: use [`check_types`] there.
#[must_use]
pub fn check(schemas: &Schemas, type_id: TypeId, value: &Value) -> Vec<Cause> {
    run(schemas, type_id, value, true)
}

/// Types only. The messages are worded as upstream's decoder would: `json: cannot unmarshal string into Go struct
/// field DeploymentSpec.spec.replicas of type int32`.
#[must_use]
pub fn check_types(schemas: &Schemas, type_id: TypeId, value: &Value) -> Vec<Cause> {
    run(schemas, type_id, value, false)
}

fn run(schemas: &Schemas, type_id: TypeId, value: &Value, required: bool) -> Vec<Cause> {
    let mut checker = Checker { schemas, required, path: Vec::new(), causes: Vec::new() };
    match value {
        Value::Object(map) => checker.members(type_id, map),
        other => {
            let message = format!(
                "json: cannot unmarshal {} into Go value of type {}",
                json_kind(other),
                short(schemas, type_id)
            );
            checker.causes.push(Cause { reason: Str::const_new(TYPE_INVALID), message, field: String::new() });
        }
    }
    checker.causes
}

#[derive(Clone, Copy)]
enum Step<'a> {
    Name(&'a str),
    Index(usize),
}

struct Checker<'a> {
    schemas: &'a Schemas,
    required: bool,
    path: Vec<Step<'a>>,
    causes: Vec<Cause>,
}

impl<'a> Checker<'a> {
    fn members(&mut self, id: TypeId, map: &'a Map) {
        let one = self.schemas.get(id);
        if self.required {
            for field in one.fields.iter().filter(|field| field.required) {
                if map.get(&field.name).is_none_or(|value| value.is_null() && !field.nullable) {
                    self.path.push(Step::Name(&field.name));
                    self.report("FieldValueRequired", "Required value".to_owned());
                    self.path.pop();
                }
            }
        }
        for (name, value) in map.iter() {
            let Some(field) = one.field(name) else { continue };
            // Null counts as absent.
            if value.is_null() || field.kind == Type::Any {
                continue;
            }
            self.path.push(Step::Name(name));
            self.value(id, &field.kind, value);
            self.path.pop();
        }
    }

    fn value(&mut self, owner: TypeId, kind: &'a Type, value: &'a Value) {
        match (kind, value) {
            (Type::Struct(id), Value::Object(map)) => self.members(*id, map),
            (Type::List(item), Value::Array(items)) => {
                for (at, value) in items.iter().enumerate().filter(|(_, value)| !value.is_null()) {
                    self.path.push(Step::Index(at));
                    self.value(owner, item, value);
                    self.path.pop();
                }
            }
            (Type::Map(item), Value::Object(map)) => {
                for (key, value) in map.iter().filter(|(_, value)| !value.is_null()) {
                    self.path.push(Step::Name(key));
                    self.value(owner, item, value);
                    self.path.pop();
                }
            }
            (Type::Any, _)
            | (Type::Bool, Value::Bool(_))
            | (Type::String, Value::String(_))
            | (Type::Int64, Value::Int(_))
            | (Type::Float, Value::Int(_) | Value::Float(_))
            | (Type::Quantity, Value::Int(_) | Value::Float(_)) => {}
            (Type::Int32, Value::Int(number)) if i32::try_from(*number).is_ok() => {}
            (Type::IntOrString, Value::Int(number)) if i32::try_from(*number).is_ok() => {}
            (Type::IntOrString, Value::String(_)) => {}
            (Type::Int32 | Type::Int64 | Type::IntOrString, Value::Int(_) | Value::Float(_)) => {
                let text = crate::json::encode(value);
                self.mismatch(owner, kind, &format!("number {}", String::from_utf8_lossy(&text)));
            }
            (Type::Quantity, Value::String(text)) => {
                // The exact grammar belongs to the quantity parser; this is what tells text from a quantity.
                let starts = text.trim_start_matches(['+', '-']).starts_with(|c: char| c.is_ascii_digit() || c == '.');
                if !starts {
                    let expected = "'^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'";
                    self.report(TYPE_INVALID, format!("quantities must match the regular expression {expected}"));
                }
            }
            (Type::Time | Type::MicroTime, Value::String(text)) => {
                if time::parse(text).is_none() {
                    self.report(TYPE_INVALID, time::parse_fault(text));
                }
            }
            (Type::Duration, Value::String(text)) => {
                if time::parse_go_duration(text).is_none() {
                    self.report(TYPE_INVALID, format!("time: invalid duration \"{text}\""));
                }
            }
            (Type::Bytes, Value::String(text)) => {
                if let Err(error) = base64::engine::general_purpose::STANDARD.decode(text.as_bytes()) {
                    let at = match error {
                        base64::DecodeError::InvalidByte(at, _) | base64::DecodeError::InvalidLastSymbol(at, _) => at,
                        _ => text.len(),
                    };
                    self.report(TYPE_INVALID, format!("illegal base64 data at input byte {at}"));
                }
            }
            (kind, value) => self.mismatch(owner, kind, json_kind(value)),
        }
    }

    fn mismatch(&mut self, owner: TypeId, kind: &Type, found: &str) {
        // Go names the innermost struct and the whole way to the member, without positions in lists.
        let mut way = String::new();
        for step in &self.path {
            if let Step::Name(name) = step {
                way.push('.');
                way.push_str(name);
            }
        }
        let full = short(self.schemas, owner);
        let owner = full.rsplit('.').next().unwrap_or_default();
        let message = format!(
            "json: cannot unmarshal {found} into Go struct field {owner}{way} of type {}",
            go_type(self.schemas, kind)
        );
        self.report(TYPE_INVALID, message);
    }

    fn report(&mut self, reason: &'static str, message: String) {
        if self.causes.len() >= CAUSES_MAX {
            return;
        }
        let mut field = String::new();
        for step in &self.path {
            match step {
                Step::Name(name) => {
                    if !field.is_empty() {
                        field.push('.');
                    }
                    field.push_str(name);
                }
                Step::Index(at) => field.push_str(&format!("[{at}]")),
            }
        }
        self.causes.push(Cause { reason: Str::const_new(reason), message, field });
    }
}

/// What Go's decoder calls a value of this kind.
#[must_use]
pub fn json_kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Int(_) | Value::Float(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// `v1.PodSpec` for `io.k8s.api.core.v1.PodSpec`.
fn short(schemas: &Schemas, id: TypeId) -> &str {
    let name = schemas.get(id).name.as_str();
    name.rmatch_indices('.').nth(1).map_or(name, |(at, _)| &name[at + 1..])
}

fn go_type(schemas: &Schemas, kind: &Type) -> String {
    match kind {
        Type::Bool => "bool".to_owned(),
        Type::Int32 => "int32".to_owned(),
        Type::Int64 => "int64".to_owned(),
        Type::Float => "float64".to_owned(),
        Type::String => "string".to_owned(),
        Type::Bytes => "[]uint8".to_owned(),
        Type::IntOrString => "intstr.IntOrString".to_owned(),
        Type::Quantity => "resource.Quantity".to_owned(),
        Type::Time => "v1.Time".to_owned(),
        Type::MicroTime => "v1.MicroTime".to_owned(),
        Type::Duration => "v1.Duration".to_owned(),
        Type::Any => "runtime.RawExtension".to_owned(),
        Type::List(item) => format!("[]{}", go_type(schemas, item)),
        Type::Map(item) => format!("map[string]{}", go_type(schemas, item)),
        Type::Struct(id) => short(schemas, *id).to_owned(),
    }
}
