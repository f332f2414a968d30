//! The schema model: names, wire numbers, types, list kinds, merge keys, static defaults. Facts, no prose.

use crate::{Str, Value};

/// The index of a struct in its [`Schemas`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TypeId(pub u32);

/// The type of a field, a list's item or a map's value.
#[derive(Clone, Debug, PartialEq)]
pub enum Type {
    /// true or false.
    Bool,
    /// A 32-bit integer (proto varint).
    Int32,
    /// A 64-bit integer (proto varint).
    Int64,
    /// A double (proto fixed64).
    Float,
    /// A string.
    String,
    /// Bytes: base64 in JSON, raw in protobuf.
    Bytes,
    /// Kubernetes' IntOrString (proto message: 1 type, 2 int, 3 string).
    IntOrString,
    /// A quantity: a string in JSON (a number is accepted), a message with one string field in protobuf.
    Quantity,
    /// RFC 3339 with seconds: a message of seconds and nanoseconds in protobuf.
    Time,
    /// RFC 3339 with microseconds; the same message as `Time` in protobuf.
    MicroTime,
    /// A duration in Go's notation ("1h2m"): a message with one int64 of nanoseconds in protobuf.
    Duration,
    /// Any JSON (RawExtension, JSON, FieldsV1, unstructured parts of a custom resource): kept as it is; in protobuf a message whose field 1 holds the raw JSON.
    Any,
    /// A map from strings to `item` ("granular" for apply unless the field says atomic).
    Map(Box<Type>),
    /// A list of `item`.
    List(Box<Type>),
    /// A struct of the same [`Schemas`].
    Struct(TypeId),
}

/// How apply and the topology markers see a list (or a map or struct marked atomic).
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum ListKind {
    /// Replaced as a whole. Also what a map or struct marked atomic has; the default for lists.
    #[default]
    Atomic,
    /// A set of scalars.
    Set,
    /// Items are told apart by the named members (x-kubernetes-list-map-keys).
    Map(Vec<Str>),
    /// A map or struct merged member by member: the default for those.
    Granular,
}

/// One member of a struct.
#[derive(Clone, Debug)]
pub struct Field {
    /// Its name in JSON; empty for an embedded message (see [`Field::is_embedded`]).
    pub name: Str,
    /// Its number in protobuf; 0 where it has none of its own: custom resources, members of an embedded message.
    pub number: u32,
    /// Its type.
    pub kind: Type,
    /// Whether upstream's OpenAPI lists it as required.
    pub required: bool,
    /// Whether JSON null is a value of its own here (custom resources' nullable); elsewhere null counts as absent.
    pub nullable: bool,
    /// For lists, maps and structs: how apply merges it.
    pub list: ListKind,
    /// x-kubernetes-patch-strategy for strategic merge patch: whether `merge` is among its words.
    pub patch_merge: bool,
    /// Whether `retainKeys` is among x-kubernetes-patch-strategy's words.
    pub patch_retain_keys: bool,
    /// x-kubernetes-patch-merge-key.
    pub patch_merge_key: Option<Str>,
    /// A default that depends on nothing else; set by the defaulting interpreter when the field is absent.
    pub default: Option<Value>,
    /// Whether Go encodes the zero value (no omitempty): matters when protobuf is turned into JSON.
    pub keep_empty: bool,
}

impl Field {
    /// A field with no more than a name and a type.
    #[must_use]
    pub fn new(name: impl Into<Str>, kind: Type) -> Self {
        Field {
            name: name.into(),
            number: 0,
            kind,
            required: false,
            nullable: false,
            list: ListKind::Atomic,
            patch_merge: false,
            patch_retain_keys: false,
            patch_merge_key: None,
            default: None,
            keep_empty: false,
        }
    }

    /// True for the pseudo-field that stands for an embedded message: protobuf nests its members under its number,
    /// JSON has them directly in the outer struct, which lists them too (with number 0). Its type is the message.
    /// Only the protobuf transcoder looks at it; to lookups by name it does not exist.
    #[must_use]
    pub fn is_embedded(&self) -> bool {
        self.name.is_empty()
    }
}

/// A struct type: fields sorted by name.
#[derive(Clone, Debug)]
pub struct Struct {
    /// Upstream's definition name, such as `io.k8s.api.core.v1.Pod`.
    pub name: Str,
    /// Sorted by name, for binary search.
    pub fields: Vec<Field>,
    /// x-kubernetes-preserve-unknown-fields: unknown members are kept.
    pub preserve_unknown: bool,
    /// Members of a union of which at most one may be set, for retainKeys and apply; empty for most.
    pub atomic: bool,
}

impl Struct {
    /// The field named `name` in JSON.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<&Field> {
        if name.is_empty() {
            return None;
        }
        self.fields.binary_search_by(|field| field.name.as_str().cmp(name)).ok().map(|at| &self.fields[at])
    }
}

/// All structs of one origin: built-in kinds share one, each custom resource has its own.
#[derive(Clone, Debug, std::default::Default)]
pub struct Schemas {
    structs: Vec<Struct>,
    names: std::collections::HashMap<Str, TypeId>,
    // For each struct its fields with a protobuf number, by rising number.
    wire: Vec<Box<[u16]>>,
    // For each struct its fields that protobuf can't carry.
    unnumbered: Vec<Box<[u16]>>,
}

impl Schemas {
    /// Takes the structs; their positions become their ids.
    #[must_use]
    pub fn new(mut structs: Vec<Struct>) -> Self {
        for one in &mut structs {
            if !one.fields.is_sorted_by(|a, b| a.name <= b.name) {
                one.fields.sort_by(|a, b| a.name.cmp(&b.name));
            }
        }
        let wire = structs.iter().map(wire_order).collect();
        let names = structs.iter().enumerate().map(|(at, one)| (one.name.clone(), TypeId(at as u32))).collect();
        let unnumbered = structs.iter().map(|one| without_number(one, &structs)).collect();
        Schemas { structs, names, wire, unnumbered }
    }

    /// The struct with an id of this collection.
    #[must_use]
    pub fn get(&self, id: TypeId) -> &Struct {
        &self.structs[id.0 as usize]
    }

    /// The fields of a struct that have a protobuf number, by rising number.
    pub fn wire(&self, id: TypeId) -> impl Iterator<Item = &Field> {
        let fields = &self.get(id).fields;
        self.wire[id.0 as usize].iter().map(|at| &fields[usize::from(*at)])
    }

    /// The fields of a struct that protobuf can't carry. apiVersion and kind are not among them: the envelope has them.
    pub fn without_number(&self, id: TypeId) -> impl Iterator<Item = &Field> {
        let fields = &self.get(id).fields;
        self.unnumbered[id.0 as usize].iter().map(|at| &fields[usize::from(*at)])
    }

    /// The field of a struct with a protobuf number.
    #[must_use]
    pub fn by_number(&self, id: TypeId, number: u32) -> Option<&Field> {
        let (fields, order) = (&self.get(id).fields, &self.wire[id.0 as usize]);
        // Most messages number their fields without gaps.
        let guess = order.get((number as usize).wrapping_sub(1)).map(|at| &fields[usize::from(*at)]);
        if let Some(field) = guess
            && field.number == number
        {
            return guess;
        }
        let at = order.binary_search_by_key(&number, |at| fields[usize::from(*at)].number).ok()?;
        Some(&fields[usize::from(order[at])])
    }

    /// The id of upstream's definition name.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<TypeId> {
        self.names.get(name).copied()
    }

    /// All structs with their ids.
    pub fn iter(&self) -> impl Iterator<Item = (TypeId, &Struct)> {
        self.structs.iter().enumerate().map(|(at, one)| (TypeId(at as u32), one))
    }
}

fn wire_order(one: &Struct) -> Box<[u16]> {
    let mut order: Vec<u16> =
        (0u16..).zip(&one.fields).filter(|(_, field)| field.number > 0).map(|(at, _)| at).collect();
    order.sort_by_key(|at| one.fields[usize::from(*at)].number);
    order.into()
}

fn without_number(one: &Struct, all: &[Struct]) -> Box<[u16]> {
    fn embeds(one: &Struct, name: &str, all: &[Struct]) -> bool {
        let inner = one.fields.first().filter(|field| field.is_embedded()).and_then(|field| match field.kind {
            Type::Struct(id) => all.get(id.0 as usize),
            _ => None,
        });
        inner.is_some_and(|inner| inner.field(name).is_some_and(|field| field.number > 0) || embeds(inner, name, all))
    }
    let missing = |field: &Field| {
        field.number == 0 && !matches!(field.name.as_str(), "apiVersion" | "kind") && !embeds(one, &field.name, all)
    };
    (0u16..).zip(&one.fields).filter(|(_, field)| missing(field)).map(|(at, _)| at).collect()
}

/// A static default.
pub type Default = Value;
