//! JSON to the value tree: one pass, exact allocations, bounded size, depth and count.
//!
//! Follows Go's decoder where a client could notice: integers that fit 64 bits stay integers, lone surrogates become
//! U+FFFD, member names are told apart by case. Invalid UTF-8 is refused, where Go would quietly replace it.

use crate::codec::{DUPLICATES_MAX, DecodeError, Decoded, Limits, prefix_paths};
use crate::{Map, Str, Value};

/// Decodes one JSON document.
pub fn decode(bytes: &[u8], limits: &Limits) -> Result<Decoded, DecodeError> {
    if bytes.len() > limits.bytes {
        return Err(DecodeError::size(bytes.len(), limits.bytes));
    }
    let text = std::str::from_utf8(bytes)
        .map_err(|error| DecodeError::new("invalid UTF-8 in JSON input", error.valid_up_to()))?;
    let mut scanner = Scanner {
        text,
        bytes,
        at: 0,
        depth_left: limits.depth,
        nodes_left: limits.nodes,
        members: Vec::new(),
        items: Vec::new(),
        duplicates: Vec::new(),
        scratch: String::new(),
    };
    let value = scanner.value()?;
    scanner.skip_space();
    match scanner.peek() {
        None => Ok(Decoded { value, duplicates: scanner.duplicates }),
        Some(_) => Err(scanner.unexpected("after top-level value")),
    }
}

struct Scanner<'a> {
    text: &'a str,
    bytes: &'a [u8],
    at: usize,
    depth_left: usize,
    nodes_left: usize,
    // Members and items of all open maps and lists: each moves into an exactly sized vector when it closes.
    members: Vec<(Str, Value)>,
    items: Vec<Value>,
    duplicates: Vec<String>,
    scratch: String,
}

impl Scanner<'_> {
    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn skip_space(&mut self) {
        while let Some(b' ' | b'\n' | b'\r' | b'\t') = self.peek() {
            self.at += 1;
        }
    }

    fn unexpected(&self, place: &str) -> DecodeError {
        match self.text.get(self.at..).and_then(|rest| rest.chars().next()) {
            None => DecodeError::new("unexpected end of JSON input", self.at),
            Some(character) => {
                let shown = match character {
                    '\'' => r"'\''".to_owned(),
                    '"' => "'\"'".to_owned(),
                    other => format!("'{}'", other.escape_debug()),
                };
                DecodeError::new(format!("invalid character {shown} {place}"), self.at)
            }
        }
    }

    fn enter(&mut self) -> Result<(), DecodeError> {
        self.depth_left =
            self.depth_left.checked_sub(1).ok_or_else(|| DecodeError::limit("exceeded max depth", self.at))?;
        self.at += 1;
        Ok(())
    }

    fn value(&mut self) -> Result<Value, DecodeError> {
        self.skip_space();
        self.nodes_left = self
            .nodes_left
            .checked_sub(1)
            .ok_or_else(|| DecodeError::limit("the document holds too many values", self.at))?;
        match self.peek() {
            Some(b'"') => self.string().map(Value::String),
            Some(b'{') => self.object(),
            Some(b'[') => self.array(),
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(b't') => self.word("true", Value::Bool(true)),
            Some(b'f') => self.word("false", Value::Bool(false)),
            Some(b'n') => self.word("null", Value::Null),
            _ => Err(self.unexpected("looking for beginning of value")),
        }
    }

    fn word(&mut self, word: &str, value: Value) -> Result<Value, DecodeError> {
        for expected in word.bytes() {
            if self.peek() != Some(expected) {
                return Err(self.unexpected(&format!("in literal {word} (expecting '{}')", expected as char)));
            }
            self.at += 1;
        }
        Ok(value)
    }

    fn object(&mut self) -> Result<Value, DecodeError> {
        self.enter()?;
        let start = self.members.len();
        self.skip_space();
        if self.peek() == Some(b'}') {
            self.at += 1;
        } else {
            loop {
                self.skip_space();
                if self.peek() != Some(b'"') {
                    return Err(self.unexpected("looking for beginning of object key string"));
                }
                let key = self.string()?;
                self.skip_space();
                if self.peek() != Some(b':') {
                    return Err(self.unexpected("after object key"));
                }
                self.at += 1;
                let known = self.duplicates.len();
                let value = self.value()?;
                if self.duplicates.len() > known {
                    prefix_paths(&mut self.duplicates, known, &key);
                }
                self.members.push((key, value));
                self.skip_space();
                match self.peek() {
                    Some(b',') => self.at += 1,
                    Some(b'}') => {
                        self.at += 1;
                        break;
                    }
                    _ => return Err(self.unexpected("after object key:value pair")),
                }
            }
        }
        self.depth_left += 1;
        let (map, twice) = Map::from_members(self.members.drain(start..).collect());
        let room = DUPLICATES_MAX.saturating_sub(self.duplicates.len());
        self.duplicates.extend(twice.into_iter().take(room).map(String::from));
        Ok(Value::Object(map))
    }

    fn array(&mut self) -> Result<Value, DecodeError> {
        self.enter()?;
        let start = self.items.len();
        self.skip_space();
        if self.peek() == Some(b']') {
            self.at += 1;
        } else {
            loop {
                let known = self.duplicates.len();
                let value = self.value()?;
                if self.duplicates.len() > known {
                    let segment = format!("[{}]", self.items.len() - start);
                    prefix_paths(&mut self.duplicates, known, &segment);
                }
                self.items.push(value);
                self.skip_space();
                match self.peek() {
                    Some(b',') => self.at += 1,
                    Some(b']') => {
                        self.at += 1;
                        break;
                    }
                    _ => return Err(self.unexpected("after array element")),
                }
            }
        }
        self.depth_left += 1;
        Ok(Value::Array(self.items.drain(start..).collect()))
    }

    /// The end of the plain run that starts at `self.at`.
    fn plain_end(&self) -> usize {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        self.at + super::plain::length(rest)
    }

    fn string(&mut self) -> Result<Str, DecodeError> {
        self.at += 1;
        let start = self.at;
        self.at = self.plain_end();
        if self.peek() == Some(b'"') {
            let text = self.text.get(start..self.at).unwrap_or_default();
            self.at += 1;
            return Ok(Str::new(text));
        }
        self.scratch.clear();
        self.scratch.push_str(self.text.get(start..self.at).unwrap_or_default());
        loop {
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(Str::new(&self.scratch));
                }
                Some(b'\\') => self.escape()?,
                _ => return Err(self.unexpected("in string literal")),
            }
            let start = self.at;
            self.at = self.plain_end();
            self.scratch.push_str(self.text.get(start..self.at).unwrap_or_default());
        }
    }

    fn escape(&mut self) -> Result<(), DecodeError> {
        self.at += 1;
        let character = match self.peek() {
            Some(byte @ (b'"' | b'\\' | b'/')) => byte as char,
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => {
                self.at += 1;
                let character = self.unicode_escape()?;
                self.scratch.push(character);
                return Ok(());
            }
            _ => return Err(self.unexpected("in string escape code")),
        };
        self.at += 1;
        self.scratch.push(character);
        Ok(())
    }

    fn unicode_escape(&mut self) -> Result<char, DecodeError> {
        let first = self.four_digits()?;
        if (0xd800..0xdc00).contains(&first) && self.bytes.get(self.at..).is_some_and(|rest| rest.starts_with(b"\\u")) {
            let back = self.at;
            self.at += 2;
            let second = self.four_digits()?;
            if (0xdc00..0xe000).contains(&second) {
                let code = 0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00);
                return Ok(char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER));
            }
            self.at = back; // a lone half; what follows speaks for itself
        }
        Ok(char::from_u32(first).unwrap_or(char::REPLACEMENT_CHARACTER))
    }

    fn four_digits(&mut self) -> Result<u32, DecodeError> {
        let mut code = 0;
        for _ in 0..4 {
            let digit = self.peek().and_then(|byte| (byte as char).to_digit(16));
            code = code * 16 + digit.ok_or_else(|| self.unexpected("in \\u hexadecimal character escape"))?;
            self.at += 1;
        }
        Ok(code)
    }

    fn digits(&mut self, place: &str) -> Result<(), DecodeError> {
        if !matches!(self.peek(), Some(b'0'..=b'9')) {
            return Err(self.unexpected(place));
        }
        while let Some(b'0'..=b'9') = self.peek() {
            self.at += 1;
        }
        Ok(())
    }

    fn number(&mut self) -> Result<Value, DecodeError> {
        let start = self.at;
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        match self.peek() {
            Some(b'0') => self.at += 1,
            _ => self.digits("in numeric literal")?,
        }
        let mut whole = true;
        if self.peek() == Some(b'.') {
            whole = false;
            self.at += 1;
            self.digits("after decimal point in numeric literal")?;
        }
        if let Some(b'e' | b'E') = self.peek() {
            whole = false;
            self.at += 1;
            if let Some(b'+' | b'-') = self.peek() {
                self.at += 1;
            }
            self.digits("in exponent of numeric literal")?;
        }
        let text = self.text.get(start..self.at).unwrap_or_default();
        if whole && let Ok(number) = text.parse::<i64>() {
            return Ok(Value::Int(number));
        }
        match text.parse::<f64>() {
            Ok(number) if number.is_finite() => Ok(Value::Float(number)),
            _ => Err(DecodeError::new(format!("number {} out of range", text.get(..40).unwrap_or(text)), start)),
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn value(text: &str) -> Value {
        decode(text.as_bytes(), &Limits::REQUEST).unwrap().value
    }

    fn error(text: &str) -> String {
        decode(text.as_bytes(), &Limits::REQUEST).unwrap_err().message
    }

    #[test]
    fn numbers_keep_their_kind() {
        for (text, expected) in [
            ("0", Value::Int(0)),
            ("-0", Value::Int(0)),
            ("9223372036854775807", Value::Int(i64::MAX)),
            ("-9223372036854775808", Value::Int(i64::MIN)),
            ("9223372036854775808", Value::Float(9223372036854775808.0)),
            ("1.0", Value::Float(1.0)),
            ("1e3", Value::Float(1000.0)),
        ] {
            assert_eq!(value(text), expected, "{text}");
        }
        for text in ["01", "1.", "-", "1e", "+1", ".5", "1e999", "NaN", "0x1"] {
            error(text);
        }
    }

    #[test]
    fn strings_are_unescaped() {
        assert_eq!(value(r#""a\"\\\/\b\f\n\r\tA""#).as_str(), Some("a\"\\/\u{8}\u{c}\n\r\tA"));
        assert_eq!(value("\"\\ud83d\\ude00\"").as_str(), Some("\u{1f600}"));
        assert_eq!(value("\"\\ud83dx\\u0041\"").as_str(), Some("\u{fffd}xA"));
        assert_eq!(value("\"\\ud83d\\u0041\"").as_str(), Some("\u{fffd}A"));
        assert_eq!(error("\"a\nb\""), "invalid character '\\n' in string literal");
        assert_eq!(error("\"\\x\""), "invalid character 'x' in string escape code");
        assert!(decode(b"\"\xff\"", &Limits::REQUEST).unwrap_err().message.contains("UTF-8"));
    }

    #[test]
    fn errors_speak_like_the_decoder_people_know() {
        assert_eq!(error(""), "unexpected end of JSON input");
        assert_eq!(error("{"), "unexpected end of JSON input");
        assert_eq!(error("{a"), "invalid character 'a' looking for beginning of object key string");
        assert_eq!(error("[1 2]"), "invalid character '2' after array element");
        assert_eq!(error("{} x"), "invalid character 'x' after top-level value");
        assert_eq!(error("nul"), "unexpected end of JSON input");
        assert_eq!(error("[1,]"), "invalid character ']' looking for beginning of value");
    }

    #[test]
    fn duplicates_have_paths_and_the_last_one_counts() {
        let text = br#"{"spec":{"containers":[{"name":"a"},{"name":"b","x":1,"name":"c"}],"y":1,"y":2}}"#;
        let decoded = decode(text, &Limits::REQUEST).unwrap();
        assert_eq!(decoded.duplicates, ["spec.containers[1].name", "spec.y"]);
        assert_eq!(decoded.value.i64_at(&["spec", "y"]), Some(2));
    }

    #[test]
    fn limits_are_kept() {
        let limits = Limits { bytes: 100, depth: 3, nodes: 5 };
        let check = |text: &str| decode(text.as_bytes(), &limits).map_err(|error| error.too_large);
        assert!(check("[[[]]]").is_ok());
        assert_eq!(check("[[[[]]]]"), Err(true));
        assert!(check("[1,2,3,4]").is_ok());
        assert_eq!(check("[1,2,3,4,5]"), Err(true));
        assert_eq!(check(&" ".repeat(101)), Err(true));
        assert_eq!(
            decode("[".repeat(1 << 20).as_bytes(), &Limits::REQUEST).map_err(|error| error.too_large),
            Err(true)
        );
    }
}
