//! A serde serializer that builds a value tree.

use super::from_tree::ConversionError;
use crate::{Map, Str, Value};
use ::serde::ser::{self, Error as _, Serialize, Serializer};

/// Builds the tree of a typed struct.
pub fn try_from_typed<T: Serialize + ?Sized>(typed: &T) -> Result<Value, ConversionError> {
    typed.serialize(TreeSerializer)
}

/// Builds the tree of a typed struct of k8s-openapi, whose serialization can't fail; null for a type whose own does.
pub fn from_typed<T: Serialize + ?Sized>(typed: &T) -> Value {
    try_from_typed(typed).unwrap_or_default()
}

#[derive(Clone, Copy)]
struct TreeSerializer;

type Built = Result<Value, ConversionError>;

fn unsigned(number: u64) -> Value {
    i64::try_from(number).map_or(Value::Float(number as f64), Value::Int)
}

fn tagged(variant: &str, value: Value) -> Value {
    Value::Object(Map::from_iter([(variant, value)]))
}

impl Serializer for TreeSerializer {
    type Ok = Value;
    type Error = ConversionError;
    type SerializeSeq = Items;
    type SerializeTuple = Items;
    type SerializeTupleStruct = Items;
    type SerializeTupleVariant = Items;
    type SerializeMap = Members;
    type SerializeStruct = Members;
    type SerializeStructVariant = Members;

    fn serialize_bool(self, flag: bool) -> Built {
        Ok(Value::Bool(flag))
    }
    fn serialize_i8(self, number: i8) -> Built {
        Ok(Value::Int(number.into()))
    }
    fn serialize_i16(self, number: i16) -> Built {
        Ok(Value::Int(number.into()))
    }
    fn serialize_i32(self, number: i32) -> Built {
        Ok(Value::Int(number.into()))
    }
    fn serialize_i64(self, number: i64) -> Built {
        Ok(Value::Int(number))
    }
    fn serialize_u8(self, number: u8) -> Built {
        Ok(Value::Int(number.into()))
    }
    fn serialize_u16(self, number: u16) -> Built {
        Ok(Value::Int(number.into()))
    }
    fn serialize_u32(self, number: u32) -> Built {
        Ok(Value::Int(number.into()))
    }
    fn serialize_u64(self, number: u64) -> Built {
        Ok(unsigned(number))
    }
    fn serialize_f32(self, number: f32) -> Built {
        Ok(Value::Float(number.into()))
    }
    fn serialize_f64(self, number: f64) -> Built {
        Ok(Value::Float(number))
    }
    fn serialize_char(self, character: char) -> Built {
        Ok(Value::String(Str::new(character.encode_utf8(&mut [0; 4]))))
    }
    fn serialize_str(self, text: &str) -> Built {
        Ok(Value::String(Str::new(text)))
    }
    fn serialize_bytes(self, bytes: &[u8]) -> Built {
        Ok(Value::Array(bytes.iter().map(|byte| Value::Int((*byte).into())).collect()))
    }
    fn serialize_none(self) -> Built {
        Ok(Value::Null)
    }
    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Built {
        value.serialize(self)
    }
    fn serialize_unit(self) -> Built {
        Ok(Value::Null)
    }
    fn serialize_unit_struct(self, _name: &'static str) -> Built {
        Ok(Value::Null)
    }
    fn serialize_unit_variant(self, _name: &'static str, _index: u32, variant: &'static str) -> Built {
        Ok(Value::String(Str::new(variant)))
    }
    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, _name: &'static str, value: &T) -> Built {
        value.serialize(self)
    }
    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _name: &'static str,
        _index: u32,
        variant: &'static str,
        value: &T,
    ) -> Built {
        Ok(tagged(variant, value.serialize(self)?))
    }
    fn serialize_seq(self, length: Option<usize>) -> Result<Items, ConversionError> {
        Ok(Items { items: Vec::with_capacity(length.unwrap_or(0)), variant: None })
    }
    fn serialize_tuple(self, length: usize) -> Result<Items, ConversionError> {
        self.serialize_seq(Some(length))
    }
    fn serialize_tuple_struct(self, _name: &'static str, length: usize) -> Result<Items, ConversionError> {
        self.serialize_seq(Some(length))
    }
    fn serialize_tuple_variant(
        self,
        _name: &'static str,
        _index: u32,
        variant: &'static str,
        length: usize,
    ) -> Result<Items, ConversionError> {
        Ok(Items { items: Vec::with_capacity(length), variant: Some(variant) })
    }
    fn serialize_map(self, length: Option<usize>) -> Result<Members, ConversionError> {
        Ok(Members { members: Vec::with_capacity(length.unwrap_or(0)), key: None, variant: None })
    }
    fn serialize_struct(self, _name: &'static str, length: usize) -> Result<Members, ConversionError> {
        self.serialize_map(Some(length))
    }
    fn serialize_struct_variant(
        self,
        _name: &'static str,
        _index: u32,
        variant: &'static str,
        length: usize,
    ) -> Result<Members, ConversionError> {
        Ok(Members { members: Vec::with_capacity(length), key: None, variant: Some(variant) })
    }
}

struct Items {
    items: Vec<Value>,
    variant: Option<&'static str>,
}

impl Items {
    fn push<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), ConversionError> {
        self.items.push(value.serialize(TreeSerializer)?);
        Ok(())
    }

    fn finish(self) -> Built {
        let list = Value::Array(self.items);
        Ok(match self.variant {
            Some(variant) => tagged(variant, list),
            None => list,
        })
    }
}

macro_rules! items_as {
    ($trait:ident, $method:ident) => {
        impl ser::$trait for Items {
            type Ok = Value;
            type Error = ConversionError;
            fn $method<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), ConversionError> {
                self.push(value)
            }
            fn end(self) -> Built {
                self.finish()
            }
        }
    };
}
items_as!(SerializeSeq, serialize_element);
items_as!(SerializeTuple, serialize_element);
items_as!(SerializeTupleStruct, serialize_field);
items_as!(SerializeTupleVariant, serialize_field);

struct Members {
    members: Vec<(Str, Value)>,
    key: Option<Str>,
    variant: Option<&'static str>,
}

impl Members {
    fn push<T: Serialize + ?Sized>(&mut self, key: Str, value: &T) -> Result<(), ConversionError> {
        self.members.push((key, value.serialize(TreeSerializer)?));
        Ok(())
    }

    fn finish(self) -> Built {
        let map = Value::Object(Map::from_members(self.members).0);
        Ok(match self.variant {
            Some(variant) => tagged(variant, map),
            None => map,
        })
    }
}

impl ser::SerializeMap for Members {
    type Ok = Value;
    type Error = ConversionError;
    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), ConversionError> {
        self.key = Some(match key.serialize(TreeSerializer)? {
            Value::String(text) => text,
            Value::Int(number) => Str::from(number.to_string()),
            Value::Bool(flag) => Str::from(flag.to_string()),
            _ => return Err(ConversionError::custom("a member's name must be a string")),
        });
        Ok(())
    }
    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), ConversionError> {
        let key = self.key.take().ok_or_else(|| ConversionError::custom("a value without a name"))?;
        self.push(key, value)
    }
    fn end(self) -> Built {
        self.finish()
    }
}

macro_rules! members_as {
    ($trait:ident) => {
        impl ser::$trait for Members {
            type Ok = Value;
            type Error = ConversionError;
            fn serialize_field<T: Serialize + ?Sized>(
                &mut self,
                key: &'static str,
                value: &T,
            ) -> Result<(), ConversionError> {
                self.push(Str::const_new(key), value)
            }
            fn end(self) -> Built {
                self.finish()
            }
        }
    };
}
members_as!(SerializeStruct);
members_as!(SerializeStructVariant);
