//! Installs the embedded shim as a file and spawns one per pod.

use std::{
    io::Read,
    os::{
        fd::OwnedFd,
        unix::{fs::PermissionsExt, process::CommandExt},
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use sha2::Digest;

use crate::{
    error::{Context, Error, Result},
    launch::{Program, StepName},
};

/// The shim's executable, built by this crate's build script.
const EXECUTABLE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/klynge-shim"));

/// Writes the shim below the state directory, named by its content, so that an upgraded agent never writes into the file
/// that running shims execute.
pub(crate) fn install(state: &Path) -> Result<PathBuf> {
    let digest = sha2::Sha256::digest(EXECUTABLE);
    let name: String = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    let path = state.join(format!("klynge-shim-{name}"));
    let present = std::fs::metadata(&path).is_ok_and(|it| it.len() == EXECUTABLE.len() as u64);
    if !present {
        let temporary = path.with_extension("new");
        std::fs::write(&temporary, EXECUTABLE).context("writing the shim", &temporary)?;
        std::fs::set_permissions(&temporary, PermissionsExt::from_mode(0o500))
            .context("making executable", &temporary)?;
        std::fs::rename(&temporary, &path).context("renaming the shim", &path)?;
    }
    Ok(path)
}

/// A socket address below a directory, short enough whatever the directory's path is.
pub(crate) fn address_in(directory: &impl std::os::fd::AsRawFd, name: &str) -> Result<SocketAddrUnix> {
    SocketAddrUnix::new(format!("/proc/self/fd/{}/{name}", directory.as_raw_fd()))
        .map_err(|error| Error::io("naming the shim's socket", error))
}

/// Spawns a pod's shim, waits until it listens, and returns its pid.
pub(crate) fn spawn(executable: &Path, pod_directory: &Path, program: Program, group: Option<&Path>) -> Result<i32> {
    let directory = std::fs::File::open(pod_directory).context("opening", pod_directory)?;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
        .map_err(|error| Error::io("making the shim's socket", error))?;
    let address = address_in(&directory, "shim.sock")?;
    rustix::net::bind(&socket, &address).map_err(|error| Error::io("binding the shim's socket", error))?;
    rustix::net::listen(&socket, 16).map_err(|error| Error::io("listening on the shim's socket", error))?;
    let (program, names) = program.finish()?;
    let (report, told) =
        rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(|error| Error::io("making a pipe", error))?;
    let mut command = Command::new(executable);
    command.arg0("klynge-shim").args(group).env_clear();
    command.stdin(Stdio::from(socket)).stdout(Stdio::from(program)).stderr(Stdio::from(told));
    let mut child = command.spawn().context("executing", executable)?;
    // The command holds our copy of the pipe's write end; without dropping it there would be no end of file.
    drop(command);
    let status = child.wait().context("waiting for", executable)?;
    let outcome = read_report(report)?;
    let Some((step, errno, pid)) = outcome.filter(|_| status.success()) else {
        return Err(Error::Unsupported(format!("the shim could not start ({status})")));
    };
    if errno != 0 {
        let cause = std::io::Error::from_raw_os_error(errno);
        let what = match names.get(step as usize) {
            Some(StepName::Other(name)) => name.clone(),
            Some(other) => format!("{other:?}"),
            None => "preparing the shim".to_owned(),
        };
        return Err(Error::io(format!("setting up the pod's sandbox: {what}"), cause));
    }
    Ok(pid)
}

fn read_report(report: OwnedFd) -> Result<Option<(u32, i32, i32)>> {
    let mut bytes = Vec::new();
    std::fs::File::from(report)
        .take(16)
        .read_to_end(&mut bytes)
        .map_err(|error| Error::io("reading the shim's report", error))?;
    let word = |at: usize| bytes.get(at..at + 4).and_then(|it| it.try_into().ok()).map(u32::from_le_bytes);
    Ok(match (bytes.len(), word(0), word(4), word(8)) {
        (16, Some(step), Some(errno), Some(pid)) => Some((step, errno as i32, pid as i32)),
        _ => None,
    })
}
