//! The protobuf wire format: varints, tags, length-delimited parts.

use crate::codec::DecodeError;

/// One field as it stands on the wire.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Part<'a> {
    Varint(u64),
    Fixed64(u64),
    Fixed32(u32),
    Bytes(&'a [u8]),
}

/// Reads the fields of one message.
pub(super) struct Reader<'a> {
    rest: &'a [u8],
    // The end of the document, to tell offsets.
    total: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Reader { rest: bytes, total: bytes.len() }
    }

    fn error(&self, message: &str) -> DecodeError {
        DecodeError::new(format!("proto: {message}"), self.total - self.rest.len())
    }

    fn varint(&mut self) -> Result<u64, DecodeError> {
        let mut value = 0u64;
        for (at, byte) in self.rest.iter().take(10).enumerate() {
            value |= u64::from(byte & 0x7f) << (7 * at);
            if byte & 0x80 == 0 {
                if at == 9 && *byte > 1 {
                    return Err(self.error("integer overflow"));
                }
                self.rest = &self.rest[at + 1..];
                return Ok(value);
            }
        }
        Err(self.error(if self.rest.len() < 10 { "unexpected EOF" } else { "integer overflow" }))
    }

    fn take(&mut self, length: u64) -> Result<&'a [u8], DecodeError> {
        let taken = usize::try_from(length).ok().and_then(|length| self.rest.split_at_checked(length));
        let (taken, rest) = taken.ok_or_else(|| self.error("unexpected EOF"))?;
        self.rest = rest;
        Ok(taken)
    }

    /// A number written by one of the fixed-size types.
    fn fixed<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (taken, rest) = self.rest.split_first_chunk::<N>().ok_or_else(|| self.error("unexpected EOF"))?;
        self.rest = rest;
        Ok(*taken)
    }

    /// The next field with its number; None at the end of the message.
    pub(super) fn next(&mut self) -> Result<Option<(u32, Part<'a>)>, DecodeError> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let tag = self.varint()?;
        let number = u32::try_from(tag >> 3).ok().filter(|number| (1..1 << 29).contains(number));
        let number = number.ok_or_else(|| self.error(&format!("illegal tag {}", tag >> 3)))?;
        let part = match tag & 7 {
            0 => Part::Varint(self.varint()?),
            1 => Part::Fixed64(u64::from_le_bytes(self.fixed()?)),
            2 => {
                let length = self.varint()?;
                Part::Bytes(self.take(length)?)
            }
            5 => Part::Fixed32(u32::from_le_bytes(self.fixed()?)),
            // Groups (3 and 4) are not used by any Kubernetes message, and nest without a length to bound them.
            kind => return Err(self.error(&format!("illegal wireType {kind}"))),
        };
        Ok(Some((number, part)))
    }

    /// The next bare varint of a packed list; None at its end.
    pub(super) fn next_packed(&mut self) -> Result<Option<u64>, DecodeError> {
        if self.rest.is_empty() { Ok(None) } else { self.varint().map(Some) }
    }
}

/// Writes a varint.
pub fn push_varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Writes a field's tag; `wire_type` is 0 for varints, 1 for eight bytes, 2 for length-delimited parts.
pub fn push_tag(number: u32, wire_type: u8, out: &mut Vec<u8>) {
    push_varint(u64::from(number) << 3 | u64::from(wire_type), out);
}

/// Writes a length-delimited field.
pub fn push_bytes(number: u32, bytes: &[u8], out: &mut Vec<u8>) {
    push_tag(number, 2, out);
    push_varint(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

/// Writes a length-delimited field whose content `write` appends.
pub(super) fn push_nested<E>(
    number: u32,
    out: &mut Vec<u8>,
    write: impl FnOnce(&mut Vec<u8>) -> Result<(), E>,
) -> Result<(), E> {
    push_tag(number, 2, out);
    // Most parts are shorter than 128 bytes, so that one byte for the length is the right guess.
    let at = out.len();
    out.push(0);
    write(out)?;
    let length = out.len() - at - 1;
    if length < 0x80 {
        out[at] = length as u8;
    } else {
        let mut prefix = Vec::with_capacity(5);
        push_varint(length as u64, &mut prefix);
        out.splice(at..=at, prefix);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn varints_go_there_and_back() {
        for value in [0, 1, 127, 128, 300, u64::from(u32::MAX), u64::MAX] {
            let mut out = Vec::new();
            push_tag(5, 0, &mut out);
            push_varint(value, &mut out);
            assert_eq!(Reader::new(&out).next().unwrap(), Some((5, Part::Varint(value))));
            assert!(Reader::new(&out[..out.len() - 1]).next().is_err());
        }
    }

    #[test]
    fn nested_lengths_of_every_size() {
        for length in [0usize, 1, 127, 128, 20_000] {
            let mut out = vec![9];
            push_nested::<()>(1, &mut out, |out| {
                out.extend(std::iter::repeat_n(7, length));
                Ok(())
            })
            .unwrap();
            assert_eq!(Reader::new(&out[1..]).next().unwrap(), Some((1, Part::Bytes(&vec![7; length]))));
        }
    }

    #[test]
    fn broken_input_is_refused() {
        for bytes in [
            &[0x0a, 5, 1][..],
            &[0x0b],
            &[0x00, 0],
            &[0x09, 1],
            &[0xff; 11],
            &[0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1],
        ] {
            assert!(Reader::new(bytes).next().is_err(), "{bytes:?}");
        }
    }
}
