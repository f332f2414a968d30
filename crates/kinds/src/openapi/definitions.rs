//! Schema objects of the definitions, in the dialects of OpenAPI v2 and v3.

use super::descriptions::Descriptions;
use object::schema::{Field, ListKind, Schemas, Struct, Type, TypeId};
use object::{GroupVersionKind, Map, Str, Value};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// Which of the two document formats is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Dialect {
    V2,
    V3,
}

const MACHINERY: &str = "io.k8s.apimachinery.pkg";
const EXTENSIONS: &str = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1";

/// The definition of a patch's body.
pub(super) const PATCH: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Patch";
pub(super) const STATUS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Status";
pub(super) const DELETE_OPTIONS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions";

impl Dialect {
    /// A reference to a definition.
    pub(super) fn reference(self, name: &str) -> Value {
        let prefix = if self == Dialect::V2 { "#/definitions/" } else { "#/components/schemas/" };
        object([("$ref", Value::from(format!("{prefix}{name}")))])
    }
}

pub(super) fn object<const N: usize>(members: [(&str, Value); N]) -> Value {
    Value::Object(members.into_iter().collect())
}

pub(super) fn strings<'a>(items: impl IntoIterator<Item = &'a str>) -> Value {
    Value::Array(items.into_iter().map(Value::from).collect())
}

pub(super) fn kind_value(kind: &GroupVersionKind) -> Value {
    object([
        ("group", Value::from(kind.group.clone())),
        ("kind", Value::from(kind.kind.clone())),
        ("version", Value::from(kind.version.clone())),
    ])
}

/// Builds the schemas of definitions on demand, and of what they refer to.
pub(super) struct Definitions<'a> {
    schemas: &'a Schemas,
    dialect: Dialect,
    descriptions: &'a Descriptions,
    kinds: HashMap<TypeId, Vec<GroupVersionKind>>,
    done: BTreeMap<String, Value>,
    waiting: BTreeSet<String>,
}

impl<'a> Definitions<'a> {
    pub(super) fn new(schemas: &'a Schemas, dialect: Dialect, descriptions: &'a Descriptions) -> Self {
        let mut kinds: HashMap<TypeId, Vec<GroupVersionKind>> = HashMap::new();
        for (kind, id) in crate::kinds_with_types() {
            kinds.entry(id).or_default().push(kind);
        }
        Definitions { schemas, dialect, descriptions, kinds, done: BTreeMap::new(), waiting: BTreeSet::new() }
    }

    /// A kind that shares its definition with others, as DeleteOptions does in every group.
    pub(super) fn add_kind(&mut self, definition: &str, kind: GroupVersionKind) {
        if let Some(id) = self.schemas.find(definition) {
            let kinds = self.kinds.entry(id).or_default();
            if !kinds.contains(&kind) {
                kinds.push(kind);
            }
        }
    }

    /// Asks for a definition.
    pub(super) fn want(&mut self, name: &str) {
        if !self.done.contains_key(name) {
            self.waiting.insert(name.to_owned());
        }
    }

    /// All definitions asked for, with everything they refer to.
    pub(super) fn finish(mut self) -> Value {
        while let Some(name) = self.waiting.pop_first() {
            let schema = match self.schemas.find(&name) {
                Some(id) => self.definition(id),
                None => self.special(&name),
            };
            self.done.insert(name, schema);
        }
        Value::Object(self.done.into_iter().collect())
    }

    fn refer(&mut self, name: &str) -> Value {
        self.want(name);
        self.dialect.reference(name)
    }

    fn definition(&mut self, id: TypeId) -> Value {
        let schemas = self.schemas;
        let one: &Struct = schemas.get(id);
        let mut schema = Map::new();
        if let Some(text) = self.descriptions.get(&one.name, "") {
            schema.insert("description", text);
        }
        schema.insert("type", "object");
        let properties: Map = one
            .fields
            .iter()
            .filter(|field| !field.is_embedded())
            .map(|field| (field.name.clone(), self.property(&one.name, field)))
            .collect();
        if !properties.is_empty() {
            schema.insert("properties", properties);
        }
        let required: Vec<Value> =
            one.fields.iter().filter(|field| field.required).map(|field| Value::from(field.name.clone())).collect();
        if !required.is_empty() {
            schema.insert("required", required);
        }
        if let Some(kinds) = self.kinds.get(&id) {
            schema.insert("x-kubernetes-group-version-kind", kinds.iter().map(kind_value).collect::<Vec<_>>());
        }
        if one.atomic {
            schema.insert("x-kubernetes-map-type", "atomic");
        }
        Value::Object(schema)
    }

    fn property(&mut self, owner: &str, field: &Field) -> Value {
        let mut schema = match self.of_type(owner, &field.kind, &field.name) {
            Value::Object(map) => map,
            _ => Map::new(),
        };
        let description = self.descriptions.get(owner, &field.name);
        let default = field.default.as_ref().filter(|_| self.dialect == Dialect::V3);
        // OpenAPI v3 ignores what stands beside a reference.
        if self.dialect == Dialect::V3 && (description.is_some() || default.is_some()) && schema.contains_key("$ref") {
            schema = Map::from_iter([("allOf", Value::Array(vec![Value::Object(schema)]))]);
        }
        if let Some(text) = description {
            schema.insert("description", text);
        }
        if let Some(value) = default {
            schema.insert("default", value.clone());
        }
        extensions(field, &mut schema);
        Value::Object(schema)
    }

    fn of_type(&mut self, owner: &str, kind: &Type, member: &str) -> Value {
        let scalar = |name: &str| object([("type", Value::from(name))]);
        let formatted =
            |name: &str, format: &str| object([("type", Value::from(name)), ("format", Value::from(format))]);
        match kind {
            Type::Bool => scalar("boolean"),
            Type::Int32 => formatted("integer", "int32"),
            Type::Int64 => formatted("integer", "int64"),
            Type::Float => formatted("number", "double"),
            Type::String | Type::Duration => scalar("string"),
            Type::Bytes => formatted("string", "byte"),
            Type::IntOrString => self.refer(&format!("{MACHINERY}.util.intstr.IntOrString")),
            Type::Quantity => self.refer(&format!("{MACHINERY}.api.resource.Quantity")),
            Type::Time => self.refer(&format!("{MACHINERY}.apis.meta.v1.Time")),
            Type::MicroTime => self.refer(&format!("{MACHINERY}.apis.meta.v1.MicroTime")),
            Type::Any => {
                let name = match (owner.starts_with(EXTENSIONS), member) {
                    (true, "items") => format!("{EXTENSIONS}.JSONSchemaPropsOrArray"),
                    (true, "additionalItems" | "additionalProperties") => format!("{EXTENSIONS}.JSONSchemaPropsOrBool"),
                    (true, "dependencies") => format!("{EXTENSIONS}.JSONSchemaPropsOrStringArray"),
                    (true, _) => format!("{EXTENSIONS}.JSON"),
                    (false, "fieldsV1") => format!("{MACHINERY}.apis.meta.v1.FieldsV1"),
                    (false, _) => format!("{MACHINERY}.runtime.RawExtension"),
                };
                self.refer(&name)
            }
            Type::List(item) => {
                let items = self.of_type(owner, item, member);
                object([("type", Value::from("array")), ("items", items)])
            }
            Type::Map(item) => {
                let values = self.of_type(owner, item, member);
                object([("type", Value::from("object")), ("additionalProperties", values)])
            }
            Type::Struct(id) => {
                let name = self.schemas.get(*id).name.clone();
                self.refer(&name)
            }
        }
    }

    /// Definitions that are no structs.
    fn special(&self, name: &str) -> Value {
        let mut schema = Map::new();
        if let Some(text) = self.descriptions.get(name, "") {
            schema.insert("description", text);
        }
        let one_of = |kinds: [&str; 2]| Value::Array(kinds.map(|kind| object([("type", Value::from(kind))])).into());
        match name.rsplit('.').next().unwrap_or_default() {
            "IntOrString" if self.dialect == Dialect::V3 => {
                schema.insert("format", "int-or-string");
                schema.insert("oneOf", one_of(["integer", "string"]));
            }
            "Quantity" if self.dialect == Dialect::V3 => {
                schema.insert("oneOf", one_of(["string", "number"]));
            }
            "IntOrString" => {
                schema.insert("type", "string");
                schema.insert("format", "int-or-string");
            }
            "Quantity" => {
                schema.insert("type", "string");
            }
            "Time" | "MicroTime" => {
                schema.insert("type", "string");
                schema.insert("format", "date-time");
            }
            "RawExtension" | "FieldsV1" | "Patch" => {
                schema.insert("type", "object");
            }
            // JSON and the unions around it: any value.
            _ => {}
        }
        Value::Object(schema)
    }
}

fn extensions(field: &Field, schema: &mut Map) {
    match (&field.kind, &field.list) {
        (Type::List(_), ListKind::Set) => {
            schema.insert("x-kubernetes-list-type", "set");
        }
        (Type::List(_), ListKind::Map(keys)) => {
            schema.insert("x-kubernetes-list-type", "map");
            schema.insert("x-kubernetes-list-map-keys", strings(keys.iter().map(Str::as_str)));
        }
        (Type::List(_), ListKind::Atomic) => {
            schema.insert("x-kubernetes-list-type", "atomic");
        }
        (Type::Map(_) | Type::Struct(_), ListKind::Atomic) => {
            schema.insert("x-kubernetes-map-type", "atomic");
        }
        _ => {}
    }
    let strategy: Vec<&str> = [(field.patch_merge, "merge"), (field.patch_retain_keys, "retainKeys")]
        .into_iter()
        .filter_map(|(present, word)| present.then_some(word))
        .collect();
    if !strategy.is_empty() {
        schema.insert("x-kubernetes-patch-strategy", strategy.join(","));
    }
    if let Some(key) = &field.patch_merge_key {
        schema.insert("x-kubernetes-patch-merge-key", key.clone());
    }
}
