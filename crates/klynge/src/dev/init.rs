//! PID 1 of a node: reaps, starts the agent as a child, writes its log, takes commands over a socket, and goes on when the agent ends.

use super::boot::{Boot, FORMAT};
use super::control::{REQUEST_BYTES_MAX, Reply, Request};
use super::delay::DELAY_WORD;
use super::{birth, delay};
use crate::cli::Failure;
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, kill_process, wait};
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::unix::pipe;
use tokio::net::{UnixDatagram, UnixListener, UnixStream};
use tokio::signal::unix::{SignalKind, signal};

/// The hidden commands.
pub(crate) const STAGE_WORD: &str = "dev-stage";
pub(crate) const INIT_WORD: &str = "dev-init";
/// A log that grows past this is moved to `.1`, and the older one is gone.
const LOG_BYTES_MAX: u64 = 32 << 20;
/// Who connects and says nothing does not keep init from its work.
const PATIENCE: Duration = Duration::from_secs(1);

/// Runs a hidden command: it has no options and no help, and little of the binary is touched on the way.
pub(crate) fn hidden(word: &str, path: &Path) -> ExitCode {
    let outcome = match word {
        STAGE_WORD => birth::stage(path),
        DELAY_WORD => delay::run(path),
        _ => init(path),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            let _ = writeln!(io::stderr(), "{word}: {failure}"); // it is the node's log
            ExitCode::FAILURE
        }
    }
}

fn init(path: &Path) -> Result<(), Failure> {
    let boot = Boot::load(path)?;
    birth::furnish(&boot)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build();
    let runtime = runtime.map_err(|error| Failure::Failed(format!("cannot start: {error}")))?;
    runtime.block_on(serve(boot)).map_err(|error| Failure::Failed(format!("the node's init ends: {error}")))
}

/// The agent as init knows it.
#[derive(Default)]
struct Agent {
    process: Option<Pid>,
    ready: bool,
    /// How it ended last.
    ended: Option<String>,
    /// What it writes.
    output: Option<pipe::Receiver>,
}

async fn serve(boot: Boot) -> io::Result<()> {
    let mut children = signal(SignalKind::child())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let _ = std::fs::remove_file(&boot.notify); // of the run before
    let notify = UnixDatagram::bind(&boot.notify)?;
    let _ = std::fs::remove_file(&boot.socket);
    let listener = UnixListener::bind(&boot.socket)?;
    let mut log = Log::open(&boot.log)?;
    let mut agent = Agent::default();
    let mut words = [0_u8; 512];
    let mut lines = vec![0_u8; 16 << 10];
    loop {
        tokio::select! {
            _ = children.recv() => reap(&mut agent, &mut log),
            // The node's power is switched off: its PID namespace ends with this process.
            _ = terminate.recv() => return Ok(()),
            received = notify.recv(&mut words) => {
                let text = String::from_utf8_lossy(words.get(..received?).unwrap_or_default()).into_owned();
                agent.ready |= agent.process.is_some() && text.lines().any(|line| line == "READY=1");
            }
            read = read_output(&mut agent.output, &mut lines) => match read {
                Ok(length) if length > 0 => log.write(lines.get(..length).unwrap_or_default()),
                _ => agent.output = None,
            },
            accepted = listener.accept() => {
                let (stream, _) = accepted?;
                // What takes longer is cut off; what fails is the caller's business.
                let _ = tokio::time::timeout(PATIENCE, answer(stream, &boot, &mut agent, &mut log)).await;
            }
        }
    }
}

/// Reads what the agent writes; waits for ever where there is none.
async fn read_output(output: &mut Option<pipe::Receiver>, lines: &mut [u8]) -> io::Result<usize> {
    match output {
        Some(output) => output.read(lines).await,
        None => std::future::pending().await,
    }
}

/// Takes every ended process off the kernel's hands: the agent, and the orphans that PID 1 inherits.
fn reap(agent: &mut Agent, log: &mut Log) {
    while let Ok(Some((process, status))) = wait(WaitOptions::NOHANG) {
        if agent.process == Some(process) {
            agent.process = None;
            agent.ready = false;
            let how = describe(status);
            log.write(format!("the agent ended: {how}\n").as_bytes());
            agent.ended = Some(how);
        }
    }
}

fn describe(status: WaitStatus) -> String {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "it is not known how".to_owned(),
    }
}

async fn answer(mut stream: UnixStream, boot: &Boot, agent: &mut Agent, log: &mut Log) -> io::Result<()> {
    let mut bytes = Vec::new();
    let mut chunk = [0_u8; 4096];
    while !bytes.ends_with(b"\n") && bytes.len() < REQUEST_BYTES_MAX {
        let length = stream.read(&mut chunk).await?;
        if length == 0 {
            return Ok(());
        }
        bytes.extend_from_slice(chunk.get(..length).unwrap_or_default());
    }
    let error = match serde_json::from_slice::<Request>(&bytes) {
        Ok(request) if request.format != FORMAT => {
            Some(format!("format {}, this init speaks {FORMAT}", request.format))
        }
        Ok(request) => act(request, boot, agent, log).err().map(|error| error.to_string()),
        Err(error) => Some(error.to_string()),
    };
    let reply = Reply {
        format: FORMAT,
        agent: agent.process.map(|process| process.as_raw_nonzero().get()),
        ready: agent.ready,
        ended: agent.ended.clone(),
        error,
    };
    let mut line = serde_json::to_vec(&reply)?;
    line.push(b'\n');
    stream.write_all(&line).await
}

fn act(request: Request, boot: &Boot, agent: &mut Agent, log: &mut Log) -> io::Result<()> {
    match request.verb.as_str() {
        "status" => Ok(()),
        "start" if agent.process.is_some() => Ok(()),
        "start" => start(request, boot, agent, log),
        "stop" | "kill" => {
            let signal = if request.verb == "kill" { Signal::KILL } else { Signal::TERM };
            agent.process.map_or(Ok(()), |process| Ok(kill_process(process, signal)?))
        }
        other => Err(io::Error::other(format!("there is no verb {other:?}"))),
    }
}

fn start(request: Request, boot: &Boot, agent: &mut Agent, log: &mut Log) -> io::Result<()> {
    let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    let errors = writer.try_clone()?;
    let mut command = Command::new(&request.program);
    command.args(&request.arguments).current_dir("/").stdin(Stdio::null()).stdout(writer).stderr(errors);
    command.env("NOTIFY_SOCKET", &boot.notify).env_remove("KUBECONFIG");
    if let Some(token) = &request.token {
        command.env("KLYNGE_TOKEN", token);
    }
    let child = command.spawn()?;
    // The child is reaped with all others; dropping the handle neither waits nor kills.
    agent.process = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    agent.ready = false;
    agent.ended = None;
    agent.output = Some(receiver(reader)?);
    log.write(b"the agent starts\n");
    Ok(())
}

fn receiver(reader: OwnedFd) -> io::Result<pipe::Receiver> {
    rustix::io::ioctl_fionbio(reader.as_fd(), true)?;
    pipe::Receiver::from_owned_fd(reader)
}

/// The agent's log, of bounded size.
struct Log {
    file: File,
    bytes: u64,
    path: std::path::PathBuf,
}

impl Log {
    fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        Ok(Log { bytes: file.metadata()?.len(), file, path: path.to_owned() })
    }

    /// A full disk loses lines, never the node.
    fn write(&mut self, bytes: &[u8]) {
        if self.bytes > LOG_BYTES_MAX {
            let mut older = self.path.clone().into_os_string();
            older.push(".1");
            if std::fs::rename(&self.path, older).is_ok()
                && let Ok(fresh) = Log::open(&self.path)
            {
                *self = fresh;
            }
        }
        if self.file.write_all(bytes).is_ok() {
            self.bytes += bytes.len() as u64;
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn a_log_is_bounded() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("1.log");
        let mut log = Log::open(&path).unwrap();
        let chunk = vec![b'x'; 1 << 20];
        for _ in 0..80 {
            log.write(&chunk);
        }
        let sizes: u64 =
            std::fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum();
        assert!(sizes <= 2 * (LOG_BYTES_MAX + (1 << 20)), "{sizes}");
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 2);
    }
}
