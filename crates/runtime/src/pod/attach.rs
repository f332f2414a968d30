//! Live output of a running container, and its stdin.

use std::os::fd::AsFd;

use super::{
    handle::Pod,
    stream::{Stream, pipe},
};
use crate::{
    error::{Error, Result},
    wire::{self, Message},
};

/// How much live output a reader may lag behind before it loses some; the log has all of it.
const LAG_BYTES: usize = 1 << 20;

/// The streams of a container. Dropping them detaches.
#[derive(Debug)]
pub struct Attached {
    /// Its stdin, if it was started with one and that is still open.
    pub stdin: Option<Stream>,
    /// Its stdout, or all of its terminal.
    pub stdout: Stream,
    /// Its stderr; ends at once with a terminal.
    pub stderr: Stream,
}

impl Pod {
    /// Attaches to a running container.
    pub async fn attach(&self, id: &str) -> Result<Attached> {
        let token = self.inner.find(id)?.record.token;
        let connection = self.inner.connection()?;
        let (stdout, stdout_end) = pipe()?;
        let (stderr, stderr_end) = pipe()?;
        for end in [&stdout_end, &stderr_end] {
            let _ = rustix::pipe::fcntl_setpipe_size(end, LAG_BYTES);
        }
        let terminal = self.stdin(id).await?;
        let message = Message { kind: wire::ATTACH, token, ..Message::default() };
        let is_terminal = terminal.as_ref().is_some_and(Stream::is_terminal);
        let both = [stdout_end.as_fd(), stderr_end.as_fd()];
        let ends = if is_terminal { both.get(..1).unwrap_or(&[]) } else { &both };
        connection.ask("attaching to a container", message, ends).await?;
        Ok(Attached { stdin: terminal, stdout: Stream::new(stdout)?, stderr: Stream::new(stderr)? })
    }

    /// A container's stdin (or terminal), if it has one.
    async fn stdin(&self, id: &str) -> Result<Option<Stream>> {
        let token = self.inner.find(id)?.record.token;
        let message = Message { kind: wire::STDIN, token, ..Message::default() };
        match self.inner.connection()?.ask("asking for stdin", message, &[]).await {
            Ok(reply) => reply.descriptor.map(Stream::new).transpose(),
            Err(Error::Refused { source, .. }) if source.raw_os_error() == Some(libc::ENOENT) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Closes the runtime's copy of a container's stdin (`stdinOnce`): it ends once the attached writers are gone.
    pub async fn close_stdin(&self, id: &str) -> Result<()> {
        let token = self.inner.find(id)?.record.token;
        let message = Message { kind: wire::CLOSE_STDIN, token, ..Message::default() };
        self.inner.connection()?.ask("closing stdin", message, &[]).await.map(drop)
    }

    /// Changes the size of a container's terminal.
    pub async fn resize(&self, id: &str, columns: u16, rows: u16) -> Result<()> {
        match self.stdin(id).await? {
            Some(terminal) => terminal.set_size(columns, rows),
            None => Err(Error::Invalid(format!("container {id} has no terminal"))),
        }
    }
}
