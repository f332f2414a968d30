//! The envelope around protobuf bodies: `k8s\0` and a runtime.Unknown message with apiVersion, kind and the raw object.

use super::wire::{Part, Reader, push_bytes, push_nested};
use crate::Str;
use crate::codec::DecodeError;

/// What a protobuf body starts with.
pub const PREFIX: &[u8; 4] = b"k8s\0";

/// An opened envelope.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope<'a> {
    /// The object's apiVersion.
    pub api_version: Str,
    /// The object's kind.
    pub kind: Str,
    /// The object's message.
    pub raw: &'a [u8],
    /// Empty for protobuf; otherwise what `raw` holds.
    pub content_type: Str,
}

/// Puts an object's message into an envelope.
#[must_use]
pub fn wrap(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(raw.len() + api_version.len() + kind.len() + 24);
    out.extend_from_slice(PREFIX);
    let written: Result<(), std::convert::Infallible> = push_nested(1, &mut out, |out| {
        push_bytes(1, api_version.as_bytes(), out);
        push_bytes(2, kind.as_bytes(), out);
        Ok(())
    });
    let Ok(()) = written;
    push_bytes(2, raw, &mut out);
    push_bytes(3, b"", &mut out);
    push_bytes(4, b"", &mut out);
    out
}

fn text(bytes: &[u8]) -> Result<Str, DecodeError> {
    Str::from_utf8(bytes).map_err(|_| DecodeError::new("proto: invalid UTF-8 in the envelope", 0))
}

/// Opens an envelope.
pub fn unwrap(bytes: &[u8]) -> Result<Envelope<'_>, DecodeError> {
    let Some(body) = bytes.strip_prefix(PREFIX) else {
        return Err(DecodeError::new(
            "provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]",
            0,
        ));
    };
    let empty = Str::const_new("");
    let mut envelope = Envelope { api_version: empty.clone(), kind: empty.clone(), raw: &[], content_type: empty };
    let mut reader = Reader::new(body);
    while let Some((number, part)) = reader.next()? {
        match (number, part) {
            (1, Part::Bytes(type_meta)) => {
                let mut reader = Reader::new(type_meta);
                while let Some((number, part)) = reader.next()? {
                    match (number, part) {
                        (1, Part::Bytes(bytes)) => envelope.api_version = text(bytes)?,
                        (2, Part::Bytes(bytes)) => envelope.kind = text(bytes)?,
                        _ => {}
                    }
                }
            }
            (2, Part::Bytes(raw)) => envelope.raw = raw,
            (3, Part::Bytes(encoding)) if !encoding.is_empty() => {
                return Err(DecodeError::new("proto: the envelope's content encoding is not supported", 0));
            }
            (4, Part::Bytes(bytes)) => envelope.content_type = text(bytes)?,
            _ => {}
        }
    }
    Ok(envelope)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn an_envelope_opens_as_it_was_closed() {
        let closed = wrap("apps/v1", "Deployment", b"\x0a\x00");
        let open = unwrap(&closed).unwrap();
        assert_eq!(
            (open.api_version.as_str(), open.kind.as_str(), open.raw),
            ("apps/v1", "Deployment", &b"\x0a\x00"[..])
        );
        assert!(unwrap(b"{}").is_err());
        assert!(unwrap(&closed[..closed.len() - 1]).is_err());
    }
}
