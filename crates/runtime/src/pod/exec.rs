//! Running a process inside a container.

use std::os::fd::{AsFd, OwnedFd};

use tokio::sync::oneshot;

use super::{
    handle::Pod,
    start::new_token,
    stream::{Stream, pipe},
};
use crate::{
    cgroup::DeviceAccess,
    error::{Error, Result},
    launch,
    runtime::blocking,
    spec::ExecSpec,
    wire::{self, Message},
};

/// Tokens of execs, so that they never meet those of containers.
const EXEC_TOKEN: u64 = 1 << 63;

/// A process that runs in a container. Dropping it closes its streams; the process is not killed by that alone.
pub struct Exec {
    /// Its stdin, if it was asked for; dropping it ends it.
    pub stdin: Option<Stream>,
    /// Its stdout, or all of its terminal.
    pub stdout: Option<Stream>,
    /// Its stderr; none with a terminal.
    pub stderr: Option<Stream>,
    /// Its pid in the agent's PID namespace.
    pub pid: i32,
    terminal: Option<Stream>,
    exit: oneshot::Receiver<Message>,
    pod: Pod,
    token: u64,
}

impl Pod {
    /// Starts a process in a running container.
    pub async fn exec(&self, id: &str, spec: ExecSpec) -> Result<Exec> {
        if spec.args.iter().any(|it| it.contains('\0')) {
            return Err(Error::Invalid("an argument contains a NUL character".to_owned()));
        }
        let record = self.inner.find(id)?.record;
        let connection = self.inner.connection()?;
        let (tty, stdin) = (spec.tty, spec.stdin);
        let shared = self.inner.shared.clone();
        let group = self.inner.container_group(&record.id);
        let container = record.token;
        let (program, names, entry, token) = blocking(move || {
            let template = &record.exec;
            let access = match (template.privileged, template.extra_devices) {
                (true, _) => DeviceAccess::All,
                (false, true) => DeviceAccess::With(Vec::new()),
                (false, false) => DeviceAccess::Standard,
            };
            let entry = shared.cgroups.exec_entry(&group, &access)?;
            let (program, names) = launch::exec(&spec, template, &entry.files)?.finish()?;
            Ok((program, names, entry, EXEC_TOKEN | new_token()?))
        })
        .await?;
        let mut ends: Vec<OwnedFd> = Vec::new();
        let mut own: [Option<Stream>; 3] = [None, None, None];
        if !tty {
            for (index, stream) in own.iter_mut().enumerate() {
                if index == 0 && !stdin {
                    continue;
                }
                let (read, write) = pipe()?;
                let (ours, theirs) = if index == 0 { (write, read) } else { (read, write) };
                *stream = Some(Stream::new(ours)?);
                ends.push(theirs);
            }
        }
        let mut flags = if tty { wire::FLAG_TTY } else { 0 };
        flags |= if stdin && !tty { wire::FLAG_EXEC_STDIN } else { 0 };
        let mut with = vec![program.as_fd()];
        with.extend(ends.iter().map(AsFd::as_fd));
        if let Some(directory) = &entry.directory {
            flags |= wire::FLAG_CGROUP;
            with.push(directory.as_fd());
        }
        let exit = connection.expect_exit(token);
        let message = Message { kind: wire::EXEC, token, a: flags, b: container, ..Message::default() };
        let reply = connection.exchange(message, &with).await?;
        match reply.message.status {
            0 => {}
            libc::ESRCH => return Err(Error::NotFound(format!("running container {id:?}"))),
            errno => return Err(launch::start_error(&names, reply.message.a, errno)),
        }
        let terminal = reply.descriptor.map(Stream::new).transpose()?;
        let [mut stdin_stream, mut stdout, stderr] = own;
        if let Some(terminal) = &terminal {
            stdin_stream = stdin.then(|| terminal.duplicate()).transpose()?;
            stdout = Some(terminal.duplicate()?);
        }
        let pid = reply.message.a as i32;
        Ok(Exec { stdin: stdin_stream, stdout, stderr, pid, terminal, exit, pod: self.clone(), token })
    }
}

impl Exec {
    /// Waits for the end: the exit code, or 128 and the signal's number.
    pub async fn wait(&mut self) -> Result<i32> {
        let message = (&mut self.exit).await.map_err(|_| Error::ShimLost("it went away during an exec".to_owned()))?;
        let signal = message.status & 0x7f;
        Ok(if signal == 0 { message.status >> 8 & 0xff } else { 128 + signal })
    }

    /// Changes the terminal's size.
    pub fn resize(&self, columns: u16, rows: u16) -> Result<()> {
        match &self.terminal {
            Some(terminal) => terminal.set_size(columns, rows),
            None => Err(Error::Invalid("this process has no terminal".to_owned())),
        }
    }

    /// Sends a signal.
    pub async fn signal(&self, signal: i32) -> Result<()> {
        let message = Message { kind: wire::SIGNAL, token: self.token, a: signal as u64, ..Message::default() };
        self.pod.inner.connection()?.ask("sending a signal", message, &[]).await.map(drop)
    }
}
