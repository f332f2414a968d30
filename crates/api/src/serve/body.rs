//! Bodies: requests read under a limit, answers as whole bytes or as a stream that the client's socket paces.

use bytes::{Bytes, BytesMut};
use futures_util::Stream;
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use object::Status;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

/// Upstream's limit on a request's body.
pub(crate) const REQUEST_MAX_BYTES: usize = 3 * 1024 * 1024;

/// What is read and thrown away of a body that is too large, so that its sender reads the answer instead of an error.
const DISCARD_MAX_BYTES: u64 = 32 * 1024 * 1024;

/// What is drained of a body whose request is refused before it is read, and how long that may take.
const DRAIN_MAX_BYTES: u64 = REQUEST_MAX_BYTES as u64;
const DRAIN_TIME_MAX: Duration = Duration::from_secs(2);

/// A stream of pieces; pulled only when the socket has room.
pub(crate) type ByteStream = Pin<Box<dyn Stream<Item = io::Result<Bytes>> + Send>>;

/// The body of an answer.
pub(crate) enum Answer {
    /// Known bytes; None once they are sent.
    Whole(Option<Bytes>),
    /// Pieces whose total is known, such as a list.
    Pieces(std::vec::IntoIter<Bytes>, u64),
    /// Pieces as they come.
    Stream(ByteStream),
    /// A body that is passed on.
    Passed(Incoming),
}

impl Answer {
    /// Known bytes.
    pub(crate) fn bytes(bytes: impl Into<Bytes>) -> Self {
        Answer::Whole(Some(bytes.into()))
    }

    /// No body.
    pub(crate) fn empty() -> Self {
        Answer::Whole(None)
    }

    /// Pieces that are sent one after the other.
    pub(crate) fn pieces(pieces: Vec<Bytes>) -> Self {
        let total = pieces.iter().map(|piece| piece.len() as u64).sum();
        Answer::Pieces(pieces.into_iter(), total)
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        match self.get_mut() {
            Answer::Whole(bytes) => {
                Poll::Ready(bytes.take().filter(|bytes| !bytes.is_empty()).map(|b| Ok(Frame::data(b))))
            }
            Answer::Pieces(pieces, left) => Poll::Ready(pieces.next().map(|piece| {
                *left -= piece.len() as u64;
                Ok(Frame::data(piece))
            })),
            Answer::Stream(stream) => stream.as_mut().poll_next(context).map_ok(Frame::data),
            Answer::Passed(body) => Pin::new(body).poll_frame(context).map_err(io::Error::other),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Answer::Whole(bytes) => bytes.as_ref().is_none_or(Bytes::is_empty),
            Answer::Pieces(_, left) => *left == 0,
            Answer::Stream(_) => false,
            Answer::Passed(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Answer::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Answer::Pieces(_, left) => SizeHint::with_exact(*left),
            Answer::Stream(_) => SizeHint::default(),
            Answer::Passed(body) => body.size_hint(),
        }
    }
}

/// Reads a request's body; 413 above the limit.
pub(crate) async fn read(mut body: Incoming) -> Result<Bytes, Status> {
    let too_large = || {
        let message = format!("Request entity too large: limit is {REQUEST_MAX_BYTES}");
        Status::new(413, "RequestEntityTooLarge", message)
    };
    if body.size_hint().lower() > REQUEST_MAX_BYTES as u64 {
        discard(&mut body, DISCARD_MAX_BYTES).await;
        return Err(too_large());
    }
    let mut first: Option<Bytes> = None;
    let mut rest = BytesMut::new();
    let mut total = 0;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| Status::bad_request(format!("unable to read the request body: {error}")))?;
        let Ok(data) = frame.into_data() else { continue };
        total += data.len();
        if total > REQUEST_MAX_BYTES {
            drop((first, rest));
            discard(&mut body, DISCARD_MAX_BYTES).await;
            return Err(too_large());
        }
        match &first {
            None => first = Some(data),
            Some(_) => rest.extend_from_slice(&data),
        }
    }
    let first = first.unwrap_or_default();
    if rest.is_empty() {
        return Ok(first); // one frame: nothing is copied
    }
    let mut whole = BytesMut::with_capacity(total);
    whole.extend_from_slice(&first);
    whole.extend_from_slice(&rest);
    Ok(whole.freeze())
}

/// Reads and drops what is left of a body that nobody wants, so that its sender reads the answer: a connection that
/// is closed, or a stream that is reset, while its peer still sends loses the answer with many clients.
pub(crate) async fn drain(mut body: Incoming) {
    let _ = tokio::time::timeout(DRAIN_TIME_MAX, discard(&mut body, DRAIN_MAX_BYTES)).await;
}

async fn discard(body: &mut Incoming, limit: u64) {
    let mut left = limit;
    while let Some(Ok(frame)) = body.frame().await {
        let length = frame.data_ref().map_or(0, Bytes::len) as u64;
        if length > left {
            return;
        }
        left -= length;
    }
}
