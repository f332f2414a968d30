//! Frames between the agent and a process beside it: values as bytes, and back. Pure.
//!
//! A connection begins with a greeting each way, which is the same in all versions: whoever finds a process of another version can
//! always take over what it holds and end it. Then come frames: four bytes of length (little-endian, of what follows), one byte of kind,
//! the rest. A reader gives up on what it does not know.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use super::kind::Kind;
use crate::Prefix;

/// How long a greeting is.
pub(crate) const GREETING_BYTES: usize = 16;
/// The longest frame: for cluster DNS a headless Service with some 150,000 endpoints.
pub const FRAME_BYTES_MAX: usize = 16 << 20;
/// What a frame begins with: its length.
pub(crate) const LENGTH_BYTES: usize = 4;

/// Why bytes are no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// They end too early.
    #[error("the message is cut off")]
    Short,
    /// There are more than the message has.
    #[error("there are bytes after the message")]
    Long,
    /// A frame is longer than allowed.
    #[error("a message is longer than {FRAME_BYTES_MAX} bytes")]
    TooLong,
    /// A number stands for nothing.
    #[error("the message holds an unknown {0}")]
    Unknown(&'static str),
    /// A text is none.
    #[error("a text is not UTF-8")]
    Text,
}

/// The greeting of this version.
pub(crate) fn greeting<K: Kind>() -> [u8; GREETING_BYTES] {
    let mut bytes = [0; GREETING_BYTES];
    let (magic, version) = bytes.split_at_mut(K::MAGIC.len());
    magic.copy_from_slice(&K::MAGIC);
    version.copy_from_slice(&K::VERSION.to_le_bytes());
    bytes
}

/// The version that a greeting tells; none where it is no greeting of this kind.
pub(crate) fn greeted<K: Kind>(bytes: &[u8; GREETING_BYTES]) -> Option<u32> {
    let (magic, version) = bytes.split_at(K::MAGIC.len());
    if magic != K::MAGIC {
        return None;
    }
    version.try_into().ok().map(u32::from_le_bytes)
}

/// How long the frame that begins here is without its length; none where that is not yet known.
pub(crate) fn frame_length(bytes: &[u8]) -> Result<Option<usize>, Malformed> {
    let Some(length) = bytes.get(..LENGTH_BYTES).and_then(|length| length.try_into().ok()) else { return Ok(None) };
    match usize::try_from(u32::from_le_bytes(length)) {
        Ok(length) if length <= FRAME_BYTES_MAX => Ok(Some(length)),
        _ => Err(Malformed::TooLong),
    }
}

/// Appends what `write` writes as a frame; one that would be too long is left out, which is told by false.
pub(crate) fn append_frame(out: &mut Vec<u8>, write: impl FnOnce(&mut Writer<'_>)) -> bool {
    let begin = out.len();
    out.extend_from_slice(&[0; LENGTH_BYTES]);
    let mut writer = Writer { out, complete: true };
    write(&mut writer);
    let complete = writer.complete;
    let length = out.len() - begin - LENGTH_BYTES;
    let Some(length) = u32::try_from(length).ok().filter(|_| complete && length <= FRAME_BYTES_MAX) else {
        out.truncate(begin);
        return false;
    };
    if let Some(field) = out.get_mut(begin..begin + LENGTH_BYTES) {
        field.copy_from_slice(&length.to_le_bytes());
    }
    true
}

/// Reads a frame without its length, all of it.
pub(crate) fn read_frame<T>(
    bytes: &[u8],
    read: impl FnOnce(&mut Reader<'_>) -> Result<T, Malformed>,
) -> Result<T, Malformed> {
    let mut reader = Reader(bytes);
    let message = read(&mut reader)?;
    if reader.0.is_empty() { Ok(message) } else { Err(Malformed::Long) }
}

/// Writes the parts of a message.
pub(crate) struct Writer<'a> {
    out: &'a mut Vec<u8>,
    /// False once something did not fit its length.
    complete: bool,
}

impl Writer<'_> {
    pub(crate) fn byte(&mut self, byte: u8) {
        self.out.push(byte);
    }

    pub(crate) fn number(&mut self, number: u64) {
        self.out.extend_from_slice(&number.to_le_bytes());
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        match u16::try_from(bytes.len()) {
            Ok(length) => {
                self.out.extend_from_slice(&length.to_le_bytes());
                self.out.extend_from_slice(bytes);
            }
            Err(_) => self.complete = false,
        }
    }

    /// Bytes whose number the reader knows.
    pub(crate) fn fixed(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
    }

    pub(crate) fn text(&mut self, text: &str) {
        self.bytes(text.as_bytes());
    }

    pub(crate) fn path(&mut self, path: &Path) {
        self.bytes(path.as_os_str().as_bytes());
    }

    pub(crate) fn list<T>(&mut self, items: &[T], mut write: impl FnMut(&mut Self, &T)) {
        match u32::try_from(items.len()) {
            Ok(count) => self.out.extend_from_slice(&count.to_le_bytes()),
            Err(_) => self.complete = false,
        }
        for item in items {
            // What is already too long is not made longer.
            if self.out.len() > 2 * FRAME_BYTES_MAX {
                self.complete = false;
            }
            if !self.complete {
                return;
            }
            write(self, item);
        }
    }

    pub(crate) fn address(&mut self, address: IpAddr) {
        match address {
            IpAddr::V4(address) => {
                self.byte(4);
                self.out.extend_from_slice(&address.octets());
            }
            IpAddr::V6(address) => {
                self.byte(6);
                self.out.extend_from_slice(&address.octets());
            }
        }
    }

    pub(crate) fn port(&mut self, port: u16) {
        self.out.extend_from_slice(&port.to_le_bytes());
    }

    pub(crate) fn socket(&mut self, socket: &SocketAddr) {
        self.address(socket.ip());
        self.port(socket.port());
    }

    pub(crate) fn prefix(&mut self, prefix: &Prefix) {
        self.address(prefix.network());
        self.byte(prefix.length());
    }
}

/// Reads the parts of a message.
pub(crate) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn take(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(Malformed::Short)?;
        self.0 = rest;
        Ok(taken)
    }

    pub(crate) fn array<const LENGTH: usize>(&mut self) -> Result<[u8; LENGTH], Malformed> {
        self.take(LENGTH)?.try_into().map_err(|_| Malformed::Short)
    }

    pub(crate) fn byte(&mut self) -> Result<u8, Malformed> {
        Ok(self.array::<1>()?[0])
    }

    pub(crate) fn number(&mut self) -> Result<u64, Malformed> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    pub(crate) fn bytes(&mut self) -> Result<&'a [u8], Malformed> {
        let length = u16::from_le_bytes(self.array()?);
        self.take(usize::from(length))
    }

    pub(crate) fn text(&mut self) -> Result<String, Malformed> {
        std::str::from_utf8(self.bytes()?).map(str::to_owned).map_err(|_| Malformed::Text)
    }

    pub(crate) fn path(&mut self) -> Result<PathBuf, Malformed> {
        Ok(PathBuf::from(std::ffi::OsStr::from_bytes(self.bytes()?)))
    }

    /// Every item takes at least a byte, so a list is never longer than its message; nothing is set aside for what is only promised.
    pub(crate) fn list<T>(
        &mut self,
        mut read: impl FnMut(&mut Self) -> Result<T, Malformed>,
    ) -> Result<Vec<T>, Malformed> {
        let count = u32::from_le_bytes(self.array()?);
        let mut items = Vec::new();
        for _ in 0..count {
            items.push(read(self)?);
        }
        items.shrink_to_fit();
        Ok(items)
    }

    pub(crate) fn address(&mut self) -> Result<IpAddr, Malformed> {
        match self.byte()? {
            4 => Ok(IpAddr::V4(Ipv4Addr::from(self.array::<4>()?))),
            6 => Ok(IpAddr::V6(Ipv6Addr::from(self.array::<16>()?))),
            _ => Err(Malformed::Unknown("family of addresses")),
        }
    }

    pub(crate) fn port(&mut self) -> Result<u16, Malformed> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    pub(crate) fn socket(&mut self) -> Result<SocketAddr, Malformed> {
        Ok(SocketAddr::new(self.address()?, self.port()?))
    }

    pub(crate) fn prefix(&mut self) -> Result<Prefix, Malformed> {
        Ok(Prefix::new(self.address()?, self.byte()?))
    }
}
