//! Header blocks: name-value lists under one zlib stream per direction, with limits on what a peer may unfold.

use super::dictionary::dictionary;
use super::frame::DecodeError;
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

/// The most bytes that a header block may unfold to.
const BLOCK_BYTES_MAX: usize = 256 << 10;
/// The most headers of a block.
const HEADERS_MAX: usize = 256;

/// Names (in lower case) and values.
pub type Headers = Vec<(String, String)>;

/// Both directions of a session's header compression.
pub struct HeaderCodec {
    compress: Compress,
    decompress: Decompress,
    compress_begun: bool,
}

impl Default for HeaderCodec {
    fn default() -> Self {
        Self {
            compress: Compress::new(Compression::best(), true),
            decompress: Decompress::new(true),
            compress_begun: false,
        }
    }
}

impl HeaderCodec {
    /// Unfolds one block. Blocks have to be given in the order in which they came, also those of refused streams.
    ///
    /// # Errors
    /// A broken stream, or one of the limits; the session cannot go on.
    pub fn decode(&mut self, block: &[u8]) -> Result<Headers, DecodeError> {
        let mut plain = Vec::new();
        let mut rest = block;
        let mut chunk = [0_u8; 8192];
        loop {
            let (read, written) = (self.decompress.total_in(), self.decompress.total_out());
            let result = self.decompress.decompress(rest, &mut chunk, FlushDecompress::Sync);
            let used = usize::try_from(self.decompress.total_in() - read).unwrap_or(rest.len()).min(rest.len());
            let made = usize::try_from(self.decompress.total_out() - written).unwrap_or(0).min(chunk.len());
            rest = &rest[used..];
            plain.extend_from_slice(&chunk[..made]);
            if plain.len() > BLOCK_BYTES_MAX {
                return Err(DecodeError::HeadersTooLarge);
            }
            match result {
                Err(error) if error.needs_dictionary().is_some() => {
                    self.decompress.set_dictionary(&dictionary()).map_err(|_| DecodeError::Compression)?;
                }
                Err(_) => return Err(DecodeError::Compression),
                Ok(Status::StreamEnd) => return Err(DecodeError::Compression),
                Ok(_) if rest.is_empty() && made < chunk.len() => break,
                Ok(_) if used == 0 && made == 0 => return Err(DecodeError::Compression),
                Ok(_) => {}
            }
        }
        parse(&plain)
    }

    /// Folds headers into the next block.
    ///
    /// # Errors
    /// Only where the compressor fails, which ends the session.
    pub fn encode(&mut self, headers: &Headers) -> Result<Vec<u8>, DecodeError> {
        if !self.compress_begun {
            self.compress_begun = true;
            self.compress.set_dictionary(&dictionary()).map_err(|_| DecodeError::Compression)?;
        }
        let mut plain = Vec::new();
        let number = |value: usize| u32::try_from(value).unwrap_or(u32::MAX).to_be_bytes();
        plain.extend_from_slice(&number(headers.len()));
        for (name, value) in headers {
            for text in [name.to_ascii_lowercase().as_bytes(), value.as_bytes()] {
                plain.extend_from_slice(&number(text.len()));
                plain.extend_from_slice(text);
            }
        }
        let mut block = Vec::with_capacity(plain.len() + 64);
        let mut rest = plain.as_slice();
        loop {
            block.reserve(256);
            let read = self.compress.total_in();
            self.compress.compress_vec(rest, &mut block, FlushCompress::Sync).map_err(|_| DecodeError::Compression)?;
            let used = usize::try_from(self.compress.total_in() - read).unwrap_or(rest.len()).min(rest.len());
            rest = &rest[used..];
            if rest.is_empty() && block.len() < block.capacity() {
                return Ok(block);
            }
        }
    }
}

fn parse(mut plain: &[u8]) -> Result<Headers, DecodeError> {
    fn number(plain: &mut &[u8]) -> Result<usize, DecodeError> {
        let (head, rest) = plain.split_first_chunk::<4>().ok_or(DecodeError::BrokenHeaders)?;
        *plain = rest;
        usize::try_from(u32::from_be_bytes(*head)).map_err(|_| DecodeError::BrokenHeaders)
    }
    fn text(plain: &mut &[u8]) -> Result<String, DecodeError> {
        let length = number(plain)?;
        let (head, rest) = plain.split_at_checked(length).ok_or(DecodeError::BrokenHeaders)?;
        *plain = rest;
        String::from_utf8(head.to_vec()).map_err(|_| DecodeError::BrokenHeaders)
    }
    let count = number(&mut plain)?;
    if count > HEADERS_MAX {
        return Err(DecodeError::HeadersTooLarge);
    }
    let mut headers = Headers::with_capacity(count);
    for _ in 0..count {
        headers.push((text(&mut plain)?.to_ascii_lowercase(), text(&mut plain)?));
    }
    Ok(headers)
}
