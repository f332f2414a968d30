//! SPDY/3.1 as kubectl speaks it: frames, compressed header blocks, and a session of streams over any connection.

mod dictionary;
mod frame;
mod headers;
mod session;

pub use frame::{DecodeError, Frame, FrameDecoder, FrameEncoder};
pub use headers::{HeaderCodec, Headers};
pub use session::{Session, Stream, StreamWriter};
