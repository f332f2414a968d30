//! The value tree to compact JSON: members in byte order, numbers as Go writes them.

use crate::Value;
use std::fmt::Write as _;

/// Encodes without white space.
#[must_use]
pub fn encode(value: &Value) -> Vec<u8> {
    let mut out = Vec::with_capacity(512);
    encode_into(value, &mut out);
    out
}

/// Encodes at the end of `out`.
pub fn encode_into(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Null => out.extend_from_slice(b"null"),
        Value::Bool(true) => out.extend_from_slice(b"true"),
        Value::Bool(false) => out.extend_from_slice(b"false"),
        Value::Int(number) => push_integer(*number, out),
        Value::Float(number) => push_float(*number, out),
        Value::String(text) => push_string(text, out),
        Value::Array(items) => {
            out.push(b'[');
            for (at, item) in items.iter().enumerate() {
                if at > 0 {
                    out.push(b',');
                }
                encode_into(item, out);
            }
            out.push(b']');
        }
        Value::Object(map) => {
            out.push(b'{');
            for (at, (key, member)) in map.iter().enumerate() {
                if at > 0 {
                    out.push(b',');
                }
                push_string(key, out);
                out.push(b':');
                encode_into(member, out);
            }
            out.push(b'}');
        }
    }
}

/// Writes an integer in decimal.
fn push_integer(number: i64, out: &mut Vec<u8>) {
    let mut digits = [0u8; 20];
    let mut at = digits.len();
    let mut rest = number.unsigned_abs();
    loop {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    if number < 0 {
        out.push(b'-');
    }
    out.extend_from_slice(&digits[at..]);
}

/// Writes a float as Go does: no exponent from 1e-6 up to 1e21, a sign in positive exponents. JSON has no word for
/// infinities and NaN, which no decoder of ours produces either; they become null.
fn push_float(number: f64, out: &mut Vec<u8>) {
    if !number.is_finite() {
        return out.extend_from_slice(b"null");
    }
    let mut text = String::new();
    let size = number.abs();
    // Writing into a String can't fail.
    let _ = if size != 0.0 && !(1e-6..1e21).contains(&size) {
        write!(text, "{number:e}")
    } else {
        write!(text, "{number}")
    };
    if let Some((digits, exponent)) = text.split_once('e')
        && !exponent.starts_with('-')
    {
        text = format!("{digits}e+{exponent}");
    }
    out.extend_from_slice(text.as_bytes());
}

fn push_string(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    let mut rest = text.as_bytes();
    loop {
        let (plain, tail) = rest.split_at(super::plain::length(rest));
        out.extend_from_slice(plain);
        let Some((byte, after)) = tail.split_first() else { break };
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', *byte]),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            8 => out.extend_from_slice(b"\\b"),
            12 => out.extend_from_slice(b"\\f"),
            control => {
                let digit = |nibble: u8| b"0123456789abcdef"[usize::from(nibble & 15)];
                out.extend_from_slice(&[b'\\', b'u', b'0', b'0', digit(control >> 4), digit(*control)]);
            }
        }
        rest = after;
    }
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::json::{Limits, decode};

    fn text(value: &Value) -> String {
        String::from_utf8(encode(value)).unwrap()
    }

    #[test]
    fn numbers_look_as_go_writes_them() {
        for (number, expected) in [
            (0.0, "0"),
            (1.0, "1"),
            (-1.5, "-1.5"),
            (1e20, "100000000000000000000"),
            (1e21, "1e+21"),
            (1.5e300, "1.5e+300"),
            (0.000001, "0.000001"),
            (1.5e-9, "1.5e-9"),
            (f64::NAN, "null"),
        ] {
            assert_eq!(text(&Value::Float(number)), expected);
        }
        for number in [0, 7, -1, 10, i64::MAX, i64::MIN] {
            assert_eq!(text(&Value::Int(number)), number.to_string());
        }
    }

    #[test]
    fn strings_survive_the_way_there_and_back() {
        let all: String = (0u32..0x300).filter_map(char::from_u32).chain("\u{2028}\u{1f600}".chars()).collect();
        let value = Value::from(all.as_str());
        assert_eq!(decode(&encode(&value), &Limits::REQUEST).unwrap().value, value);
        assert_eq!(text(&Value::from("a\"b\\\u{1}\n<&>")), r#""a\"b\\\u0001\n<&>""#);
    }

    #[test]
    fn members_come_in_order() {
        let value = decode(br#"{"b":[1,{"z":null,"a":true}],"a":{}}"#, &Limits::REQUEST).unwrap().value;
        assert_eq!(text(&value), r#"{"a":{},"b":[1,{"a":true,"z":null}]}"#);
    }
}
