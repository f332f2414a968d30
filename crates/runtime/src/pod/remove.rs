//! Taking containers and pods away, so that nothing of them is left.

use std::{fs, io, path::Path, sync::Arc, time::Duration};

use super::handle::Pod;
use crate::{
    error::{Context, Error, Result},
    runtime::blocking,
    spec::ContainerState,
    wire::{self, Message},
};

/// How long a killed process may take to be reaped.
const END_TIMEOUT: Duration = Duration::from_secs(10);

impl Pod {
    /// Waits until a container has ended.
    pub async fn wait(&self, id: &str) -> Result<crate::spec::Exit> {
        let mut events = self.events();
        loop {
            match self.container(id).map(|it| it.state) {
                Some(ContainerState::Exited(exit)) => return Ok(exit),
                Some(_) => {}
                None => return Err(Error::NotFound(format!("container {id:?}"))),
            }
            if events.next().await.is_none() {
                return Err(Error::ShimLost("its events ended".to_owned()));
            }
        }
    }

    /// Removes a container: what runs is killed, its directory and groups go; its log stays.
    pub async fn remove_container(&self, id: &str) -> Result<()> {
        let container = self.inner.find(id)?;
        let token = container.record.token;
        if let Ok(connection) = self.inner.connection() {
            let group = self.inner.container_group(id);
            if !matches!(container.state, ContainerState::Exited(_)) {
                let kill = Message { kind: wire::SIGNAL, token, a: libc::SIGKILL as u64, ..Message::default() };
                let _ = connection.ask("killing a container", kill, &[]).await;
                let shared = self.inner.shared.clone();
                blocking(move || shared.cgroups.kill(&group)).await?;
                if matches!(container.state, ContainerState::Running { .. }) {
                    tokio::time::timeout(END_TIMEOUT, self.wait(id)).await.map_err(|_| {
                        Error::Invalid(format!("container {id} does not end; its process hangs in the kernel"))
                    })??;
                }
            }
            let forget = Message { kind: wire::REMOVE, token, ..Message::default() };
            let deadline = tokio::time::Instant::now() + END_TIMEOUT;
            loop {
                match connection.ask("removing a container", forget, &[]).await {
                    // The shim does not know it: it was never started, or forgotten before.
                    Err(Error::Refused { source, .. }) if source.raw_os_error() == Some(libc::ESRCH) => break,
                    // One that was killed while it was being started is reaped in a moment.
                    Err(Error::Refused { source, .. })
                        if source.raw_os_error() == Some(libc::EBUSY) && tokio::time::Instant::now() < deadline =>
                    {
                        tokio::time::sleep(Duration::from_millis(2)).await;
                    }
                    other => {
                        other?;
                        break;
                    }
                }
            }
        }
        let inner = self.inner.clone();
        let owned = id.to_owned();
        blocking(move || {
            inner.shared.cgroups.remove(&inner.container_group(&owned))?;
            remove_directory(&inner.container_directory(&owned))?;
            let _ = fs::remove_file(inner.directory.join("exits").join(token.to_string()));
            Ok(())
        })
        .await?;
        self.inner.lock().remove(id);
        Ok(())
    }

    /// Ends the pod: every process is killed, the shim ends, groups and directory go. Logs stay.
    pub async fn destroy(&self) -> Result<()> {
        if let Ok(connection) = self.inner.connection() {
            let end = Message { kind: wire::SHUTDOWN, ..Message::default() };
            // The answer is the closed connection; a shim that hangs in the kernel is killed below.
            let _ = tokio::time::timeout(END_TIMEOUT, connection.exchange(end, &[])).await;
        }
        // A start under way has met the closed connection; what it made has to be gone before the rest is removed.
        let removed = tokio::time::timeout(END_TIMEOUT, Arc::clone(&self.inner.removed).write_owned()).await;
        let mut removed = removed.map_err(|_| {
            let uid = &self.inner.spec.uid;
            Error::Invalid(format!("pod {uid} cannot be removed: a container of it is still being made"))
        })?;
        let inner = self.inner.clone();
        blocking(move || {
            *removed = true;
            inner.lock().clear();
            inner.shared.cgroups.remove(&inner.group)?;
            end_shim(&inner.shared.shim_executable, &inner.directory, inner.pid);
            remove_directory(&inner.directory)
        })
        .await
    }
}

/// Kills a shim that is still there; its pid may long be another process's.
fn end_shim(executable: &Path, directory: &Path, pid: i32) {
    let is_ours = fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|it| it == directory)
        && fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|it| it.parent() == executable.parent());
    if let (true, Some(pid)) = (pid > 0 && is_ours, rustix::process::Pid::from_raw(pid)) {
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    }
}

/// Removes a directory that may already be gone.
pub(crate) fn remove_directory(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other.context("removing", path),
    }
}
