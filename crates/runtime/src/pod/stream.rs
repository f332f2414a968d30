//! A pipe or a terminal as an asynchronous reader and writer.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf, unix::AsyncFd};

use crate::error::{Error, Result};

/// One end of a pipe, or a terminal.
#[derive(Debug)]
pub struct Stream(AsyncFd<OwnedFd>);

impl Stream {
    pub(crate) fn new(descriptor: OwnedFd) -> Result<Stream> {
        let failed = |error: io::Error| Error::io("watching a stream", error);
        let flags = rustix::fs::fcntl_getfl(&descriptor).map_err(|error| failed(error.into()))?;
        rustix::fs::fcntl_setfl(&descriptor, flags | rustix::fs::OFlags::NONBLOCK)
            .map_err(|error| failed(error.into()))?;
        crate::watch::watch(descriptor).map(Stream).map_err(failed)
    }

    pub(crate) fn duplicate(&self) -> Result<Stream> {
        let copy = self.0.get_ref().try_clone().map_err(|error| Error::io("duplicating a stream", error))?;
        Stream::new(copy)
    }

    pub(crate) fn is_terminal(&self) -> bool {
        rustix::termios::isatty(self.0.get_ref())
    }

    pub(crate) fn set_size(&self, columns: u16, rows: u16) -> Result<()> {
        let size = rustix::termios::Winsize { ws_col: columns, ws_row: rows, ws_xpixel: 0, ws_ypixel: 0 };
        rustix::termios::tcsetwinsize(self.0.get_ref(), size)
            .map_err(|error| Error::io("changing a terminal's size", error))
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            let mut ready = ready!(self.0.poll_read_ready(context))?;
            let space = buffer.initialize_unfilled();
            match ready.try_io(|it| Ok(rustix::io::read(it.get_ref().as_fd(), &mut *space)?)) {
                Ok(Ok(count)) => {
                    buffer.advance(count);
                    return Poll::Ready(Ok(()));
                }
                // A terminal whose other side is closed reports an error instead of its end.
                Ok(Err(error)) if error.raw_os_error() == Some(libc::EIO) => return Poll::Ready(Ok(())),
                Ok(Err(error)) => return Poll::Ready(Err(error)),
                Err(_) => {}
            }
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            let mut ready = ready!(self.0.poll_write_ready(context))?;
            if let Ok(result) = ready.try_io(|it| Ok(rustix::io::write(it.get_ref().as_fd(), bytes)?)) {
                return Poll::Ready(result);
            }
        }
    }
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// A pipe: read end, write end.
pub(crate) fn pipe() -> Result<(OwnedFd, OwnedFd)> {
    rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(|error| Error::io("making a pipe", error))
}
