//! Netlink messages: a writer for batches of requests and a bounded reader for attributes.

use super::error::{Error, Result};

/// The length of `struct nlmsghdr`.
pub(crate) const HEADER_BYTES: usize = 16;
/// Set on attributes that hold attributes.
const NESTED: u16 = 0x8000;
/// Masks the flags away from an attribute's type.
const TYPE_MASK: u16 = 0x3fff;
/// One request batch may not grow past this; the kernel copies it whole.
const BATCH_BYTES_MAX: usize = 512 * 1024 * 1024;

/// Several netlink requests that are sent in one system call.
#[derive(Default)]
pub struct Batch {
    bytes: Vec<u8>,
    /// Offset of the message being written.
    message_start: usize,
    /// What each message does, for error texts; indexed by sequence number minus one.
    operations: Vec<String>,
    overflow: Option<&'static str>,
}

impl Batch {
    /// An empty batch.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Starts a message; `operation` is the verb phrase an error would name.
    pub fn begin(&mut self, kind: u16, flags: u16, operation: impl Into<String>) {
        self.operations.push(operation.into());
        self.message_start = self.bytes.len();
        let sequence = u32::try_from(self.operations.len()).unwrap_or(u32::MAX);
        self.bytes.extend_from_slice(&0_u32.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(&flags.to_ne_bytes());
        self.bytes.extend_from_slice(&sequence.to_ne_bytes());
        self.bytes.extend_from_slice(&0_u32.to_ne_bytes());
    }

    /// Appends bytes of the message's fixed header.
    pub fn raw(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        self.pad();
    }

    /// Ends the message begun last: writes its length.
    pub fn end(&mut self) {
        if self.bytes.len() > BATCH_BYTES_MAX {
            self.overflow = Some("batch over 512 MiB");
        }
        let length = u32::try_from(self.bytes.len() - self.message_start).unwrap_or(u32::MAX);
        self.patch(self.message_start, &length.to_ne_bytes());
    }

    /// Adds flags to the message that ended last.
    pub(crate) fn add_flags_to_last(&mut self, flags: u16) {
        let at = self.message_start + 6;
        if let Some(old) = self.bytes.get(at..at + 2) {
            let old = u16::from_ne_bytes([old[0], old[1]]);
            self.patch(at, &(old | flags).to_ne_bytes());
        }
    }

    /// Appends an attribute with the given bytes.
    pub fn attribute(&mut self, kind: u16, value: &[u8]) {
        match u16::try_from(value.len() + 4) {
            Ok(length) => {
                self.bytes.extend_from_slice(&length.to_ne_bytes());
                self.bytes.extend_from_slice(&kind.to_ne_bytes());
                self.bytes.extend_from_slice(value);
                self.pad();
            }
            Err(_) => self.overflow = Some("attribute over 64 KiB"),
        }
    }

    /// Appends a number in the host's byte order (rtnetlink).
    pub fn attribute_u32(&mut self, kind: u16, value: u32) {
        self.attribute(kind, &value.to_ne_bytes());
    }

    /// Appends a number in network byte order (nfnetlink).
    pub fn attribute_be32(&mut self, kind: u16, value: u32) {
        self.attribute(kind, &value.to_be_bytes());
    }

    /// Appends a string with its terminating zero.
    pub fn attribute_str(&mut self, kind: u16, value: &str) {
        match u16::try_from(value.len() + 5) {
            Ok(length) => {
                self.bytes.extend_from_slice(&length.to_ne_bytes());
                self.bytes.extend_from_slice(&kind.to_ne_bytes());
                self.bytes.extend_from_slice(value.as_bytes());
                self.bytes.push(0);
                self.pad();
            }
            Err(_) => self.overflow = Some("string over 64 KiB"),
        }
    }

    /// Appends an attribute that holds what `fill` writes.
    pub fn nested(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0, 0]);
        self.bytes.extend_from_slice(&(kind | NESTED).to_ne_bytes());
        fill(self);
        match u16::try_from(self.bytes.len() - start) {
            Ok(length) => self.patch(start, &length.to_ne_bytes()),
            Err(_) => self.overflow = Some("nested attribute over 64 KiB"),
        }
    }

    /// Bytes written so far.
    #[must_use]
    pub fn byte_count(&self) -> usize {
        self.bytes.len()
    }

    /// Messages written so far.
    #[must_use]
    pub fn message_count(&self) -> usize {
        self.operations.len()
    }

    /// The verb phrase of the message with this sequence number.
    pub(crate) fn operation(&self, sequence: u32) -> String {
        let index = usize::try_from(sequence).unwrap_or(0).wrapping_sub(1);
        self.operations.get(index).cloned().unwrap_or_else(|| "carry out a batch".to_owned())
    }

    pub(crate) fn finished(&self) -> Result<&[u8]> {
        match self.overflow {
            Some(what) => Err(Error::TooLarge { what }),
            None => Ok(&self.bytes),
        }
    }

    fn pad(&mut self) {
        while !self.bytes.len().is_multiple_of(4) {
            self.bytes.push(0);
        }
    }

    fn patch(&mut self, at: usize, value: &[u8]) {
        if let Some(target) = self.bytes.get_mut(at..at + value.len()) {
            target.copy_from_slice(value);
        }
    }
}

/// Iterates over the attributes of a message or of a nested attribute; stops at the first malformed one.
#[must_use]
pub fn attributes(bytes: &[u8]) -> Attributes<'_> {
    Attributes { rest: bytes }
}

/// See [`attributes`].
#[derive(Clone)]
pub struct Attributes<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let length = usize::from(u16_at(self.rest, 0)?);
        let kind = u16_at(self.rest, 2)? & TYPE_MASK;
        let value = self.rest.get(4..length)?;
        let next = length.next_multiple_of(4).min(self.rest.len());
        self.rest = self.rest.get(next..).unwrap_or_default();
        Some((kind, value))
    }
}

impl<'a> Attributes<'a> {
    /// The first attribute of this type.
    #[must_use]
    pub fn find_kind(&self, kind: u16) -> Option<&'a [u8]> {
        self.clone().find(|(candidate, _)| *candidate == kind).map(|(_, value)| value)
    }
}

pub(crate) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2)?.try_into().ok().map(u16::from_ne_bytes)
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes)
}

pub(crate) fn be32(bytes: &[u8]) -> Option<u32> {
    bytes.get(..4)?.try_into().ok().map(u32::from_be_bytes)
}

pub(crate) fn be64(bytes: &[u8]) -> Option<u64> {
    bytes.get(..8)?.try_into().ok().map(u64::from_be_bytes)
}

/// A zero-terminated string attribute.
pub(crate) fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}
