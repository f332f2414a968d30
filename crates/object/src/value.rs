//! The value tree that the API server works on: JSON's data model with short strings inline and sorted maps.

use compact_str::CompactString;

/// A string of a value tree; up to 24 bytes are kept inline.
pub type Str = CompactString;

/// One node of an object. Integers stay integers, as upstream's decoder keeps int64 apart from float64.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Value {
    /// JSON null.
    #[default]
    Null,
    /// JSON true or false.
    Bool(bool),
    /// A number without fraction and exponent that fits 64 bits.
    Int(i64),
    /// Any other number.
    Float(f64),
    /// A string; byte fields hold their base64 form, as in JSON.
    String(Str),
    /// A list.
    Array(Vec<Value>),
    /// A map or a struct; which of the two only the schema knows.
    Object(Map),
}

impl Value {
    /// The string, where this is one.
    #[must_use]
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Value::String(text) => Some(text),
            _ => None,
        }
    }

    /// The integer, where this is one.
    #[must_use]
    pub fn as_i64(&self) -> Option<i64> {
        match self {
            Value::Int(number) => Some(*number),
            _ => None,
        }
    }

    /// The boolean, where this is one.
    #[must_use]
    pub fn as_bool(&self) -> Option<bool> {
        match self {
            Value::Bool(flag) => Some(*flag),
            _ => None,
        }
    }

    /// The list, where this is one.
    #[must_use]
    pub fn as_array(&self) -> Option<&[Value]> {
        match self {
            Value::Array(items) => Some(items),
            _ => None,
        }
    }

    /// The list for changing, where this is one.
    pub fn as_array_mut(&mut self) -> Option<&mut Vec<Value>> {
        match self {
            Value::Array(items) => Some(items),
            _ => None,
        }
    }

    /// The map, where this is one.
    #[must_use]
    pub fn as_object(&self) -> Option<&Map> {
        match self {
            Value::Object(map) => Some(map),
            _ => None,
        }
    }

    /// The map for changing, where this is one.
    pub fn as_object_mut(&mut self) -> Option<&mut Map> {
        match self {
            Value::Object(map) => Some(map),
            _ => None,
        }
    }

    /// True for null.
    #[must_use]
    pub fn is_null(&self) -> bool {
        matches!(self, Value::Null)
    }

    /// The member `name` of a map.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.as_object()?.get(name)
    }

    /// The node reached by following member names; None where one is missing or the way is no map.
    #[must_use]
    pub fn at(&self, path: &[&str]) -> Option<&Value> {
        path.iter().try_fold(self, |node, name| node.get(name))
    }

    /// The string reached by following member names.
    #[must_use]
    pub fn str_at(&self, path: &[&str]) -> Option<&str> {
        self.at(path)?.as_str()
    }

    /// The integer reached by following member names.
    #[must_use]
    pub fn i64_at(&self, path: &[&str]) -> Option<i64> {
        self.at(path)?.as_i64()
    }

    /// The node for changing, reached by following member names.
    pub fn at_mut(&mut self, path: &[&str]) -> Option<&mut Value> {
        path.iter().try_fold(self, |node, name| node.as_object_mut()?.get_mut(name))
    }

    /// Sets the node at `path`, making maps on the way; what is no map on the way is replaced by one.
    pub fn set(&mut self, path: &[&str], value: Value) {
        let mut node = self;
        for name in path {
            if !matches!(node, Value::Object(_)) {
                *node = Value::Object(Map::new());
            }
            let Value::Object(map) = node else { return };
            node = map.entry(name);
        }
        *node = value;
    }

    /// Removes and returns the node at `path`.
    pub fn remove(&mut self, path: &[&str]) -> Option<Value> {
        let (last, way) = path.split_last()?;
        self.at_mut(way)?.as_object_mut()?.remove(last)
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Value::String(text.into())
    }
}
impl From<String> for Value {
    fn from(text: String) -> Self {
        Value::String(text.into())
    }
}
impl From<Str> for Value {
    fn from(text: Str) -> Self {
        Value::String(text)
    }
}
impl From<bool> for Value {
    fn from(flag: bool) -> Self {
        Value::Bool(flag)
    }
}
impl From<i64> for Value {
    fn from(number: i64) -> Self {
        Value::Int(number)
    }
}
impl From<i32> for Value {
    fn from(number: i32) -> Self {
        Value::Int(number.into())
    }
}
impl From<Vec<Value>> for Value {
    fn from(items: Vec<Value>) -> Self {
        Value::Array(items)
    }
}
impl From<Map> for Value {
    fn from(map: Map) -> Self {
        Value::Object(map)
    }
}

/// A map with its keys in byte order: equal objects have one encoding, and a lookup is a binary search.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Map(Vec<(Str, Value)>);

impl Map {
    /// An empty map.
    #[must_use]
    pub const fn new() -> Self {
        Map(Vec::new())
    }

    /// Sorts `members`; where a key comes twice the last value stays, and the key is returned among the duplicates.
    #[must_use]
    pub fn from_members(mut members: Vec<(Str, Value)>) -> (Self, Vec<Str>) {
        let mut duplicates = Vec::new();
        if !members.is_sorted_by(|a, b| a.0 < b.0) {
            members.sort_by(|a, b| a.0.cmp(&b.0)); // stable: of equal keys the last written stays last
            let mut kept: Vec<(Str, Value)> = Vec::with_capacity(members.len());
            for member in members {
                match kept.last_mut() {
                    Some(last) if last.0 == member.0 => {
                        duplicates.push(member.0.clone());
                        *last = member;
                    }
                    _ => kept.push(member),
                }
            }
            members = kept;
        }
        (Map(members), duplicates)
    }

    /// Adds a member at the end without looking; false where order or uniqueness is lost until [`Map::restore_order`].
    pub(crate) fn push(&mut self, key: Str, value: Value) -> bool {
        let in_order = self.0.last().is_none_or(|last| last.0 < key);
        self.0.push((key, value));
        in_order
    }

    /// Sorts after [`Map::push`]; of equal keys the last one stays.
    pub(crate) fn restore_order(&mut self) {
        if !self.0.is_sorted_by(|a, b| a.0 < b.0) {
            *self = Map::from_members(std::mem::take(&mut self.0)).0;
        }
    }

    fn position(&self, key: &str) -> Result<usize, usize> {
        self.0.binary_search_by(|member| member.0.as_str().cmp(key))
    }

    /// The number of members.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// True without members.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The value of `key`.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.position(key).ok().map(|at| &self.0[at].1)
    }

    /// The value of `key` for changing.
    pub fn get_mut(&mut self, key: &str) -> Option<&mut Value> {
        self.position(key).ok().map(|at| &mut self.0[at].1)
    }

    /// True where `key` is present, even with null.
    #[must_use]
    pub fn contains_key(&self, key: &str) -> bool {
        self.position(key).is_ok()
    }

    /// Sets `key`; returns what was there.
    pub fn insert(&mut self, key: impl Into<Str>, value: impl Into<Value>) -> Option<Value> {
        let key = key.into();
        match self.position(&key) {
            Ok(at) => Some(std::mem::replace(&mut self.0[at].1, value.into())),
            Err(at) => {
                self.0.insert(at, (key, value.into()));
                None
            }
        }
    }

    /// The value of `key`, made null first where it is missing.
    pub fn entry(&mut self, key: &str) -> &mut Value {
        let at = match self.position(key) {
            Ok(at) => at,
            Err(at) => {
                self.0.insert(at, (key.into(), Value::Null));
                at
            }
        };
        &mut self.0[at].1
    }

    /// Removes `key`; returns its value.
    pub fn remove(&mut self, key: &str) -> Option<Value> {
        self.position(key).ok().map(|at| self.0.remove(at).1)
    }

    /// Keeps the members for which `keep` is true.
    pub fn retain(&mut self, mut keep: impl FnMut(&str, &mut Value) -> bool) {
        self.0.retain_mut(|member| keep(&member.0, &mut member.1));
    }

    /// The members in key order.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (&str, &Value)> + ExactSizeIterator {
        self.0.iter().map(|member| (member.0.as_str(), &member.1))
    }

    /// The members in key order, values for changing.
    pub fn iter_mut(&mut self) -> impl DoubleEndedIterator<Item = (&str, &mut Value)> + ExactSizeIterator {
        self.0.iter_mut().map(|member| (member.0.as_str(), &mut member.1))
    }

    /// The keys in order.
    pub fn keys(&self) -> impl DoubleEndedIterator<Item = &str> + ExactSizeIterator {
        self.0.iter().map(|member| member.0.as_str())
    }
}

impl IntoIterator for Map {
    type Item = (Str, Value);
    type IntoIter = std::vec::IntoIter<(Str, Value)>;
    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl<K: Into<Str>, V: Into<Value>> FromIterator<(K, V)> for Map {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(members: I) -> Self {
        Map::from_members(members.into_iter().map(|(key, value)| (key.into(), value.into())).collect()).0
    }
}
