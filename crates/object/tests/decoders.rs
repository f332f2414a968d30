//! Whatever comes in, the decoders answer; and what they read they write back.
#![expect(clippy::unwrap_used, reason = "tests")]

use klynge_object::schema::{Field, Schemas, Struct, Type, TypeId};
use klynge_object::{Limits, Map, Str, Value, json, proto, yaml};
use proptest::prelude::*;

const SMALL: Limits = Limits { bytes: 1 << 16, depth: 20, nodes: 5000 };

fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::Bool),
        any::<i64>().prop_map(Value::Int),
        (-1e300f64..1e300).prop_map(|number| if number.fract() == 0.0 {
            Value::Float(0.5)
        } else {
            Value::Float(number)
        }),
        any::<String>().prop_map(Value::from),
        "[ -~\n]{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 40, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::Array),
            prop::collection::btree_map("[ -~]{0,8}", inner, 0..6)
                .prop_map(|members| Value::Object(members.into_iter().collect::<Map>())),
        ]
    })
}

/// One struct that refers to itself through every kind of field.
fn schemas() -> Schemas {
    let own = || Type::Struct(TypeId(0));
    let kinds = [
        Type::Bool,
        Type::Int32,
        Type::Int64,
        Type::Float,
        Type::String,
        Type::Bytes,
        Type::IntOrString,
        Type::Quantity,
        Type::Time,
        Type::MicroTime,
        Type::Duration,
        Type::Any,
        own(),
        Type::List(Box::new(own())),
        Type::List(Box::new(Type::Int64)),
        Type::Map(Box::new(own())),
        Type::Map(Box::new(Type::List(Box::new(Type::String)))),
    ];
    let fields = kinds.into_iter().zip(1..).map(|(kind, number)| {
        let mut field = Field::new(format!("f{number}"), kind);
        field.number = number;
        field.keep_empty = true;
        field
    });
    let one = Struct { name: Str::from("a.v1.A"), fields: fields.collect(), preserve_unknown: false, atomic: false };
    Schemas::new(vec![one])
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn json_goes_there_and_back(value in any_value()) {
        let written = json::encode(&value);
        prop_assert_eq!(&json::decode(&written, &Limits::REQUEST).unwrap().value, &value);
        prop_assert!(serde_json::from_slice::<serde_json::Value>(&written).is_ok());
    }

    #[test]
    fn yaml_goes_there_and_back(value in any_value()) {
        // YAML can't carry NUL and some other control characters unescaped; the encoder escapes them.
        let written = yaml::encode(&value);
        prop_assert_eq!(&yaml::decode(written.as_bytes(), &Limits::REQUEST).unwrap().value, &value, "{}", written);
    }

    #[test]
    fn noise_is_answered(bytes in prop::collection::vec(any::<u8>(), 0..300), text in "[\\[\\]{}:,\"'&*<!|>\\-a0 \n#]{0,80}") {
        let schemas = schemas();
        let _ = json::decode(&bytes, &SMALL);
        let _ = yaml::decode(&bytes, &SMALL);
        let _ = yaml::decode(text.as_bytes(), &SMALL);
        let _ = proto::envelope::unwrap(&bytes);
        if let Ok(value) = proto::decode(&schemas, TypeId(0), &bytes, &SMALL) {
            let written = proto::encode(&schemas, TypeId(0), &value).unwrap();
            prop_assert_eq!(proto::decode(&schemas, TypeId(0), &written, &Limits::REQUEST).unwrap(), value);
        }
        match (json::decode(text.as_bytes(), &SMALL), serde_json::from_str::<serde_json::Value>(&text)) {
            (Ok(_), Ok(_)) | (Err(_), Err(_)) => {}
            (ours, theirs) => prop_assert!(false, "{ours:?} but {theirs:?}"),
        }
    }
}
