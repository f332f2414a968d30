//! SPDY/3 frames: an incremental decoder with limits, and an encoder.

use super::headers::{HeaderCodec, Headers};
use bytes::{Buf, Bytes, BytesMut};
use thiserror::Error;

/// The largest frame that is taken from a peer.
pub(super) const FRAME_BYTES_MAX: usize = 4 << 20;

/// Why a peer's bytes are no SPDY that we take; each ends the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum DecodeError {
    /// A frame of another version.
    #[error("the peer speaks another version of SPDY: version 3 is needed")]
    Version,
    /// A frame above the limit.
    #[error("a frame is larger than {FRAME_BYTES_MAX} bytes")]
    FrameTooLarge,
    /// A control frame that is too short for its type.
    #[error("a control frame is too short")]
    Truncated,
    /// A header block above the limits.
    #[error("a header block is too large")]
    HeadersTooLarge,
    /// A header block that is no list of names and values.
    #[error("a header block is broken")]
    BrokenHeaders,
    /// A header block that does not decompress.
    #[error("a header block does not decompress")]
    Compression,
}

/// A frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// A stream begins.
    SynStream {
        /// The stream.
        stream: u32,
        /// The sender will send no data.
        fin: bool,
        /// The receiver must send no data.
        unidirectional: bool,
        /// Its headers.
        headers: Headers,
    },
    /// A stream is accepted.
    SynReply {
        /// The stream.
        stream: u32,
        /// The sender will send no data.
        fin: bool,
        /// Its headers.
        headers: Headers,
    },
    /// A stream ends at once.
    Reset {
        /// The stream.
        stream: u32,
        /// Why (SPDY's status codes).
        status: u32,
    },
    /// Settings; ignored.
    Settings,
    /// To be echoed.
    Ping(u32),
    /// The peer begins no more streams.
    GoAway {
        /// The last stream that was taken.
        last_stream: u32,
        /// Why.
        status: u32,
    },
    /// More headers of a stream.
    Headers {
        /// The stream.
        stream: u32,
        /// The sender will send no more.
        fin: bool,
        /// The headers.
        headers: Headers,
    },
    /// Flow control; kubectl's library neither sends nor waits for it.
    WindowUpdate {
        /// The stream.
        stream: u32,
        /// How much more may be sent.
        delta: u32,
    },
    /// Data of a stream.
    Data {
        /// The stream.
        stream: u32,
        /// The sender will send no more.
        fin: bool,
        /// The bytes.
        data: Bytes,
    },
    /// A control frame of an unknown type: ignored, as the specification asks.
    Unknown(u16),
}

/// Turns bytes into frames, in whatever pieces they come.
#[derive(Default)]
pub struct FrameDecoder {
    codec: HeaderCodec,
}

fn word(payload: &[u8], at: usize) -> Result<u32, DecodeError> {
    let bytes = payload.get(at..at + 4).and_then(|bytes| bytes.first_chunk::<4>()).ok_or(DecodeError::Truncated)?;
    Ok(u32::from_be_bytes(*bytes))
}

impl FrameDecoder {
    /// Takes the next whole frame off `buffer`; None where more bytes are needed.
    ///
    /// # Errors
    /// What ends the session.
    pub fn decode(&mut self, buffer: &mut BytesMut) -> Result<Option<Frame>, DecodeError> {
        let Some(head) = buffer.first_chunk::<8>().copied() else { return Ok(None) };
        let length = usize::from(head[5]) << 16 | usize::from(head[6]) << 8 | usize::from(head[7]);
        if length > FRAME_BYTES_MAX {
            return Err(DecodeError::FrameTooLarge);
        }
        let control = head[0] & 0x80 != 0;
        if control && (u16::from(head[0] & 0x7f) << 8 | u16::from(head[1])) != 3 {
            return Err(DecodeError::Version);
        }
        if buffer.len() < 8 + length {
            buffer.reserve(8 + length - buffer.len());
            return Ok(None);
        }
        buffer.advance(8);
        let payload = buffer.split_to(length).freeze();
        let fin = head[4] & 1 != 0;
        if !control {
            let stream = u32::from_be_bytes([head[0], head[1], head[2], head[3]]);
            return Ok(Some(Frame::Data { stream, fin, data: payload }));
        }
        let stream = |at: usize| word(&payload, at).map(|value| value & 0x7fff_ffff);
        let rest = |from: usize| payload.get(from..).ok_or(DecodeError::Truncated);
        Ok(Some(match u16::from_be_bytes([head[2], head[3]]) {
            1 => {
                let headers = self.codec.decode(rest(10)?)?;
                Frame::SynStream { stream: stream(0)?, fin, unidirectional: head[4] & 2 != 0, headers }
            }
            2 => Frame::SynReply { stream: stream(0)?, fin, headers: self.codec.decode(rest(4)?)? },
            3 => Frame::Reset { stream: stream(0)?, status: word(&payload, 4)? },
            4 => Frame::Settings,
            6 => Frame::Ping(word(&payload, 0)?),
            7 => Frame::GoAway { last_stream: stream(0)?, status: word(&payload, 4)? },
            8 => Frame::Headers { stream: stream(0)?, fin, headers: self.codec.decode(rest(4)?)? },
            9 => Frame::WindowUpdate { stream: stream(0)?, delta: word(&payload, 4)? & 0x7fff_ffff },
            other => Frame::Unknown(other),
        }))
    }
}

/// Turns frames into bytes.
#[derive(Default)]
pub struct FrameEncoder {
    codec: HeaderCodec,
}

impl FrameEncoder {
    /// Appends `frame` to `out`. Data has to be at most 16 MiB.
    ///
    /// # Errors
    /// Only where the compressor fails.
    pub fn encode(&mut self, frame: &Frame, out: &mut BytesMut) -> Result<(), DecodeError> {
        let mut control = |kind: u16, flags: u8, parts: &[&[u8]]| {
            let length: usize = parts.iter().map(|part| part.len()).sum();
            let length = u32::try_from(length).unwrap_or(0xff_ffff).to_be_bytes();
            out.extend_from_slice(&[0x80, 3]);
            out.extend_from_slice(&kind.to_be_bytes());
            out.extend_from_slice(&[flags, length[1], length[2], length[3]]);
            parts.iter().for_each(|part| out.extend_from_slice(part));
        };
        match frame {
            Frame::SynStream { stream, fin, unidirectional, headers } => {
                let block = self.codec.encode(headers)?;
                let flags = u8::from(*fin) | u8::from(*unidirectional) << 1;
                control(1, flags, &[&stream.to_be_bytes(), &[0; 6], &block]);
            }
            Frame::SynReply { stream, fin, headers } => {
                let block = self.codec.encode(headers)?;
                control(2, u8::from(*fin), &[&stream.to_be_bytes(), &block]);
            }
            Frame::Reset { stream, status } => control(3, 0, &[&stream.to_be_bytes(), &status.to_be_bytes()]),
            Frame::Settings => control(4, 0, &[&[0; 4]]),
            Frame::Ping(id) => control(6, 0, &[&id.to_be_bytes()]),
            Frame::GoAway { last_stream, status } => {
                control(7, 0, &[&last_stream.to_be_bytes(), &status.to_be_bytes()])
            }
            Frame::Headers { stream, fin, headers } => {
                let block = self.codec.encode(headers)?;
                control(8, u8::from(*fin), &[&stream.to_be_bytes(), &block]);
            }
            Frame::WindowUpdate { stream, delta } => control(9, 0, &[&stream.to_be_bytes(), &delta.to_be_bytes()]),
            Frame::Unknown(kind) => control(*kind, 0, &[]),
            Frame::Data { stream, fin, data } => {
                let length = u32::try_from(data.len()).unwrap_or(0xff_ffff).to_be_bytes();
                out.extend_from_slice(&stream.to_be_bytes());
                out.extend_from_slice(&[u8::from(*fin), length[1], length[2], length[3]]);
                out.extend_from_slice(data);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use proptest::prelude::*;

    fn headers() -> impl Strategy<Value = Headers> {
        prop::collection::vec(("[a-z:-]{1,12}", "[ -~]{0,40}"), 0..6)
    }

    fn frames() -> impl Strategy<Value = Frame> {
        let id = 1..1000_u32;
        prop_oneof![
            (id.clone(), any::<bool>(), headers()).prop_map(|(stream, fin, headers)| Frame::SynStream {
                stream,
                fin,
                unidirectional: false,
                headers
            }),
            (id.clone(), any::<bool>(), headers()).prop_map(|(stream, fin, headers)| Frame::SynReply {
                stream,
                fin,
                headers
            }),
            (id.clone(), any::<u32>()).prop_map(|(stream, status)| Frame::Reset { stream, status }),
            any::<u32>().prop_map(Frame::Ping),
            (id, any::<bool>(), prop::collection::vec(any::<u8>(), 0..300))
                .prop_map(|(stream, fin, data)| Frame::Data { stream, fin, data: data.into() }),
        ]
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded_in_any_pieces(list in prop::collection::vec(frames(), 1..12), piece in 1..64_usize) {
            let (mut encoder, mut decoder) = (FrameEncoder::default(), FrameDecoder::default());
            let mut bytes = BytesMut::new();
            for frame in &list {
                encoder.encode(frame, &mut bytes).unwrap();
            }
            let mut buffer = BytesMut::new();
            let mut found = Vec::new();
            for chunk in bytes.chunks(piece) {
                buffer.extend_from_slice(chunk);
                while let Some(frame) = decoder.decode(&mut buffer).unwrap() {
                    found.push(frame);
                }
            }
            prop_assert_eq!(found, list);
        }

        #[test]
        fn no_bytes_break_the_decoder(bytes in prop::collection::vec(any::<u8>(), 0..2000), control in any::<bool>(), kind in 0..12_u8) {
            let mut input = bytes;
            if control && input.len() > 8 {
                input[..5].copy_from_slice(&[0x80, 3, 0, kind, 0]);
                input[5..7].copy_from_slice(&[0, 0]);
            }
            let mut decoder = FrameDecoder::default();
            let mut buffer = BytesMut::from(&input[..]);
            for _ in 0..=input.len() {
                match decoder.decode(&mut buffer) {
                    Ok(Some(_)) => {}
                    Ok(None) | Err(_) => break,
                }
            }
        }
    }

    #[test]
    fn a_header_block_that_unfolds_too_far_is_refused() {
        let mut encoder = FrameEncoder::default();
        let mut bytes = BytesMut::new();
        let headers = vec![("x".to_owned(), "a".repeat(1 << 20))];
        encoder.encode(&Frame::SynReply { stream: 1, fin: false, headers }, &mut bytes).unwrap();
        assert!(bytes.len() < 10_000, "a bomb is small");
        assert_eq!(FrameDecoder::default().decode(&mut bytes), Err(DecodeError::HeadersTooLarge));
    }
}
