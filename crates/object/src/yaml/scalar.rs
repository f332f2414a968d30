//! What a plain scalar means. Upstream reads YAML with the 1.1 rules of Go's library: `yes` and `on` are booleans,
//! `0755` is octal.

use crate::Value;

fn boolean(text: &str) -> Option<bool> {
    match text {
        "y" | "Y" | "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => Some(true),
        "n" | "N" | "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => Some(false),
        _ => None,
    }
}

fn integer(text: &str) -> Option<i64> {
    let plain: String = text.chars().filter(|c| *c != '_').collect();
    let (sign, digits) = match plain.as_bytes().first()? {
        b'-' => ("-", &plain[1..]),
        b'+' => ("", &plain[1..]),
        _ => ("", plain.as_str()),
    };
    let lower = digits.to_ascii_lowercase();
    let (radix, digits) = match lower.as_bytes() {
        [b'0', b'x', ..] => (16, &lower[2..]),
        [b'0', b'o', ..] => (8, &lower[2..]),
        [b'0', b'b', ..] => (2, &lower[2..]),
        [b'0', _, ..] => (8, &lower[1..]),
        _ => (10, lower.as_str()),
    };
    if !digits.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        return None; // a second sign
    }
    i64::from_str_radix(&format!("{sign}{digits}"), radix).ok()
}

fn float(text: &str) -> Option<f64> {
    let digits = text.trim_start_matches(['+', '-']);
    let shape = text.len() - digits.len() <= 1
        && digits.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'.' | b'e' | b'E' | b'+' | b'-'))
        && digits.bytes().any(|byte| byte.is_ascii_digit())
        && !digits.starts_with(['e', 'E']);
    if shape { text.parse().ok().filter(|number: &f64| number.is_finite()) } else { None }
}

/// The value of a plain (unquoted) scalar.
pub(super) fn plain(text: &str) -> Value {
    match text.as_bytes().first() {
        None | Some(b'~') if text.len() <= 1 => return Value::Null,
        Some(b'n' | b'N') if matches!(text, "null" | "Null" | "NULL") => return Value::Null,
        Some(b'0'..=b'9' | b'+' | b'-' | b'.') => {
            if let Some(number) = integer(text) {
                return Value::Int(number);
            }
            if let Some(number) = float(text) {
                return Value::Float(number);
            }
        }
        Some(b'y' | b'Y' | b'n' | b'N' | b't' | b'T' | b'f' | b'F' | b'o' | b'O') => {
            if let Some(flag) = boolean(text) {
                return Value::Bool(flag);
            }
        }
        _ => {}
    }
    Value::from(text)
}

/// A mapping's key as JSON has it: text.
pub(super) fn key(value: Value) -> Option<crate::Str> {
    match value {
        Value::String(text) => Some(text),
        Value::Int(_) | Value::Float(_) | Value::Bool(_) => {
            Some(crate::Str::from_utf8_lossy(&crate::json::encode(&value)))
        }
        Value::Null => Some(crate::Str::const_new("null")),
        Value::Array(_) | Value::Object(_) => None,
    }
}
