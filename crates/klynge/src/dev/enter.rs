//! `klynge dev exec`: a command inside all namespaces and control groups of a node.

use super::boot::Boot;
use super::machine::{Condition, Machine};
use super::node::unknown;
use super::plan;
use super::record::{self, Record};
use crate::cli::{Failure, Global};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use rustix::thread::{ThreadNameSpaceType, move_into_thread_name_spaces};
use std::fs;
use std::os::fd::AsFd as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::Command;
use tokio::signal::unix::{SignalKind, signal};

/// Runs the command; its exit code is that of this process.
pub(super) fn run(global: &Global, node: &str, command: &[String]) -> Result<(), Failure> {
    let (name, number) = plan::parse_node(node).map_err(Failure::Usage)?;
    let record = Record::existing(&record::base(global), &name)?;
    if number > record.nodes {
        return Err(unknown(&record, number));
    }
    let machine = Machine { record: &record, number };
    let init = match (machine.condition(), machine.init()) {
        (Condition::Paused, _) => {
            return Err(Failure::Failed(format!(
                "node {node} is paused; let it go on with `klynge dev node resume {node}`"
            )));
        }
        (Condition::Off, _) | (_, None) => {
            return Err(Failure::Failed(format!(
                "node {node} does not run; start it with `klynge dev node start {node}`"
            )));
        }
        (_, Some(init)) => init,
    };
    let Some((program, arguments)) = command.split_first() else {
        return Err(Failure::Usage("give a command after --".to_owned()));
    };
    // ^C is for the command, which this process outlives to report its end. Handlers, unlike ignored signals, are not inherited.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build();
    let runtime = runtime.map_err(|error| Failure::Failed(format!("cannot start: {error}")))?;
    let guard = runtime.enter();
    let signals = [SignalKind::interrupt(), SignalKind::quit()].map(signal);
    // The groups first: their files are not there inside.
    for entry in Boot::load(&record.file(number, "json"))?.entries {
        let file = entry.leaf.map_or(entry.file, |leaf| leaf.join("cgroup.procs"));
        enter_group(&file)?;
    }
    enter_namespaces(init).map_err(|error| Failure::Failed(format!("cannot enter node {node}: {error}")))?;
    let status = Command::new(program).args(arguments).current_dir("/").status();
    drop((signals, guard));
    let status = status.map_err(|error| Failure::NotFound(format!("cannot run {program} on {node}: {error}")))?;
    let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
    if code == 0 { Ok(()) } else { Err(Failure::Command(u8::try_from(code).unwrap_or(u8::MAX))) }
}

fn enter_group(file: &Path) -> Result<(), Failure> {
    fs::write(file, "0").map_err(|error| Failure::Failed(format!("cannot enter {}: {error}", file.display())))
}

/// With one thread: the mount namespace of a process that shares its root directory cannot be changed.
fn enter_namespaces(init: i32) -> rustix::io::Result<()> {
    let process = Pid::from_raw(init).ok_or(rustix::io::Errno::SRCH)?;
    let descriptor = pidfd_open(process, PidfdFlags::empty())?;
    move_into_thread_name_spaces(
        descriptor.as_fd(),
        ThreadNameSpaceType::MOUNT
            | ThreadNameSpaceType::CONTROL_GROUP
            | ThreadNameSpaceType::HOST_NAME_AND_NIS_DOMAIN_NAME
            | ThreadNameSpaceType::INTER_PROCESS_COMMUNICATION
            | ThreadNameSpaceType::PROCESS_ID
            | ThreadNameSpaceType::NETWORK,
    )
}
