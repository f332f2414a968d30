//! Percent-encoding (RFC 3986) of what goes into paths and queries, and back.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

/// All but the unreserved characters.
const RESERVED: AsciiSet = NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// What names of images hold besides: a query may carry it as it is.
const NAME: AsciiSet = RESERVED.remove(b'/').remove(b':').remove(b'@');

/// Encodes all but the unreserved characters.
#[must_use]
pub fn encode(text: &str) -> String {
    utf8_percent_encode(text, &RESERVED).to_string()
}

/// Encodes for a query, and leaves `/`, `:` and `@` readable.
#[must_use]
pub fn encode_name(text: &str) -> String {
    utf8_percent_encode(text, &NAME).to_string()
}

/// Decodes; what is no valid escape stays as it is, and so does a text whose bytes would be no UTF-8.
#[must_use]
pub fn decode(text: &str) -> String {
    percent_decode_str(text).decode_utf8().map_or_else(|_| text.to_owned(), std::borrow::Cow::into_owned)
}

/// Decodes a part of a query, where a plus sign is a blank.
#[must_use]
pub fn decode_query(text: &str) -> String {
    if text.contains('+') { decode(&text.replace('+', " ")) } else { decode(text) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back() {
        assert_eq!(encode("a b&c/ü"), "a%20b%26c%2F%C3%BC");
        assert_eq!(encode_name("a/b:1@x"), "a/b:1@x");
        for (text, decoded) in [("a%20b", "a b"), ("%zz", "%zz"), ("%", "%"), ("%ff", "%ff"), ("a+b", "a+b")] {
            assert_eq!(decode(text), decoded);
        }
        assert_eq!(decode_query("a+b%2B"), "a b+");
    }
}
