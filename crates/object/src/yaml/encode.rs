//! The value tree to YAML in the block style that kubectl prints.

use super::scalar;
use crate::{Value, json};

/// Encodes one document, ending with a line feed.
#[must_use]
pub fn encode(value: &Value) -> String {
    let mut out = String::new();
    match value {
        Value::Object(map) if !map.is_empty() => block(value, 0, &mut out),
        Value::Array(items) if !items.is_empty() => block(value, 0, &mut out),
        other => {
            inline(other, 0, &mut out);
            out.push('\n');
        }
    }
    out
}

fn indent(depth: usize, out: &mut String) {
    out.extend(std::iter::repeat_n("  ", depth));
}

fn is_block(value: &Value) -> bool {
    match value {
        Value::Object(map) => !map.is_empty(),
        Value::Array(items) => !items.is_empty(),
        _ => false,
    }
}

fn block(value: &Value, depth: usize, out: &mut String) {
    match value {
        Value::Object(map) => {
            for (at, (key, value)) in map.iter().enumerate() {
                // The first member of a map in a list stands behind the dash.
                if at > 0 || !out.ends_with("- ") {
                    indent(depth, out);
                }
                text(key, depth, true, out);
                out.push(':');
                member(value, depth, out);
            }
        }
        Value::Array(items) => {
            for (at, value) in items.iter().enumerate() {
                if at > 0 || !out.ends_with("- ") {
                    indent(depth, out);
                }
                out.push_str("- ");
                if is_block(value) {
                    block(value, depth + 1, out);
                } else {
                    inline(value, depth + 1, out);
                    out.push('\n');
                }
            }
        }
        _ => {}
    }
}

fn member(value: &Value, depth: usize, out: &mut String) {
    match value {
        Value::Object(map) if !map.is_empty() => {
            out.push('\n');
            block(value, depth + 1, out);
        }
        // Lists stand at their key's depth.
        Value::Array(items) if !items.is_empty() => {
            out.push('\n');
            block(value, depth, out);
        }
        other => {
            out.push(' ');
            inline(other, depth + 1, out);
            out.push('\n');
        }
    }
}

fn inline(value: &Value, depth: usize, out: &mut String) {
    match value {
        Value::String(string) => text(string, depth, false, out),
        Value::Object(_) => out.push_str("{}"),
        Value::Array(_) => out.push_str("[]"),
        other => out.push_str(&String::from_utf8_lossy(&json::encode(other))),
    }
}

/// Whether a text means itself without quotes, in every position and to readers of YAML 1.1 and 1.2 alike.
fn is_plain(text: &str) -> bool {
    !text.is_empty()
        && matches!(scalar::plain(text), Value::String(_))
        && !text.starts_with([
            '-', '?', ':', ',', '[', ']', '{', '}', '#', '&', '*', '!', '|', '>', '\'', '"', '%', '@', '`', '=', '<',
            '.',
        ])
        && !text.starts_with(|c: char| c.is_ascii_digit() || c == '+')
        && !text.ends_with([' ', ':'])
        && !text.starts_with(' ')
        && !text.contains(": ")
        && !text.contains(" #")
        && text.chars().all(|c| !c.is_control() && !matches!(c, '\u{85}' | '\u{2028}' | '\u{2029}' | '\u{feff}'))
}

/// Text that starts with a digit is plain only where it can't be taken for a number or a date.
fn is_plain_with_digit(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_digit())
        && text.bytes().any(|byte| byte.is_ascii_alphabetic() && !matches!(byte, b'e' | b'E' | b'x' | b'o' | b'b'))
        && !text.contains([':', '_'])
        && is_plain(&format!("a{text}"))
        && matches!(scalar::plain(text), Value::String(_))
}

fn text(text: &str, depth: usize, is_key: bool, out: &mut String) {
    if is_plain(text) || is_plain_with_digit(text) {
        out.push_str(text);
    } else if !is_key && is_literal(text) {
        literal(text, depth, out);
    } else {
        // A JSON string is a double-quoted scalar of YAML, but for the line ends that only YAML knows.
        let quoted = String::from_utf8_lossy(&json::encode(&Value::from(text))).into_owned();
        for character in quoted.chars() {
            match character {
                '\u{7f}'..='\u{9f}' | '\u{2028}' | '\u{2029}' | '\u{feff}' => {
                    out.push_str(&format!("\\u{:04x}", u32::from(character)));
                }
                other => out.push(other),
            }
        }
    }
}

fn is_literal(text: &str) -> bool {
    text.contains('\n')
        && !text.starts_with([' ', '\n', '\t'])
        && text.chars().all(|c| {
            c == '\n' || c == '\t' || !c.is_control() && !matches!(c, '\u{85}' | '\u{2028}' | '\u{2029}' | '\u{feff}')
        })
        && text.lines().all(|line| !line.ends_with(' '))
        && !text.trim_end_matches('\n').is_empty()
}

fn literal(text: &str, depth: usize, out: &mut String) {
    let body = text.trim_end_matches('\n');
    out.push_str(match text.len() - body.len() {
        0 => "|-",
        1 => "|",
        _ => "|+",
    });
    for line in body.split('\n') {
        out.push('\n');
        if !line.is_empty() {
            indent(depth.max(1), out);
            out.push_str(line);
        }
    }
    // The caller ends the last line; further line feeds are kept by `|+`.
    out.extend(std::iter::repeat_n('\n', (text.len() - body.len()).saturating_sub(1)));
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::yaml::{Limits, decode};

    #[test]
    fn it_looks_as_kubectl_prints() {
        let json = br#"{"metadata":{"labels":{},"name":"web"},"spec":{"containers":[{"args":["-c","yes"],"image":"a:1"}],"x":[[1],"80"]},"t":"2026-11-23T00:00:00Z","s":"a\nb\n"}"#;
        let value = json::decode(json, &Limits::REQUEST).unwrap().value;
        let expected = "\
metadata:
  labels: {}
  name: web
s: |
  a
  b
spec:
  containers:
  - args:
    - \"-c\"
    - \"yes\"
    image: a:1
  x:
  - - 1
  - \"80\"
t: \"2026-11-23T00:00:00Z\"
";
        assert_eq!(encode(&value), expected);
        assert_eq!(decode(expected.as_bytes(), &Limits::REQUEST).unwrap().value, value);
    }

    #[test]
    fn every_text_survives() {
        let texts = [
            "",
            " ",
            "a",
            "a: b",
            "a #b",
            "- a",
            "null",
            "~",
            "true",
            "on",
            "y",
            "1",
            "0x1",
            "1e3",
            ".5",
            "+1",
            "a\n",
            "a\n\n",
            "\n",
            "\na",
            "a\n  b",
            " a\nb",
            "a\tb",
            "a\n\tb",
            "it's",
            "\"q\"",
            "\\",
            "#",
            "&a",
            "*a",
            "!x",
            "%x",
            "@x",
            "`x",
            "{a}",
            "[a]",
            "a:",
            ":a",
            "?",
            "-",
            "---",
            "...",
            "<<",
            "=",
            "\u{7f}",
            "\u{85}",
            "\u{2028}",
            "\u{feff}x",
            "\u{1f600}",
            "100m",
            "1Gi",
            "2026-11-23",
            "5d",
            "1_0",
            "10:20",
            "a,b",
            "trailing \nx",
            "x\r\ny",
            "0b1",
            "1.2.3",
            "a\u{1}",
        ];
        for text in texts {
            for value in [
                Value::from(text),
                Value::Array(vec![Value::from(text)]),
                Value::Object([(text, Value::from(text))].into_iter().collect()),
                Value::Array(vec![Value::Object(
                    [("k", Value::Array(vec![Value::from(text)])), ("z", Value::from(1))].into_iter().collect(),
                )]),
            ] {
                let written = encode(&value);
                let read = decode(written.as_bytes(), &Limits::REQUEST).map(|decoded| decoded.value);
                assert_eq!(read.as_ref(), Ok(&value), "{text:?} as {written:?}");
            }
        }
    }
}
